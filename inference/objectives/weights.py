"""Weights of terms and sites: numbers, symbols, schedules, and arithmetic with them."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from multipyro.inference.programs import Subset, subset_text

__all__ = [
    "NUM_MODALITIES",
    "LinearWarmup",
    "SiteWeights",
    "Weight",
    "WeightScope",
    "as_weight",
    "as_weights",
    "by_subset",
    "check_choice",
    "is_one",
    "number",
    "weight_of",
    "weights_text",
]


class WeightScope(NamedTuple):
    """The quantities that the value of a weight may depend on.

    Args:
        num_modalities: The number of modalities in the batch.
        subset: The subset that the innermost sum around the weight has reached; None outside of sums.
    """

    num_modalities: int
    subset: Subset | None = None

    def within(self, subset: Subset) -> "WeightScope":
        """The scope in which the next outer sum has reached `subset`."""
        return self if self.subset else self._replace(subset=subset)


class Weight(ABC):
    """A weight that is printed and compared as a value; `+`, `-`, `*` and `/` combine weights and numbers."""

    @abstractmethod
    def value(self, scope: WeightScope) -> float | Tensor:
        """The present value, a number or a tensor `()` or `(batch,)`."""

    def __add__(self, other: Any) -> "Weight":
        return Arithmetic("+", self, as_weight(other))

    def __radd__(self, other: Any) -> "Weight":
        return Arithmetic("+", as_weight(other), self)

    def __sub__(self, other: Any) -> "Weight":
        return Arithmetic("-", self, as_weight(other))

    def __rsub__(self, other: Any) -> "Weight":
        return Arithmetic("-", as_weight(other), self)

    def __truediv__(self, other: Any) -> "Weight":
        return Arithmetic("/", self, as_weight(other))

    def __rtruediv__(self, other: Any) -> "Weight":
        return Arithmetic("/", as_weight(other), self)

    def __mul__(self, other: Any) -> Any:
        if not isinstance(other, Weight | float | int | Tensor):
            return NotImplemented  # a weight times an objective is an objective
        return Arithmetic("*", self, as_weight(other))

    def __rmul__(self, other: Any) -> "Weight":
        return Arithmetic("*", as_weight(other), self)


@dataclass(frozen=True, repr=False)
class Number(Weight):
    """A number, or a tensor `()` or `(batch,)`.

    Args:
        number: The number.
        symbol: How it is printed; as the number itself by default.
    """

    number: float | Tensor
    symbol: str = field(default="", compare=False)

    def value(self, scope: WeightScope) -> float | Tensor:
        return self.number

    def __repr__(self) -> str:
        return self.symbol or (f"{self.number:g}" if isinstance(self.number, int | float) else "w")


@dataclass(frozen=True, repr=False)
class BySubset(Weight):
    """A number for each subset of a sum.

    Args:
        numbers: Subset -> number.
        symbol: How it is printed.
    """

    numbers: tuple[tuple[Subset, float], ...]
    symbol: str = field(compare=False)

    def value(self, scope: WeightScope) -> float:
        try:
            return dict(self.numbers)[scope.subset]
        except KeyError:
            subset = "a term outside of a sum" if scope.subset is None else f"the subset {subset_text(scope.subset)}"
            subsets = ", ".join(subset_text(key) for key, _ in self.numbers)
            raise ValueError(f"the weight {self!r} has no number for {subset}: it has those of {subsets}") from None

    def __repr__(self) -> str:
        return f"{self.symbol}_A"


@dataclass(frozen=True, repr=False)
class NumModalities(Weight):
    """The number of modalities in the batch."""

    def value(self, scope: WeightScope) -> float:
        return float(scope.num_modalities)

    def __repr__(self) -> str:
        return "M"


NUM_MODALITIES = NumModalities()

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True, repr=False)
class Arithmetic(Weight):
    """A weight computed from two others.

    Args:
        symbol: `"+"`, `"-"`, `"*"` or `"/"`.
        left: The left operand.
        right: The right operand.
    """

    symbol: Literal["+", "-", "*", "/"]
    left: Weight
    right: Weight

    def value(self, scope: WeightScope) -> float | Tensor:
        return _OPERATORS[self.symbol](self.left.value(scope), self.right.value(scope))

    def __repr__(self) -> str:
        if self.symbol in "+-":
            return f"({self.left!r} {self.symbol} {self.right!r})"
        if self.symbol == "*" and is_one(self.left):
            return repr(self.right)
        if self.symbol == "*":
            return f"{self.left!r} {self.right!r}"
        right = repr(self.right)
        grouped = isinstance(self.right, Arithmetic) and self.right.symbol in "*/"
        return f"{self.left!r}/({right})" if grouped else f"{self.left!r}/{right}"


class LinearWarmup(Weight):
    r"""A weight that grows linearly from exactly 0 to its peak.

    In the `i`-th unit (counted from 0) it is :math:`\beta \min(1, i / (n - 1))`: 0 in the first of `length` units and
    :math:`\beta` in the last. In plain SVI call `step()` after each update (or once an epoch, by unit);
    `fit` calls `set`.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), section 5.1 (per epoch); Wu and Goodman (2018) warm up per minibatch.

    Args:
        length: Number of units until the weight is at its peak; 0 or 1 for no warm-up.
        unit: `"epoch"` or `"step"`.
        peak: The weight at the end.

    Example:
        >>> beta = LinearWarmup(3)
        >>> values = []
        >>> for epoch in range(4):
        ...     values.append(beta.current.item())
        ...     beta.step()
        >>> values
        [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, length: int, unit: Literal["epoch", "step"] = "epoch", peak: float = 1.0) -> None:
        if unit not in ("epoch", "step"):
            raise ValueError(f"unit must be 'epoch' or 'step', got {unit!r}")
        if length < 0:
            raise ValueError(f"length must not be negative, got {length}")
        self.length, self.unit, self.peak = length, unit, peak
        self._completed = 0
        # one tensor, changed in place, so that a compiled step reads the new weight without being traced again
        self._current: Tensor = torch.zeros(())
        self._write()

    @property
    def current(self) -> Tensor:
        """The present value, a tensor `()` that is changed in place."""
        return self._current

    def value(self, scope: WeightScope) -> Tensor:
        return self._current

    def step(self) -> None:
        """Advances by one unit."""
        self._completed += 1
        self._write()

    def set(self, epoch: int, step: int) -> None:
        """Moves to a position in a run, both counted from 0 over the whole run."""
        self._completed = epoch if self.unit == "epoch" else step
        self._write()

    @contextmanager
    def finished(self) -> Iterator[None]:
        """In this context the weight is at its peak, as evaluation requires."""
        self._current.fill_(self.peak)
        try:
            yield
        finally:
            self._write()

    def _write(self) -> None:
        share = 1.0 if self.length <= 1 else min(1.0, self._completed / (self.length - 1))
        self._current.fill_(self.peak * share)

    def __repr__(self) -> str:
        peak = f"{self.peak:g}"
        return peak if self.length <= 1 else f"warmup({self.length} {self.unit}s to {peak})"


SiteWeights = Mapping[str, float | Tensor | Weight]


def as_weight(weight: float | Tensor | Weight) -> Weight:
    """A number or a tensor as a weight.

    Raises:
        TypeError: If it is neither, nor a weight.
    """
    if isinstance(weight, Weight):
        return weight
    if isinstance(weight, bool) or not isinstance(weight, int | float | Tensor):
        raise TypeError(f"a weight must be a number, a tensor or a schedule, got {type(weight).__name__}")
    return Number(weight)


def as_weights(sites: SiteWeights | None) -> dict[str, Weight]:
    """The weights of sites, each as a weight."""
    return {site: as_weight(weight) for site, weight in (sites or {}).items()}


def weight_of(site: str, sites: Mapping[str, Weight], scope: WeightScope) -> float | Tensor:
    """The present weight of a site, 1 by default."""
    return sites[site].value(scope) if site in sites else 1.0


def weights_text(sites: Mapping[str, Weight]) -> str:
    """The weights of sites as an equation prints them, without those that are 1."""
    listed = ", ".join(f"{name}: {weight!r}" for name, weight in sites.items() if not is_one(weight))
    return f"; {listed}" if listed else ""


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raises unless a setting is one of the values of a `Literal`."""
    if value not in get_args(choices):
        *others, last = map(repr, get_args(choices))
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def number(symbol: str, value: float) -> Weight:
    """A number that is printed as a symbol.

    Example:
        >>> 2 * number("alpha", 0.5) / NUM_MODALITIES
        2 alpha/M
    """
    return Number(value, symbol)


def by_subset(symbol: str, numbers: Mapping[Subset, float]) -> Weight:
    """A weight with a number for each subset that a sum runs over.

    Example:
        >>> by_subset("mu", {("image",): 0.7, ("label",): 0.3})
        mu_A
    """
    return BySubset(tuple(numbers.items()), symbol)


def is_one(weight: Weight) -> bool:
    """Whether a weight is the constant 1, which is not printed."""
    if isinstance(weight, LinearWarmup):
        return weight.length <= 1 and weight.peak == 1
    is_number = isinstance(weight, Number) and isinstance(weight.number, int | float)
    return is_number and not weight.symbol and weight.number == 1
