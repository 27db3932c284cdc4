"""Objectives: what training maximizes, written as expressions of ELBOs between programs."""

from multipyro.inference.objectives._base import Evaluation, Objective
from multipyro.inference.objectives.adversarial import DiscriminatorLoss, GeneratorLoss
from multipyro.inference.objectives.expressions import elbo, subset_elbo, sum_over
from multipyro.inference.objectives.families import PROPER_SUBSETS, SINGLES, listed_subsets, random_subsets
from multipyro.inference.objectives.jensen_shannon import JensenShannonELBO
from multipyro.inference.objectives.linear_mixture import LinearMixtureELBO
from multipyro.inference.objectives.sites import TracePair
from multipyro.inference.objectives.spec import fingerprint_of, schedules_of, spec_of
from multipyro.inference.objectives.stratified import StratifiedELBO
from multipyro.inference.objectives.weights import NUM_MODALITIES, LinearWarmup, by_subset, number
from multipyro.inference.programs import GUIDE, MODEL, SUBSET

__all__ = [
    "GUIDE",
    "MODEL",
    "NUM_MODALITIES",
    "PROPER_SUBSETS",
    "SINGLES",
    "SUBSET",
    "DiscriminatorLoss",
    "Evaluation",
    "GeneratorLoss",
    "JensenShannonELBO",
    "LinearMixtureELBO",
    "LinearWarmup",
    "Objective",
    "StratifiedELBO",
    "TracePair",
    "by_subset",
    "elbo",
    "fingerprint_of",
    "listed_subsets",
    "number",
    "random_subsets",
    "schedules_of",
    "spec_of",
    "subset_elbo",
    "sum_over",
]
