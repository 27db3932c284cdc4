"""Data sets assembled from the modalities that are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multipyro.data.custom.readers import Reading, Source, class_ids, read_modality
from multipyro.data.custom.tables import cells_of
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.splits import Splits

__all__ = ["Extras", "assemble", "assemble_splits"]


@dataclass(frozen=True)
class Extras:
    """The labels, identifiers and weights of a data set, in the order of its rows.

    Args:
        labels: Class of each row, int64 `(rows,)`.
        label_names: Names of these classes.
        ids: Identifiers of the rows.
        weights: Sampling weights of the rows.
        options: The options with which `load_dataset` loads it again.
    """

    labels: Tensor | None = None
    label_names: tuple[str, ...] | None = None
    ids: np.ndarray | None = None
    weights: Tensor | None = None
    options: Mapping[str, Any] | None = None

    @classmethod
    def from_columns(
        cls,
        source: Source,
        labels: str | None = None,
        ids: str | None = None,
        weights: str | None = None,
        label_names: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> "Extras":
        """Reads them from columns of a table; `label_names` are the classes of labels, if they are known already.

        Raises:
            ValueError: If there is no such column, or a cell is missing.
        """
        classes, names, numbers = None, None, None
        if labels is not None:
            cells = _complete(source, labels, "labels", "a class")
            classes, names = class_ids(source, cells, "labels", label_names)
        if weights is not None:
            numbers = torch.from_numpy(source.numbers(weights, "weights"))
        if ids is not None:
            rows = np.array(_complete(source, ids, "ids", "an identifier"))
        else:
            index = None if source.table is None else source.table.ids
            rows = source.order if index is None else index[source.order]
        return cls(classes, names, rows, numbers, options)


def assemble(
    name: str,
    source: Source,
    specs: Mapping[str, Mapping[str, Any]],
    known: Mapping[str, Modality],
    extras: Extras,
    split: str = "test",
) -> MultimodalData:
    """All rows of a source as one data set.

    Args:
        name: Name of the data set.
        source: The rows.
        specs: Modality name -> its keys, as in a TOML description.
        known: Descriptions that modalities must follow.
        extras: Labels, identifiers and weights.
        split: Name of the split.

    Raises:
        FileNotFoundError: See `read_modality`.
        TypeError: See `read_modality`.
        ValueError: See `read_modality`.
    """
    readings = {key: read_modality(source, key, spec, known.get(key)) for key, spec in specs.items()}
    modalities, exposures = {}, {}
    for key, reading in readings.items():
        modalities[key], exposure = _with_exposure(source, specs[key], reading, known.get(key))
        exposures |= {} if exposure is None else {key: exposure}
    masks = {key: reading.observed for key, reading in readings.items() if not reading.observed.all()}
    try:
        data = MultimodalData(
            name,
            modalities,
            {key: reading.values for key, reading in readings.items()},
            masks or None,
            extras.labels,
            split,
            options=extras.options,
            ids=extras.ids,
            weights=extras.weights,
            label_names=extras.label_names,
            exposures=exposures or None,
        )
        return data.with_covariates([key for key, spec in specs.items() if spec.get("covariate")])
    except (TypeError, ValueError) as error:
        raise type(error)(f"{source.place}: {error}") from error


def assemble_splits(
    name: str,
    source: Source,
    parts: Sequence[np.ndarray],
    specs: Mapping[str, Mapping[str, Any]],
    known: Mapping[str, Modality],
    extras: Extras,
) -> Splits:
    """The rows of a source, which has them part after part, as training, validation and test data.

    Args:
        name: See `assemble`.
        source: See `assemble`.
        parts: Row numbers of the three parts.
        specs: See `assemble`.
        known: See `assemble`.
        extras: See `assemble`.

    Raises:
        FileNotFoundError: See `read_modality`.
        TypeError: See `read_modality`.
        ValueError: See `read_modality`.
    """
    data = assemble(name, source, specs, known, extras)
    ends = np.cumsum([len(part) for part in parts])
    slices = [slice(end - len(part), end) for part, end in zip(parts, ends, strict=True)]
    return Splits(*(data.take(rows).with_split(split) for rows, split in zip(slices, Splits.NAMES, strict=True)))


def _complete(source: Source, column: str, key: str, what: str) -> list[str]:
    """The cells of a column without missing ones."""
    cells = cells_of(source.column(column, key))
    if "" in cells:
        raise ValueError(
            f"{source.place}: every row needs {what}, {cells.count('')} cells of the column {column!r} are empty"
        )
    return cells


def _with_exposure(
    source: Source, spec: Mapping[str, Any], reading: Reading, known: Modality | None
) -> tuple[Modality, Tensor | None]:
    """The description with its exposure, and the exposures; 1 in rows without the modality."""
    modality = reading.modality
    how = spec.get("exposure") if known is None else known.exposure
    if how is None:
        return modality, None
    if how == "sum":
        exposures = reading.values.flatten(1).nansum(1)
    else:
        exposures = torch.from_numpy(source.numbers(how, f"modalities.{modality.name}.exposure"))
    wrong = reading.observed & ~(exposures > 0)
    if wrong.any():
        row = source.order[int(wrong.to(torch.uint8).argmax())]
        raise ValueError(
            f"{source.place}: modalities.{modality.name}: exposures must be positive, got "
            f"{exposures[wrong][0].item():g} in row {row}"
        )
    if known is None:
        unit = exposures[: source.train][reading.observed[: source.train]].median().item()
        modality = replace(modality, exposure=how, exposure_unit=unit)
    return modality, torch.where(reading.observed, exposures / modality.exposure_unit, 1.0)
