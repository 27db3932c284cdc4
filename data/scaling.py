"""Invertible maps between the units of the data and the values that networks and likelihoods work with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

__all__ = ["SCALINGS", "Scaling", "fit_scaling", "scaling_steps"]

#: What `fit_scaling` can learn; `"log1p"` can be combined with one of the others.
SCALINGS = ("standardize", "robust", "log1p")
# the interquartile range of a normal distribution with standard deviation 1
_IQR = 1.3489795


@dataclass(frozen=True)
class Scaling:
    r"""An elementwise map from data units :math:`u` to scaled values :math:`x = (f(u) - a) / b`.

    :math:`f` is the identity or :math:`\log(1 + u)`. A density of :math:`x` becomes one of :math:`u` by
    :math:`\log p(u) = \log p(x) + \log |dx/du|`.

    Args:
        shift: :math:`a`, one number for each column of a vector or each channel of a grid.
        scale: :math:`b`, as many positive numbers.
        log1p: Whether :math:`f` is the logarithm.

    Raises:
        ValueError: If a number is not finite, a scale is not positive, or their numbers differ.

    Example:
        >>> grams = Scaling(shift=(3000.0,), scale=(500.0,))
        >>> grams.to_scaled(torch.tensor([[3500.0]])), grams.to_units(torch.tensor([[1.0]]))
        (tensor([[1.]]), tensor([[3500.]]))
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    log1p: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift", tuple(self.shift))
        object.__setattr__(self, "scale", tuple(self.scale))
        finite = all(map(math.isfinite, (*self.shift, *self.scale)))
        if len(self.shift) != len(self.scale) or not finite or not all(b > 0 for b in self.scale):
            raise ValueError(
                f"a scaling needs finite shifts and as many positive scales, got {self.shift} and {self.scale}"
            )

    def to_scaled(self, values: Tensor, event_dims: int = 1) -> Tensor:
        """Scales values in data units, `(..., *shape)`, whose shape has `event_dims` dimensions."""
        shift, scale = self._numbers(values, event_dims)
        return ((values.log1p() if self.log1p else values) - shift) / scale

    def to_units(self, values: Tensor, event_dims: int = 1) -> Tensor:
        """Undoes `to_scaled`."""
        shift, scale = self._numbers(values, event_dims)
        values = values * scale + shift
        return values.expm1() if self.log1p else values

    def log_jacobian(self, values: Tensor, event_dims: int = 1) -> Tensor:
        r""":math:`\log |dx/du|` of every element of scaled values `(..., *shape)`, in nats."""
        shift, scale = self._numbers(values, event_dims)
        slope = (-scale.log()).expand_as(values)
        return slope - (values * scale + shift) if self.log1p else slope

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.shift), torch.tensor(self.scale)

    def _numbers(self, values: Tensor, event_dims: int) -> tuple[Tensor, ...]:
        shape = (-1, *[1] * (event_dims - 1))
        return tuple(numbers.to(values).reshape(shape) for numbers in self._tensors)


def scaling_steps(steps: str | Sequence[str]) -> tuple[str, ...]:
    """Checks the name of a scaling, or a list of two.

    Raises:
        ValueError: If it is not one of `SCALINGS`, or `"log1p"` followed by one of the others.
    """
    given = (steps,) if isinstance(steps, str) else tuple(steps)
    allowed = [(name,) for name in SCALINGS] + [("log1p", name) for name in SCALINGS[:2]]
    if given not in allowed:
        raise ValueError(f"scaling must be one of {SCALINGS}, or ['log1p', 'standardize' or 'robust'], got {steps!r}")
    return given


def fit_scaling(values: Tensor, steps: str | Sequence[str]) -> Scaling:
    """Learns a scaling from training data.

    Args:
        values: Data in its units, `(rows, columns)` or `(rows, channels, ...)`; NaN is ignored.
        steps: `"standardize"` (mean 0, standard deviation 1 for each column or channel), `"robust"` (median 0,
            interquartile range that of a standard normal), `"log1p"`, or a list of `"log1p"` and one of the others. A
            constant column is shifted only.

    Returns:
        The scaling.

    Raises:
        ValueError: If the steps are unknown, or `log1p` is applied to a value at or below -1.

    Example:
        >>> fit_scaling(torch.tensor([[1.0], [3.0]]), "standardize").shift
        (2.0,)
    """
    names = scaling_steps(steps)
    log1p = names[0] == "log1p"
    learned = [_shift_and_scale(values[:, column], log1p, names[-1]) for column in range(values.shape[1])]
    shift, scale = zip(*learned, strict=True)
    return Scaling(shift, scale, log1p)


def _shift_and_scale(values: Tensor, log1p: bool, name: str) -> tuple[float, float]:
    numbers = values.reshape(-1).double().numpy()
    numbers = numbers[~np.isnan(numbers)]
    if log1p:
        if (numbers <= -1).any():
            raise ValueError(f"log1p needs values above -1, got {numbers.min():.4g}")
        numbers = np.log1p(numbers)
    if not len(numbers) or name == "log1p":
        return 0.0, 1.0
    if name == "standardize":
        shift, scale = numbers.mean(), numbers.std()
    else:
        lower, shift, upper = np.quantile(numbers, (0.25, 0.5, 0.75))
        scale = (upper - lower) / _IQR
    return float(shift), float(scale) if scale > 0 else 1.0
