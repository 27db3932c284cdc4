"""Likelihoods of values between 0 and 1, such as pixels."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from multipyro.ppl_models.likelihoods.base import Likelihood, LocationScaleLikelihood
from multipyro.ppl_models.likelihoods.continuous_bernoulli import ExactContinuousBernoulli

__all__ = [
    "BetaLikelihood",
    "ClampedBeta",
    "ContinuousBernoulliLikelihood",
    "DiscretizedLogistic",
    "DiscretizedLogisticLikelihood",
]


class ContinuousBernoulliLikelihood(Likelihood):
    r"""Values in `[0, 1]` with the normalized continuous Bernoulli density; the network outputs logits.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem and
        Cunningham, 2019).

    Args:
        network: Module from latents to logits `(..., batch, *event)`.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Example:
        >>> pixels = ContinuousBernoulliLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2))
        >>> pixels.log_prob(torch.full((3, 5), 0.25)).shape
        torch.Size([3])
    """

    interval = (0, 1)

    def distribution(self, outputs: Tensor) -> dist.Distribution:
        return ExactContinuousBernoulli(outputs)


class DiscretizedLogistic(dist.TorchDistribution):
    r"""A logistic density integrated over bins: probabilities of `bins` levels from 0 to 1, the outer bins open.

    .. math:: P(x) = \sigma\!\left(\tfrac{x + h - \mu}{s}\right) - \sigma\!\left(\tfrac{x - h - \mu}{s}\right), \qquad
        h = \frac{1}{2 (\mathrm{bins} - 1)}

    At 0 the second term is omitted and at 1 the first one is 1, so that the probabilities sum to 1.

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
        """Mean of the logistic clamped to `[0, 1]`, `(*batch)`: that of the levels to within half a bin."""
        return self.scale * (softplus(self.loc / self.scale) - softplus((self.loc - 1) / self.scale))

    def expand(self, batch_shape, _instance=None) -> "DiscretizedLogistic":
        """The same distribution with a larger batch shape."""
        batch = torch.Size(batch_shape)
        return DiscretizedLogistic(self.loc.expand(batch), self.scale.expand(batch), self.bins, False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of a level, or of a bin around a value between two levels, `(..., *batch)`."""
        if self._validate_args:
            self._validate_sample(value)
        half_width = 0.5 / (self.bins - 1)
        above = logsigmoid((value + half_width - self.loc) / self.scale)
        below = logsigmoid((self.loc + half_width - value) / self.scale)
        # sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a)), without losing digits in the tails
        log_width = torch.log(-torch.expm1(-2 * half_width / self.scale))
        inside = above + below + log_width
        return torch.where(value < half_width, above, torch.where(value > 1 - half_width, below, inside))

    def sample(self, sample_shape=()) -> Tensor:
        """Sampled levels, `(*sample_shape, *batch)`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            uniform = uniform.clamp(torch.finfo(uniform.dtype).tiny, 1 - torch.finfo(uniform.dtype).eps)
            value = self.loc + self.scale * (uniform.log() - torch.log1p(-uniform))
            return (value.clamp(0, 1) * (self.bins - 1)).round() / (self.bins - 1)


class DiscretizedLogisticLikelihood(LocationScaleLikelihood):
    r"""Gray levels from 0 to 1; the network outputs the location of a discretized logistic distribution.

    References:
        Bridged Variational Autoencoders (Yadav et al.), section 5: the images of CelebA.

    Args:
        network: Module from latents to locations `(..., batch, *event)`.
        scale: Scale of the logistic, in the unit of the data: a number, or a tensor that broadcasts against one data
            point; 0.1 by default.
        learn_scale: Whether the scale is learned, starting from `scale`; by default it is.
        bins: Number of levels.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Example:
        >>> pixels = DiscretizedLogisticLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2))
        >>> pixels.log_prob(torch.zeros(3, 5)).shape
        torch.Size([3])
    """

    interval = (0, 1)
    default_scale = 0.1

    def __init__(
        self,
        network: nn.Module,
        scale: float | Tensor | None = None,
        learn_scale: bool | None = None,
        bins: int = 256,
        missing_entries: bool = False,
    ) -> None:
        super().__init__(network, scale, learn_scale, missing_entries)
        self.bins = bins

    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        return DiscretizedLogistic(loc, scale, self.bins)

    def check_values(self, values: Tensor, name: str) -> None:
        super().check_values(values, name)
        levels = values * (self.bins - 1)
        # single precision represents k / 255 to within a few units of its last digit
        if values.numel() and (levels - levels.round()).abs().max() > 1e-3:
            raise ValueError(
                f"modality {name!r} has a DiscretizedLogisticLikelihood and must contain levels k / {self.bins - 1}, "
                "got values between them"
            )


class ClampedBeta(dist.Beta):
    """A Beta that is finite at 0 and 1: every value has the density of the nearest one in `[margin, 1 - margin]`.

    Args:
        concentration1: As in `torch.distributions.Beta`.
        concentration0: As in `torch.distributions.Beta`.
        margin: Distance of values from 0 and 1.

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
        """The same distribution with a larger batch shape."""
        batch = torch.Size(batch_shape)
        concentrations = self.concentration1.expand(batch), self.concentration0.expand(batch)
        return ClampedBeta(*concentrations, self.margin, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, `(..., *batch)`."""
        return super().log_prob(value.clamp(self.margin, 1 - self.margin))


class BetaLikelihood(Likelihood):
    r"""Values in `[0, 1]` with a Beta distribution of fixed strength; the network outputs the logit of its mean.

    .. math:: p(x \mid z) = \mathrm{Beta}(\nu a, \nu (1 - a)), \qquad a = \epsilon + (1 - 2 \epsilon)\, \sigma(f(z))

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1, with `nu = 100`; its released code clamps pixels to within 1e-5 of 0 and 1.

    Args:
        network: Module from latents to logits `(..., batch, *event)`.
        strength: `nu`; the variance is `a (1 - a) / (nu + 1)`.
        margin: Distance of values and means from 0 and 1, where most of these densities are 0 or unbounded.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Raises:
        ValueError: If `strength` is not positive, or `margin` not between 0 and 1/2.

    Example:
        >>> BetaLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2)).mean.shape
        torch.Size([3, 5])
    """

    interval = (0, 1)

    def __init__(
        self, network: nn.Module, strength: float = 100.0, margin: float = 1e-5, missing_entries: bool = False
    ) -> None:
        super().__init__(network, missing_entries)
        if not (strength > 0 and math.isfinite(strength)):
            raise ValueError(f"strength must be a finite positive number, got {strength}")
        if not 0 < margin < 0.5:
            raise ValueError(f"margin must lie between 0 and 0.5, got {margin}")
        self.strength, self.margin = strength, margin

    def distribution(self, outputs: Tensor) -> dist.Distribution:
        # mean and 1 - mean each from a sigmoid, so that neither loses digits near 1
        mean, rest = (self.margin + (1 - 2 * self.margin) * torch.sigmoid(logits) for logits in (outputs, -outputs))
        return ClampedBeta(self.strength * mean, self.strength * rest, self.margin)
