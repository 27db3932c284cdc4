"""Likelihoods of pixels in `[0, 1]`: a discretized logistic, and a Beta with one free parameter."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from multipyro.ppl_models.likelihoods.base import Likelihood, LocationScale, check_unit_interval

__all__ = ["BetaLikelihood", "ClampedBeta", "DiscretizedLogistic", "DiscretizedLogisticLikelihood"]


class DiscretizedLogistic(dist.TorchDistribution):
    r"""A logistic density summed over bins: a probability of each of `bins` levels from 0 to 1, open at both ends.

    .. math:: P(x) = \sigma\!\left(\tfrac{x + h - \mu}{s}\right) - \sigma\!\left(\tfrac{x - h - \mu}{s}\right), \qquad
        h = \frac{1}{2 (\mathrm{bins} - 1)}

    At 0 the second term is left out, at 1 the first one is 1, so that the levels' probabilities add up to 1.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), appendix; PixelCNN++
        (Salimans et al., 2017), eq. 2.

    Args:
        loc: `mu`, `(*batch)`, in the unit of the levels.
        scale: `s`, broadcasts against `loc`.
        bins: Number of levels, 256 for bytes.

    Example:
        >>> pixels = DiscretizedLogistic(torch.tensor(0.3), torch.tensor(0.1))
        >>> round(pixels.log_prob(torch.arange(256) / 255).exp().sum().item(), 5)
        1.0
    """

    arg_constraints = {"loc": dist.constraints.real, "scale": dist.constraints.positive}
    support = dist.constraints.unit_interval

    def __init__(self, loc: Tensor, scale: Tensor, bins: int = 256, validate_args: bool | None = None) -> None:
        if bins < 2:
            raise ValueError(f"bins must be at least 2, got {bins}")
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.bins = bins
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Mean of the logistic held to `[0, 1]`, `(*batch)`: that of the levels to within half a bin."""
        return self.scale * (softplus(self.loc / self.scale) - softplus((self.loc - 1) / self.scale))

    def expand(self, batch_shape, _instance=None) -> "DiscretizedLogistic":
        """The same distribution over a larger batch shape."""
        batch = torch.Size(batch_shape)
        return DiscretizedLogistic(self.loc.expand(batch), self.scale.expand(batch), self.bins, False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of a level; a value between two levels has that of a bin around it, `(..., *batch)`."""
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.bins - 1)
        above = logsigmoid((value + half - self.loc) / self.scale)
        below = logsigmoid((self.loc + half - value) / self.scale)
        # sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a)), which loses no digits in the tails
        width = torch.log(-torch.expm1(-2 * half / self.scale))
        inside = above + below + width
        return torch.where(value < half, above, torch.where(value > 1 - half, below, inside))

    def sample(self, sample_shape=()) -> Tensor:
        """Levels, `(*sample_shape, *batch)`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            share = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            share = share.clamp(torch.finfo(share.dtype).tiny, 1 - torch.finfo(share.dtype).eps)
            value = self.loc + self.scale * (share.log() - torch.log1p(-share))
            return (value.clamp(0, 1) * (self.bins - 1)).round() / (self.bins - 1)


class DiscretizedLogisticLikelihood(LocationScale):
    r"""Gray levels from 0 to 1, the network giving the location of a discretized logistic.

    References:
        Bridged Variational Autoencoders (Yadav et al.), section 5: the images of CelebA.

    Args:
        network: Module from latents to locations `(..., batch, *event)`.
        scale: Its scale in the unit of the data, a number or a tensor that broadcasts against one row.
        learn_scale: Whether the scale is learned, starting from `scale`.
        bins: Number of levels.

    Example:
        >>> pixels = DiscretizedLogisticLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2))
        >>> pixels.log_prob(torch.zeros(3, 5)).shape
        torch.Size([3])
    """

    def __init__(
        self, network: nn.Module, scale: float | Tensor = 0.1, learn_scale: bool = True, bins: int = 256
    ) -> None:
        super().__init__(network, scale, learn_scale)
        self.bins = bins

    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        return DiscretizedLogistic(loc, scale, self.bins)

    def check_values(self, values: Tensor, name: str) -> None:
        check_unit_interval(values, name, "discretized logistic")
        levels = values * (self.bins - 1)
        # single precision holds k / 255 to within a few units of its last digit
        if values.numel() and (levels - levels.round()).abs().max() > 1e-3:
            raise ValueError(
                f"modality {name!r} has a discretized logistic likelihood and must hold levels k / {self.bins - 1}, it "
                "holds values between them"
            )


class ClampedBeta(dist.Beta):
    """A Beta whose density is that of the nearest value in `[margin, 1 - margin]`: finite at 0 and 1.

    Args:
        concentration1: As in `torch.distributions.Beta`.
        concentration0: Likewise.
        margin: Distance that values keep from 0 and 1.

    Example:
        >>> ClampedBeta(torch.tensor(0.5), torch.tensor(0.5)).log_prob(torch.tensor(0.0)).isfinite()
        tensor(True)
    """

    def __init__(
        self,
        concentration1: Tensor,
        concentration0: Tensor,
        margin: float = 1e-5,
        validate_args: bool | None = None,
    ) -> None:
        self.margin = margin
        super().__init__(concentration1, concentration0, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> "ClampedBeta":
        """The same distribution over a larger batch shape."""
        batch = torch.Size(batch_shape)
        parts = self.concentration1.expand(batch), self.concentration0.expand(batch)
        return ClampedBeta(*parts, self.margin, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, `(..., *batch)`."""
        return super().log_prob(value.clamp(self.margin, 1 - self.margin))


class BetaLikelihood(Likelihood):
    r"""Values in `[0, 1]` with a Beta of given strength, the network giving the logit of its mean.

    .. math:: p(x \mid z) = \mathrm{Beta}(\nu a, \nu (1 - a)), \qquad a = \epsilon + (1 - 2 \epsilon)\, \sigma(f(z))

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1, with `nu = 100`; its released code clamps pixels to within 1e-5 of 0 and 1.

    Args:
        network: Module from latents to logits `(..., batch, *event)`.
        strength: `nu`; the variance is `a (1 - a) / (nu + 1)`.
        margin: How far values, and the mean, keep from 0 and 1: at 0 itself most of these densities are 0 or unbounded.

    Raises:
        ValueError: If `strength` is not above 0, or `margin` not between 0 and 1/2.

    Example:
        >>> BetaLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2)).mean.shape
        torch.Size([3, 5])
    """

    def __init__(self, network: nn.Module, strength: float = 100.0, margin: float = 1e-5) -> None:
        super().__init__(network)
        if not (strength > 0 and math.isfinite(strength)):
            raise ValueError(f"strength must be a number above 0, got {strength}")
        if not 0 < margin < 0.5:
            raise ValueError(f"margin must lie between 0 and 0.5, got {margin}")
        self.strength, self.margin = strength, margin

    def distribution(self, outputs: Tensor, event_dims: int) -> dist.Distribution:
        share = 1 - 2 * self.margin
        # each from its own side, so that neither loses digits next to 1
        mean, rest = (self.margin + share * torch.sigmoid(side) for side in (outputs, -outputs))
        return ClampedBeta(self.strength * mean, self.strength * rest, self.margin).to_event(event_dims)

    def value_shape(self, out_shape: tuple[int, ...]) -> tuple[int, ...]:
        return out_shape

    def check_values(self, values: Tensor, name: str) -> None:
        check_unit_interval(values, name, "BetaLikelihood")
