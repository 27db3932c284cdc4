"""Tables: CSV and Parquet files, data frames and dicts of columns, with line numbers for error messages."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from multipyro._optional import optional_imports
from multipyro.data.storage.files import printable

__all__ = ["Column", "Table", "as_column", "as_table", "cells_of", "number_of", "numbers_of", "read_table"]

# what stands for a missing value, beside an empty cell: numpy and pandas write these
_MISSING = ("nan", "+nan", "-nan")
# types of missing values that pandas has beside None and NaN
_MISSING_TYPES = ("NAType", "NaTType")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        values: Texts without surrounding blanks, `""` where one is missing; or numbers `(rows,)`, int64, or float64
            with NaN where one is missing; or arrays, `(rows, *shape)`.
        observed: Bool `(rows,)`, for integers and arrays that cannot contain NaN; None if all rows are there.
        classes: Names of the classes of a categorical column, in order; None for other columns.
        ordered: Whether the classes are ordered.
    """

    values: list[str] | np.ndarray
    observed: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    ordered: bool = False

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_array(self) -> bool:
        """Whether every row is an array."""
        return not isinstance(self.values, list) and self.values.ndim > 1


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Args:
        title: Name of the table in messages.
        columns: Column name -> the column.
        lines: Line of the file on which each row begins; None without a file.
        ids: Identifier of each row that the table has beside its columns; None without one.
        folder: Folder that relative paths of images start from.
    """

    title: str
    columns: dict[str, Column]
    lines: list[int] | None = None
    ids: np.ndarray | None = None
    folder: Path = field(default_factory=Path)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def place(self, row: int) -> str:
        """Where a row is, for messages."""
        return f"on line {self.lines[row]}" if self.lines is not None else f"in row {row}"


def read_table(file: Path) -> Table:
    """Reads a file: `.parquet`; `.tsv` with tabs; any other with commas, whose first line names the columns.

    Empty lines are not rows.

    Raises:
        ImportError: If a Parquet file is to be read and pandas or pyarrow is not installed.
        ValueError: If the file is not such a table; the message names the file and the line.
    """
    if file.suffix.lower() == ".parquet":
        with optional_imports("reading Parquet files"):
            import pandas
            import pyarrow  # noqa: F401  pandas alone would name two packages to install
        try:
            frame = pandas.read_parquet(file)
        except Exception as error:  # on damaged bytes the reader may raise any exception
            raise ValueError(f"{printable(file)} is damaged or not a Parquet file ({error})") from error
        return as_table(frame, printable(file), file.parent)
    begin, rows, lines = 1, [], []
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True, delimiter=_SEPARATORS.get(file.suffix.lower(), ","))
        try:
            for cells in reader:
                if cells:
                    rows.append([cell.strip() for cell in cells])
                    lines.append(begin)
                begin = reader.line_num + 1
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"{printable(file)} is not a table of comma-separated values in UTF-8: {error}, after line {begin - 1}"
            ) from error
    if not rows:
        raise ValueError(f"{printable(file)} is empty: its first line must name the columns")
    header, *rows = rows
    _check(printable(file), header, rows, lines[1:])
    columns = {name: Column([_known(row[number]) for row in rows]) for number, name in enumerate(header)}
    return Table(printable(file), columns, lines[1:], folder=file.parent)


def as_table(frame: Any, title: str = "the table", folder: Path | None = None) -> Table:
    """The columns of a data frame.

    Args:
        frame: A pandas or polars DataFrame, a pyarrow Table, a Hugging Face Dataset, or a dict of column name to
            values.
        title: Name of the table in messages.
        folder: Folder that relative paths of images start from; the current one by default.

    Raises:
        TypeError: If it is none of these, or a column's name is not a string.
        ValueError: If it has no columns or no rows, two columns of one name, or columns of different lengths.
    """
    names = _column_names(frame)
    if not names:
        raise ValueError(f"{title} has no columns")
    columns = {}
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names of columns must be strings, {title} has {name!r}")
        if name in columns:
            raise ValueError(f"{title} must have columns of different names, got more than one called {name!r}")
        columns[name] = as_column(frame[name], f"column {name!r} of {title}")
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the columns of {title} must have the same number of rows, got {sizes}")
    if not next(iter(sizes.values())):
        raise ValueError(f"{title} has no rows, only the columns {names}")
    index = getattr(frame, "index", None)  # only pandas has one; that of a list is a method
    ids = None if index is None or callable(index) else np.array(cells_of(as_column(index.tolist(), "the index")))
    if ids is not None and getattr(index, "dtype", None) == np.int64:
        ids = np.asarray(index)
    return Table(title, columns, ids=ids, folder=folder or Path())


def as_column(values: Any, title: str) -> Column:
    """A column of any kind: numbers, texts, classes, arrays, images.

    Args:
        values: An array or tensor with the rows first, a series, or a list of numbers, strings, arrays or images;
            None, NaN and pandas' missing values are missing.
        title: Name of the table in messages.

    Raises:
        TypeError: If the rows are of unknown types, or of several.
        ValueError: If arrays have different shapes.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    classes, ordered = _categories(values)
    array = values if isinstance(values, np.ndarray) else _numeric_array(values)
    if array is not None and array.dtype.kind in "iufb" and array.ndim:
        return _array_column(array)
    if not isinstance(values, Iterable):
        raise TypeError(f"{title} must be an array, a column or a list, got {values!r}")
    rows = [None if _is_missing(cell) else _scalar(cell) for cell in _listed(values)]
    known = [cell for cell in rows if cell is not None]
    if all(isinstance(cell, str) for cell in known):
        return Column(["" if cell is None else _known(cell.strip()) for cell in rows], None, classes, ordered)
    if all(isinstance(cell, bool | np.bool_) for cell in known):
        return Column(["" if cell is None else str(bool(cell)) for cell in rows])
    if all(isinstance(cell, int | float) for cell in known):
        whole = all(isinstance(cell, int) for cell in known)
        numbers = [(0 if whole else math.nan) if cell is None else cell for cell in rows]
        observed = np.array([cell is not None for cell in rows])
        complete = not whole or observed.all()
        array = np.array(numbers, np.int64 if whole else np.float64)
        return Column(array, None if complete else observed, classes, ordered)
    if all(hasattr(cell, "__array__") or hasattr(cell, "getbands") or isinstance(cell, list | tuple) for cell in known):
        return _stacked(rows, title)
    kinds = sorted({type(cell).__name__ for cell in known})
    raise TypeError(f"{title} must have numbers, strings, arrays or images of one type, got {', '.join(kinds)}")


def cells_of(column: Column) -> list[str]:
    """The texts of a column without arrays: whole numbers without a fraction, `""` where a value is missing."""
    if isinstance(column.values, list):
        return column.values
    numbers = numbers_of(column).tolist()
    return ["" if math.isnan(n) else f"{n:.0f}" if n.is_integer() else repr(n) for n in numbers]


def numbers_of(column: Column) -> np.ndarray | None:
    """The numbers of a column without arrays, float64 with NaN where one is missing; None if a text is not a number."""
    if not isinstance(column.values, list):
        numbers = column.values.astype(np.float64)
        return numbers if column.observed is None else np.where(column.observed, numbers, math.nan)
    numbers = [number_of(cell) for cell in column.values]
    return None if None in numbers else np.array(numbers, np.float64)


def number_of(cell: str) -> float | None:
    """The number that a cell contains: NaN if it is empty, None if it is not a number."""
    try:
        # Python reads 1_2 as 12
        return None if "_" in cell else float(cell or math.nan)
    except ValueError:
        return None


def _column_names(frame: Any) -> list[Any]:
    if isinstance(frame, Mapping):
        return list(frame)
    for attribute in ("column_names", "columns"):  # pyarrow's `columns` are values
        names = getattr(frame, attribute, None)
        if isinstance(names, Iterable):
            return list(names)
    raise TypeError(
        "a table must be a pandas or polars DataFrame, a pyarrow Table, a Hugging Face Dataset or a dict of columns, "
        f"got {type(frame).__name__}"
    )


def _categories(values: Any) -> tuple[tuple[str, ...] | None, bool]:
    """The classes of a categorical series of pandas, and whether they are ordered."""
    dtype = getattr(values, "dtype", None)
    categories = getattr(dtype, "categories", None)
    if categories is None or callable(categories) or not hasattr(dtype, "ordered"):
        return None, False
    return tuple(cells_of(as_column(list(categories), "categories"))), bool(dtype.ordered)


def _numeric_array(values: Any) -> np.ndarray | None:
    """An array of the values if their type is numeric."""
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind in "iufb":
        return np.asarray(values)
    return None


def _array_column(array: np.ndarray) -> Column:
    if array.ndim > 1:
        return Column(array)
    if array.dtype.kind == "b":
        return Column([str(bool(value)) for value in array])
    return Column(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))


def _listed(values: Any) -> list[Any]:
    for method in ("to_pylist", "to_list", "tolist"):  # of pyarrow, of polars and pandas, of numpy
        if hasattr(values, method):
            return getattr(values, method)()
    return list(values)


def _is_missing(cell: Any) -> bool:
    return cell is None or type(cell).__name__ in _MISSING_TYPES or (isinstance(cell, float) and math.isnan(cell))


def _scalar(cell: Any) -> Any:
    """A number of Python in place of an array or tensor without dimensions."""
    return cell.item() if getattr(cell, "ndim", None) == 0 else cell


def _stacked(rows: Sequence[Any], title: str) -> Column:
    """Arrays, lists or images of one shape, as one array; of images the channels come first."""
    arrays = [None if row is None else _row_array(row) for row in rows]
    known = [array for array in arrays if array is not None]
    shapes = sorted({array.shape for array in known})
    if len(shapes) > 1:
        raise ValueError(f"all values of {title} must have one shape, got {shapes[0]} and {shapes[-1]}")
    if any(array.dtype.kind not in "iufb" for array in known):
        raise TypeError(f"{title} must have numbers in its arrays, got {known[0].dtype}")
    dtype = np.result_type(*known)
    filler = np.full(shapes[0], np.nan if dtype.kind == "f" else 0, dtype)
    observed = np.array([array is not None for array in arrays])
    values = np.stack([filler if array is None else array for array in arrays]).astype(dtype)
    return Column(values[:, None] if values.ndim == 1 else values, None if observed.all() else observed)


def _row_array(row: Any) -> np.ndarray:
    array = np.asarray(row.detach().cpu() if hasattr(row, "detach") else row)
    if hasattr(row, "getbands") and array.ndim == 3:  # an image of Pillow
        array = array.transpose(2, 0, 1)
    return array


def _check(title: str, header: list[str], rows: Sequence[list[str]], lines: list[int]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{title} must have columns of different names, got more than one called {twice}")
    if not rows:
        raise ValueError(f"{title} has no rows, only the columns {header}")
    wrong = next((row for row, cells in enumerate(rows) if len(cells) != len(header)), None)
    if wrong is not None:
        raise ValueError(
            f"{title} must have {len(header)} cells in every row, as in its first line: the row on line {lines[wrong]} "
            f"has {len(rows[wrong])}"
        )


def _known(cell: str) -> str:
    return "" if cell.lower() in _MISSING else cell
