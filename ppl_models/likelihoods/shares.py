"""The likelihood of shares, which sum to 1."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.ppl_models.likelihoods._numerics import bounded_log
from multipyro.ppl_models.likelihoods.base import Likelihood, register_positive

__all__ = ["ClampedDirichlet", "DirichletLikelihood"]


class ClampedDirichlet(dist.Dirichlet):
    r"""A Dirichlet that is finite where a share is 0, and that can leave out missing shares.

    Missing shares are NaN. Their sum is 1 minus the others, so that the density of the others is that of a Dirichlet in
    which the missing shares are merged into one, with the sum of their concentrations.

    Args:
        concentration: As in `torch.distributions.Dirichlet`.
        margin: Smaller shares have the density of a share of this size.

    Example:
        >>> shares = ClampedDirichlet(torch.tensor([1.0, 2.0, 3.0]))
        >>> merged = dist.Beta(torch.tensor(1.0), torch.tensor(5.0)).log_prob(torch.tensor(0.3))
        >>> torch.allclose(shares.log_prob(torch.tensor([0.3, torch.nan, torch.nan])), merged)
        True
    """

    def __init__(self, concentration: Tensor, margin: float = 1e-5, validate_args: bool | None = None) -> None:
        self.margin = margin
        super().__init__(concentration, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> "ClampedDirichlet":
        """The same distribution with a larger batch shape."""
        shape = torch.Size(batch_shape) + self.event_shape
        return ClampedDirichlet(self.concentration.expand(shape), self.margin, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the shares that are present, `(..., *batch)`."""
        missing = value.isnan()
        total = self.concentration.sum(-1)
        present = self._terms(value.masked_fill(missing, 1.0), self.concentration).masked_fill(missing, 0.0).sum(-1)
        any_missing = missing.any(-1)
        merged = torch.where(any_missing, (self.concentration * missing).sum(-1), 1.0)
        rest = self._terms(1 - value.nansum(-1), merged)
        return torch.lgamma(total) + present + rest.masked_fill(~any_missing, 0.0)

    def _terms(self, share: Tensor, concentration: Tensor) -> Tensor:
        return (concentration - 1) * share.clamp(min=self.margin).log() - torch.lgamma(concentration)


class DirichletLikelihood(Likelihood):
    r"""Shares that sum to 1, such as cell types or budgets; the network outputs the logits of their means.

    .. math:: p(x \mid z) = \mathrm{Dirichlet}(\nu a), \qquad a = \epsilon + (1 - K \epsilon)\, \mathrm{softmax}(f(z))

    Args:
        network: Module from latents to logits `(..., batch, K)`.
        strength: `nu`; the variance of a share is `a (1 - a) / (nu + 1)`.
        learn_strength: Whether the strength is learned, starting from `strength`.
        margin: `epsilon`: how far means stay from 0; smaller shares have the density of a share of this size.
        missing_entries: Whether shares may be missing: NaN, each data point then with the density of the others.

    Raises:
        ValueError: If the strength is not positive, or the margin not between 0 and 0.01.

    Example:
        >>> DirichletLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2)).sample().sum(-1).round()
        tensor([1., 1., 1.])
    """

    interval = (0, 1)
    independent_entries = False

    def __init__(
        self,
        network: nn.Module,
        strength: float = 10.0,
        learn_strength: bool = True,
        margin: float = 1e-5,
        missing_entries: bool = False,
    ) -> None:
        super().__init__(network, missing_entries)
        register_positive(self, "strength", strength, learn_strength)
        if not 0 < margin < 0.01:
            raise ValueError(f"margin must lie between 0 and 0.01, got {margin}")
        self.margin = margin

    def distribution(self, outputs: Tensor) -> dist.Distribution:
        mean = self.margin + (1 - outputs.shape[-1] * self.margin) * outputs.softmax(-1)
        return ClampedDirichlet(bounded_log(self.log_strength).exp() * mean, self.margin)

    def check_values(self, values: Tensor, name: str) -> None:
        missing = values.isnan() if self.missing_entries else torch.zeros_like(values, dtype=torch.bool)
        super().check_values(values[~missing], name)
        sums = values.nansum(-1)
        # single precision sums a thousand shares to within about 1e-5
        wrong = torch.where(missing.any(-1), sums > 1 + 1e-4, (sums - 1).abs() > 1e-4)
        if wrong.any():
            raise ValueError(f"modality {name!r} must contain shares that sum to 1, got a sum of {sums[wrong][0]:.6g}")
