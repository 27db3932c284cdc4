"""Likelihoods of positive numbers: concentrations, durations, prices."""

import math

import pyro.distributions as dist
from torch import Tensor

from multipyro.ppl_models.likelihoods._numerics import bounded_log, stirling_error
from multipyro.ppl_models.likelihoods.base import ConcentrationLikelihood, LocationScaleLikelihood

__all__ = ["GammaLikelihood", "LogNormalLikelihood", "StableGamma"]


class LogNormalLikelihood(LocationScaleLikelihood):
    r"""Positive values whose logarithm has Gaussian noise; the network outputs the mean of the logarithm.

    Densities are those of the values, not of their logarithms.

    Args:
        network: Module from latents to the means of `log x`, `(..., batch, *event)`.
        scale: Standard deviation of `log x`, about the relative error of `x` if small: a number, or a tensor that
            broadcasts against one data point; 1 by default.
        learn_scale: Whether the scale is learned, starting from `scale`; by default it is.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> LogNormalLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2)).sample().min() > 0
        tensor(True)
    """

    family = dist.LogNormal
    interval = (0, math.inf)
    is_open = True


class StableGamma(dist.Gamma):
    """A gamma distribution whose density is accurate in single precision at any concentration.

    The density of torch is a difference of terms as large as the concentration: at 1e7 no digit of it is correct.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, `(..., *batch)`."""
        if self._validate_args:
            self._validate_sample(value)
        a = self.concentration
        ratio = value * self.rate / a
        deviance = ratio - 1 - ratio.log()
        return 0.5 * (a.log() - math.log(2 * math.pi)) - value.log() - a * deviance - stirling_error(a)


class GammaLikelihood(ConcentrationLikelihood):
    r"""Positive values with a gamma distribution; the network outputs the logarithm of the mean.

    .. math:: p(x \mid z) = \mathrm{Gamma}(a, a / \mu), \qquad \mu = e^{f(z)}, \qquad \mathrm{Var}[x] = \mu^2 / a

    Args:
        network: Module from latents to log-means `(..., batch, *event)`.
        concentration: `a`, the inverse of the squared relative standard deviation: a number, or a tensor that
            broadcasts against one data point.
        learn_concentration: Whether it is learned, one per entry if the network has an attribute `out_shape`.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> GammaLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2)).sample().min() > 0
        tensor(True)
    """

    interval = (0, math.inf)
    is_open = True

    def distribution(self, outputs: Tensor) -> dist.Distribution:
        log_concentration = bounded_log(self.log_concentration)
        return StableGamma(log_concentration.exp(), (log_concentration - bounded_log(outputs)).exp())
