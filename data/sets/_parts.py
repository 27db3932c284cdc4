"""Parts of a data set that must not be empty."""

from collections.abc import Mapping, Sized
from pathlib import Path

__all__ = ["check_parts"]


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
