"""Types and actions of the command line's arguments: each text is parsed here, once."""

import argparse
import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "LikelihoodChoice",
    "NamedValues",
    "OptionValue",
    "UniqueNames",
    "existing_folder",
    "integer",
    "likelihood_choice",
    "literal",
    "number",
    "path",
    "share",
]


class LikelihoodChoice(NamedTuple):
    """What `--likelihood` says of a modality.

    Args:
        likelihood: Name of the likelihood.
        scale: Its scale: a number, `"learned"` or `"channels"`; None for its default.
    """

    likelihood: str
    scale: float | str | None


class NamedValues(argparse.Action):
    """`NAME=VALUE` pairs, stored as a dict; further uses and names add to it.

    Args:
        convert: From the text of a value to the value.
        for_all: Whether a value may stand alone, without a name: the value of all names, stored under None, which
            replaces earlier ones.
        separated: Whether pairs may be separated by commas as well as by spaces.
        **settings: As of `argparse.Action`.
    """

    def __init__(
        self, *, convert: Callable[[str], Any], for_all: bool = False, separated: bool = True, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.convert, self.for_all, self.separated = convert, for_all, separated

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        named = {}
        for text in (text for value in values for text in (value.split(",") if self.separated else [value]) if text):
            name, separator, value = text.rpartition("=") if self.separated else text.partition("=")
            if not (separator and name) and not (self.for_all and not separator):
                raise argparse.ArgumentError(self, f"must be NAME=VALUE, got {text!r}")
            if (name or None) in named:
                raise argparse.ArgumentError(self, f"names {name or 'all modalities'} twice")
            try:
                named[name or None] = self.convert(value)
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentError(self, f"{error} ({text})") from None
        before = {} if None in named else getattr(namespace, self.dest, None) or {}
        setattr(namespace, self.dest, {**before, **named})


class OptionValue(argparse.Action):
    """An option of the method, from `--option KEY=VALUE` or from a flag of its own.

    All are stored as texts in one dict, so that a flag and an `--option` that contradict each other are refused.

    Args:
        option: The name of the option; None for KEY=VALUE.
        **settings: As of `argparse.Action`.
    """

    def __init__(self, *, option: str | None = None, **settings: Any) -> None:
        super().__init__(**{**settings, "dest": "options", "default": {}})
        self.option = option

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        texts = [values] if isinstance(values, str) else values
        name, separator, text = (self.option, "=", ",".join(texts)) if self.option else texts[0].partition("=")
        if not (name and separator):
            raise argparse.ArgumentError(self, f"must be KEY=VALUE, got {texts[0]!r}")
        options = dict(getattr(namespace, self.dest))
        if options.get(name, text) != text:
            raise argparse.ArgumentError(self, f"{name} is {options[name]} and {text} in one command")
        setattr(namespace, self.dest, {**options, name: text})


class UniqueNames(argparse.Action):
    """Names, none of them twice."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if len(set(values)) < len(values):
            raise argparse.ArgumentError(self, f"names {next(v for v in values if values.count(v) > 1)} twice")
        setattr(namespace, self.dest, values)


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """A type for integers from `low` to `high`."""
    expected = f"at least {low}" if high is None else f"from {low} to {high}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be an integer, {expected}, got {text!r}")
        return value

    return convert


def number(text: str, kind: type = float) -> float:
    """A type for numbers, whose range is checked where they are used."""
    try:
        return kind(text)
    except ValueError:
        expected = "an integer" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}") from None


def share(text: str) -> float:
    """A type for shares from 0 to below 1."""
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to below 1, got {text!r}")
    return value


def path(text: str) -> Path:
    """A type for paths."""
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got an empty text")
    return Path(text)


def existing_folder(text: str) -> Path:
    """A type for folders that must exist."""
    folder = path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"must be an existing folder, got {text!r}")
    return folder


def likelihood_choice(text: str) -> LikelihoodChoice:
    """A type for `LIKELIHOOD` or `LIKELIHOOD:SCALE`."""
    likelihood, separator, scale = text.partition(":")
    try:
        return LikelihoodChoice(likelihood, float(scale) if separator else None)
    except ValueError:
        return LikelihoodChoice(likelihood, scale)  # learned, or channels


def literal(text: str) -> Any:
    """A value as Python writes it (`true` and `false` too), else the text itself."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text
