r"""Data of one's own that a TOML file describes: a table with pictures, classes, texts and numbers, or arrays.

.. code-block:: toml

    table = "birds.csv"            # a row a line, its first line names the columns; empty cells (and nan) are missing
    split = [0.8, 0.1, 0.1]        # shares, drawn once from `seed`, or a column of train, validation and test
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
    likelihood = "laplace"         # in place of the one that suits
    scale = "learned"              # or a number, or "channels": one learned for each
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from multipyro.data.custom.columns import class_ids, modality_of
from multipyro.data.custom.tables import Rows, Table, read_table
from multipyro.data.custom.tensors import split_rows
from multipyro.data.custom.toml_schema import read_description
from multipyro.data.multimodal import MultimodalData
from multipyro.data.splits import Splits
from multipyro.data.storage.stored import stored_array

__all__ = ["load_toml"]

_SHARES = (0.8, 0.1, 0.1)


def load_toml(path: str | os.PathLike) -> Splits:
    r"""Three parts of the data that a TOML file describes.

    The description is that at the top of this module; a key that says nothing of its modality is an error.

    What a column holds is inferred where `kind` does not say it. If all cells end as pictures do (`.png`), it is an
    image. Numbers are a vector if some have fractions or more than 20 differ, else a label. Of other cells a label is
    made, unless more than 20 of those that train, and more than half of them, differ: that asks for a `kind`. Several
    columns are numbers; an array, and the likelihood of all these, are what `infer_modality` makes of them. A text's
    `tokens` are `"words"` (those that `tokenize` finds, in lower case; words that no training row has become `<unk>`)
    or `"characters"` (as they are; a replacement character stands for unknown ones); longer texts are cut at `length`,
    by default that of the longest training row.

    Missing are cells that are empty or `nan`, rows of which one of several columns is missing, and rows of an array
    that hold a NaN: they are masked. Infinite numbers are errors.

    Pictures are resized once and kept in the download folder as one file that is mapped, not read, into memory, so that
    they may be more than memory holds; so are arrays. Pictures that have changed are read again, and so are those of a
    folder that has been moved or unpacked again.

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
        >>> splits = load_toml(folder / "mine.toml")
        >>> len(splits.train), splits.train.modalities["sort"].class_names
        (32, ('x', 'y'))
    """
    path = Path(path).expanduser().resolve()
    content = read_description(path)
    table = _table(path, content)
    arrays = {name: _array(path, name, told) for name, told in content["modalities"].items() if "file" in told}
    sizes = {f"modalities.{name}.file": len(array) for name, array in arrays.items()}
    sizes |= {} if table is None else {"table": len(table.lines)}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"{path}: table and arrays must have the same number of rows, got {sizes}")
    parts = _parts(path, content, table, next(iter(sizes.values())))
    rows = Rows(path, table, np.concatenate(parts), len(parts[0]))
    modalities, x, observed = {}, {}, {}
    for name, told in content["modalities"].items():
        modalities[name], x[name], held = modality_of(rows, name, told, arrays.get(name))
        if not held.all():
            observed[name] = held
    labels = None
    if "labels" in content:
        cells = rows.column(content["labels"], "labels")
        if "" in cells:
            raise ValueError(
                f"{path}: every row needs a class, {cells.count('')} cells of {content['labels']!r} are empty"
            )
        labels, _ = class_ids(cells)
    name, begin, found = content.get("name", path.stem), 0, {}
    for split, part in zip(Splits.NAMES, parts, strict=True):
        mine = slice(begin, begin := begin + len(part))  # slices are views: nothing is read
        masks = {key: mask[mine] for key, mask in observed.items()} or None
        values = {key: value[mine] for key, value in x.items()}
        chosen = None if labels is None else labels[mine]
        found[split] = MultimodalData(name, modalities, values, masks, chosen, split, options={"file": str(path)})
    return Splits(**found)


def _table(path: Path, content: dict[str, Any]) -> Table | None:
    if "table" not in content:
        return None
    file = path.parent / content["table"]
    if not file.is_file():
        raise FileNotFoundError(f"{path}: there is no table {file}")
    return read_table(file)


def _array(path: Path, name: str, told: dict[str, Any]) -> np.ndarray:
    file = path.parent / told["file"]
    if not file.is_file():
        raise FileNotFoundError(f"{path}: modalities.{name}.file names {file}, which is not there")
    try:
        array = stored_array(file, "r")
        if not array.ndim:
            raise ValueError("it is a single number, expected an array with the rows first")
    except ValueError as error:
        raise ValueError(
            f"{path}: modalities.{name}.file names {file}, which is no array of numbers in a .npy file: {error}"
        ) from error
    return array


def _parts(path: Path, content: dict[str, Any], table: Table | None, number: int) -> list[np.ndarray]:
    split = content.get("split", _SHARES)
    if isinstance(split, str):
        cells = Rows(path, table, np.arange(number), 0).column(split, "split")
        if set(cells) != set(Splits.NAMES):
            raise ValueError(
                f"{path}: the column {split!r} must hold {Splits.NAMES}, each at least once, got {sorted(set(cells))}"
            )
        return [np.flatnonzero(np.array(cells) == part) for part in Splits.NAMES]
    try:
        return [part.numpy() for part in split_rows(number, split, content.get("seed", 0))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
