"""Tables of comma-separated values, whose cells and lines errors can name."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Rows", "Table", "number_of", "read_table"]

# what stands for nothing, beside an empty cell: numpy and pandas write so
_MISSING = ("nan", "+nan", "-nan")
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Args:
        file: Where it comes from.
        columns: Column name -> its cells, without the blanks around them; `""` where one is missing.
        lines: The line on which each row begins.
    """

    file: Path
    columns: dict[str, list[str]]
    lines: list[int]


@dataclass(frozen=True)
class Rows:
    """The rows of a description in the order of its parts: those that train, then that validate, then that test.

    Args:
        path: The description.
        table: Its table; None without one.
        order: Number of each row in the table and in arrays, int64 `(rows,)`.
        train: Number of rows that train.
    """

    path: Path
    table: Table | None
    order: np.ndarray
    train: int

    def column(self, name: Any, key: str) -> list[str]:
        """The cells of a column in this order.

        Raises:
            ValueError: If there is no such column; the message names the key that asks for it.
        """
        if self.table is None or name not in self.table.columns:
            there = "there is no table" if self.table is None else f"the table has {list(self.table.columns)}"
            raise ValueError(f"{self.path}: {key} names the column {name!r}: {there}")
        cells = self.table.columns[name]
        return [cells[row] for row in self.order]

    def numbers(self, name: Any, key: str) -> Tensor:
        """The numbers of a column, float32 `(rows,)`, NaN where a cell is missing.

        Raises:
            ValueError: If a cell is no number, or one that is infinite in float32; the message names its line.
        """
        cells = self.column(name, key)
        values = [number_of(cell) for cell in cells]
        wrong = next((i for i, value in enumerate(values) if value is None or abs(value) > _LARGEST), None)
        if wrong is not None:
            line = self.table.lines[self.order[wrong]]
            raise ValueError(
                f"{self.path}: {key} must be a column of numbers up to {_LARGEST:.2g}: column {name!r} of "
                f"{self.table.file} has {cells[wrong]!r} on line {line}"
            )
        return torch.tensor(values, dtype=torch.float32)


def number_of(cell: str) -> float | None:
    """What a cell says: NaN if it is empty, None if it is no number."""
    try:
        # Python takes 1_2 for 12
        return None if "_" in cell else float(cell or math.nan)
    except ValueError:
        return None


def read_table(file: Path) -> Table:
    """A table whose first line names the columns; empty lines are no rows.

    Raises:
        ValueError: If it is no such table; the message names the file and the line.
    """
    begin, rows, lines = 1, [], []
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            for cells in reader:
                if cells:
                    rows.append([cell.strip() for cell in cells])
                    lines.append(begin)
                begin = reader.line_num + 1
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"{file} is no table of comma-separated values in UTF-8: {error}, after line {begin - 1}"
            ) from error
    if not rows:
        raise ValueError(f"{file} is empty: its first line must name the columns")
    header, *rows = rows
    _check(file, header, rows, lines[1:])
    columns = {name: [_known(row[number]) for row in rows] for number, name in enumerate(header)}
    return Table(file, columns, lines[1:])


def _check(file: Path, header: list[str], rows: Sequence[list[str]], lines: list[int]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{file} must have columns of different names, got more than one called {twice}")
    if not rows:
        raise ValueError(f"{file} has no rows, only the columns {header}")
    wrong = next((row for row, cells in enumerate(rows) if len(cells) != len(header)), None)
    if wrong is not None:
        raise ValueError(
            f"{file} must have {len(header)} cells in every row, as its first line: the row on line {lines[wrong]} "
            f"has {len(rows[wrong])}"
        )


def _known(cell: str) -> str:
    return "" if cell.lower() in _MISSING else cell
