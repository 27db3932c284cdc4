"""Weights of terms and sites: numbers, symbols, schedules, and arithmetic with them."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from multipyro.inference.programs import Subset, subset_text

__all__ = [
    "NUM_MODALITIES",
    "BySubset",
    "LinearWarmup",
    "SiteWeights",
    "Weight",
    "as_weight",
    "by_subset",
    "check_choice",
    "is_one",
    "number",
]

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def _arithmetic(symbol: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The methods of an operator, with the weight on the left and with the weight on the right."""

    def left(weight: "Weight", other: Any) -> "Weight":
        return Arithmetic(symbol, weight, as_weight(other)) if _is_weight(other) else NotImplemented

    def right(weight: "Weight", other: Any) -> "Weight":
        return Arithmetic(symbol, as_weight(other), weight) if _is_weight(other) else NotImplemented

    return left, right


class Weight(ABC):
    """A weight that is printed and compared as a value; `+`, `-`, `*` and `/` combine weights and numbers."""

    @abstractmethod
    def value(self, num_modalities: int) -> float | Tensor:
        """The present value in a batch of so many modalities, a number or a tensor `()` or `(batch,)`."""

    __add__, __radd__ = _arithmetic("+")
    __sub__, __rsub__ = _arithmetic("-")
    __mul__, __rmul__ = _arithmetic("*")
    __truediv__, __rtruediv__ = _arithmetic("/")


@dataclass(frozen=True, repr=False)
class Number(Weight):
    """A number that is printed as a symbol; `number` is this class.

    Args:
        symbol: How it is printed; as the number itself if empty.
        number: The number, or a tensor `()` or `(batch,)`.

    Example:
        >>> 2 * number("alpha", 0.5) / NUM_MODALITIES
        2 alpha/M
    """

    symbol: str = field(compare=False)
    number: float | Tensor

    def value(self, num_modalities: int) -> float | Tensor:
        return self.number

    def __repr__(self) -> str:
        return self.symbol or (f"{self.number:g}" if isinstance(self.number, int | float) else "w")


@dataclass(frozen=True, repr=False)
class BySubset(Weight):
    """A number for each subset that a sum runs over; `by_subset` is this class.

    Args:
        symbol: How it is printed.
        numbers: Subset -> number.

    Example:
        >>> by_subset("mu", {("image",): 0.7, ("label",): 0.3})
        mu_A
    """

    symbol: str = field(compare=False)
    numbers: Mapping[Subset, float]

    def __post_init__(self) -> None:
        vars(self).update(numbers=tuple(dict(self.numbers).items()))

    def of(self, subset: Subset) -> Number:
        """The weight of one subset."""
        return Number(repr(self), self._number(subset, f"the subset {subset_text(subset)}"))

    def value(self, num_modalities: int) -> float:
        return self._number(None, "a term outside of a sum")

    def _number(self, subset: Subset | None, place: str) -> float:
        try:
            return dict(self.numbers)[subset]
        except KeyError:
            subsets = ", ".join(subset_text(key) for key, _ in self.numbers)
            raise ValueError(f"the weight {self!r} has no number for {place}: it has those of {subsets}") from None

    def __repr__(self) -> str:
        return f"{self.symbol}_A"


@dataclass(frozen=True, repr=False)
class NumModalities(Weight):
    """The number of modalities in the batch."""

    def value(self, num_modalities: int) -> float:
        return float(num_modalities)

    def __repr__(self) -> str:
        return "M"


NUM_MODALITIES = NumModalities()
# in equations they read as functions
by_subset, number = BySubset, Number


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

    def value(self, num_modalities: int) -> float | Tensor:
        return _OPERATORS[self.symbol](self.left.value(num_modalities), self.right.value(num_modalities))

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

    def value(self, num_modalities: int) -> Tensor:
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


class SiteWeights(dict[str, Weight]):
    """Site name -> weight; 1 for a site that is not in it.

    Args:
        weights: Numbers, tensors `()` or `(batch,)`, schedules, or arithmetic with them.

    Example:
        >>> weights = SiteWeights({"z": 0.5, "label": 10, "image": 1})
        >>> str(weights), weights.of("label", num_modalities=2), weights.of("word", num_modalities=2)
        ('; z: 0.5, label: 10', 10, 1.0)
    """

    def __init__(self, weights: Mapping[str, float | Tensor | Weight] | None = None) -> None:
        super().__init__({site: as_weight(weight) for site, weight in (weights or {}).items()})

    def of(self, site: str, num_modalities: int) -> float | Tensor:
        """The present weight of a site in a batch of so many modalities."""
        return self[site].value(num_modalities) if site in self else 1.0

    def __str__(self) -> str:
        """The weights as an equation prints them, without those that are 1."""
        listed = ", ".join(f"{site}: {weight!r}" for site, weight in self.items() if not is_one(weight))
        return f"; {listed}" if listed else ""


def as_weight(weight: float | Tensor | Weight) -> Weight:
    """A number or a tensor as a weight.

    Raises:
        TypeError: If it is neither, nor a weight.
    """
    if not _is_weight(weight):
        raise TypeError(f"a weight must be a number, a tensor or a schedule, got {type(weight).__name__}")
    return weight if isinstance(weight, Weight) else Number("", weight)


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raises unless a setting is one of the values of a `Literal`."""
    if value not in get_args(choices):
        *others, last = map(repr, get_args(choices))
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def is_one(weight: Weight) -> bool:
    """Whether a weight is the constant 1, which is not printed."""
    if isinstance(weight, LinearWarmup):
        return weight.length <= 1 and weight.peak == 1
    is_number = isinstance(weight, Number) and isinstance(weight.number, int | float)
    return is_number and not weight.symbol and weight.number == 1


def _is_weight(value: Any) -> bool:
    return isinstance(value, Weight | int | float | Tensor) and not isinstance(value, bool)
