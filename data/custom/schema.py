"""The schema of a description of user-defined data: its keys, their types, and which of them go together."""

import math
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multipyro.data.modality import KINDS, LIKELIHOODS, check_name
from multipyro.data.scaling import SCALINGS, scaling_steps
from multipyro.data.storage.files import printable

__all__ = ["check_applies", "check_modalities", "read_description"]

_KEYS = {"groups", "ids", "labels", "modalities", "name", "seed", "split", "table", "weights"}
_SOURCES = ("column", "columns", "file")
# kind -> the keys that apply to it, beside its source, `kind` and `likelihood`
_KIND_KEYS: dict[str, tuple[str, ...]] = {
    "counts": ("exposure",),
    "grid": ("scale", "scaling"),
    "image": ("scale", "folder", "size", "channels"),
    "label": ("classes", "covariate"),
    "ordinal": ("classes", "covariate"),
    "text": ("length", "tokens"),
    "vector": ("scale", "scaling", "covariate"),
}
_FILES_ONLY = ("folder", "size", "channels", "length", "tokens")
# kinds of several columns together
_NUMBERS = ("angles", "counts", "positive", "proportions", "vector")
_TITLES = {"file": "an array", "columns": "several columns"}
_KIND_TITLES = {"image": "a column of images", "label": "a label", "text": "a text", "vector": "a column of numbers"}
# larger numbers are mistakes, and would fill memory
_SIDE, _LENGTH, _MODALITIES = 4_096, 65_536, 1_000


def _is_whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is a whole number in a range, and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_list(value: Any, kind: type) -> bool:
    """Whether a value is a list of different values of a type."""
    listed = isinstance(value, Sequence) and not isinstance(value, str) and bool(value)
    return listed and all(isinstance(item, kind) for item in value) and (kind is int or len(set(value)) == len(value))


def _is_size(value: Any) -> bool:
    return _is_list(value, int) and len(value) == 2 and all(_is_whole(side, 1, _SIDE) for side in value)


def _is_scale(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value in ("learned", "channels") or (number and 0 < value < math.inf)


def _is_scaling(value: Any) -> bool:
    try:
        return value == "none" or bool(scaling_steps(value))
    except (TypeError, ValueError):
        return False


def _one_of(*choices: Any) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {choices}", lambda value: type(value) is type(choices[0]) and value in choices


# key of a modality -> what its value must be, in words and as a function
_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("column", "file", "folder"), ("a string", lambda value: isinstance(value, str))),
    "channels": _one_of(1, 3),
    "classes": ("a list of different strings", lambda value: _is_list(value, str)),
    "columns": ("a list of different names of columns", lambda value: _is_list(value, str)),
    "covariate": ("true or false", lambda value: isinstance(value, bool)),
    "exposure": ("'sum', or the name of a column", lambda value: isinstance(value, str)),
    "kind": _one_of(*KINDS),
    "length": (f"a whole number from 1 to {_LENGTH}", lambda value: _is_whole(value, 1, _LENGTH)),
    "likelihood": _one_of(*LIKELIHOODS),
    "scale": ("a number above 0, 'learned' or 'channels'", _is_scale),
    "scaling": (f"'none', one of {SCALINGS}, or ['log1p', 'standardize' or 'robust']", _is_scaling),
    "size": (f"[height, width], in pixels from 1 to {_SIDE}", _is_size),
    "tokens": _one_of("words", "characters"),
}


def read_description(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a TOML description, checked as far as it can be without the data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a TOML file, or has an unknown key or a value of a wrong type; the message names the
            key.
    """
    path, title = Path(path), printable(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no description {title}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{title} is not a TOML file: {error}") from error
    _check_keys(title, content, _KEYS)
    for key in ("name", "table", "labels", "ids", "groups", "weights"):
        if not isinstance(content.get(key, ""), str):
            raise ValueError(f"{title}: {key} must be a string, got {content[key]!r}")
    if not _is_whole(content.get("seed", 0), 0, 2**63 - 1):
        raise ValueError(f"{title}: seed must be a whole number from 0 to 2**63 - 1, got {content['seed']!r}")
    if not isinstance(content.get("split", []), list | str):
        raise ValueError(f"{title}: split must be a list of three fractions or a column, got {content['split']!r}")
    modalities = content.get("modalities")
    if not isinstance(modalities, dict) or not modalities:
        raise ValueError(f"{title} must describe at least one modality, as [modalities.image], got {modalities!r}")
    check_modalities(title, modalities, "table" in content)
    return content


def check_modalities(place: str, modalities: Mapping[str, Any], table: bool) -> None:
    """Checks the description of each modality.

    Args:
        place: Beginning of messages.
        modalities: Modality name -> its keys.
        table: Whether there is a table, which columns need.

    Raises:
        TypeError: If a name is not a string.
        ValueError: If a key is unknown, has a wrong type or does not apply; the message names it.
    """
    if len(modalities) > _MODALITIES:
        raise ValueError(f"{place} describes {len(modalities)} modalities, expected at most {_MODALITIES}")
    for name, spec in modalities.items():
        try:
            check_name(name)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        here = f"{place}: modalities.{name}"
        if not isinstance(spec, Mapping):
            raise ValueError(f"{here} must be a table of keys, got {spec!r}")
        _check_keys(here, spec, set(_VALUES))
        _check_modality(here, spec, table)


def check_applies(place: str, spec: Mapping[str, Any], kind: str) -> None:
    """Raises unless every key of a modality applies to its kind.

    Args:
        place: Beginning of messages.
        spec: Its keys.
        kind: Its kind, declared or inferred.

    Raises:
        ValueError: If a key would be ignored; the message lists those that apply.
    """
    source = next(key for key in _SOURCES if key in spec)
    if source == "columns" and kind not in _NUMBERS:
        raise ValueError(f"{place} is several columns, whose kind can be {_NUMBERS}, got {kind!r}")
    extra = [key for key in _KIND_KEYS.get(kind, ()) if source == "column" or key not in _FILES_ONLY]
    keys = (source, "kind", "likelihood", *extra)
    others = [key for key in spec if key not in keys]
    if others:
        title = _TITLES.get(source) or _KIND_TITLES.get(kind, f"a column of {kind}")
        inferred = "" if "kind" in spec else f", inferred to be of kind {kind!r}"
        raise ValueError(
            f"{place} is {title}{inferred}: {', '.join(others)} {'does' if len(others) == 1 else 'do'} not apply, "
            f"what applies is {', '.join(keys)}"
        )


def _check_keys(place: str, content: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(content) - known)
    if unknown:
        raise ValueError(f"{place} has the unknown key {', '.join(unknown)}: there are {', '.join(sorted(known))}")


def _check_modality(place: str, spec: Mapping[str, Any], table: bool) -> None:
    sources = [key for key in _SOURCES if key in spec]
    if len(sources) != 1:
        raise ValueError(f"{place} needs one of column, columns and file, got {sources}")
    if "file" not in spec and not table:
        raise ValueError(f"{place} names a column, but there is no table")
    for key, value in spec.items():
        expected, is_valid = _VALUES[key]
        if not is_valid(value):
            raise ValueError(f"{place}.{key} must be {expected}, got {value!r}")
    if "kind" in spec:
        check_applies(place, spec, spec["kind"])
        if spec.get("likelihood") not in (None, *KINDS[spec["kind"]]):
            raise ValueError(
                f"{place}.likelihood must be one of {KINDS[spec['kind']]} for kind {spec['kind']!r}, got "
                f"{spec['likelihood']!r}"
            )
