"""Modalities read from columns of a table or from arrays, by a declared or inferred kind or by a known description."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multipyro.data.custom.kinds import MOST_CLASSES, array_tensor, chunks, infer_modality
from multipyro.data.custom.mapped import mapped_images, mapped_rows
from multipyro.data.custom.schema import check_applies
from multipyro.data.custom.tables import Column, Table, cells_of, number_of, numbers_of
from multipyro.data.modality import KINDS, Modality
from multipyro.data.scaling import Scaling, fit_scaling
from multipyro.data.storage.files import printable
from multipyro.data.tokenization import tokenize

__all__ = ["Array", "Reading", "Source", "class_ids", "read_modality"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_PAD, _UNKNOWN = "<pad>", "<unk>"
# the same for texts of characters: single ones that fonts have and texts hardly contain
_PADS, _UNKNOWNS = "\N{EMPTY SET}", "\N{REPLACEMENT CHARACTER}"
# longer texts need a declared length: every position of every row takes memory
_LONGEST_TEXT = 2_048
_LARGEST = float(np.finfo(np.float32).max)
# maximum number of training rows that a scaling or the means of counts are learned from
_FITTED = 100_000
_WHOLE_KINDS = ("label", "ordinal", "text")


@dataclass(frozen=True)
class Array:
    """An array with the rows first.

    Args:
        values: The array; one from a file may be mapped.
        observed: Which rows are observed, bool `(rows,)`; None for all, except those of NaN.
        file: The file that it comes from; None if it is in memory.
        columns: Names of its columns; None without names.
    """

    values: np.ndarray | Tensor
    observed: np.ndarray | None = None
    file: Path | None = None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """Where the values of modalities come from, and in which order.

    Args:
        place: Beginning of messages.
        order: Number of each row in the table and in arrays, int64 `(rows,)`: training rows, then others.
        train: Number of training rows.
        table: The table; None without one.
        arrays: Modality name -> its array.
        scaling: The default scaling of numbers: `"none"` or what `fit_scaling` takes.
    """

    place: str
    order: np.ndarray
    train: int
    table: Table | None
    arrays: Mapping[str, Array]
    scaling: str | Sequence[str]

    def column(self, name: str, key: str) -> Column:
        """A column of the table, in the order of the rows.

        Raises:
            ValueError: If there is no such column; the message names the key that refers to it.
        """
        if self.table is None or name not in self.table.columns:
            known = "there is no table" if self.table is None else f"the table has {list(self.table.columns)}"
            raise ValueError(f"{self.place}: {key} names the column {name!r}: {known}")
        column = self.table.columns[name]
        values = column.values
        values = [values[row] for row in self.order] if isinstance(values, list) else values[self.order]
        return replace(column, values=values, observed=None if column.observed is None else column.observed[self.order])

    def numbers(self, name: str, key: str) -> np.ndarray:
        """The numbers of a column, float32 `(rows,)`, NaN where one is missing.

        Raises:
            ValueError: If a cell is not a number, or is infinite in float32; the message names its line.
        """
        column = self.column(name, key)
        if column.is_array:
            raise ValueError(f"{self.place}: {key} must be a column of numbers, {name!r} has arrays")
        values = column.values
        numbers = list(map(number_of, values)) if isinstance(values, list) else numbers_of(column).tolist()
        wrong = next((i for i, n in enumerate(numbers) if n is None or abs(n) > _LARGEST), None)
        if wrong is not None:
            raise ValueError(
                f"{self.place}: {key} must be a column of numbers up to {_LARGEST:.2g}: column {name!r} of "
                f"{self.table.title} has {values[wrong]!r} {self.table.place(self.order[wrong])}"
            )
        return np.array(numbers, np.float32)


@dataclass(frozen=True)
class Reading:
    """A modality as it was read: its description, values `(rows, *shape)`, and which rows have it, bool `(rows,)`."""

    modality: Modality
    values: Tensor
    observed: Tensor


def read_modality(source: Source, name: str, spec: Mapping[str, Any], known: Modality | None = None) -> Reading:
    """Reads one modality.

    Args:
        source: The rows.
        name: Name of the modality.
        spec: Its keys, as in a TOML description: where its values are, its kind and so on.
        known: A description that the values must follow: classes, vocabularies, sizes and scalings are then taken
            from it.

    Raises:
        FileNotFoundError: If an image is missing.
        TypeError: If the type of the values does not suit the kind.
        ValueError: If data and description disagree; the message names the place, and where it can the line.
    """
    place = f"{source.place}: modalities.{name}"
    spec = spec if known is None else {**spec, "kind": known.kind}
    try:
        if name in source.arrays:
            reading = _from_array(source, name, spec, source.arrays[name], known)
        elif "columns" in spec:
            key = f"modalities.{name}.columns"
            values = torch.from_numpy(np.stack([source.numbers(column, key) for column in spec["columns"]], 1))
            reading = _from_numbers(source, name, spec, values, known, tuple(spec["columns"]))
        else:
            reading = _from_column(source, name, spec, known)
    except (TypeError, ValueError) as error:
        if str(error).startswith(source.place):
            raise
        raise type(error)(f"{place}: {error}") from error
    if known is None and not reading.observed[: source.train].any():
        raise ValueError(f"{place}: no training row has it")
    return reading


def class_ids(
    source: Source, cells: Sequence[str], key: str, classes: Sequence[str] | None = None
) -> tuple[Tensor, tuple[str, ...]]:
    """Class ids int64 `(rows,)`, 0 where a cell is missing, and the names of the classes.

    Without `classes` they are the values that occur, in the order of numbers if all are, else of the alphabet.

    Raises:
        ValueError: If a cell is not one of `classes`; the message names its line.
    """
    if classes is None:
        classes = sorted({*cells} - {""}, key=_class_order({*cells} - {""}))
    numbers = {name: number for number, name in enumerate(classes)}
    wrong = next((row for row, cell in enumerate(cells) if cell and cell not in numbers), None)
    if wrong is not None:
        known = f"{list(classes)[:10]}{' and others' if len(classes) > 10 else ''}"
        where = f" {source.table.place(source.order[wrong])} of {source.table.title}" if source.table else ""
        raise ValueError(
            f"{source.place}: {key} has the unknown class {cells[wrong]!r}{where}: the classes are {known}"
        )
    return torch.tensor([numbers.get(cell, 0) for cell in cells], dtype=torch.int64), tuple(classes)


def _class_order(cells: set[str]) -> Any:
    return None if any(number_of(cell) is None for cell in cells) else number_of


def _from_array(source: Source, name: str, spec: Mapping[str, Any], array: Array, known: Modality | None) -> Reading:
    if known is not None and known.columns is not None and array.columns is not None:
        array = _reordered(array, known.columns)
    values = _array_values(source, array, spec.get("kind"))
    observed = None if array.observed is None else torch.from_numpy(array.observed[source.order])
    kind = spec["kind"] if "kind" in spec else infer_modality(name, values).kind
    check_applies(f"{source.place}: modalities.{name}", spec, kind)
    if kind not in _WHOLE_KINDS:
        floats = values if values.is_floating_point() or kind == "image" else values.float()
        return _from_numbers(source, name, {**spec, "kind": kind}, floats, known, array.columns, observed, array.file)
    if values.is_floating_point() and _are_whole(values):  # integers, some of them missing
        present = ~values.isnan() if observed is None else observed & ~values.isnan()
        values, observed = values.nan_to_num(0.0).long(), present
    modality = infer_modality(name, values.long() if values.dtype == torch.uint8 else values, kind)
    classes = spec.get("classes")
    if classes is not None and len(classes) < modality.num_classes:
        raise ValueError(f"{len(classes)} classes cannot name ids up to {modality.num_classes - 1}")
    if classes is not None:
        modality = replace(modality, num_classes=len(classes), class_names=tuple(classes))
    return _finished(spec, modality, values.long(), observed, known)


def _are_whole(values: Tensor) -> bool:
    return bool(((values == values.round()) | values.isnan()).all())


def _reordered(array: Array, columns: tuple[str, ...]) -> Array:
    """The array with the columns of a known description."""
    missing = [column for column in columns if column not in array.columns]
    if missing:
        raise ValueError(f"{len(missing)} of {len(columns)} columns are missing (first: {missing[0]!r})")
    places = [array.columns.index(column) for column in columns]
    return replace(array, values=array.values[:, places], columns=columns)


def _array_values(source: Source, array: Array, kind: str | None) -> Tensor:
    """The rows of an array, in order, in a dtype that data sets take."""
    if array.file is None:
        return array_tensor(torch.as_tensor(array.values)[torch.from_numpy(source.order)])
    values, title = array.values, printable(array.file)
    dtypes = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}
    dtype = dtypes.get(values.dtype.kind)
    if dtype is None or not values.size:
        raise ValueError(f"{title} must contain an array of numbers, got {values.dtype}, shape {values.shape}")
    # many files store small whole numbers as bytes: only pixels have four dimensions
    dtype = np.uint8 if values.dtype == np.uint8 and values.ndim == 4 else dtype
    dtype = np.float32 if kind not in (None, "image", *_WHOLE_KINDS) else dtype
    with np.errstate(over="ignore"):  # reported below
        tensor = torch.from_numpy(mapped_rows(array.file, values, source.order, dtype))
    if tensor.is_floating_point():
        row = 0
        for part in chunks(tensor):
            infinite = part.flatten(1).isinf().any(1) if part.dim() > 1 else part.isinf()
            if infinite.any():
                number = source.order[row + int(infinite.to(torch.uint8).argmax())]
                raise ValueError(f"row {number} of {title} has a number that is infinite in float32")
            row += len(part)
    return tensor


def _from_numbers(
    source: Source,
    name: str,
    spec: Mapping[str, Any],
    values: Tensor,
    known: Modality | None,
    columns: tuple[str, ...] | None,
    observed: Tensor | None = None,
    file: Path | None = None,
) -> Reading:
    """A modality of floats or pixels, with NaN where entries are missing."""
    values = values.unsqueeze(1) if values.dim() == 1 else values
    if known is not None and tuple(values.shape[1:]) != known.shape:
        raise ValueError(f"each row must have shape {known.shape}, got {tuple(values.shape[1:])}")
    kind = spec.get("kind")
    if kind is None and columns is not None:
        kind = "vector"
    modality = infer_modality(name, values, kind)
    check_applies(f"{source.place}: modalities.{name}", spec, modality.kind)
    there, complete = _present(values)
    there = there if observed is None else there & observed
    partial = bool((there & ~complete).any())
    modality = replace(modality, columns=columns, missing_entries=partial)
    if known is not None and partial and not known.missing_entries:
        there, modality = there & complete, replace(modality, missing_entries=False)
    if known is not None:
        scaling = known.scaling
    else:
        scaling = _scaling(source, spec, values, modality)
    if modality.kind == "counts" and known is None:
        modality = replace(modality, mean_counts=_mean_counts(_fitted(source, values)))
    if scaling is not None:
        if file is not None:
            scaled = mapped_rows(file, source.arrays[name].values, source.order, np.float32, scaling)
            values = torch.from_numpy(scaled).reshape(values.shape)
        else:
            values = scaling.to_scaled(values, values.dim() - 1)
    return _finished(spec, replace(modality, scaling=scaling), values, there, known)


def _present(values: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows have an entry other than NaN, and which have no NaN."""
    if not values.is_floating_point():
        every = torch.ones(len(values), dtype=torch.bool)
        return every, every
    missing = [(part.isnan().flatten(1).all(1), part.isnan().flatten(1).any(1)) for part in chunks(values)]
    return ~torch.cat([all_ for all_, _ in missing]), ~torch.cat([any_ for _, any_ in missing])


def _scaling(source: Source, spec: Mapping[str, Any], values: Tensor, modality: Modality) -> Scaling | None:
    """The scaling that is declared, or the default one of real numbers without a fixed scale."""
    real = modality.kind == "vector" and spec.get("likelihood", modality.likelihood) in KINDS["vector"][:3]
    fixed = isinstance(spec.get("scale"), int | float)
    steps = spec.get("scaling", source.scaling if real and not fixed else "none")
    if steps == "none":
        return None
    return fit_scaling(_fitted(source, values), steps)


def _fitted(source: Source, values: Tensor) -> Tensor:
    """The training rows, or if there are very many, some of them."""
    return values[: source.train][:: max(1, source.train // _FITTED)]


def _mean_counts(values: Tensor) -> tuple[float, ...]:
    """Mean of each entry of counts `(rows, *event)`, of which NaN is ignored, to four digits.

    Half a count is added to each entry, so that the mean of one without counts is positive.
    """
    sums, numbers = torch.zeros(2, values.shape[1:].numel()).double()
    for part in chunks(values):
        part = part.flatten(1).double()
        sums += part.nansum(0)
        numbers += part.isfinite().sum(0)
    means = (sums.clamp(min=0) + 0.5) / numbers.clamp(min=1)
    return tuple(float(f"{mean:.4g}") for mean in means.tolist())


def _finished(
    spec: Mapping[str, Any], modality: Modality, values: Tensor, observed: Tensor | None, known: Modality | None
) -> Reading:
    """The reading with the declared likelihood and scale, or by the known description."""
    observed = torch.ones(len(values), dtype=torch.bool) if observed is None else observed
    if known is not None:
        if modality.is_discrete and modality.num_classes > known.num_classes:
            raise ValueError(
                f"ids must lie in 0 to {known.num_classes - 1}, got {int(values.max())}: the model has no others"
            )
        return Reading(known, values, observed)
    likelihood = spec.get("likelihood", modality.likelihood)
    return Reading(replace(modality, likelihood=likelihood, scale=spec.get("scale")), values, observed)


def _from_column(source: Source, name: str, spec: Mapping[str, Any], known: Modality | None) -> Reading:
    title, key = spec["column"], f"modalities.{name}.column"
    column = source.column(title, key)
    if column.is_array:
        # rows are in order already
        ordered = replace(source, order=np.arange(len(column)))
        return _from_array(ordered, name, spec, Array(column.values, column.observed), known)
    cells = cells_of(column)
    observed = torch.tensor([cell != "" for cell in cells])
    if known is None and not observed[: source.train].any():
        raise ValueError(f"no training row has a value in the column {title!r}")
    kind = spec["kind"] if "kind" in spec else _kind(source, title, column, cells)
    check_applies(f"{source.place}: modalities.{name}", spec, kind)
    if kind == "image":
        modality, values = _images(source, name, spec, cells, known)
    elif kind in ("label", "ordinal"):
        modality, values = _classes(source, name, spec, column, cells, known)
    elif kind == "text":
        modality, values = _texts(source, name, spec, cells, known)
    else:
        values = torch.from_numpy(source.numbers(title, key)).unsqueeze(1)
        return _from_numbers(source, name, {**spec, "kind": kind}, values, known, (title,))
    return _finished(spec, replace(modality, columns=(title,)), values, observed, known)


def _kind(source: Source, title: str, column: Column, cells: Sequence[str]) -> str:
    """The kind of a column of cells or numbers."""
    if column.classes is not None:
        return "ordinal" if column.ordered else "label"
    known = [cell for cell in cells if cell]
    if all(map(_is_image, known)):
        return "image"
    numbers = {number_of(cell) for cell in known}
    if None not in numbers:
        whole = all(number.is_integer() and 0 <= number < MOST_CLASSES for number in numbers)
        typed = not isinstance(column.values, list) and column.values.dtype.kind == "f"
        return "label" if whole and not typed else "vector"
    train = [cell for cell in cells[: source.train] if cell]
    different = len(set(train))
    if different > MOST_CLASSES and 2 * different > len(train):
        raise ValueError(
            f"the {len(train)} training rows with a cell in the column {title!r} have {different} different ones, as "
            'texts have rather than classes: declare kind = "text", or "label" if each is a class, "image" if they '
            "name images"
        )
    return "label"


def _is_image(cell: str) -> bool:
    return cell.lower().endswith(_SUFFIXES)


def _images(
    source: Source, name: str, spec: Mapping[str, Any], cells: Sequence[str], known: Modality | None
) -> tuple[Modality, Tensor]:
    if known is None and "size" not in spec:
        raise ValueError("size must be [height, width] in pixels, got none")
    shape = (spec.get("channels", 3), *spec["size"]) if known is None else known.shape
    folder = source.table.folder / spec.get("folder", ".")
    files = [folder / cell if cell else None for cell in cells]
    named = [file for file in files if file is not None]
    if not any(_is_image(file.name) for file in named) and not any(map(os.path.isfile, named)):
        raise ValueError(
            f"column must name images: none of the {len(named)} cells of {spec['column']!r} is a file in "
            f"{printable(folder)} or ends as images do, the first is {named[0].name!r}"
        )
    values = torch.from_numpy(mapped_images(files, shape))
    return infer_modality(name, values, "image"), values


def _classes(
    source: Source,
    name: str,
    spec: Mapping[str, Any],
    column: Column,
    cells: Sequence[str],
    known: Modality | None,
) -> tuple[Modality, Tensor]:
    kind = spec.get("kind") or ("ordinal" if column.ordered else "label")
    declared = spec.get("classes", column.classes) if known is None else known.class_names
    if kind == "ordinal" and declared is None and _class_order({*cells} - {""}) is None:
        raise ValueError('the order of the classes is unknown: declare classes = ["lowest", ..., "highest"]')
    ids, names = class_ids(source, cells, f"modalities.{name}.column", declared)
    return Modality(name, (), kind, KINDS[kind][0], len(names), names), ids


def _texts(
    source: Source, name: str, spec: Mapping[str, Any], cells: Sequence[str], known: Modality | None
) -> tuple[Modality, Tensor]:
    words = spec.get("tokens", "words") == "words" if known is None else known.vocabulary is not None
    texts = [tokenize(cell.lower()) if words else list(cell) for cell in cells]
    if known is None:
        known = _text_modality(name, spec, texts[: source.train], words)
    symbols = known.vocabulary if words else known.alphabet
    unknown = symbols.index(_UNKNOWN if words else _UNKNOWNS) if (_UNKNOWN if words else _UNKNOWNS) in symbols else None
    # the padding within a text is unknown as well
    ids = {token: number for number, token in enumerate(symbols) if number != known.pad}
    length = known.shape[0]
    values = torch.full((len(texts), length), known.pad or 0, dtype=torch.int64)
    for row, text in enumerate(texts):
        numbers = [ids.get(token, unknown) for token in text[:length]]
        if None in numbers:
            token = text[numbers.index(None)]
            raise ValueError(
                f"the text {cells[row]!r} has the unknown token {token!r}, and no token stands for unknown ones"
            )
        values[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
    return known, values


def _text_modality(name: str, spec: Mapping[str, Any], texts: Sequence[Sequence[str]], words: bool) -> Modality:
    special = (_PAD, _UNKNOWN) if words else (_PADS, _UNKNOWNS)
    symbols = (*special, *sorted({token for text in texts for token in text} - set(special)))
    longest = max(map(len, texts))
    if "length" not in spec and longest > _LONGEST_TEXT:
        unit = "words" if words else "characters"
        raise ValueError(f"the longest training text has {longest:,} {unit}: declare length, where texts are cut")
    alphabet = {"vocabulary": symbols} if words else {"alphabet": "".join(symbols)}
    return Modality(name, (spec.get("length", longest),), "text", "categorical", len(symbols), **alphabet)
