r"""User-defined data that a TOML file describes: a table with images, classes, texts and numbers, or arrays.

.. code-block:: toml

    table = "birds.csv"            # or .tsv, .parquet; a row for each example; empty cells and nan are missing
    split = [0.8, 0.1, 0.1]        # fractions, drawn once from `seed`, or a column of train, validation and test
    groups = "bird"                # optional: a column; rows of one group go to one part
    labels = "species"             # optional: a column with the class of each row, for metrics
    ids = "ring"                   # optional: a column that identifies each row
    weights = "w"                  # optional: a column with sampling weights

    [modalities.image]
    column = "file"                # images, relative to the TOML file or to `folder`
    size = [64, 64]                # height and width that all are resized to

    [modalities.species]
    column = "species"             # a label: its values, sorted, are the classes, or declare `classes = [...]`

    [modalities.caption]
    column = "caption"             # a text, of words or characters
    kind = "text"
    length = 32

    [modalities.size]
    columns = ["weight", "wing"]   # numbers; single ones may be missing
    scaling = "robust"             # by default "standardize", learned from the training rows; or "none"

    [modalities.songs]
    columns = ["trills", "calls"]  # counts
    kind = "counts"
    exposure = "minutes"           # a column, or "sum"

    [modalities.site]
    column = "site"                # conditions the networks, see `MultimodalData`; also an `ordinal` or numbers
    covariate = true

    [modalities.spectrum]
    file = "spectrum.npy"          # an array, the rows first
    likelihood = "laplace"         # in place of the default of its kind
    scale = "learned"              # or a number, or "channels": one learned for each
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from multipyro.data.custom.assembly import Extras, assemble_splits
from multipyro.data.custom.frames import row_parts, table_of
from multipyro.data.custom.readers import Array, Source
from multipyro.data.custom.schema import read_description
from multipyro.data.custom.splitting import SHARES
from multipyro.data.custom.tables import Table
from multipyro.data.modality import Modality
from multipyro.data.splits import Splits
from multipyro.data.storage.files import printable
from multipyro.data.storage.stored import stored_array

__all__ = ["Described", "load_toml", "open_toml"]


def load_toml(
    path: str | os.PathLike,
    modalities: Mapping[str, Modality] | None = None,
    label_names: Sequence[str] | None = None,
) -> Splits:
    r"""Training, validation and test data that a TOML file describes.

    The format is described at the top of this module; a key that does not apply to its modality is an error.

    The kind of a column is inferred unless `kind` is declared. If all cells end as image files do (`.png`), it is
    an image. Whole numbers from 0 to 19 are a label, other numbers a vector. Other cells are a label, unless more than
    20 of the training rows', and more than half of them, differ: then a `kind` is needed. Several columns are a vector;
    the kind of an array, and the likelihoods, are inferred by `infer_modality`. Real vectors are standardized,
    unless they have a fixed scale or a `scaling`. A text's `tokens` are `"words"` (those that `tokenize`
    finds, in lower case; words that no training row has become `<unk>`) or `"characters"` (as they are; a replacement
    character stands for unknown ones); longer texts are cut at `length`, by default that of the longest training text.

    Cells that are empty or `nan`, and NaN in arrays, are missing. An example without any entry of a modality does not
    have it; a single missing entry is NaN. Infinite numbers are errors.

    Images are resized once and stored in the download folder in a file that is mapped, not read, into memory, so they
    may be larger than memory; so are large arrays. Images that have changed are read again, and so are those of a
    folder that has been moved or unpacked again.

    Args:
        path: The TOML file; what it names is relative to its folder.
        modalities: Descriptions that the modalities must follow, such as those of a trained model.
        label_names: The classes that labels must have.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If the file, or one that it names, does not exist.
        ImportError: If reading a Parquet file needs a package that is not installed.
        ValueError: If it is not such a description, or the data contradicts it; the message names the file, the key,
            the value and what was expected.

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
    described = open_toml(path)
    content, place, table = described.content, described.place, described.table
    split, groups, seed = content.get("split", SHARES), content.get("groups"), content.get("seed", 0)
    parts = row_parts(place, table, described.rows, split, groups, seed)
    source = Source(place, np.concatenate(parts), len(parts[0]), table, described.arrays, "standardize")
    labels, ids, weights = described.columns
    options = {"file": str(described.path), "labels": labels, "ids": ids}
    extras = Extras.from_columns(source, labels, ids, weights, label_names, options)
    return assemble_splits(described.name, source, parts, content["modalities"], modalities or {}, extras)


class Described(NamedTuple):
    """A description and what it names, before any modality is read."""

    path: Path
    place: str
    content: dict[str, Any]
    table: Table | None
    arrays: dict[str, Array]
    rows: int

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.content.get("name", self.path.stem)

    @property
    def columns(self) -> tuple[str | None, str | None, str | None]:
        """The columns of labels, identifiers and weights."""
        return self.content.get("labels"), self.content.get("ids"), self.content.get("weights")


def open_toml(path: str | os.PathLike) -> Described:
    """Reads a description, its table and the headers of its arrays.

    Raises:
        FileNotFoundError: See `load_toml`.
        ImportError: See `load_toml`.
        ValueError: See `load_toml`; also if table and arrays have different numbers of rows.
    """
    path = Path(path).expanduser().resolve()
    content, place = read_description(path), printable(path)
    table = _table(path, place, content)
    specs = content["modalities"]
    arrays = {name: _array(path, place, name, spec["file"]) for name, spec in specs.items() if "file" in spec}
    sizes = {f"modalities.{name}.file": len(array.values) for name, array in arrays.items()}
    sizes |= {} if table is None else {"table": len(table)}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"{place}: table and arrays must have the same number of rows, got {sizes}")
    return Described(path, place, content, table, arrays, next(iter(sizes.values())))


def _table(path: Path, place: str, content: dict[str, Any]) -> Table | None:
    if "table" not in content:
        return None
    file = path.parent / content["table"]
    if not file.is_file():
        raise FileNotFoundError(f"{place}: there is no table {printable(file)}")
    return replace(table_of(file)[0], folder=path.parent)


def _array(path: Path, place: str, name: str, named: str) -> Array:
    file = path.parent / named
    title = f"{place}: modalities.{name}.file names {printable(file)}, which"
    if not file.is_file():
        raise FileNotFoundError(f"{title} is missing")
    try:
        array = stored_array(file, "r")
        if not array.ndim:
            raise ValueError("it is a single number, expected an array with the rows first")
    except ValueError as error:
        raise ValueError(f"{title} is not an array of numbers in a .npy file: {error}") from error
    return Array(array, file=file)
