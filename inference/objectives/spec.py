"""What an objective is made of, as plain values, without executing or inspecting a function."""

import dataclasses
import functools
import hashlib
import json
import math
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pyro.infer import ELBO
from torch import Tensor, nn

from multipyro.inference.objectives.weights import LinearWarmup
from multipyro.inference.programs import Concrete, subset_text

__all__ = ["fingerprint_of", "instances_in", "modules_in", "schedules_of", "spec_of"]

# Pyro replaces it by what it guesses in the first call
_GUESSED = "max_plate_nesting"
# a longer tensor is compared by its digest
_LONGEST = 64
T = TypeVar("T")


def spec_of(value: Any) -> Any:
    """A value as nested plain values that JSON can hold: what a fingerprint and a resumed run compare.

    Of an ELBO, ours, Pyro's or a user's, it is the class and the public attributes, so that a setting kept under a
    public name counts and a cache under a name with an underscore does not. Of a module it is the class and the shapes
    of its parameters, since its weights are state.

    Args:
        value: An objective, or anything that one is made of.

    Returns:
        Numbers, strings, lists and dicts.

    Raises:
        TypeError: If there is a function or another object in it whose meaning cannot be compared; the message names
            where.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> spec_of(Trace_ELBO(num_particles=3))["num_particles"]
        3
    """
    return _spec(value, "")


def fingerprint_of(value: Any) -> str:
    """The digest of `spec_of(value)`: two objectives have one fingerprint only if they mean the same."""
    return hashlib.sha256(json.dumps(spec_of(value), sort_keys=True).encode()).hexdigest()


def schedules_of(value: Any) -> tuple[LinearWarmup, ...]:
    """The schedules in an objective, each once; whoever trains moves them."""
    return instances_in(value, LinearWarmup)


def modules_in(value: Any) -> tuple[nn.Module, ...]:
    """The modules that an objective itself refers to, each once; not those of the model and the guide."""
    return instances_in(value, nn.Module)


def _spec(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Tensor):
        values = value.detach().cpu().reshape(-1).tolist()
        content = values if len(values) <= _LONGEST else hashlib.sha256(repr(values).encode()).hexdigest()
        return {"type": "Tensor", "shape": list(value.shape), "values": content}
    if isinstance(value, Mapping):
        return {subset_text(key): _spec(inner, f"{where}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_spec(inner, f"{where}[{index}]") for index, inner in enumerate(value)]
    if isinstance(value, nn.Module):
        shapes = {name: list(parameter.shape) for name, parameter in value.named_parameters()}
        return {"type": _name(type(value)), "parameters": shapes}
    if isinstance(value, Concrete) and not isinstance(value.program, nn.Module):
        return {"type": "Concrete", "program": _name(value.program)}
    if isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType | functools.partial):
        raise TypeError(
            f"the objective contains a function at {where.lstrip('.') or 'its top'}, whose meaning cannot be compared "
            "when a run is resumed: make it a module, or an expression of objectives"
        )
    return {"type": _name(type(value)), **{name: _spec(v, f"{where}.{name}") for name, v in _settings(value).items()}}


def _settings(value: Any) -> dict[str, Any]:
    """The attributes of an object that decide what it means."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    attributes = {name: inner for name, inner in vars(value).items() if not name.startswith("_")}
    if isinstance(value, ELBO):
        attributes.pop(_GUESSED, None)
    return attributes


def instances_in(value: Any, kind: type[T]) -> tuple[T, ...]:
    """The values of one class in an objective, each once."""
    return tuple({id(part): part for part in _walk(value, set()) if isinstance(part, kind)}.values())


def _walk(value: Any, visited: set[int]) -> Iterator[Any]:
    """A value and everything that it is made of; modules are not entered."""
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


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"
