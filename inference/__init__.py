"""Objectives, training, prediction and evaluation."""

from multipyro.inference._seeds import step_seed
from multipyro.inference.combinators import conditional, frozen, generative, restrict
from multipyro.inference.schedules import LinearWarmup
from multipyro.inference.stratified import StratifiedELBO
from multipyro.inference.subset_elbo import SubsetELBO
from multipyro.inference.terms import MultimodalELBO, Term, WeightedELBO

__all__ = [
    "LinearWarmup",
    "MultimodalELBO",
    "StratifiedELBO",
    "SubsetELBO",
    "Term",
    "WeightedELBO",
    "conditional",
    "frozen",
    "generative",
    "restrict",
    "step_seed",
]
