"""Arguments as the texts that the command line takes."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["flags", "token"]


def token(value: Any, separator: str = ",") -> str:
    """A value as the command line takes it.

    Example:
        >>> token({"image": 1.0, "word": [1, 2]}), token({"image": 1.0, "word": [1, 2]}, " ")
        ('image=1.0,word=1,2', 'image=1.0 word=1,2')
    """
    if isinstance(value, Mapping):
        return separator.join(f"{name}={token(inner)}" for name, inner in value.items())
    return separator.join(map(token, value)) if isinstance(value, list | tuple) else str(value)


def flags(arguments: Mapping[str, Any]) -> Iterator[str]:
    """The flags of arguments; none for those that are None, False or empty.

    Example:
        >>> list(flags({"hidden": (8, 8), "resume": True, "option": {"beta": 2, "private": 3}, "out": None, "seed": 0}))
        ['--hidden', '8', '8', '--resume', '--option', 'beta=2', '--option', 'private=3', '--seed', '0']
    """
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if name in ("option", "data_option"):
            for pair in value.items():
                yield from (flag, token(dict([pair])))
        elif value is True:
            yield flag
        elif value is not None and value is not False and value not in ({}, [], ()):
            values = [{key: inner} for key, inner in value.items()] if isinstance(value, Mapping) else value
            yield from (flag, *map(token, values if isinstance(values, list | tuple) else [values]))
