"""The kind of data that values are: inferred from their type, shape and range, or declared and checked."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from multipyro.data.modality import KINDS, Modality

__all__ = ["MOST_CLASSES", "array_tensor", "chunks", "infer_modality"]

#: Whole numbers below this are taken as class ids, and up to this many different words as classes.
MOST_CLASSES = 20
# bytes of a tensor that are checked at a time: it may be mapped from a file
_CHUNK_BYTES = 2**25
# more classes would fill the memory with the weights of their networks
_CLASSES = 2**20
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)
_DECLARE = 'declare it: kinds={{{name!r}: "{kind}"}} in Python, kind = "{kind}" in a TOML file'
# how far sums of parts may be from 1
_SUM_TOLERANCE = 1e-3


def infer_modality(name: str, values: Tensor, kind: str | None = None) -> Modality:
    r"""Infers the description of values.

    Without a declared kind it follows from their dtype, shape and range:

    * `(rows, 1 or 3, height, width)`, uint8 or floats in `[0, 1]`: an image; in color Laplace, in gray Bernoulli if all
      values are 0 or 1 (255), else continuous Bernoulli;
    * other floats: a vector, `(rows,)` or `(rows, features)`, or a grid with up to three axes,
      `(rows, channels, *sides)`; Bernoulli if all values are 0 or 1, else normal;
    * integers from 0 to 19 or booleans, `(rows,)`: a label;
    * booleans otherwise: a Bernoulli vector.

    Other integers could be counts, class ids, token ids or plain numbers, so their kind must be declared.

    Args:
        name: Name of the modality.
        values: `(rows, *shape)`; NaN entries are ignored.
        kind: One of `KINDS`; None to infer it.

    Returns:
        The description, with the default likelihood of the kind.

    Raises:
        TypeError: If `values` is not a tensor, or its dtype does not suit the kind.
        ValueError: If there are no rows, the kind cannot be inferred, or a value is impossible for the kind; the
            message says which values it has and what to declare.

    Example:
        >>> infer_modality("image", torch.zeros(5, 3, 64, 64, dtype=torch.uint8)).likelihood
        'laplace'
        >>> infer_modality("genes", torch.tensor([[0, 7], [310, 2]]), "counts").likelihood
        'negative_binomial'
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"modality {name!r} must be a tensor, got {type(values).__name__}")
    if not values.dim() or not len(values):
        raise ValueError(f"modality {name!r} must have at least one row, got shape {tuple(values.shape)}")
    kind = _inferred(name, values) if kind is None else kind
    if kind not in KINDS:
        raise ValueError(f"kind of modality {name!r} must be one of {tuple(KINDS)}, got {kind!r}")
    return _BUILDERS.get(kind, _numbers)(name, values, kind)


def array_tensor(values: Tensor) -> Tensor:
    """Values in a dtype that data sets take: float32, int64, uint8 or bool, gray uint8 images with a channel axis."""
    if values.dtype in _INTEGERS:
        return values.long()
    if values.dtype == torch.uint8 and values.dim() == 3:
        return values.unsqueeze(1)
    if values.dtype == torch.uint8 and values.dim() != 4:
        return values.long()
    return values.float() if values.is_floating_point() else values


def chunks(values: Tensor) -> Iterator[Tensor]:
    """The values, a bounded number of rows at a time."""
    row = max(1, math.prod(values.shape[1:]) * values.element_size())
    yield from values.split(max(1, _CHUNK_BYTES // row))


def _inferred(name: str, values: Tensor) -> str:
    rank, shape = values.dim() - 1, tuple(values.shape[1:])
    if values.dtype == torch.bool:
        return "vector" if rank else "label"
    if values.dtype in _INTEGERS:
        low, high = _range(values)
        if not rank and 0 <= low and high < MOST_CLASSES:
            return "label"
        kinds = "counts, text (token ids) or vector" if rank else "label, ordinal, counts or vector"
        raise ValueError(
            f"modality {name!r} has whole numbers from {low:g} to {high:g}, shape {tuple(values.shape)}, which can be "
            f"{kinds}; " + _DECLARE.format(name=name, kind="counts")
        )
    if values.dtype == torch.uint8 or (rank == 3 and shape[0] in (1, 3)):
        return _image_or_grid(name, values)
    if not values.is_floating_point():
        raise TypeError(f"modality {name!r} must be floating point, integer, bool or uint8, got {values.dtype}")
    if rank > 4:
        raise ValueError(f"modality {name!r} must have at most three axes beside rows and channels, got shape {shape}")
    if rank == 3 and shape[2] in (1, 3):
        raise ValueError(
            f"modality {name!r} of shape {tuple(values.shape)} may be images with the channels last: pass "
            "values.permute(0, 3, 1, 2); " + _DECLARE.format(name=name, kind="grid") + " if it is not"
        )
    return "vector" if rank < 2 else "grid"


def _image_or_grid(name: str, values: Tensor) -> str:
    shape = tuple(values.shape[1:])
    if values.dtype == torch.uint8:
        if len(shape) != 3 or shape[0] not in (1, 3):
            last = len(shape) == 3 and shape[2] in (1, 3)
            advice = "pass values.permute(0, 3, 1, 2)" if last else "pass other bytes as floats or int64"
            raise ValueError(
                f"uint8 is for images (rows, 1 or 3, height, width), got {tuple(values.shape)} for {name!r}: {advice}"
            )
        return "image"
    low, high = _range(values)
    if 0 <= low and high <= 1:
        return "image"
    if 0 <= low and 2 < high <= 255 and (shape[0] == 3 or _whole(values)):
        raise ValueError(
            f"modality {name!r} may be images with values from 0 to 255, got up to {high:g}: divide by 255 or pass "
            "uint8; " + _DECLARE.format(name=name, kind="grid") + " if it is not"
        )
    return "grid"


def _image(name: str, values: Tensor, kind: str) -> Modality:
    shape, most = tuple(values.shape[1:]), 255.0 if values.dtype == torch.uint8 else 1.0
    _check_floats(name, values, kind, torch.uint8)
    if len(shape) != 3:
        raise ValueError(f"image {name!r} must have shape (rows, channels, height, width), got {tuple(values.shape)}")
    low, high = _range(values)
    if low < 0 or high > most:
        raise ValueError(f"image {name!r} must have values in [0, 1] or uint8, got {low:g} to {high:g}")
    gray = "bernoulli" if _only(values, (0.0, most)) else "continuous_bernoulli"
    return Modality(name, shape, kind, gray if shape[0] == 1 else KINDS[kind][0])


def _classes(name: str, values: Tensor, kind: str) -> Modality:
    shape = tuple(values.shape[1:])
    if values.dtype not in (*_INTEGERS, torch.bool):
        raise TypeError(f"{kind} {name!r} must be int64 ids or strings, got {values.dtype}")
    if len(shape) != (kind == "text"):
        expected = "(rows, positions)" if kind == "text" else "(rows,)"
        raise ValueError(f"{kind} {name!r} must have shape {expected}, got {tuple(values.shape)}")
    low, high = (0, 1) if values.dtype == torch.bool else _range(values)
    if low < 0 or high >= _CLASSES:
        raise ValueError(f"{kind} {name!r} must have ids from 0 and below {_CLASSES:,}, got {low:g} to {high:g}")
    names = ("False", "True") if values.dtype == torch.bool else None
    return Modality(name, shape, kind, KINDS[kind][0], int(high) + 1, names)


def _numbers(name: str, values: Tensor, kind: str) -> Modality:
    integers = _INTEGERS if kind == "counts" else ()
    _check_floats(name, values, kind, torch.bool, *integers)
    shape = tuple(values.shape[1:]) or (1,)
    if kind == "grid" and not 2 <= len(shape) <= 4:
        raise ValueError(f"grid {name!r} must have shape (rows, channels, *sides) with 1 to 3 sides, got {shape}")
    low, high = _range(values.to(torch.uint8) if values.dtype == torch.bool else values)
    problem = None
    if kind == "counts" and (low < 0 or not _whole(values)):
        problem = f"whole numbers from 0, got {'fractions' if low >= 0 else f'{low:g}'}"
    elif kind == "positive" and low <= 0:
        problem = f"numbers above 0, got {low:g}"
    elif kind == "angles" and (low < -math.pi - 1e-6 or high > math.pi + 1e-6):
        problem = f"radians from -pi to pi, got {low:g} to {high:g}"
    elif kind == "proportions":
        problem = _sum_problem(values, low)
    elif low <= high and (math.isinf(low) or math.isinf(high)):
        problem = f"finite numbers, got {low:g} to {high:g}"
    if problem is not None:
        raise ValueError(f"modality {name!r} of kind {kind!r} must have {problem}")
    binary = kind in ("vector", "grid") and _only(values, (0.0, 1.0))
    return Modality(name, shape, kind, "bernoulli" if binary else KINDS[kind][0])


_BUILDERS: dict[str, Callable[[str, Tensor, str], Modality]] = {
    "image": _image,
    "label": _classes,
    "ordinal": _classes,
    "text": _classes,
}


def _check_floats(name: str, values: Tensor, kind: str, *others: torch.dtype) -> None:
    if not values.is_floating_point() and values.dtype not in others:
        raise TypeError(f"modality {name!r} of kind {kind!r} must be floating point, got {values.dtype}")


def _sum_problem(values: Tensor, low: float) -> str | None:
    if values.dim() != 2 or values.shape[1] < 2:
        return f"shape (rows, parts) with 2 parts or more, got {tuple(values.shape)}"
    if low < 0:
        return f"parts of 0 or more, got {low:g}"
    for part in chunks(values):
        sums = part.sum(1)
        wrong = sums[(sums - 1).abs() > _SUM_TOLERANCE]  # none of the sums that are NaN
        if len(wrong):
            return f"parts that sum to 1, got a sum of {wrong[0].item():g}"
    return None


def _range(values: Tensor) -> tuple[float, float]:
    """The smallest and the largest value that is not NaN."""
    low, high = math.inf, -math.inf
    for part in chunks(values):
        known = part[~part.isnan()] if part.is_floating_point() else part
        if known.numel():
            low, high = min(low, known.min().item()), max(high, known.max().item())
    return low, high


def _whole(values: Tensor) -> bool:
    return all(((part == part.round()) | part.isnan()).all() for part in chunks(values) if part.is_floating_point())


def _only(values: Tensor, allowed: tuple[float, float]) -> bool:
    """Whether all values that are not NaN are one of two."""
    return all(((part == allowed[0]) | (part == allowed[1]) | (part != part)).all() for part in chunks(values))
