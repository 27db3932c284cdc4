"""The continuous Bernoulli distribution, exact at any logit."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["ExactContinuousBernoulli"]

# below this the closed forms lose digits to cancellation, and the series beside them are exact to 1e-9
_SMALL = 0.05


class ExactContinuousBernoulli(dist.TorchDistribution):
    r"""The continuous Bernoulli on `[0, 1]`, everything computed from its logit.

    .. math:: p(x) = \frac{\ell\, e^{\ell x}}{e^\ell - 1}, \qquad E[x] = \frac{1}{1 - e^{-\ell}} - \frac1\ell

    torch's distribution clamps probabilities to single precision: beyond a logit of about 16 its density no longer
    integrates to 1 (0.32 at 50), and trained decoders reach such logits.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem and
        Cunningham, 2019), eq. 6-9.

    Args:
        logits: Any real numbers, `(..., *batch)`.

    Example:
        >>> density = ExactContinuousBernoulli(torch.tensor([0.0, 50.0]))
        >>> density.mean
        tensor([0.5000, 0.9800])
    """

    arg_constraints = {"logits": dist.constraints.real}
    support = dist.constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Mean, `(*batch)`."""
        small, size = self._magnitudes()
        above = 1 / -torch.expm1(-size) - 1 / size
        series = 0.5 + self.logits / 12 - self.logits**3 / 720
        return torch.where(small, series, torch.where(self.logits < 0, 1 - above, above))

    @property
    def variance(self) -> Tensor:
        """Variance, `(*batch)`."""
        small, size = self._magnitudes()
        exact = size**-2 - torch.exp(-size) / torch.expm1(-size) ** 2
        return torch.where(small, 1 / 12 - self.logits**2 / 240, exact)

    def expand(self, batch_shape, _instance=None) -> "ExactContinuousBernoulli":
        """The same distribution with a larger batch shape."""
        return ExactContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, `(..., *batch)`."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - torch.nn.functional.softplus(self.logits) + self._log_normalizer()

    def entropy(self) -> Tensor:
        """Differential entropy in nats, `(*batch)`."""
        return torch.nn.functional.softplus(self.logits) - self._log_normalizer() - self.mean * self.logits

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile of a probability in `[0, 1]`."""
        small, size = self._magnitudes()
        mirrored = self.logits > 0
        probability = torch.where(mirrored, 1 - value, value)
        # the clamp keeps log1p off its pole, which single precision reaches once in 2^24 samples
        inside = (probability * torch.expm1(-size)).clamp(min=-1 + torch.finfo(size.dtype).eps)
        below = (-torch.log1p(inside) / size).clamp(0, 1)
        series = value + self.logits * value * (1 - value) / 2
        return torch.where(small, series, torch.where(mirrored, 1 - below, below))

    def rsample(self, sample_shape=()) -> Tensor:
        """Reparametrized samples, `(*sample_shape, *batch)`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))

    def _magnitudes(self) -> tuple[Tensor, Tensor]:
        """Which logits are small, and the magnitude of the others (1 for small ones, so that no branch is NaN)."""
        small = self.logits.abs() < _SMALL
        return small, torch.where(small, 1.0, self.logits.abs())

    def _log_normalizer(self) -> Tensor:
        """`log(l / tanh(l / 2))`, even in the logit."""
        small, size = self._magnitudes()
        squared = self.logits**2
        series = math.log(2) + squared / 12 - 7 * squared**2 / 1440
        return torch.where(small, series, size.log() - torch.tanh(size / 2).log())
