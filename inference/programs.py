r"""Programs, and expressions of programs: what an objective is written with before it has a model and a guide.

`MODEL` and `GUIDE` stand for the model and the guide that an objective will be given, `SUBSET` for the subset of the
modalities that a sum runs over. A handler such as `restrict` or `frozen`, called with an expression in place of a
program, returns the expression of that call, so that an objective is written as it is read:

    >>> from multipyro.inference import frozen, restrict
    >>> restrict(frozen(MODEL), SUBSET)
    frozen(m)|A
    >>> frozen(MODEL) | SUBSET == restrict(frozen(MODEL), SUBSET)
    True

Expressions are values: they can be printed, compared, pickled and used as keys. `Binding` turns them into programs.
"""

import functools
import importlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = [
    "GUIDE",
    "MODEL",
    "SUBSET",
    "Binding",
    "Handler",
    "Program",
    "ProgramExpression",
    "as_expression",
    "handler",
    "substitute",
    "unwrap",
]

Program = Callable[..., Any]
Subset = tuple[str, ...]

_OPTIONAL, _FIELD = re.compile(r"\[(.*?)\]"), re.compile(r"\{(\w+)\}")
#: How a restricted program is printed.
RESTRICTED = "{program}|{modalities}"


class Handler(nn.Module):
    """Base of the programs that are made from another program, such as what `restrict` returns.

    Args:
        program: The program inside.
        *settings: What else the handler was made with.
    """

    def __init__(self, program: Program, *settings: Any) -> None:
        super().__init__()
        self.program, self.settings = program, settings

    def around(self, program: Program) -> "Handler":
        """The same handler around another program."""
        return type(self)(program, *self.settings)


def unwrap(program: Program) -> Program:
    """The program inside all the handlers around it."""
    while isinstance(program, Handler):
        program = program.program
    return program


class ProgramExpression(ABC):
    """A program to be: an expression over `MODEL` and `GUIDE`. `expression | subset` restricts it."""

    @abstractmethod
    def resolve(self, binding: "Binding") -> Any:
        """What the expression stands for, given a model and a guide."""

    def part(self, *path: "str | Subset | SubsetPlaceholder") -> "Part":
        """A submodule of the program, by the attribute names that lead to it; a subset is named `a+b`."""
        return Part(self, path)

    def __or__(self, subset: "str | Sequence[str] | SubsetPlaceholder") -> "ProgramExpression":
        arguments = {"program": self, "modalities": (subset,) if isinstance(subset, str) else _frozen(subset)}
        return Applied("multipyro.inference.handlers:restrict", tuple(arguments.items()), RESTRICTED)


@dataclass(frozen=True, repr=False)
class Placeholder(ProgramExpression):
    """The model or the guide that an objective will be given.

    Args:
        role: `"model"` or `"guide"`.
    """

    role: str

    def resolve(self, binding: "Binding") -> Program:
        return getattr(binding, self.role)

    def __repr__(self) -> str:
        return self.role[0]


@dataclass(frozen=True, repr=False)
class SubsetPlaceholder:
    """The subset that a sum runs over."""

    def __repr__(self) -> str:
        return "A"


MODEL = Placeholder("model")
GUIDE = Placeholder("guide")
SUBSET = SubsetPlaceholder()


@dataclass(frozen=True, repr=False)
class Part(ProgramExpression):
    """A submodule of a program.

    Args:
        program: The program.
        path: The attribute names that lead to it.
    """

    program: ProgramExpression
    path: tuple[Any, ...]

    def resolve(self, binding: "Binding") -> nn.Module:
        module = unwrap(binding[self.program])
        names = [subset_text(name) for name in self.path]
        try:
            return functools.reduce(lambda inner, name: inner.get_submodule(name), names, module)
        except AttributeError as error:
            raise ValueError(
                f"the objective refers to {self}, which this {type(module).__name__} does not have"
            ) from error

    def __repr__(self) -> str:
        return ".".join([repr(self.program), *map(subset_text, self.path)])


@dataclass(frozen=True, repr=False)
class Concrete(ProgramExpression):
    """A program that is given as such, whatever the model and the guide are.

    Args:
        program: The program, compared by identity.
    """

    program: Program

    def resolve(self, binding: "Binding") -> Program:
        return self.program

    def __repr__(self) -> str:
        return getattr(self.program, "__name__", type(self.program).__name__)


@dataclass(frozen=True, repr=False)
class Applied(ProgramExpression):
    """The call of a handler.

    Args:
        handler: Where the handler is found, `module:name`.
        arguments: Its arguments by name, the program first.
        notation: How the call is printed: a format of the arguments, `[...]` left out where its argument is empty.
    """

    handler: str
    arguments: tuple[tuple[str, Any], ...]
    notation: str

    def resolve(self, binding: "Binding") -> Program:
        module, _, name = self.handler.partition(":")
        resolved = {key: binding.resolved(value) for key, value in self.arguments}
        return getattr(importlib.import_module(module), name)(**resolved)

    def __repr__(self) -> str:
        arguments = dict(self.arguments)

        def optional(segment: re.Match) -> str:
            return segment[1] if all(arguments[name] not in ((), None) for name in _FIELD.findall(segment[1])) else ""

        notation = _OPTIONAL.sub(optional, self.notation)
        return notation.format(**{key: _Text(value) for key, value in arguments.items()})


class _Text:
    """An argument as a notation prints it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __format__(self, _: str) -> str:
        if isinstance(self.value, tuple) and not all(isinstance(item, str) for item in self.value):
            return ", ".join(map(repr, self.value))
        return subset_text(self.value)


def handler(notation: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that makes a function from a program to a program accept expressions too.

    Args:
        notation: How the expression of a call is printed: a format of the function's arguments; a part in `[...]` is
            left out where its argument is empty.

    Returns:
        The decorator. The function must be defined at the top of a module, and its first argument be the program.

    Example:
        >>> @handler("tempered({program}, {temperature})")
        ... def tempered(program, temperature=1.0):
        ...     return lambda x, observed=None: program(x, observed)
        >>> tempered(GUIDE, temperature=2.0)
        tempered(g, 2.0)
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        address = f"{function.__module__}:{function.__qualname__}"

        first = next(iter(signature.parameters))

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            if not isinstance(bound.arguments[first], ProgramExpression):
                return function(*args, **kwargs)
            bound.apply_defaults()
            return Applied(address, tuple((name, _frozen(value)) for name, value in bound.arguments.items()), notation)

        return call

    return decorate


class Binding:
    """A model and a guide, and the programs that expressions stand for with them, each made once.

    Args:
        model: The generative program.
        guide: The variational program.
    """

    def __init__(self, model: Program, guide: Program) -> None:
        self.model, self.guide = model, guide
        self._programs: dict[ProgramExpression, Any] = {}

    def __getitem__(self, expression: ProgramExpression) -> Any:
        if expression not in self._programs:
            self._programs[expression] = expression.resolve(self)
        return self._programs[expression]

    def resolved(self, value: Any) -> Any:
        """A value with the programs in it that its expressions stand for."""
        if isinstance(value, ProgramExpression):
            return self[value]
        return tuple(map(self.resolved, value)) if isinstance(value, tuple) else value


def as_expression(program: Program | ProgramExpression) -> ProgramExpression:
    """A program as an expression."""
    return program if isinstance(program, ProgramExpression) else Concrete(program)


def substitute(value: Any, subset: Subset) -> Any:
    """An expression, or an argument of one, with a subset in place of `SUBSET`."""
    if isinstance(value, SubsetPlaceholder):
        return subset
    if isinstance(value, tuple):
        return tuple(substitute(item, subset) for item in value)
    if isinstance(value, Applied):
        return Applied(value.handler, substitute(value.arguments, subset), value.notation)
    if isinstance(value, Part):
        return Part(substitute(value.program, subset), substitute(value.path, subset))
    return value


def subset_text(subset: Any) -> str:
    """A subset as text, `a+b`."""
    return "+".join(subset) if isinstance(subset, tuple) else str(subset)


def _frozen(value: Any) -> Any:
    """A value that can be hashed."""
    if isinstance(value, Mapping):
        return tuple((key, _frozen(inner)) for key, inner in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple | set | frozenset) else value
