"""What a TOML file may say of data: its keys, what they hold, and which of them go together."""

import math
import os
import tomllib
from pathlib import Path
from typing import Any

from multipyro.data.modality import KINDS, LIKELIHOODS

__all__ = ["check_applies", "is_whole", "read_description"]

_KEYS = {"name", "table", "split", "seed", "labels", "modalities"}
_SOURCES = ("column", "columns", "file")
_COLUMN, _NUMBERS = ("column", "kind", "likelihood"), ("likelihood", "scale")
# what a modality is made of -> what it is called, and the keys that say something of it
_APPLY = {
    "file": ("an array", ("file", *_NUMBERS)),
    "columns": ("several columns", ("columns", *_NUMBERS)),
    "image": ("pictures", (*_COLUMN, "scale", "folder", "size", "channels")),
    "label": ("a label", _COLUMN),
    "text": ("a text", (*_COLUMN, "length", "tokens")),
    "vector": ("a column of numbers", (*_COLUMN, "scale")),
}
_MODALITY_KEYS = {key for _, keys in _APPLY.values() for key in keys}
_ONE_OF = {"kind": KINDS, "likelihood": LIKELIHOODS, "tokens": ("words", "characters"), "channels": (1, 3)}
# key of a modality -> what it must be, in words
_EXPECTED = {
    **dict.fromkeys(("column", "file", "folder"), "a string"),
    **{key: f"one of {values}" for key, values in _ONE_OF.items()},
    "columns": "a list of names of columns",
    "size": "[height, width], in pixels from 1 to 4096",
    "length": "a whole number from 1 to 65536",
    "scale": "a number above 0, 'learned' or 'channels'",
}
# a description that asks for more is wrong, and would fill memory
_SIDE, _LENGTH = 4_096, 65_536


def read_description(path: str | os.PathLike) -> dict[str, Any]:
    """What a description says, checked as far as it can be without the data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no TOML file, or says what is unknown or of another type; the message names the key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no description {path}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from error
    _check_keys(f"{path}", content, _KEYS)
    for key in ("name", "table", "labels"):
        if not isinstance(content.get(key, ""), str):
            raise ValueError(f"{path}: {key} must be a string, got {content[key]!r}")
    if not is_whole(content.get("seed", 0), 0, 2**63 - 1):
        raise ValueError(f"{path}: seed must be a whole number from 0 to 2**63 - 1, got {content['seed']!r}")
    if not isinstance(content.get("split", []), list | str):
        raise ValueError(f"{path}: split must be a list of three shares or a column, got {content['split']!r}")
    modalities = content.get("modalities")
    if not isinstance(modalities, dict) or not modalities:
        raise ValueError(f"{path} must describe at least one modality, as [modalities.image], got {modalities!r}")
    for name, told in modalities.items():
        place = f"{path}: modalities.{name}"
        if not isinstance(told, dict):
            raise ValueError(f"{place} must be a table of keys, got {told!r}")
        _check_keys(place, told, _MODALITY_KEYS)
        _check_modality(place, told, "table" in content)
    return content


def check_applies(place: str, told: dict[str, Any], what: str) -> None:
    """Raises unless all keys of a modality say something of it.

    Args:
        place: What messages call it.
        told: Its keys.
        what: Its kind, or `"file"` or `"columns"`.

    Raises:
        ValueError: If a key would be ignored; the message lists those that apply.
    """
    title, keys = _APPLY[what]
    others = [key for key in told if key not in keys]
    if others:
        said = "" if what not in KINDS or "kind" in told else ", as its cells look; kind may say otherwise"
        raise ValueError(
            f"{place} is {title}{said}: {', '.join(others)} {'does' if len(others) == 1 else 'do'} not apply, "
            f"what applies is {', '.join(keys)}"
        )


def is_whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is a whole number in a range; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _check_keys(place: str, content: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(content) - known)
    if unknown:
        raise ValueError(f"{place} has the unknown key {', '.join(unknown)}: there are {', '.join(sorted(known))}")


def _check_modality(place: str, told: dict[str, Any], table: bool) -> None:
    sources = [key for key in _SOURCES if key in told]
    if len(sources) != 1:
        raise ValueError(f"{place} needs one of column, columns and file, got {sources}")
    if "file" not in told and not table:
        raise ValueError(f"{place} names a column, but there is no table")
    for key, value in told.items():
        if not _is_sound(key, value):
            raise ValueError(f"{place}.{key} must be {_EXPECTED[key]}, got {value!r}")
    what = sources[0] if sources != ["column"] else told.get("kind")
    if what is not None:
        check_applies(place, told, what)


def _is_sound(key: str, value: Any) -> bool:
    match key:
        case "size":
            return isinstance(value, list) and len(value) == 2 and all(is_whole(side, 1, _SIDE) for side in value)
        case "length":
            return is_whole(value, 1, _LENGTH)
        case "columns":
            return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)
        case "channels":
            return is_whole(value, 1, 3) and value in _ONE_OF[key]
        case "scale":
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return value in ("learned", "channels") or (number and 0 < value < math.inf)
    return isinstance(value, str) and value in _ONE_OF.get(key, (value,))
