"""The modules that a program is made of, found through the code of a plain function."""

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

__all__ = ["count_parameters", "modules_of"]

# code that holds no module of a user's; what a closure of theirs holds is still looked at
_LIBRARIES = frozenset({"builtins", "lightning", "multipyro", "numpy", "pyro", "torch", "torchvision"})


def modules_of(program: Callable[..., Any]) -> tuple[nn.Module, ...]:
    """The modules a program is made of: itself, or those that a plain function's code refers to.

    Looked at are closures, globals by name (also as attributes of an imported Python module), default arguments, bound
    arguments and objects, containers, and so on through every helper function. A module that a function makes anew at
    each call, or takes from elsewhere by a computed name, is not found.
    """
    found: dict[int, nn.Module] = {}
    seen: dict[int, Any] = {}  # the things themselves too, so that no identity is used twice
    waiting: list[Any] = [program]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, nn.Module):
            found[id(thing)] = thing
        else:
            waiting += reversed(list(_inside(thing)))
    return tuple(found.values())


def count_parameters(*programs: Callable[..., Any]) -> int:
    """Number of parameters of several programs, each parameter counted once."""
    return sum({id(p): p.numel() for root in modules_of(programs) for p in root.parameters()}.values())


def _inside(thing: Any) -> Iterator[Any]:
    """What a program's code can reach from one thing, modules of Python and classes excepted."""
    if isinstance(thing, Mapping):
        yield from thing.values()
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from thing
    elif isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif inspect.ismethod(thing):
        yield from (thing.__self__, thing.__func__)
    elif inspect.isfunction(thing):
        yield from _of_function(thing)
    elif not isinstance(thing, type | types.ModuleType) and _top(type(thing)) not in _LIBRARIES - {"multipyro"}:
        yield from getattr(thing, "__dict__", {}).values()
        for base in type(thing).__mro__:
            if _top(base) not in _LIBRARIES:
                yield from (getattr(thing, name, None) for name in getattr(base, "__slots__", ()))
                yield from vars(base).values()


def _top(thing: Any) -> str:
    """The package that a class or a function was defined in."""
    return (thing.__module__ or "").partition(".")[0]


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    yield getattr(function, "__wrapped__", None)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    if _top(function) in _LIBRARIES:
        return
    names = set(_names(function.__code__))
    for name in sorted(names):
        value = function.__globals__.get(name)
        if isinstance(value, types.ModuleType):
            yield from (vars(value)[attribute] for attribute in sorted(names & vars(value).keys()))
        else:
            yield value


def _names(code: types.CodeType) -> Iterable[str]:
    """The global and attribute names in a function and in those defined within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
