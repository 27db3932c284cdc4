"""User-defined data in memory: tensors and arrays by name, or a data set of dicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multipyro.data.custom.assembly import Extras, assemble_splits
from multipyro.data.custom.readers import Array, Source, class_ids
from multipyro.data.custom.schema import check_modalities
from multipyro.data.custom.splitting import SHARES, parts_by_name, split_rows
from multipyro.data.custom.tables import Column, Table, as_column, cells_of
from multipyro.data.modality import Modality, check_name
from multipyro.data.splits import Splits

__all__ = ["TensorRows", "from_dataset", "from_tensors"]

_PLACE = "from_tensors"


def from_tensors(
    x: Mapping[str, Any],
    *,
    kinds: Mapping[str, str] | None = None,
    scaling: Mapping[str, str | Sequence[str]] | str | None = None,
    exposures: Mapping[str, str | Tensor] | None = None,
    covariates: Sequence[str] = (),
    modalities: Mapping[str, Modality] | None = None,
    observed: Mapping[str, Tensor] | None = None,
    labels: Any = None,
    label_names: Sequence[str] | None = None,
    split: Sequence[float] | Sequence[str] = SHARES,
    groups: Sequence[Any] | None = None,
    seed: int = 0,
    ids: Sequence[Any] | None = None,
    weights: Tensor | None = None,
    name: str = "tensors",
) -> Splits:
    """Training, validation and test data from tensors in memory.

    The kind of each modality is inferred from its values by `infer_modality`, or declared. NaN stands for missing
    entries; an example whose entries are all NaN does not have the modality.

    Args:
        x: Modality name -> values `(rows, *shape)`: a tensor, a numpy array, a sparse matrix of scipy, a DataFrame of
            numbers, whose columns are kept, or a list or series of strings, which are classes.
        kinds: Modality name -> kind, see `Modality`; inferred for the others.
        scaling: Modality name -> how its numbers are scaled, see `fit_scaling`, learned from the training rows; or one
            scaling for all real vectors. Nothing is scaled by default.
        exposures: Counts modality -> exposure of each row, `(rows,)`, or `"sum"` for the sum of the row; divided by
            the median of the training rows.
        covariates: Which of `x` are no modalities but condition the networks, such as a batch, a site or an age, see
            `MultimodalData`; real ones are standardized by default.
        modalities: Descriptions that modalities must follow, such as those of a trained model.
        observed: Modality name -> which examples have it, bool `(rows,)`.
        labels: Class of each example for metrics, int64 `(rows,)` or strings.
        label_names: Names of the classes of labels; by default the strings that occur.
        split: Fractions of the rows for training, validation and test, drawn at random once; or the name of its part,
            one of `Splits.NAMES`, for each row.
        groups: The group of each row, such as a patient: no group is in two parts.
        seed: Seed of the split.
        ids: Identifier of each row; by default its number.
        weights: Sampling weight of each row, see `MultimodalData`.
        name: Name of the data set.

    Returns:
        The three parts.

    Raises:
        ValueError: If numbers of rows differ, a kind cannot be inferred, values contradict their description, or the
            fractions are invalid.
        TypeError: If an argument has the wrong type.

    Example:
        >>> splits = from_tensors({"signal": torch.randn(50, 4), "label": torch.randint(3, (50,))})
        >>> len(splits.train), splits.train.modalities["signal"].likelihood
        (40, 'normal')
        >>> genes = from_tensors({"genes": torch.poisson(torch.ones(50, 9)).long()}, kinds={"genes": "counts"})
        >>> genes.train.modalities["genes"].likelihood
        'negative_binomial'
    """
    arrays = TensorRows(x, observed, labels, label_names, ids, weights)
    for argument, given in (("kinds", kinds), ("covariates", covariates), ("modalities", modalities)):
        arrays.check_names(argument, given)
    number = len(arrays)
    if groups is not None and len(groups) != number:
        raise ValueError(f"all values must have the same number of rows, got {number} and {len(groups)} groups")
    names = list(split) if isinstance(split, Iterable) else []
    if len(names) == number and all(isinstance(name, str) for name in names):
        parts = parts_by_name(names, "split")
    else:
        parts = split_rows(number, split, seed, groups)
    if scaling is None or isinstance(scaling, Mapping):
        real = [key for key in covariates if "float" in str(getattr(x[key], "dtype", "")) and x[key].ndim < 3]
        scaling = {**dict.fromkeys(real, "standardize"), **(scaling or {})}
    source, specs, extras = arrays.source(np.concatenate(parts), len(parts[0]), kinds, scaling, exposures)
    return assemble_splits(name, source, parts, specs, modalities or {}, extras).with_covariates(covariates)


class TensorRows:
    """Values in memory, a row for each example.

    Args:
        x: See `from_tensors`.
        observed: See `from_tensors`.
        labels: See `from_tensors`.
        label_names: See `from_tensors`.
        ids: See `from_tensors`.
        weights: See `from_tensors`.

    Raises:
        TypeError: If something has the wrong type.
        ValueError: If numbers of rows differ, or a modality is unknown.
    """

    def __init__(
        self,
        x: Mapping[str, Any],
        observed: Mapping[str, Any] | None = None,
        labels: Any = None,
        label_names: Sequence[str] | None = None,
        ids: Sequence[Any] | None = None,
        weights: Any = None,
    ) -> None:
        if not isinstance(x, Mapping) or not x:
            raise TypeError(f"x must be a dict of modality name to values, got {type(x).__name__}")
        self._names = list(x)
        self.check_names("observed", observed)
        self._sources = {key: _source(key, values, (observed or {}).get(key)) for key, values in x.items()}
        self._labels, self._label_names, self._ids, self._weights = labels, label_names, ids, weights
        sizes = {key: len(source.values) for key, source in self._sources.items()}
        others = {"labels": labels, "ids": ids, "weights": weights}
        sizes |= {key: len(given) for key, given in others.items() if given is not None}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"all values must have the same number of rows, got {sizes}")
        self._number = next(iter(sizes.values()))

    def __len__(self) -> int:
        return self._number

    def check_names(self, argument: str, given: Iterable[str] | None) -> None:
        """Raises if an argument describes a modality that does not exist."""
        unknown = [key for key in given or () if key not in self._names]
        if unknown:
            raise ValueError(f"{argument} describes {unknown}, which x does not contain: it has {self._names}")

    def source(
        self,
        order: np.ndarray,
        train: int,
        kinds: Mapping[str, str] | None = None,
        scaling: Mapping[str, Any] | str | None = None,
        exposures: Mapping[str, Any] | None = None,
    ) -> tuple[Source, dict[str, dict[str, Any]], Extras]:
        """The rows in an order, of which the first `train` are for training, what is said of them, and the rest."""
        columns = {key: source for key, source in self._sources.items() if isinstance(source, Column)}
        columns |= {
            f"{key}.exposure": as_column(given, f"exposures[{key!r}]")
            for key, given in (exposures or {}).items()
            if not isinstance(given, str)
        }
        specs = {key: _spec(key, source, kinds, scaling, exposures) for key, source in self._sources.items()}
        check_modalities(_PLACE, specs, True)
        source = Source(
            _PLACE,
            order,
            train,
            Table("x", columns) if columns else None,
            {key: array for key, array in self._sources.items() if isinstance(array, Array)},
            "none" if scaling is None or isinstance(scaling, Mapping) else scaling,
        )
        classes, names = _class_labels(source, self._labels, self._label_names)
        rows = order if self._ids is None else np.asarray(self._ids)[order]
        weights = self._weights
        drawn = None if weights is None else torch.as_tensor(weights, dtype=torch.float32)[torch.from_numpy(order)]
        return source, specs, Extras(classes, names, rows, drawn)


def from_dataset(dataset: Iterable[Mapping[str, Any]], **settings: Any) -> Splits:
    """Training, validation and test data from a data set of dicts, such as a `torch.utils.data.Dataset`.

    It is read into memory. For data that does not fit, use a `DataLoader`, or files named by a TOML description
    (`load_toml`).

    Args:
        dataset: Its items are dicts: modality name -> tensor, array, image of Pillow, number or string; None, or no
            such key, where the item does not have the modality.
        **settings: Passed on to `from_tensors`, all but `x` and `observed`.

    Returns:
        The three parts.

    Raises:
        ValueError: If there are no items, an item has no modality, or shapes differ among items.
        TypeError: If an item is not a dict.

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
    if not items:
        raise ValueError("the data set has no items")
    empty = next((i for i, item in enumerate(items) if all(value is None for value in item.values())), None)
    if empty is not None:
        raise ValueError(f"item {empty} has no modality")
    names = dict.fromkeys(name for item in items for name, value in item.items() if value is not None)
    return from_tensors({name: [item.get(name) for item in items] for name in names}, **settings)


def _source(name: str, values: Any, observed: Any) -> Array | Column:
    """Values as an array, or as a column of strings or categories in which rows that are not observed are missing."""
    check_name(name)
    columns = None
    if hasattr(values, "toarray"):  # a sparse matrix
        values = values.toarray()
    elif hasattr(values, "columns") and getattr(values, "ndim", None) == 2:  # a data frame
        columns, values = tuple(map(str, values.columns)), np.asarray(values)
    if isinstance(values, Tensor) or getattr(values, "dtype", None) in _DTYPES:
        if values.ndim == 0:
            raise ValueError(f"modality {name!r} must have the rows first, got a single value")
        if getattr(values, "is_sparse", False):
            values = values.to_dense()
        column = Column(values if isinstance(values, Tensor) else np.asarray(values))
    else:
        column = as_column(values, f"modality {name!r}")
    mask = column.observed if observed is None else np.asarray(observed)
    if mask is not None and (mask.dtype != bool or mask.shape != (len(column.values),)):
        raise TypeError(
            f"observed[{name!r}] must be bool, one value for each row, got {mask.dtype}, shape {mask.shape}"
        )
    if isinstance(column.values, list) or column.classes is not None:
        if mask is None:
            return column
        cells = [cell if there else "" for cell, there in zip(cells_of(column), mask, strict=True)]
        return Column(cells, None, column.classes, column.ordered)
    return Array(column.values, mask, columns=columns)


_DTYPES = frozenset(np.dtype(name) for name in ("b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "u2", "u4"))


def _spec(
    name: str,
    source: Array | Column,
    kinds: Mapping[str, str] | None,
    scaling: Mapping[str, Any] | str | None,
    exposures: Mapping[str, Any] | None,
) -> dict[str, Any]:
    spec = {"column": name} if isinstance(source, Column) else {"file": name}
    if name in (kinds or {}):
        spec["kind"] = kinds[name]
    if isinstance(scaling, Mapping) and name in scaling:
        spec["scaling"] = scaling[name]
    if name in (exposures or {}):
        spec["exposure"] = "sum" if isinstance(exposures[name], str) else f"{name}.exposure"
    return spec


def _class_labels(
    source: Source, labels: Any, names: Sequence[str] | None
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    if labels is None:
        return None, None
    if isinstance(labels, Tensor) or getattr(getattr(labels, "dtype", None), "kind", None) in ("i", "u"):
        ids = torch.as_tensor(labels if isinstance(labels, Tensor) else np.asarray(labels)).long()
        return ids[torch.from_numpy(source.order)], None if names is None else tuple(names)
    column = as_column(labels, "labels")
    cells = [cells_of(column)[row] for row in source.order]
    if "" in cells:
        raise ValueError(f"{_PLACE}: every row needs a class, {cells.count('')} labels are missing")
    return class_ids(replace(source, table=None), cells, "labels", column.classes if names is None else names)
