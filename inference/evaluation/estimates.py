"""Estimates over data points: means and shares with standard errors and intervals, and paired differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Estimate", "PairedDifference", "estimate_mean", "estimate_share", "paired_difference", "plain"]

#: standard normal quantile of the two-sided 95 % intervals
_QUANTILE = 1.959963984540054


@dataclass(frozen=True, repr=False, eq=False)
class Estimate:
    """A mean over data points, with its error.

    Attributes:
        value: The mean.
        se: Its standard error over data points; NaN for a single one.
        low: Lower limit of the 95 % confidence interval.
        high: Upper limit.
        values: The value of each data point, `(num,)`, float64, for comparisons on the same data points; NaN for a data
            point that does not count.
        is_share: Whether it is a share of successes, with Wilson's interval.
        bracket: For a share counted by classifiers, its range if they err on generated values at most as often as on
            real ones. None if no classifier that errs was used.

    Example:
        >>> estimate_share(torch.tensor([True] * 20))
        1.000 (95 % interval 0.839 to 1.000, 20 data points)
    """

    value: float
    se: float
    low: float
    high: float
    values: Tensor
    is_share: bool = False
    bracket: tuple[float, float] | None = None

    @property
    def num(self) -> int:
        """Number of data points."""
        return int((~self.values.isnan()).sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `value`, `se`, `num`; of a share `low` and `high`, and its `bracket` if it has one."""
        interval = {"low": self.low, "high": self.high} if self.is_share else {}
        bracket = {} if self.bracket is None else {"bracket": self.bracket}
        return plain({"value": self.value, "se": self.se, "num": self.num, **interval, **bracket})

    def __repr__(self) -> str:
        low, high = self.bracket or (None, None)
        bracket = "" if low is None else f"; {low:.3f} to {high:.3f} with classifier errors"
        interval = f"95 % interval {self.low:.3f} to {self.high:.3f}"
        return f"{self.value:.3f} ({interval}, {self.num} data points{bracket})"


@dataclass(frozen=True, eq=False)
class PairedDifference:
    """How much two methods, or two estimates, differ on the same data points, with an error for each source of noise.

    Attributes:
        value: Mean difference over data points, and over the seeds where there are several.
        se: Paired standard error, over data points, of the mean difference: the variation due to the test data.
        values: The difference of each data point, `(num,)`, float64, averaged over seeds; NaN where it does not count.
        mc_se: Monte Carlo error of the mean difference; None where nothing is estimated by Monte Carlo.
        seed_std: Standard deviation of the difference over seeds: the variation due to training. None with one seed.
        seeds: Number of seeds.

    Example:
        >>> paired_difference([torch.tensor([1.0, 1.0, 0.0])], [torch.tensor([0.0, 1.0, 0.0])]).value
        0.3333333333333333
    """

    value: float
    se: float
    values: Tensor
    mc_se: float | None = None
    seed_std: float | None = None
    seeds: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `value`, `se`, `seed_std`, `seeds`; None for an error that does not exist."""
        return plain({name: getattr(self, name) for name in ("value", "se", "seed_std", "seeds")})


def estimate_mean(values: Tensor) -> Estimate:
    """The mean of the values of data points, with a normal interval.

    Args:
        values: `(num,)`; NaN for a data point that does not count.

    Example:
        >>> estimate_mean(torch.tensor([1.0, 3.0])).se
        1.0
    """
    values = values.detach().double().cpu()
    counted = values[~values.isnan()]
    value = counted.mean().item()
    se = counted.std().item() / math.sqrt(len(counted)) if len(counted) > 1 else math.nan
    return Estimate(value, se, value - _QUANTILE * se, value + _QUANTILE * se, values)


def estimate_share(
    successes: Tensor, trials: Tensor | None = None, classifier_errors: Sequence[float] = ()
) -> Estimate:
    r"""The share of successes, with Wilson's interval.

    Several trials of one data point depend on each other, so the standard error is that of a ratio of sums over data
    points (cluster-robust), and the interval is Wilson's for the number of independent trials with this error. With one
    trial per data point that is the binomial error :math:`\sqrt{p (1 - p) / n}` and Wilson's interval itself.

    References:
        Probable Inference, the Law of Succession, and Statistical Inference (Wilson, 1927); Confidence Intervals for
        Proportions with Small Expected Number of Positive Counts Estimated from Survey Data (Korn and Graubard, 1998),
        for the effective number of trials.

    Args:
        successes: Number of successes of each data point, `(num,)`; bool for one trial each.
        trials: Number of trials of each data point, `(num,)`, one by default; a data point without any does not count.
        classifier_errors: Error rate of each classifier that a success depends on; they add up to the half-width of the
            bracket.

    Returns:
        The share as an `Estimate` over data points.

    Example:
        >>> estimate_share(torch.tensor([2.0, 0.0, 2.0]), torch.tensor([2.0, 2.0, 2.0])).value
        0.6666666666666666
    """
    successes = successes.detach().double().cpu()
    trials = torch.ones_like(successes) if trials is None else trials.detach().double().cpu()
    clusters, total = int((trials > 0).sum()), trials.sum().item()
    value = successes.sum().item() / total
    se = (successes - value * trials).square().sum().sqrt().item() / total
    # if all trials agree, their dependence cannot be estimated: count each data point once
    effective = value * (1 - value) / se**2 if 0 < value < 1 and se > 0 else clusters
    low, high = _wilson(value, effective)
    bracket = None
    if any(classifier_errors):
        bracket = (max(0.0, value - sum(classifier_errors)), min(1.0, value + sum(classifier_errors)))
    return Estimate(value, se, low, high, successes / trials, True, bracket)


def paired_difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> PairedDifference:
    """The mean of `first` minus `second`, paired by data point, and by seed where there are several.

    Args:
        first: For each seed the values of the data points under one method, `(num,)`.
        second: The same for the other method: as many seeds, the same data points in the same order.

    Returns:
        The difference; a data point with a NaN among its values does not count.

    Raises:
        ValueError: If the numbers of seeds or of data points differ, or no data point counts.

    Example:
        >>> zero = torch.zeros(4)
        >>> paired_difference([zero + 1, zero + 3], [zero, zero]).seed_std
        1.4142135623730951
    """
    sizes = {len(values) for values in (*first, *second)}
    if len(first) != len(second) or len(sizes) != 1:
        raise ValueError(
            f"a paired difference needs the same seeds and data points, got {len(first)} and {len(second)} seeds with "
            f"{sorted(sizes)} data points"
        )
    differences = torch.stack([a.double().cpu() - b.double().cpu() for a, b in zip(first, second, strict=True)])
    values = differences.mean(0)
    counted = ~values.isnan()
    if not counted.any():
        raise ValueError("no data point has a value under both methods")
    mean, seeds = estimate_mean(values), len(differences)
    seed_std = differences[:, counted].mean(1).std().item() if seeds > 1 else None
    return PairedDifference(mean.value, mean.se, values, seed_std=seed_std, seeds=seeds)


def plain(value: Any) -> Any:
    """A value for JSON: results as dicts, tensors as lists, None for numbers that strict JSON does not have."""
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if is_dataclass(value):
        return plain(vars(value))
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _wilson(share: float, trials: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of so many independent trials."""
    square = _QUANTILE**2 / trials
    center = (share + square / 2) / (1 + square)
    half = _QUANTILE / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return max(0.0, center - half), min(1.0, center + half)
