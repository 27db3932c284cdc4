"""Densities that leave out missing entries of a data point."""

import pyro.distributions as dist
import torch
from torch import Tensor

from multipyro.batch import is_missing

__all__ = ["MissingEntries"]


class MissingEntries(dist.TorchDistribution):
    """A distribution over single entries that gives missing ones the log-density 0.

    Whatever the parameters at a missing entry are, they get no gradient from it. Samples have no missing entries.

    Args:
        base_dist: The distribution of an entry, event shape `()`.

    Example:
        >>> entries = MissingEntries(dist.Normal(torch.zeros(2), torch.ones(2)))
        >>> entries.log_prob(torch.tensor([0.0, torch.nan]))
        tensor([-0.9189,  0.0000])
    """

    arg_constraints = {}

    def __init__(self, base_dist: dist.TorchDistribution) -> None:
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether samples are reparametrized."""
        return self.base_dist.has_rsample

    @property
    def support(self) -> dist.constraints.Constraint:
        """The support of an entry that is present."""
        return self.base_dist.support

    @property
    def mean(self) -> Tensor:
        """Mean of every entry."""
        return self.base_dist.mean

    @property
    def mode(self) -> Tensor:
        """Mode of every entry."""
        return self.base_dist.mode

    @property
    def variance(self) -> Tensor:
        """Variance of every entry."""
        return self.base_dist.variance

    def expand(self, batch_shape, _instance=None) -> "MissingEntries":
        """The same distribution with a larger batch shape."""
        return MissingEntries(self.base_dist.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of every entry, 0 for missing ones."""
        missing = is_missing(value)
        # 1 is in the support of every real, positive or whole number and of every share; 0 is a class
        filled = value.masked_fill(missing, 1 if value.is_floating_point() else 0)
        return self.base_dist.log_prob(filled).masked_fill(missing, 0.0)

    def sample(self, sample_shape=()) -> Tensor:
        """Samples of all entries."""
        return self.base_dist.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape=()) -> Tensor:
        """Reparametrized samples of all entries."""
        return self.base_dist.rsample(torch.Size(sample_shape))

    def entropy(self) -> Tensor:
        """Entropy of every entry, in nats."""
        return self.base_dist.entropy()
