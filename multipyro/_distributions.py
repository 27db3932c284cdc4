"""Rebuilding a distribution from changed parameters: detach, stack, select and scatter experts."""

from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["detached", "map_parameters", "stacked"]

_REBUILT = (torch.distributions.Normal, torch.distributions.Laplace)


def map_parameters(function: Callable[..., Tensor], *distributions: dist.Distribution) -> dist.Distribution | None:
    """A distribution of the same family whose parameters are `function` of the parameters of `distributions`.

    Returns None where the family is not Normal or Laplace (independent over its event), or the families differ.
    """
    first = distributions[0]
    if isinstance(first, torch.distributions.Independent):
        if any(
            not isinstance(other, torch.distributions.Independent)
            or other.reinterpreted_batch_ndims != first.reinterpreted_batch_ndims
            for other in distributions
        ):
            return None
        base = map_parameters(function, *[other.base_dist for other in distributions])
        return None if base is None else base.to_event(first.reinterpreted_batch_ndims)
    for family, rebuilt in zip(_REBUILT, (dist.Normal, dist.Laplace), strict=True):
        if all(isinstance(other, family) for other in distributions):
            loc = function(*[other.loc for other in distributions])
            return rebuilt(loc, function(*[other.scale for other in distributions]))
    return None


def stacked(distributions: Sequence[dist.Distribution]) -> dist.Distribution | None:
    """One distribution whose first batch dimension runs over `distributions`; None where families differ."""
    return map_parameters(lambda *parameters: torch.stack(torch.broadcast_tensors(*parameters)), *distributions)


def detached(distribution: dist.Distribution) -> dist.Distribution:
    """The same distribution, gradients reaching none of its parameters.

    Raises:
        TypeError: If the family is not one whose parameters are known here.
    """
    if hasattr(distribution, "detach"):
        return distribution.detach()
    found = map_parameters(Tensor.detach, distribution)
    if found is None:
        raise TypeError(
            f"cannot detach the parameters of {distribution}: expected Normal or Laplace experts, or a distribution "
            "with a method detach()"
        )
    return found
