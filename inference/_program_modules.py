"""The modules of a program, and those that the code of a plain function refers to."""

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

__all__ = ["count_parameters", "modules_of"]

# packages whose code refers to no module of a user; closures of their functions are still searched
_LIBRARIES = frozenset({"builtins", "lightning", "multipyro", "numpy", "pyro", "torch", "torchvision"})


def modules_of(program: Callable[..., Any]) -> tuple[nn.Module, ...]:
    """The modules of a program: itself, or those that the code of a plain function refers to.

    The search covers closures, globals by name (also as attributes of an imported Python module), default arguments,
    bound arguments and objects, containers, and all of these in every helper function. It does not find a module that a
    function creates in each call or looks up by a computed name.
    """
    modules: dict[int, nn.Module] = {}
    visited: dict[int, Any] = {}  # with the values, so that no identity is reused
    waiting: list[Any] = [program]
    while waiting:
        value = waiting.pop()
        if id(value) in visited:
            continue
        visited[id(value)] = value
        if isinstance(value, nn.Module):
            modules[id(value)] = value
        else:
            waiting += reversed(list(_inside(value)))
    return tuple(modules.values())


def count_parameters(*programs: Callable[..., Any]) -> int:
    """Number of parameters of several programs, each parameter counted once."""
    return sum({id(p): p.numel() for root in modules_of(programs) for p in root.parameters()}.values())


def _inside(value: Any) -> Iterator[Any]:
    """The values that the code of a program can reach from one value, except Python modules and classes."""
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif inspect.ismethod(value):
        yield from (value.__self__, value.__func__)
    elif inspect.isfunction(value):
        yield from _of_function(value)
    elif not isinstance(value, type | types.ModuleType) and _top(type(value)) not in _LIBRARIES - {"multipyro"}:
        yield from getattr(value, "__dict__", {}).values()
        for base in type(value).__mro__:
            if _top(base) not in _LIBRARIES:
                yield from (getattr(value, name, None) for name in getattr(base, "__slots__", ()))
                yield from vars(base).values()


def _top(value: Any) -> str:
    """The package in which a class or a function is defined."""
    return (value.__module__ or "").partition(".")[0]


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
