"""The parts of an objective as plain values, without executing or inspecting a function."""

import dataclasses
import functools
import hashlib
import json
import math
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn

from multipyro.inference.objectives.weights import LinearWarmup
from multipyro.inference.programs import Applied, Concrete, Handler, subset_text

__all__ = ["fingerprint_of", "instances_in", "packages_of", "schedules_of", "spec_of"]

# Pyro replaces it by its guess in the first call
_GUESSED = "max_plate_nesting"
# set by Pyro's base class; of a dataclass its fields count instead
_OF_EVERY_ELBO = frozenset(vars(Trace_ELBO()))
# a longer tensor is compared by its digest
_LONGEST = 64
T = TypeVar("T")


def spec_of(value: Any) -> Any:
    """A value as nested plain values that JSON can hold: what a fingerprint and a resumed run compare.

    Of an ELBO, ours, Pyro's or a user's, it is the class and the public attributes, so that a setting kept under a
    public name counts and a cache under a name with an underscore does not. Of a module it is its `repr` and the
    shapes of its parameters, since its weights are state; of a function that is a program, its name. The code of
    classes and functions is not compared.

    Args:
        value: An objective, or a part of one.

    Returns:
        Numbers, strings, lists and dicts.

    Raises:
        TypeError: If there is a function in it that is a setting, a lambda, or local to another, or an object without
            attributes; the message says where.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> spec_of(Trace_ELBO(num_particles=3))["num_particles"]
        3
    """
    return _spec(value, "")


def fingerprint_of(value: Any) -> str:
    """The digest of `spec_of(value)`, which changes whenever the spec does."""
    return _digest(spec_of(value))


def schedules_of(value: Any) -> tuple[LinearWarmup, ...]:
    """The schedules in an objective, each once; the training loop advances them."""
    return instances_in(value, LinearWarmup)


def _spec(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):  # a number means the same whichever type it has
        return int(value) if value.is_integer() else value if math.isfinite(value) else str(value)
    if isinstance(value, Tensor):
        values = value.detach().cpu().reshape(-1).tolist()
        content = _spec(values, where) if len(values) <= _LONGEST else _digest(values)
        return {"type": "Tensor", "shape": list(value.shape), "values": content}
    if isinstance(value, Mapping):
        return {subset_text(key): _spec(inner, f"{where}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_spec(inner, f"{where}[{index}]") for index, inner in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((_spec(inner, where) for inner in value), key=json.dumps)
    if isinstance(value, Handler):
        parts = {"program": Concrete(value.program), "settings": value.settings}
        return {"type": _name(type(value)), **{name: _spec(part, f"{where}.{name}") for name, part in parts.items()}}
    if isinstance(value, nn.Module):
        shapes = {name: list(parameter.shape) for name, parameter in value.named_parameters()}
        return {"type": _name(type(value)), "structure": repr(value), "parameters": shapes}
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, Concrete) and not isinstance(value.program, nn.Module):
        value = value.program
        if "<" not in getattr(value, "__qualname__", "<"):  # neither a lambda nor local to a function
            return _name(value)
    place = where.lstrip(".") or "its top"
    if isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType | functools.partial):
        raise TypeError(
            f"the objective contains a function at {place}, whose meaning cannot be compared when a run is resumed: "
            "make it a module, or an expression of objectives"
        )
    if not hasattr(value, "__dict__"):
        raise TypeError(
            f"the objective contains {value!r} at {place}, which cannot be compared when a run is resumed: use "
            "numbers, strings, tensors, modules, or lists and dicts of them"
        )
    return {"type": _name(type(value)), **{name: _spec(v, f"{where}.{name}") for name, v in _settings(value).items()}}


def _settings(value: Any) -> dict[str, Any]:
    """The attributes of an object that define its meaning."""
    attributes = {name: inner for name, inner in vars(value).items() if not name.startswith("_")}
    if not dataclasses.is_dataclass(value):
        return {name: inner for name, inner in attributes.items() if name != _GUESSED or not isinstance(value, ELBO)}
    declared = {field.name: field.compare for field in dataclasses.fields(value)}
    return {name: inner for name, inner in attributes.items() if declared.get(name, name not in _OF_EVERY_ELBO)}


def instances_in(value: Any, kind: type[T]) -> tuple[T, ...]:
    """The values of one class in an objective, each once."""
    return tuple({id(part): part for part in _walk(value, set()) if isinstance(part, kind)}.values())


def packages_of(value: Any) -> set[str]:
    """The packages that define the classes, functions and handlers in an objective, wherever in it they are."""
    parts = instances_in(value, object)
    places = (part.handler if isinstance(part, Applied) else getattr(part, "__module__", "") for part in parts)
    return {place.partition(".")[0] for place in places if place}


def _walk(value: Any, visited: set[int]) -> Iterator[Any]:
    """A value and all its parts; modules are not entered."""
    if value is None or isinstance(value, bool | int | float | str | Tensor | type) or id(value) in visited:
        return
    visited.add(id(value))
    yield value
    if isinstance(value, nn.Module) or callable(value) and not isinstance(value, ELBO):
        return
    if isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    else:
        inner = _settings(value).values() if hasattr(value, "__dict__") else ()
    for part in inner:
        yield from _walk(part, visited)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
