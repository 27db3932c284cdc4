"""Objectives, training, prediction and evaluation."""

from multipyro.inference._seeds import step_seed
from multipyro.inference.combinators import conditional, frozen, generative, restrict
from multipyro.inference.checkpoints import load_state, save_state
from multipyro.inference.fit import FitResult, fit, fit_recipe
from multipyro.inference.networks import Networks, networks_for
from multipyro.inference.recipes import COMMON_OPTIONS, METHODS, MethodInfo, Recipe, Stage, build
from multipyro.inference.runs import LoadedRun, load
from multipyro.inference.schedules import LinearWarmup
from multipyro.inference.stratified import StratifiedELBO
from multipyro.inference.subset_elbo import SubsetELBO
from multipyro.inference.terms import MultimodalELBO, Term, WeightedELBO

__all__ = [
    "COMMON_OPTIONS",
    "METHODS",
    "FitResult",
    "LinearWarmup",
    "LoadedRun",
    "MethodInfo",
    "MultimodalELBO",
    "Networks",
    "Recipe",
    "Stage",
    "StratifiedELBO",
    "SubsetELBO",
    "Term",
    "WeightedELBO",
    "build",
    "conditional",
    "fit",
    "fit_recipe",
    "frozen",
    "generative",
    "load",
    "load_state",
    "networks_for",
    "restrict",
    "save_state",
    "step_seed",
]
