"""How many rows are asked for, and parts of a data set that must not be empty."""

from collections.abc import Mapping, Sized
from pathlib import Path

__all__ = ["check_num_rows", "check_parts"]


def check_num_rows(num_rows: int | None) -> None:
    """Refuses what is no number of rows.

    Raises:
        ValueError: If `num_rows` is neither a whole number from 1 on nor None.
    """
    if num_rows is not None and (isinstance(num_rows, bool) or not isinstance(num_rows, int) or num_rows < 1):
        raise ValueError(f"num_rows must be a whole number from 1 on, or None, got {num_rows!r}")


def check_parts(parts: Mapping[str, Sized], source: Path) -> None:
    """Refuses a set one of whose parts has no rows: it could not train, choose or judge.

    Args:
        parts: What each part has, by its name.
        source: What messages call the set.

    Raises:
        ValueError: If a part is empty.
    """
    empty = [name for name, rows in parts.items() if not len(rows)]
    if empty:
        counts = ", ".join(f"{len(rows)} of {name}" for name, rows in parts.items())
        raise ValueError(f"{source} has no rows of the {' and '.join(empty)} part, got {counts}: give it more rows")
