"""For tests of your own guides and methods: a model with closed forms, and the contract that every method keeps."""

from multipyro.testing.contract import (
    check_gradients,
    check_method,
    check_missing,
    check_sites,
    check_subsets,
    toy_data,
)
from multipyro.testing.linear_gaussian import DTYPE, FixedGuide, LinearEncoder, LinearGaussian, kl_normal

__all__ = [
    "DTYPE",
    "FixedGuide",
    "LinearEncoder",
    "LinearGaussian",
    "check_gradients",
    "check_method",
    "check_missing",
    "check_sites",
    "check_subsets",
    "kl_normal",
    "toy_data",
]
