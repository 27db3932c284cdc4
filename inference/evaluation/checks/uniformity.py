"""Tests that ranks are uniform, with bands that hold for all ranks at once."""

from functools import cached_property

import torch
from torch import Tensor

__all__ = ["UniformityTest"]

# simulated sets of ranks at once
_CHUNK = 1000


class UniformityTest:
    r"""Tests whether ranks `0, ..., num_samples` are uniform, by their empirical distribution function.

    At each rank the number of data points up to it is binomial. The statistic is the smallest two-sided binomial
    probability over all ranks, and its distribution for uniform ranks is simulated. So the p-value and the band hold
    for all ranks together.

    References:
        Graphical Test for Discrete Uniformity and its Applications in Goodness-of-Fit Evaluation and Multiple Sample
        Comparison (Säilynoja et al., 2022), section 2.

    Args:
        num_ranks: Number of data points, each with one rank.
        num_samples: The largest rank.
        num_simulations: Number of simulated sets of uniform ranks; no p-value is below about its inverse.
        seed: Seed of the simulation; torch's generator is not used.

    Example:
        >>> test = UniformityTest(200, 19)
        >>> uniform, low = torch.arange(200) % 20, torch.arange(200) % 10
        >>> bool(test.p_values(uniform[:, None]) > 0.5), bool(test.p_values(low[:, None]) < 0.001)
        (True, True)
    """

    def __init__(self, num_ranks: int, num_samples: int, num_simulations: int = 10_000, seed: int = 0) -> None:
        if num_ranks < 1 or num_samples < 1:
            raise ValueError(f"num_ranks and num_samples must be at least 1, got {num_ranks} and {num_samples}")
        self.num_ranks, self.num_samples = num_ranks, num_samples
        self._num_simulations, self._seed = num_simulations, seed

    def p_values(self, ranks: Tensor) -> Tensor:
        """The p-value of each column of `(num_ranks, columns)`, `(columns,)`, float64."""
        statistics = self._statistics(self._counts(ranks.T))
        below = torch.searchsorted(self._null, statistics, right=True)
        return (below + 1) / (self._num_simulations + 1)

    def band(self, level: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
        """A band that contains the whole distribution function of uniform ranks with this probability.

        Returns:
            The expected share of data points up to each rank but the last, and the lowest and the highest share in the
            band, `(num_samples,)` each.
        """
        smallest = torch.quantile(self._null, 1 - level)
        inside = self._tails >= smallest  # (num_samples, num_ranks + 1)
        low = inside.double().argmax(1)
        high = self.num_ranks - inside.flip(1).double().argmax(1)
        return self._expected, low / self.num_ranks, high / self.num_ranks

    def distribution(self, ranks: Tensor) -> Tensor:
        """The share of data points up to each rank but the last, `(columns, num_samples)`; of ranks as above."""
        return self._counts(ranks.T) / self.num_ranks

    @cached_property
    def _expected(self) -> Tensor:
        return torch.arange(1, self.num_samples + 1, dtype=torch.float64) / (self.num_samples + 1)

    @cached_property
    def _tails(self) -> Tensor:
        """The two-sided binomial probability of each count at each rank, `(num_samples, num_ranks + 1)`."""
        counts = torch.arange(self.num_ranks + 1, dtype=torch.float64)
        binomial = torch.distributions.Binomial(self.num_ranks, self._expected[:, None])
        probability = binomial.log_prob(counts).exp()
        up_to = probability.cumsum(1)
        from_on = probability.flip(1).cumsum(1).flip(1)
        return (2 * torch.minimum(up_to, from_on)).clamp(max=1.0)

    @cached_property
    def _null(self) -> Tensor:
        """The statistic of simulated uniform ranks in increasing order, `(num_simulations,)`."""
        generator = torch.Generator().manual_seed(self._seed)
        parts = []
        for start in range(0, self._num_simulations, _CHUNK):
            shape = (min(_CHUNK, self._num_simulations - start), self.num_ranks)
            ranks = torch.randint(self.num_samples + 1, shape, generator=generator)
            parts.append(self._statistics(self._counts(ranks)))
        return torch.cat(parts).sort().values

    def _counts(self, ranks: Tensor) -> Tensor:
        """The number of data points up to each rank but the last, of `(rows, num_ranks)`: `(rows, num_samples)`."""
        counts = torch.zeros(len(ranks), self.num_samples + 1, dtype=torch.long, device=ranks.device)
        return counts.scatter_add_(1, ranks, torch.ones_like(ranks)).cumsum(1)[:, :-1].cpu()

    def _statistics(self, counts: Tensor) -> Tensor:
        ranks = torch.arange(self.num_samples)
        return self._tails[ranks, counts].amin(1)
