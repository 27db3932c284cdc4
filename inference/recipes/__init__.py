"""The methods by name: each a model, a guide and the stages that train them."""

from multipyro.inference.options import Option
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, Update, Weighting, method
from multipyro.inference.recipes._registry import COMMON_OPTIONS, METHODS, build, equations, options_for, register
from multipyro.inference.recipes.networks import Networks, networks_for

__all__ = [
    "COMMON_OPTIONS",
    "METHODS",
    "MethodInfo",
    "Networks",
    "Option",
    "Recipe",
    "Stage",
    "Update",
    "Weighting",
    "build",
    "equations",
    "method",
    "networks_for",
    "options_for",
    "register",
]
