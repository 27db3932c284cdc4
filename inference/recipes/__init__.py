"""The methods by name, each a model, a guide and the stages that train them."""

from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, Update, site_weights
from multipyro.inference.recipes._registry import COMMON_OPTIONS, METHODS, build, register

__all__ = ["COMMON_OPTIONS", "METHODS", "MethodInfo", "Recipe", "Stage", "Update", "build", "register", "site_weights"]
