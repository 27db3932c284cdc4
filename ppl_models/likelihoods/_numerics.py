"""Functions that stay precise where single precision would lose digits or overflow."""

import math

import torch
from torch import Tensor

__all__ = ["bounded_log", "log_ratio_of_gammas", "stirling_error"]

# exp(30) is 1e13: no mean or concentration of realistic data is larger
_LIMIT = 30.0
# above this the first two terms of Stirling's series are exact to 1e-11
_LARGE = 100.0


def bounded_log(values: Tensor) -> Tensor:
    """`values` as far as 30 from zero, and beyond that growing as a logarithm.

    So the exponential of a network's output is a positive finite number and its gradient never vanishes.
    """
    inside = values.clamp(-_LIMIT, _LIMIT)
    excess = values - inside
    return inside + excess.sign() * excess.abs().log1p()


def stirling_error(values: Tensor) -> Tensor:
    r"""The remainder of Stirling's formula, `log Gamma(a) - ((a - 1/2) log a - a + log(2 pi) / 2)`, for `a > 0`."""
    small, large = values.clamp(max=_LARGE), values.clamp(min=_LARGE)
    exact = torch.lgamma(small) - (small - 0.5) * small.log() + small - 0.5 * math.log(2 * math.pi)
    return torch.where(values < _LARGE, exact, 1 / (12 * large) - 1 / (360 * large**3))


def log_ratio_of_gammas(base: Tensor, shift: Tensor) -> Tensor:
    """`log Gamma(base + shift) - log Gamma(base)`, where two calls of `lgamma` would have no correct digit at 1e7."""
    total = base + shift
    leading = (base - 0.5) * torch.log1p(shift / base) + shift * total.log() - shift
    return leading + stirling_error(total) - stirling_error(base)
