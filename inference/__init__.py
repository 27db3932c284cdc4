"""Building, training, prediction and evaluation: what most scripts need. The subpackages have the rest.

`objectives`, `recipes` (writing a method), `training`, `runs`, `evaluation` with its `figures`, and `handlers`.
"""

from multipyro.inference.evaluation import cross_generate, embed, evaluate, joint_samples, log_likelihood, reconstruct
from multipyro.inference.handlers import conditional, frozen, generative, predictive, restrict, with_covariates
from multipyro.inference.recipes import METHODS, build, networks_for
from multipyro.inference.runs import load
from multipyro.inference.training import TrainingSettings, fit, fit_recipe

__all__ = [
    "METHODS",
    "TrainingSettings",
    "build",
    "conditional",
    "cross_generate",
    "embed",
    "evaluate",
    "fit",
    "fit_recipe",
    "frozen",
    "generative",
    "joint_samples",
    "load",
    "log_likelihood",
    "networks_for",
    "predictive",
    "reconstruct",
    "restrict",
    "with_covariates",
]
