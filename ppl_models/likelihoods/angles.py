"""The likelihood of angles."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from multipyro.ppl_models.likelihoods._numerics import bounded_log
from multipyro.ppl_models.likelihoods.base import ConcentrationLikelihood

__all__ = ["StableVonMises", "VonMisesLikelihood"]


class StableVonMises(dist.VonMises):
    """A von Mises distribution with a finite gradient at any concentration.

    torch's polynomial for the Bessel function overflows above a concentration of about 6,000 in single precision, which
    makes its gradient NaN.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density per radian, `(..., *batch)`."""
        if self._validate_args:
            self._validate_sample(value)
        # cos(d) - 1 = -2 sin(d / 2)^2, and i0e is the Bessel function without its factor exp(concentration)
        exponent = -2 * self.concentration * torch.sin((value - self.loc) / 2).square()
        return exponent - torch.special.i0e(self.concentration).log() - math.log(2 * math.pi)


class VonMisesLikelihood(ConcentrationLikelihood):
    r"""Angles in radians, such as those of joints or of the wind; the network outputs a direction.

    .. math:: p(x \mid z) = \frac{\exp(\kappa \cos(x - \mu))}{2 \pi I_0(\kappa)}, \qquad
        (\cos \mu, \sin \mu) \propto f(z)

    The density is periodic and integrates to 1 over any interval of length `2 pi`. Samples lie in `[-pi, pi]`.

    Args:
        network: Module from latents to `(..., batch, *event, 2)`, any multiple of cosine and sine of the mean angle.
        concentration: `kappa`, for small angles the inverse variance: a number, or a tensor that broadcasts against one
            data point.
        learn_concentration: Whether it is learned, one per entry if the network has an attribute `out_shape`.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Example:
        >>> from multipyro.ppl_models import MLP
        >>> VonMisesLikelihood(MLP(2, (7, 2)))(torch.zeros(3, 2)).event_shape
        torch.Size([7])
    """

    parameter_dims = 1

    def distribution(self, outputs: Tensor) -> dist.Distribution:
        cosine, sine = outputs.unbind(-1)
        # at the origin, where there is no direction, older versions of torch give atan2 a gradient of NaN
        cosine = torch.where((cosine == 0) & (sine == 0), 1.0, cosine)
        return StableVonMises(torch.atan2(sine, cosine), bounded_log(self.log_concentration).exp())

    def check_values(self, values: Tensor, name: str) -> None:
        super().check_values(values, name)
        if values.numel() and values.abs().max() > 2 * math.pi:
            raise ValueError(
                f"modality {name!r} must contain angles in radians, from -2 pi to 2 pi, "
                f"got [{values.min().item():.4g}, {values.max().item():.4g}]"
            )
