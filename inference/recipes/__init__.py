"""The methods by name, each a model, a guide and the stages that train them."""

from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage
from multipyro.inference.recipes._registry import COMMON_OPTIONS, METHODS, build

__all__ = ["COMMON_OPTIONS", "METHODS", "MethodInfo", "Recipe", "Stage", "build"]
