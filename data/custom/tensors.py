"""Data of one's own: tensors, or a data set of dicts, with the modalities described by what they hold."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.splits import Splits

__all__ = ["from_dataset", "from_tensors", "infer_modality", "split_rows"]

# rows that are looked at when a modality is inferred, at a time: a tensor may lie on disk
_CHUNK = 8_192
# more classes than any data has: their networks would fill memory
_CLASSES = 2**20


def infer_modality(name: str, values: Tensor) -> Modality:
    """The description that suits values, by their dtype, shape and range.

    * `(rows, 1 or 3, height, width)`, uint8 or floats in `[0, 1]`: an image; Laplace in color, in gray Bernoulli if
      all are 0 or 1 (255), continuous Bernoulli else;
    * int64 from 0 on: a label `(rows,)`, or a text `(rows, positions)`; categorical;
    * other floats: a vector; Bernoulli if all are 0 or 1, normal else.

    Args:
        name: Name of the modality.
        values: `(rows, *shape)`; entries that are NaN are left out of account.

    Returns:
        The description. Say otherwise by building a `Modality`.

    Raises:
        TypeError: If the dtype is none of these.
        ValueError: If there are no rows, or integers below 0 or from 2^20 on.

    Example:
        >>> infer_modality("image", torch.zeros(5, 3, 64, 64, dtype=torch.uint8)).likelihood
        'laplace'
        >>> infer_modality("label", torch.tensor([0, 2, 1])).num_classes
        3
    """
    if not isinstance(values, Tensor) or not values.dim() or not len(values):
        raise ValueError(f"modality {name!r} must be a tensor with at least one row, got {values!r}")
    shape = tuple(values.shape[1:])
    if values.dtype == torch.int64:
        low, high = _range(values)
        if low < 0 or high >= _CLASSES or len(shape) > 1:
            raise ValueError(
                f"modality {name!r} must hold class ids from 0 on and below {_CLASSES}, (rows,) or (rows, positions), "
                f"got ids from {low:g} to {high:g} and shape {tuple(values.shape)}; numbers are floats"
            )
        return Modality(name, shape, "text" if shape else "label", "categorical", int(high) + 1)
    if not values.is_floating_point() and values.dtype != torch.uint8:
        raise TypeError(f"modality {name!r} must hold floats, uint8 or int64, got {values.dtype}")
    pixels = len(shape) == 3 and shape[0] in (1, 3)
    if values.dtype == torch.uint8 and not pixels:
        raise TypeError(f"uint8 is for images (rows, 1 or 3, height, width), got {tuple(values.shape)} for {name!r}")
    most = 255.0 if values.dtype == torch.uint8 else 1.0
    low, high = _range(values)
    if pixels and 0 <= low and high <= most:
        gray = "bernoulli" if _only(values, (0.0, most)) else "continuous_bernoulli"
        return Modality(name, shape, "image", "laplace" if shape[0] == 3 else gray)
    return Modality(name, shape or (1,), "vector", "bernoulli" if _only(values, (0.0, 1.0)) else "normal")


def from_tensors(
    x: Mapping[str, Tensor],
    *,
    observed: Mapping[str, Tensor] | None = None,
    labels: Tensor | None = None,
    modalities: Mapping[str, Modality] | None = None,
    split: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    name: str = "tensors",
) -> Splits:
    """Three parts of tensors in memory.

    Args:
        x: Modality name -> values `(rows, *shape)`; a vector of one number may be `(rows,)`.
        observed: Modality name -> rows that are observed, bool `(rows,)`.
        labels: Class of each row, int64 `(rows,)`, for metrics.
        modalities: Descriptions of some of them; `infer_modality` describes the others.
        split: Shares of the rows that train, validate and test, drawn at random once.
        seed: Seed of that draw.
        name: Name of the data set.

    Returns:
        The three parts.

    Raises:
        ValueError: If tensors disagree in their number of rows or with their descriptions, or the shares are no shares.
        TypeError: If something has the wrong dtype.

    Example:
        >>> splits = from_tensors({"signal": torch.randn(50, 4), "label": torch.randint(3, (50,))})
        >>> len(splits.train), splits.train.modalities["signal"].likelihood
        (40, 'normal')
    """
    unknown = [key for key in modalities or {} if key not in x]
    if unknown:
        raise ValueError(f"modalities describe {unknown}, which x does not hold: it has {list(x)}")
    descriptions = {key: (modalities or {}).get(key) or infer_modality(key, values) for key, values in x.items()}
    values = {key: v.unsqueeze(1) if descriptions[key].shape == (1,) and v.dim() == 1 else v for key, v in x.items()}
    data = MultimodalData(name, descriptions, values, observed, labels)
    parts = split_rows(len(data), split, seed)
    return Splits(*(data.take(rows).with_split(part) for part, rows in zip(Splits.NAMES, parts, strict=True)))


def from_dataset(dataset: Iterable[Mapping[str, Any]], **settings: Any) -> Splits:
    """Three parts of a data set of dicts, such as a `torch.utils.data.Dataset`, read into memory.

    Data that does not fit in memory trains from a `DataLoader` of batches `(x, observed)`, or from files that a
    description names (`load_toml`).

    Args:
        dataset: Its items are dicts: modality name -> tensor, array or number; None, or no such key, for a modality
            that the item misses.
        **settings: Passed on to `from_tensors`, all but `x` and `observed`.

    Returns:
        The three parts.

    Raises:
        ValueError: If there are no items, an item holds no modality, or shapes differ among items.
        TypeError: If an item is no dict.

    Example:
        >>> items = [{"signal": torch.randn(4), "label": i % 3 if i % 5 else None} for i in range(50)]
        >>> from_dataset(items).train.observed["label"].float().mean().item() < 1
        True
    """
    size = getattr(dataset, "__len__", None)
    items = list(dataset) if size is None else [dataset[i] for i in range(size())]
    wrong = next((item for item in items if not isinstance(item, Mapping)), None)
    if wrong is not None:
        raise TypeError(f"an item must be a dict of modality name to value, got {type(wrong).__name__}")
    empty = [i for i, item in enumerate(items) if all(value is None for value in item.values())]
    if empty or not items:
        raise ValueError(f"item {empty[0]} holds no modality" if empty else "the data set holds no items")
    names = list(dict.fromkeys(name for item in items for name, value in item.items() if value is not None))
    x, observed = {}, {}
    for name in names:
        found = [None if item.get(name) is None else _tensor(item[name]) for item in items]
        held = torch.tensor([value is not None for value in found])
        shapes = {tuple(value.shape) for value in found if value is not None}
        if len(shapes) > 1:
            raise ValueError(f"all values of modality {name!r} must have one shape, got {sorted(shapes)}")
        filler = torch.zeros_like(next(value for value in found if value is not None))
        x[name] = torch.stack([filler if value is None else value for value in found])
        if not held.all():
            observed[name] = held
    return from_tensors(x, observed=observed or None, **settings)


def split_rows(number: int, shares: Sequence[float], seed: int) -> list[Tensor]:
    """Row numbers of the three parts, drawn at random from the seed alone, each part in the order of the rows.

    Args:
        number: Number of rows.
        shares: Share of each part, above 0; they add up to 1.
        seed: Seed of the draw.

    Raises:
        ValueError: If the shares are not three above 0 that add up to 1, or are too small to give each part a row: it
            is judged by rows that it was not chosen by, and chosen by rows that it was not trained on.
    """
    shares = tuple(shares)
    sound = all(isinstance(share, int | float) and not isinstance(share, bool) and share > 0 for share in shares)
    if not sound or len(shares) != 3 or not abs(sum(shares) - 1) <= 1e-6:
        raise ValueError(
            f"split must be three shares above 0 that add up to 1, for train, validation and test, got {shares}"
        )
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    ends = [round(number * sum(shares[:end])) for end in (1, 2)]
    parts = [part.sort().values for part in order.tensor_split(ends)]
    if any(len(part) == 0 for part in parts):
        raise ValueError(f"{number} rows in shares of {shares} leave a part without rows")
    return parts


def _tensor(value: Any) -> Tensor:
    tensor = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
    if tensor.dtype in (torch.int8, torch.int16, torch.int32, torch.bool) or (
        tensor.dtype == torch.uint8 and tensor.dim() != 3
    ):
        return tensor.long()
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _range(values: Tensor) -> tuple[float, float]:
    """The least and the largest value that is not NaN."""
    low, high = math.inf, -math.inf
    for part in values.split(_CHUNK):
        known = part if not part.is_floating_point() else part[~part.isnan()]
        if known.numel():
            low, high = min(low, known.min().item()), max(high, known.max().item())
    return low, high


def _only(values: Tensor, allowed: tuple[float, float]) -> bool:
    return all(((part == allowed[0]) | (part == allowed[1]) | (part != part)).all() for part in values.split(_CHUNK))
