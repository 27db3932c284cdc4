r"""Data of one's own that a TOML file describes: a table with pictures, classes, texts and numbers, or arrays.

.. code-block:: toml

    table = "birds.csv"            # a row a line, its first line names the columns; empty cells are missing
    split = [0.8, 0.1, 0.1]        # shares drawn once from `seed`, or a column of train, validation and test
    labels = "species"             # optional: a column whose values are the classes that metrics judge by

    [modalities.image]
    column = "file"                # pictures, relative to the TOML file or to `folder`
    size = [64, 64]                # height and width that all are resized to

    [modalities.species]
    column = "species"             # a label: its values, sorted, are the classes

    [modalities.caption]
    column = "caption"             # a text, of words or characters
    kind = "text"
    length = 32

    [modalities.attributes]
    columns = ["bald", "smiling"]  # numbers

    [modalities.spectrum]
    file = "spectrum.npy"          # an array, the rows first
"""

import csv
import os
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multipyro.data._mapped import mapped_pictures, mapped_rows
from multipyro.data.captions import words_of
from multipyro.data.modality import KINDS, LIKELIHOODS, Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.own import infer_modality, split_rows
from multipyro.data.splits import Splits

__all__ = ["described"]

_KEYS = {"name", "table", "split", "seed", "labels", "modalities"}
_MODALITY_KEYS = {"column", "columns", "file", "folder", "kind", "likelihood", "size", "channels", "length", "tokens"}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_PAD, _UNKNOWN = "<pad>", "<unk>"
_SHARES = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class _Rows:
    """The rows in the order of the parts: first those that train, then those that validate, then those that test."""

    path: Path
    table: dict[str, list[str]]
    order: np.ndarray
    train: int

    def column(self, name: Any, key: str) -> list[str]:
        """The cells of a column in this order."""
        if name not in self.table:
            raise ValueError(f"{self.path}: {key} names the column {name!r}: the table has {list(self.table)}")
        cells = self.table[name]
        return [cells[row] for row in self.order]


def described(path: str | os.PathLike) -> Splits:
    r"""Three parts of the data that a TOML file describes.

    The description is that at the top of this module. Of a modality, `kind` and `likelihood` are inferred where they
    are not said: a column of picture files is an image, one of other cells a label, several columns or an array are
    what `infer_modality` makes of their numbers. A text's `tokens` are `"words"` (those that `words_of` finds, in lower
    case; words that no training row has become `<unk>`) or `"characters"`; longer ones are cut at `length`, by default
    that of the longest training row.

    Pictures are resized once and kept in the download folder as one file that is mapped, not read, into memory, so that
    they may be more than memory holds; so are arrays. A folder of pictures that has changed is read again.

    Args:
        path: The TOML file; what it names is relative to its folder.

    Returns:
        The three parts, with masks where cells are empty.

    Raises:
        FileNotFoundError: If the file, or one that it names, is not there.
        ValueError: If it is no such description; the message names the file, the key, what was seen and what was
            expected.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "t.csv").write_text("a,b,sort\n" + "0.5,1.5,x\n2,3,y\n" * 20)
        >>> text = 'table = "t.csv"\n[modalities.ab]\ncolumns = ["a", "b"]\n[modalities.sort]\ncolumn = "sort"'
        >>> _ = (folder / "mine.toml").write_text(text)
        >>> splits = described(folder / "mine.toml")
        >>> len(splits.train), splits.train.modalities["sort"].class_words
        (32, ('x', 'y'))
    """
    path = Path(path).expanduser().resolve()
    content = _content(path)
    table = {} if "table" not in content else _table(path, path.parent / _text(path, content, "table"))
    arrays = {name: _array(path, name, told) for name, told in content["modalities"].items() if "file" in told}
    sizes = {f"modalities.{name}.file": len(array) for name, array in arrays.items()}
    sizes |= {"table": len(next(iter(table.values())))} if table else {}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"{path}: table and arrays must have the same number of rows, got {sizes}")
    parts = _parts(path, content, table, next(iter(sizes.values())))
    rows = _Rows(path, table, np.concatenate(parts), len(parts[0]))
    modalities, x, observed = {}, {}, {}
    for name, told in content["modalities"].items():
        modalities[name], x[name], held = _modality(rows, name, told, arrays.get(name))
        if not held.all():
            observed[name] = held
    labels = None
    if "labels" in content:
        cells = rows.column(_text(path, content, "labels"), "labels")
        if "" in cells:
            raise ValueError(
                f"{path}: every row needs a class, {cells.count('')} cells of {content['labels']!r} are empty"
            )
        labels = _ids(cells, sorted(set(cells)))
    name, begin, found = str(content.get("name", path.stem)), 0, {}
    for split, part in zip(Splits.NAMES, parts, strict=True):
        mine = slice(begin, begin := begin + len(part))  # slices are views: nothing is read
        masks = {key: mask[mine] for key, mask in observed.items()} or None
        values = {key: value[mine] for key, value in x.items()}
        chosen = None if labels is None else labels[mine]
        found[split] = MultimodalData(name, modalities, values, masks, chosen, split, options={"file": str(path)})
    return Splits(**found)


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no description {path}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from error
    _check_keys(f"{path}", content, _KEYS)
    modalities = content.get("modalities")
    if not isinstance(modalities, dict) or not modalities:
        raise ValueError(f"{path} must describe at least one modality, as [modalities.image], got {modalities!r}")
    for name, told in modalities.items():
        if not isinstance(told, dict):
            raise ValueError(f"{path}: modalities.{name} must be a table of keys, got {told!r}")
        _check_keys(f"{path}: modalities.{name}", told, _MODALITY_KEYS)
        sources = [key for key in ("column", "columns", "file") if key in told]
        if len(sources) != 1:
            raise ValueError(f"{path}: modalities.{name} needs one of column, columns and file, got {sources}")
        if "file" not in told and "table" not in content:
            raise ValueError(f"{path}: modalities.{name} names a column, but there is no table")
        for key, known in (("kind", KINDS), ("likelihood", LIKELIHOODS), ("tokens", ("words", "characters"))):
            if told.get(key, known[0]) not in known:
                raise ValueError(f"{path}: modalities.{name}.{key} must be one of {known}, got {told[key]!r}")
    return content


def _check_keys(place: str, content: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(content) - known)
    if unknown:
        raise ValueError(f"{place} has the unknown key {', '.join(unknown)}: there are {', '.join(sorted(known))}")


def _text(path: Path, content: dict[str, Any], key: str) -> str:
    if not isinstance(content[key], str):
        raise ValueError(f"{path}: {key} must be a string, got {content[key]!r}")
    return content[key]


def _table(path: Path, file: Path) -> dict[str, list[str]]:
    """Column name -> its cells without the blanks around them."""
    if not file.is_file():
        raise FileNotFoundError(f"{path}: there is no table {file}")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header, *rows = csv.reader(lines, strict=True)
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(f"{file} is no table of comma-separated values in UTF-8: {error}") from error
    header, rows = [name.strip() for name in header], [row for row in rows if row]
    wrong = next((number for number, row in enumerate(rows, 2) if len(row) != len(header)), None)
    if wrong is not None or len(set(header)) != len(header) or not rows:
        what = (
            f"line {wrong} has not" if wrong else f"there are {len(rows)} rows, and the first line is {header}, not of"
        )
        raise ValueError(f"{file} must hold rows of {len(header)} cells under different names: {what} {len(header)}")
    return {name: [row[number].strip() for row in rows] for number, name in enumerate(header)}


def _array(path: Path, name: str, told: dict[str, Any]) -> np.ndarray:
    file = path.parent / _text(path, told, "file")
    if not file.is_file():
        raise FileNotFoundError(f"{path}: modalities.{name} names {file}, which is not there")
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{file} is no array of numbers in a .npy file: {error}") from error


def _parts(path: Path, content: dict[str, Any], table: dict[str, list[str]], number: int) -> list[np.ndarray]:
    split = content.get("split", _SHARES)
    if isinstance(split, str):
        cells = _Rows(path, table, np.arange(number), 0).column(split, "split")
        wrong = sorted(set(cells) - set(Splits.NAMES))
        if wrong or set(cells) != set(Splits.NAMES):
            raise ValueError(
                f"{path}: the column {split!r} must hold {Splits.NAMES}, each at least once, got {set(cells)}"
            )
        return [np.flatnonzero(np.array(cells) == part) for part in Splits.NAMES]
    seed = content.get("seed", 0)
    if not isinstance(seed, int) or not isinstance(split, list | tuple):
        raise ValueError(f"{path}: seed must be a whole number and split a list or a column, got {seed!r}, {split!r}")
    try:
        return [part.numpy() for part in split_rows(number, split, seed)]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _modality(
    rows: _Rows, name: str, told: dict[str, Any], array: np.ndarray | None
) -> tuple[Modality, Tensor, Tensor]:
    """Description, values and observed rows of one modality."""
    key = f"modalities.{name}"
    if array is not None:
        values = _numbers_of(rows, name, told, array)
        return _said(infer_modality(name, values), told), values, torch.ones(len(values), dtype=torch.bool)
    if "columns" in told:
        if not isinstance(told["columns"], list) or not told["columns"]:
            raise ValueError(f"{rows.path}: {key}.columns must be a list of columns, got {told['columns']!r}")
        cells = [rows.column(column, f"{key}.columns") for column in told["columns"]]
        held = torch.tensor([all(row) for row in zip(*cells, strict=True)])
        values = torch.stack([_numbers(rows, key, column) for column in cells], 1)
        return _said(infer_modality(name, values[held]), told), values, held
    cells = rows.column(told["column"], f"{key}.column")
    held = torch.tensor([cell != "" for cell in cells])
    if not held[: rows.train].any():
        raise ValueError(f"{rows.path}: no training row has {told['column']!r}")
    kind = told.get("kind", "image" if _are_pictures(cells) else "label")
    readers: dict[str, Callable] = {"image": _image, "label": _label, "text": _words, "vector": _vector}
    modality, values = readers[kind](rows, name, told, cells)
    return _said(modality, told), values, held


def _said(modality: Modality, told: dict[str, Any]) -> Modality:
    """The description with the likelihood that was asked for."""
    return replace(modality, likelihood=told.get("likelihood", modality.likelihood))


def _are_pictures(cells: Sequence[str]) -> bool:
    return all(cell.lower().endswith(_SUFFIXES) for cell in cells if cell)


def _image(rows: _Rows, name: str, told: dict[str, Any], cells: list[str]) -> tuple[Modality, Tensor]:
    size, channels = told.get("size"), told.get("channels", 3)
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        raise ValueError(f"{rows.path}: modalities.{name}.size must be [height, width] in pixels, got {size!r}")
    if channels not in (1, 3):
        raise ValueError(f"{rows.path}: modalities.{name}.channels must be 1 (grey) or 3 (colour), got {channels!r}")
    folder = rows.path.parent / told.get("folder", ".")
    files = [folder / cell if cell else None for cell in cells]
    values = torch.from_numpy(mapped_pictures(files, (channels, *size)))
    return infer_modality(name, values), values


def _label(rows: _Rows, name: str, told: dict[str, Any], cells: list[str]) -> tuple[Modality, Tensor]:
    classes = tuple(sorted({cell for cell in cells if cell}))
    ids = _ids([cell or classes[0] for cell in cells], classes)
    return Modality(name, (), "label", "categorical", len(classes), classes), ids


def _vector(rows: _Rows, name: str, told: dict[str, Any], cells: list[str]) -> tuple[Modality, Tensor]:
    values = _numbers(rows, f"modalities.{name}", cells).unsqueeze(1)
    return infer_modality(name, values[~values.isnan().any(1)]), values


def _words(rows: _Rows, name: str, told: dict[str, Any], cells: list[str]) -> tuple[Modality, Tensor]:
    words = told.get("tokens", "words") == "words"
    texts = [words_of(cell.lower()) if words else list(cell) for cell in cells]
    known = sorted({token for text in texts[: rows.train] for token in text} - {_PAD, _UNKNOWN})
    vocabulary = (_PAD, _UNKNOWN, *known)
    length = told.get("length", max(map(len, texts[: rows.train])))
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"{rows.path}: modalities.{name}.length must be a whole number from 1 on, got {length!r}")
    numbers = {token: number for number, token in enumerate(vocabulary)}
    ids = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in enumerate(texts):
        found = [numbers.get(token, 1) for token in text[:length]]
        ids[row, : len(found)] = torch.tensor(found, dtype=torch.int64)
    return Modality(name, (length,), "text", "categorical", len(vocabulary), vocabulary=vocabulary), ids


def _ids(cells: Sequence[str], classes: Sequence[str]) -> Tensor:
    numbers = {word: number for number, word in enumerate(classes)}
    return torch.tensor([numbers[cell] for cell in cells], dtype=torch.int64)


def _numbers(rows: _Rows, key: str, cells: Sequence[str]) -> Tensor:
    """float32, NaN where a cell is empty."""
    try:
        return torch.tensor([float(cell) if cell else float("nan") for cell in cells])
    except ValueError as error:
        raise ValueError(f"{rows.path}: {key} must be a column of numbers: {error}") from error


def _numbers_of(rows: _Rows, name: str, told: dict[str, Any], array: np.ndarray) -> Tensor:
    kinds = {"u1": np.uint8, "f": np.float32, "i": np.int64, "u": np.int64}
    dtype = kinds.get(array.dtype.str[1:], kinds.get(array.dtype.kind))
    if dtype is None or not array.ndim:
        raise ValueError(
            f"{rows.path}: modalities.{name} must be an array of numbers, got {array.dtype}, {array.shape}"
        )
    return torch.from_numpy(mapped_rows(rows.path.parent / told["file"], array, rows.order, dtype))
