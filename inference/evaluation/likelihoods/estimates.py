"""The result of a likelihood estimate: the values, their errors, and warnings."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from multipyro.inference.evaluation.estimates import PairedDifference, estimate_mean, paired_difference, plain

__all__ = ["UNRELIABLE", "LogLikelihood", "Sandwich"]

#: Pareto k-hat above which neither a mean of weights nor its standard error is to be trusted
UNRELIABLE = 0.7
# of a sandwich, in nats, below which it certifies an estimate
_GAP = 0.1


@dataclass(frozen=True, repr=False, eq=False)
class LogLikelihood:
    """An estimate of the log-likelihood of each data point, in nats.

    Attributes:
        values: The estimates, `(batch,)`, float64.
        standard_errors: Their Monte Carlo standard errors, `(batch,)`.
        khat: Pareto k-hat of the importance weights, `(batch,)`. Above 0.7 neither the value nor its standard error is
            reliable: most often the value is too low. NaN with fewer than 25 samples; None without weights.
        ess: Effective sample size, `(batch,)`.
        growth: `L(K) - L(K / 2)`, `(batch,)`: the gain from the last doubling of the samples. Its mean estimates the
            remaining bias.
        num_samples: Number of samples of each data point in all, `(batch,)`; larger where an estimate was refined.
        proposal: Component of the proposal -> samples, of `num_samples` at first.
        method: How the values were computed.
        notes: Other remarks.
        sandwich: Bounds from both sides on simulated data, with the settings of an annealed estimate.

    Example:
        >>> import torch
        >>> estimate = LogLikelihood(torch.tensor([-1.0, -2.0]), torch.zeros(2), torch.zeros(2))
        >>> estimate.mean, estimate.warnings
        (-1.5, ())
        >>> estimate
        log-likelihood -1.5000 ± 0.5000 nats, mean of 2 data points (Monte Carlo error 0.0000)
    """

    values: Tensor
    standard_errors: Tensor
    khat: Tensor | None
    ess: Tensor | None = None
    growth: Tensor | None = None
    num_samples: Tensor | None = None
    proposal: Mapping[str, int] = field(default_factory=dict)
    method: str = "importance sampling"
    notes: tuple[str, ...] = ()
    sandwich: "Sandwich | None" = None

    @property
    def mean(self) -> float:
        """The mean over data points, nats."""
        return self.values.mean().item()

    @property
    def se(self) -> float:
        """The standard error of `mean` over data points, Monte Carlo error included; NaN for one data point."""
        return estimate_mean(self.values).se

    @property
    def mc_se(self) -> float:
        """The Monte Carlo error of `mean`: its standard error, and the bias that the last doubling shows."""
        return math.hypot(self._monte_carlo(), 0.0 if self.growth is None else self.growth.mean().item())

    @property
    def unreliable(self) -> float:
        """The share of data points with a k-hat above 0.7."""
        return 0.0 if self.khat is None else (self.khat > UNRELIABLE).double().mean().item()

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Why the numbers may be wrong; empty if there is no indication."""
        reasons = []
        if not self.values.isfinite().all():
            reasons.append(f"{int((~self.values.isfinite()).sum())} data points have no finite likelihood")
        if self.unreliable:
            reasons.append(
                f"k-hat is above {UNRELIABLE} for {self.unreliable:.1%} of the data points (largest "
                f"{self.khat.nan_to_num(-math.inf, math.inf).max().item():.2f}): their values are likely too low and "
                "their standard errors too small"
            )
        if self.khat is not None and self.khat.isnan().any():
            reasons.append("too few samples for k-hat, so nothing shows whether the proposal covers the posterior")
        if self.growth is not None:
            growth = estimate_mean(self.growth)
            if growth.value > max(3 * growth.se, self._monte_carlo()):
                reasons.append(f"the last doubling of the samples raised the mean by {growth.value:.3g} nats")
        # NaN, the error of a single data point, comes second and so counts as none
        if self.sandwich is not None and self.sandwich.gap.value > max(_GAP, 2 * self.sandwich.gap.se):
            reasons.append(
                f"the sandwich has a gap of {self.sandwich.gap.value:.3g} nats: more temperatures or chains close it"
            )
        return (*reasons, *self.notes)

    def difference(self, other: "LogLikelihood") -> PairedDifference:
        """The difference from another estimate of the same data points, with its paired error.

        Raises:
            ValueError: If the numbers of data points differ.
        """
        difference = paired_difference([self.values], [other.values])
        return replace(difference, mc_se=math.hypot(self.mc_se, other.mc_se))

    @classmethod
    def joined(cls, parts: Sequence["LogLikelihood"]) -> "LogLikelihood":
        """The estimate of consecutive data points from those of parts of them."""
        return replace(parts[0], **{n: None if v[0] is None else torch.cat(v) for n, v in _columns(*parts)})

    def replaced(self, rows: Tensor, new: "LogLikelihood") -> "LogLikelihood":
        """The estimate with those of some data points replaced."""
        columns = _columns(self, new)
        return replace(self, **{n: None if a is None else a.index_copy(0, rows, b) for n, (a, b) in columns})

    def negated(self) -> "LogLikelihood":
        """The estimate with the signs of its values changed, for an upper bound from inverse weights."""
        growth = None if self.growth is None else -self.growth
        return replace(self, values=-self.values, growth=growth)

    def summary(self) -> str:
        """The mean with its errors, and one line for each warning."""
        number = len(self.values)
        points = "1 data point" if number == 1 else f"mean of {number} data points"
        lines = [f"log-likelihood {self.mean:.4f} ± {self.se:.4f} nats, {points} (Monte Carlo error {self.mc_se:.4f})"]
        lines += [] if self.sandwich is None else [repr(self.sandwich)]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `value`, `se`, `mc_se`, `khat` (largest), `unreliable` (share), `warnings`.

        With a sandwich also its `gap` and `gap_se`. A number that is not finite is None.
        """
        numbers = {"value": self.mean, "se": self.se, "mc_se": self.mc_se, "unreliable": self.unreliable}
        numbers["khat"] = None if self.khat is None else self.khat.max().item()
        if self.sandwich is not None:
            numbers |= {"gap": self.sandwich.gap.value, "gap_se": self.sandwich.gap.se}
        return plain({**numbers, "warnings": self.warnings})

    def __getitem__(self, rows: Tensor) -> "LogLikelihood":
        """The estimate of some of the data points."""
        return replace(self, **{name: None if part is None else part[rows] for name, (part,) in _columns(self)})

    def __repr__(self) -> str:
        return self.summary()

    def _monte_carlo(self) -> float:
        return self.standard_errors.square().sum().sqrt().item() / len(self.values)


def _columns(*estimates: LogLikelihood) -> Iterator[tuple[str, list[Tensor | None]]]:
    """The tensors over data points by name, one of each estimate."""
    for name in ("values", "standard_errors", "khat", "ess", "growth", "num_samples"):
        yield name, [getattr(estimate, name) for estimate in estimates]


@dataclass(frozen=True, repr=False)
class Sandwich:
    """A lower and an upper estimate of the log-likelihood of the same simulated data.

    The expectation of `lower` is at most the true value and that of `upper` at least, so a small `gap` certifies both,
    and the settings for data as simulated by the model.

    Attributes:
        lower: Annealed from the prior to the posterior.
        upper: Annealed from the posterior, of which a simulated data point has one exact sample, to the prior.
    """

    lower: LogLikelihood
    upper: LogLikelihood

    @cached_property
    def gap(self) -> PairedDifference:
        """`upper - lower`, in nats."""
        return self.upper.difference(self.lower)

    def __repr__(self) -> str:
        number = len(self.lower.values)
        return (
            f"sandwich on {number} simulated data points: {self.lower.mean:.4f} to {self.upper.mean:.4f} nats, gap "
            f"{self.gap.value:.4f} ± {self.gap.se:.4f}"
        )
