r"""Programs, and expressions of programs, in which an objective is written before it has a model and a guide.

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
import inspect
import operator
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from torch import nn

__all__ = [
    "GUIDE",
    "MODEL",
    "RESTRICTED",
    "SUBSET",
    "Applied",
    "Binding",
    "Concrete",
    "Handler",
    "Part",
    "Placeholder",
    "Program",
    "ProgramExpression",
    "Subset",
    "SubsetPlaceholder",
    "as_expression",
    "handler",
    "subset_text",
    "substitute",
    "unwrap",
]

Program = Callable[..., Any]
Subset = tuple[str, ...]

_OPTIONAL, _FIELD = re.compile(r"\[(.*?)\]"), re.compile(r"\{(\w+)\}")
# a sum over random subsets of many modalities refers to more programs than fit in memory
_MOST_PROGRAMS = 4096
#: How a restricted program is printed.
RESTRICTED = "{program}|{modalities}"


class Handler(nn.Module):
    """Base of the programs that run another program, such as what `restrict` returns.

    Args:
        program: The program inside.
        *settings: The other arguments of the handler.
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
    """An expression over `MODEL` and `GUIDE` that stands for a program. `expression | subset` restricts it."""

    @abstractmethod
    def resolve(self, binding: "Binding") -> Any:
        """The program that the expression stands for, given a model and a guide."""

    def part(self, *path: "str | Subset | SubsetPlaceholder") -> "Part":
        """A submodule of the program, by the attribute names that lead to it; a subset is named `a+b`."""
        return Part(self, path)

    def __or__(self, subset: "str | Sequence[str] | SubsetPlaceholder") -> "ProgramExpression":
        arguments = (("program", self), ("modalities", (subset,) if isinstance(subset, str) else _hashable(subset)))
        return Applied("multipyro.inference.handlers:restrict", arguments, RESTRICTED)


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
    """A program itself, whatever the model and the guide are.

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
        handler: Location of the handler, `module:name`.
        arguments: Its arguments by name, the program first.
        notation: How the call is printed: a format of the arguments, `[...]` left out where its argument is empty.
    """

    handler: str
    arguments: tuple[tuple[str, Any], ...]
    notation: str = field(compare=False)

    def resolve(self, binding: "Binding") -> Program:
        return binding.call(self.handler, tuple((name, binding.resolved(value)) for name, value in self.arguments))

    def __repr__(self) -> str:
        arguments = dict(self.arguments)

        def optional(segment: re.Match) -> str:
            return segment[1] if all(arguments[name] not in ((), None) for name in _FIELD.findall(segment[1])) else ""

        notation = _OPTIONAL.sub(optional, self.notation)
        return _FIELD.sub(lambda name: _argument_text(arguments[name[1]]), notation)


def _argument_text(value: Any) -> str:
    """An argument as a notation prints it."""
    if isinstance(value, tuple) and not all(isinstance(item, str) for item in value):
        return ", ".join(map(repr, value))
    return subset_text(value)


def handler(notation: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that makes a function from a program to a program accept expressions too.

    Args:
        notation: How the expression of a call is printed: a format of the function's arguments; a part in `[...]` is
            left out where its argument is empty.

    Returns:
        The decorator. The function must be defined at the top of a module, its first argument be the program, and its
        other arguments numbers, strings, modules, expressions, or sequences or sets of these.

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
            return Applied(
                address, tuple((name, _hashable(value)) for name, value in bound.arguments.items()), notation
            )

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
        self._programs: dict[tuple[str, tuple], Program] = {}  # the one that was used last at the end

    def __getitem__(self, expression: ProgramExpression) -> Any:
        return expression.resolve(self)

    def resolved(self, value: Any) -> Any:
        """A value with the programs in it that its expressions stand for."""
        if isinstance(value, ProgramExpression):
            return value.resolve(self)
        if isinstance(value, SubsetPlaceholder):
            raise ValueError(f"{value!r} stands for the subset that a sum runs over, but is in no sum: use sum_over")
        return tuple(map(self.resolved, value)) if isinstance(value, tuple) else value

    def call(self, handler: str, arguments: tuple[tuple[str, Any], ...]) -> Program:
        """The result of a handler for arguments without expressions; the same program for the same arguments."""
        key = handler, arguments
        program = self._programs.pop(key, None)
        if program is None:
            program = pkgutil.resolve_name(handler)(**dict(arguments))
        self._programs[key] = program
        if len(self._programs) > _MOST_PROGRAMS:
            del self._programs[next(iter(self._programs))]
        return program


def as_expression(program: Program | ProgramExpression) -> ProgramExpression:
    """A program as an expression."""
    return program if isinstance(program, ProgramExpression) else Concrete(program)


def substitute(value: Any, change: Callable[[Any], Any]) -> Any:
    """An objective, an expression, or a part of one, with some values replaced.

    Args:
        value: The value; dataclasses, tuples and dicts are entered.
        change: Called with each value inside, the outer ones first; returns its replacement, or the value itself.
    """
    changed = change(value)
    if changed is not value:
        return changed
    if isinstance(value, tuple):
        items = tuple(substitute(item, change) for item in value)
        return value if all(map(operator.is_, items, value)) else items
    if isinstance(value, dict):
        return type(value)({key: substitute(item, change) for key, item in value.items()})
    if not is_dataclass(value) or isinstance(value, type):
        return value
    settings = {setting.name: getattr(value, setting.name) for setting in fields(value)}
    changed = {name: substitute(setting, change) for name, setting in settings.items()}
    return value if all(map(operator.is_, changed.values(), settings.values())) else replace(value, **changed)


def subset_text(subset: Any) -> str:
    """A subset as text, `a+b`."""
    return "+".join(subset) if isinstance(subset, tuple) else str(subset)


def _hashable(value: Any) -> Any:
    """An argument of a handler as a value that can be hashed: a sequence or a set as a tuple."""
    if isinstance(value, Mapping):
        raise TypeError(f"an argument of a handler of expressions cannot be a dict, got {value!r}: take a sequence")
    if isinstance(value, Set):
        return tuple(sorted(map(_hashable, value), key=repr))
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple | Iterator) else value
