"""Modalities out of columns of a table and out of arrays."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multipyro.data.custom.tables import Rows, number_of
from multipyro.data.custom.tensors import infer_modality
from multipyro.data.custom.toml_schema import check_applies
from multipyro.data.modality import LIKELIHOODS, Modality
from multipyro.data.storage.mapped import mapped_pictures, mapped_rows
from multipyro.data.tokenization import tokenize

__all__ = ["class_ids", "modality_of"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_PAD, _UNKNOWN = "<pad>", "<unk>"
# the same for texts of characters: single ones that fonts have and texts hardly hold
_PADS, _UNKNOWNS = "\N{EMPTY SET}", "\N{REPLACEMENT CHARACTER}"
# so many different values are no classes, unless a description says so
_MANY = 20
# rows of an array that are looked at at a time: it may lie on disk
_CHUNK = 1_024

Found = tuple[Modality, Tensor, Tensor]


def modality_of(rows: Rows, name: str, told: dict[str, Any], array: np.ndarray | None) -> Found:
    """Description, values `(rows, *shape)` and observed rows of one modality.

    Args:
        rows: The rows.
        name: Name of the modality.
        told: What the description says of it.
        array: The array that it names, if it does.

    Raises:
        FileNotFoundError: If a picture is not there.
        ValueError: If data and description disagree; the message names the description and the key.
    """
    place = f"{rows.path}: modalities.{name}"
    found = _from_array if array is not None else _from_columns if "columns" in told else _from_column
    modality, values, held = found(rows, name, told, *(() if array is None else (array,)))
    if not held[: rows.train].any():
        raise ValueError(f"{place}: no training row has it")
    discrete = modality.kind in ("label", "text")
    suited = tuple(likelihood for likelihood in LIKELIHOODS if (likelihood == "categorical") == discrete)
    likelihood = told.get("likelihood", modality.likelihood)
    if likelihood not in suited:
        raise ValueError(f"{place}.likelihood must be one of {suited} for a {modality.kind}, got {likelihood!r}")
    try:
        return replace(modality, likelihood=likelihood, scale=told.get("scale")), values, held
    except ValueError as error:  # of a likelihood without a scale
        raise ValueError(f"{place}.scale: {error}") from error


def class_ids(cells: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Class ids int64 `(rows,)` and the classes, sorted; 0 where a cell is missing."""
    classes = tuple(sorted(set(cells) - {""}))
    numbers = {word: number for number, word in enumerate(classes)}
    return torch.tensor([numbers.get(cell, 0) for cell in cells], dtype=torch.int64), classes


def _inferred(rows: Rows, name: str, values: Tensor) -> Modality:
    try:
        return infer_modality(name, values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{rows.path}: {error}") from error


def _from_array(rows: Rows, name: str, told: dict[str, Any], array: np.ndarray) -> Found:
    place, file = f"{rows.path}: modalities.{name}", rows.path.parent / told["file"]
    # small whole numbers are bytes in many a file: pixels have four dimensions
    kinds = {"f": np.float32, "i": np.int64, "u": np.uint8 if array.dtype == np.uint8 and array.ndim == 4 else np.int64}
    dtype = kinds.get(array.dtype.kind)
    if dtype is None or not array.size:
        raise ValueError(f"{place}: {file} must hold an array of numbers, got {array.dtype}, shape {array.shape}")
    with np.errstate(over="ignore"):  # told below
        values = torch.from_numpy(mapped_rows(file, array, rows.order, dtype))
    held = torch.ones(len(values), dtype=torch.bool)
    if values.is_floating_point():
        values = values.unsqueeze(1) if values.dim() == 1 else values
        for begin in range(0, len(values), _CHUNK):
            part = values[begin : begin + _CHUNK].flatten(1)
            infinite = part.isinf().any(1)
            if infinite.any():
                row = rows.order[begin + int(infinite.to(torch.uint8).argmax())]
                raise ValueError(f"{place}: row {row} of {file} holds a number that is infinite in float32")
            held[begin : begin + _CHUNK] = ~part.isnan().any(1)
    return _inferred(rows, name, values), values, held


def _from_columns(rows: Rows, name: str, told: dict[str, Any]) -> Found:
    key = f"modalities.{name}.columns"
    values = torch.stack([rows.numbers(column, key) for column in told["columns"]], 1)
    return _inferred(rows, name, values), values, ~values.isnan().any(1)


def _from_column(rows: Rows, name: str, told: dict[str, Any]) -> Found:
    cells = rows.column(told["column"], f"modalities.{name}.column")
    held = torch.tensor([cell != "" for cell in cells])
    if not held[: rows.train].any():
        raise ValueError(f"{rows.path}: modalities.{name}: no training row has {told['column']!r}")
    kind = told["kind"] if "kind" in told else _kind(rows, name, told["column"], cells)
    check_applies(f"{rows.path}: modalities.{name}", told, kind)
    readers: dict[str, Callable] = {"image": _image, "label": _label, "text": _text, "vector": _vector}
    return *readers[kind](rows, name, told, cells), held


def _kind(rows: Rows, name: str, column: str, cells: Sequence[str]) -> str:
    """What the cells of a column look like."""
    there = [cell for cell in cells if cell]
    if all(map(_is_picture, there)):
        return "image"
    numbers = {number_of(cell) for cell in there}
    if None not in numbers:
        return "label" if len(numbers) <= _MANY and all(number.is_integer() for number in numbers) else "vector"
    train = [cell for cell in cells[: rows.train] if cell]
    different = len(set(train))
    if different > _MANY and 2 * different > len(train):
        raise ValueError(
            f"{rows.path}: modalities.{name}: the {len(train)} training rows with a cell in the column {column!r} have "
            f'{different} different ones, as texts have rather than classes: say kind = "text", or "label" if each is '
            'a class, "image" if they name pictures'
        )
    return "label"


def _is_picture(cell: str) -> bool:
    return cell.lower().endswith(_SUFFIXES)


def _image(rows: Rows, name: str, told: dict[str, Any], cells: list[str]) -> tuple[Modality, Tensor]:
    if "size" not in told:
        raise ValueError(f"{rows.path}: modalities.{name}.size must be [height, width] in pixels, got none")
    folder = rows.path.parent / told.get("folder", ".")
    files = [folder / cell if cell else None for cell in cells]
    there = [file for file in files if file is not None]
    if not any(_is_picture(file.name) for file in there) and not any(map(os.path.isfile, there)):
        raise ValueError(
            f"{rows.path}: modalities.{name}.column must name pictures: none of the {len(there)} cells of "
            f"{told['column']!r} is a file in {folder} or ends as pictures do, the first is {there[0].name!r}"
        )
    values = torch.from_numpy(mapped_pictures(files, (told.get("channels", 3), *told["size"])))
    return _inferred(rows, name, values), values


def _label(rows: Rows, name: str, told: dict[str, Any], cells: list[str]) -> tuple[Modality, Tensor]:
    ids, classes = class_ids(cells)
    return Modality(name, (), "label", "categorical", len(classes), classes), ids


def _vector(rows: Rows, name: str, told: dict[str, Any], cells: list[str]) -> tuple[Modality, Tensor]:
    values = rows.numbers(told["column"], f"modalities.{name}.column").unsqueeze(1)
    return _inferred(rows, name, values), values


def _text(rows: Rows, name: str, told: dict[str, Any], cells: list[str]) -> tuple[Modality, Tensor]:
    words = told.get("tokens", "words") == "words"
    special = (_PAD, _UNKNOWN) if words else (_PADS, _UNKNOWNS)
    texts = [tokenize(cell.lower()) if words else list(cell) for cell in cells]
    known = sorted({token for text in texts[: rows.train] for token in text} - set(special))
    symbols = (*special, *known)
    length = told.get("length", max(map(len, texts[: rows.train])))
    numbers = {token: number for number, token in enumerate(symbols) if number}  # a text may spell what pads
    ids = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in enumerate(texts):
        found = [numbers.get(token, 1) for token in text[:length]]
        ids[row, : len(found)] = torch.tensor(found, dtype=torch.int64)
    told_as = {"vocabulary": symbols} if words else {"alphabet": "".join(symbols)}
    return Modality(name, (length,), "text", "categorical", len(symbols), **told_as), ids
