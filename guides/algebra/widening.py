"""Wider versions of distributions, as proposals of importance sampling."""

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["matched_normal", "widened"]

_TORCH, _PYRO = torch.distributions, dist
# location-scale families, in torch and in Pyro
_SCALED = ((_TORCH.Normal, _PYRO.Normal), (_TORCH.Laplace, _PYRO.Laplace), (_TORCH.Cauchy, _PYRO.Cauchy))
# samples to estimate the moments of a distribution that does not define them
_MOMENT_SAMPLES = 256
# a matched normal is never narrower than this share of its largest dimension, so that it has a density
_SMALLEST_SCALE = 1e-6


def widened(distribution: dist.Distribution, scale: float) -> dist.Distribution | None:
    """The distribution with its spread around its location multiplied by `scale`.

    A normal, Laplace or Student-t has its scale multiplied; a mixture is widened component by component, a flow at its
    base. A distribution may define a method `widened(scale)`.

    Args:
        distribution: Any distribution over real vectors.
        scale: The factor; below 1 narrows.

    Returns:
        The distribution, of the same shapes, or None if there is no rule for it: then `matched_normal` is an
        alternative.

    Example:
        >>> widened(dist.Normal(torch.zeros(2), 1.0).to_event(1), 1.5).base_dist.scale
        tensor([1.5000, 1.5000])
    """
    if scale == 1:
        return distribution
    if hasattr(distribution, "widened"):
        return distribution.widened(scale)
    if hasattr(distribution, "with_parts"):
        return distribution.with_parts(lambda part: widened(part, scale))
    if isinstance(distribution, torch.distributions.Independent):
        base = widened(distribution.base_dist, scale)
        return None if base is None else base.to_event(distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, torch.distributions.TransformedDistribution):
        base = widened(distribution.base_dist, scale)
        return None if base is None else dist.TransformedDistribution(base, distribution.transforms)
    if isinstance(distribution, torch.distributions.MultivariateNormal):
        return dist.MultivariateNormal(distribution.loc, scale_tril=scale * distribution.scale_tril)
    if isinstance(distribution, torch.distributions.StudentT):
        return dist.StudentT(distribution.df, distribution.loc, scale * distribution.scale)
    for family, rebuilt in _SCALED:
        if isinstance(distribution, family):
            return rebuilt(distribution.loc, scale * distribution.scale)
    return None


def matched_normal(distribution: dist.Distribution, scale: float = 1.0) -> dist.Distribution:
    """The normal of independent components with the mean and `scale` times the standard deviation of a distribution.

    Args:
        distribution: A distribution with one event dimension. If it does not define mean and variance, they are
            estimated from samples.
        scale: The factor of the standard deviation.

    Example:
        >>> matched_normal(dist.Laplace(torch.zeros(2), 1.0).to_event(1)).base_dist.scale
        tensor([1.4142, 1.4142])
    """
    mean, variance = _moments(distribution)
    largest = variance.amax(-1, keepdim=True)
    std = variance.clamp(min=_SMALLEST_SCALE**2 * largest.clamp(min=torch.finfo(variance.dtype).tiny)).sqrt()
    return dist.Normal(mean, scale * std).to_event(1)


def _moments(distribution: dist.Distribution) -> tuple[Tensor, Tensor]:
    try:
        return distribution.mean, distribution.variance
    except (NotImplementedError, AttributeError):
        samples = distribution.sample((_MOMENT_SAMPLES,))
        return samples.mean(0), samples.var(0)
