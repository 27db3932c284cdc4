"""Checks of the options and parts of data sets."""

from collections.abc import Collection, Mapping, Sized
from pathlib import Path
from typing import Any

__all__ = ["check_choice", "check_pairs", "check_parts"]


def check_choice(option: str, value: Any, choices: Collection[Any]) -> None:
    """Checks an option with a few values.

    Raises:
        ValueError: If the value is not one of `choices`.
    """
    if value not in choices:
        raise ValueError(f"{option} must be one of {choices}, got {value!r}")


def check_pairs(pairs: int) -> None:
    """Checks how often examples are paired.

    Raises:
        ValueError: If it is not a positive integer.
    """
    if isinstance(pairs, bool) or not isinstance(pairs, int) or pairs < 1:
        raise ValueError(f"pairs must be a positive integer, got {pairs!r}")


def check_parts(parts: Mapping[str, Sized], source: Path) -> None:
    """Raises for a data set with an empty part, which could not train, select or test a model.

    Args:
        parts: Name of each part -> its rows.
        source: Name of the data set in messages.

    Raises:
        ValueError: If a part is empty.
    """
    empty = [name for name, rows in parts.items() if not len(rows)]
    if empty:
        counts = ", ".join(f"{len(rows)} {name}" for name, rows in parts.items())
        raise ValueError(f"{source} has no examples for {' and '.join(empty)}, got {counts}: add images")
