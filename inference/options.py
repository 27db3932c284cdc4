"""Options: names with defaults, types and help, declared once and checked for Python and the command line alike."""

import ast
import inspect
import math
import numbers
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["Bounds", "Count", "Distinct", "Names", "Option", "Share", "Weight", "check_options", "options_of"]


@dataclass(frozen=True)
class Bounds:
    """The range of an option's numbers, in an annotation such as `Annotated[int, Bounds(1)]`.

    Args:
        low: The smallest value.
        high: The largest value.
    """

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        return f"at least {self.low:g}" if self.high == math.inf else f"from {self.low:g} to {self.high:g}"

    def accept(self, value: Any) -> bool:
        """Whether a number is in the range."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Distinct:
    """The values of a list are distinct, in an annotation such as `Annotated[Sequence[str], Distinct()]`."""

    def __str__(self) -> str:
        return "none of them twice"

    def accept(self, value: Any) -> bool:
        """Whether no value is repeated."""
        return len(set(value)) == len(value)


#: A positive integer.
Count = Annotated[int, Bounds(1)]
#: A weight: a nonnegative number.
Weight = Annotated[float, Bounds(0)]
#: A share: a number from 0 to 1.
Share = Annotated[float, Bounds(0, 1)]
#: Names, none of them twice.
Names = Annotated[Sequence[str], Distinct()]


@dataclass(frozen=True)
class Option:
    """One option: a keyword-only parameter of a method's build function, or an argument of the command line.

    Args:
        name: Its name.
        default: Its default value.
        type: Its annotation: `bool`, `int`, `float`, `str`, `Path`, `Literal`, `None`, `Mapping`, `Sequence`,
            `Callable` or a union of them, with constraints such as `Bounds` by `Annotated`.
        help: What it sets.

    Example:
        >>> Option("weights", None, Mapping[str, float] | None).parse("image=1,label=10")
        {'image': 1.0, 'label': 10.0}
    """

    name: str
    default: Any
    type: Any = Any
    help: str = ""

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of the `Literal` in its type; empty if there is none."""
        return tuple(value for part in _parts(self.type) if get_origin(part) is Literal for value in get_args(part))

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types of its values, all those of a union: `int`, `Mapping`, `NoneType`."""
        return tuple(get_origin(part) or part for part in _parts(self.type))

    @property
    def expected(self) -> str:
        """A description of its values."""
        return _words(self.type)

    def convert(self, value: Any) -> Any:
        """The value converted to its type: an integer to a float, a list to a tuple, where the type requires it.

        Raises:
            ValueError: If the value is not of the type or out of its bounds.
        """
        try:
            return _converted(value, self.type)
        except _MismatchError:
            raise ValueError(f"{self.name} must be {self.expected}, got {value!r}") from None

    def parse(self, text: str) -> Any:
        """The value that a text on the command line stands for: a Python literal, `A=1,B=2`, `A,B` or a plain text.

        Raises:
            ValueError: If none of these is of the type.
        """
        for value in _readings(text):
            try:
                return _converted(value, self.type)
            except _MismatchError:
                continue
        raise ValueError(f"{self.name} must be {self.expected}, got {text!r}")


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """The options of a build function: its keyword-only parameters.

    Args:
        function: The function; the types come from its annotations, the help from the Args section of its docstring.

    Raises:
        TypeError: If an option has no default, or one that is not of its type.

    Example:
        >>> def build(networks, latent_dim, *, bound: Literal["tight", "loose"] = "tight"): ...
        >>> options_of(build)["bound"].choices
        ('tight', 'loose')
    """
    hints, helps = get_type_hints(function, include_extras=True), _argument_helps(function.__doc__ or "")
    options = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.default is inspect.Parameter.empty:
            raise TypeError(f"option {name} of {function.__qualname__} needs a default")
        option = Option(name, parameter.default, hints.get(name, Any), helps.get(name, ""))
        try:
            option.convert(option.default)
        except ValueError as error:
            raise TypeError(f"the default of option {error} ({function.__qualname__})") from None
        options[name] = option
    return options


def check_options(options: Mapping[str, Option], values: Mapping[str, Any], method: str) -> dict[str, Any]:
    """All options with their values: those that are given, converted to their types, and the defaults of the others.

    Args:
        options: The options by name.
        values: Option name -> value.
        method: Name of the method, for messages.

    Raises:
        ValueError: If an option is unknown, or its value is not of its type or out of its bounds.

    Example:
        >>> check_options({"alpha": Option("alpha", 1.0, Weight)}, {"alpha": 2}, "jmvae-kl")
        {'alpha': 2.0}
    """
    unknown = [name for name in values if name not in options]
    if unknown:
        raise ValueError(f"{method} has no option {', '.join(unknown)}: it has {', '.join(options)}")
    return {n: option.convert(values[n]) if n in values else option.default for n, option in options.items()}


class _MismatchError(Exception):
    """A value is not of a type."""


def _converted(value: Any, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        converted = _converted(value, arguments[0])
        if all(constraint.accept(converted) for constraint in arguments[1:]):
            return converted
    elif origin in (Union, types.UnionType):
        for part in arguments:
            try:
                return _converted(value, part)
            except _MismatchError:
                continue
    elif origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
    elif kind is None or kind is type(None):
        if value is None:
            return None
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {_converted(k, arguments[0]): _converted(v, arguments[1]) for k, v in value.items()}
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        if isinstance(value, list | tuple):
            return tuple(_converted(item, arguments[0]) for item in value)
    elif kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        if isinstance(value, number) and not isinstance(value, bool) and math.isfinite(value):
            return kind(value)
    elif kind is Path:
        if isinstance(value, str | Path) and str(value):
            return Path(value)
    elif isinstance(value, origin or kind):
        return value
    raise _MismatchError


def _parts(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself, without annotations."""
    if get_origin(kind) is Annotated:
        return _parts(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(part for member in get_args(kind) for part in _parts(member))
    return (kind,)


_NAMES = {
    **{bool: "True or False", int: "an integer", float: "a number", str: "a text", Path: "a path"},
    **{Callable: "a function", None: "None", type(None): "None"},
}


def _words(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{_words(arguments[0])} ({', '.join(map(str, arguments[1:]))})"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping from names to {_plural(arguments[1])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list of {_plural(arguments[0])}"
    return _NAMES.get(origin or kind) or f"a {getattr(kind, '__name__', kind)}"


def _plural(kind: Any) -> str:
    """Many values of a type, in words."""
    words = _words(kind)
    simple = re.fullmatch(r"an? (\w+)( \(.*\))?", words)
    return f"{simple[1]}s{simple[2] or ''}" if simple else f"values, each {words}"


def _readings(text: str) -> Iterator[Any]:
    """The values that a text may stand for, the most specific first."""
    items = text.split(",")
    pairs = [item.rpartition("=") for item in items]
    named = {name: value for name, separator, value in pairs if name and separator}
    yield from _literals(text)
    if len(named) == len(items):
        if values := _literals(*named.values()):
            yield dict(zip(named, values, strict=True))
        yield named
    if len(items) > 1:
        yield items
    yield text
    if len(items) == 1:
        if value := _literals(text):
            yield value
        yield [text]


def _literals(*texts: str) -> list[Any]:
    """The values of Python literals, `true`, `false` and `none` among them; empty if a text is none."""
    try:
        return [ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text, text)) for text in texts]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []


def _argument_helps(docstring: str) -> dict[str, str]:
    """Argument name -> text, from the Args section of a docstring in Google style."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n|\n)*)", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    entries = re.split(r"^    (\w+): ", section[1] if section else "", flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)}
