"""The base of models and guides: Pyro modules with stable names in Pyro's parameter store."""

import itertools
import weakref
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

__all__ = ["Program"]

# parameter -> the program that put it into a parameter store, by the identity of the parameter
_CONSTRAINED = "_unconstrained"  # what Pyro appends to the name of the unconstrained value of a PyroParam
_OWNERS: dict[int, tuple[weakref.ref, weakref.ref]] = {}


class Program(PyroModule):
    """A `PyroModule` whose parameters have stable names in Pyro's parameter store, and share them with no other.

    The names are `<name>.<module>$$$<parameter>`, whatever else the process has built. So a store that one script saved
    loads in another: at its first call a program takes over the values that the store has under its names.

    A second program of the same name in one store becomes `<name>_1`, the next `<name>_2`, in the order of their first
    calls. Two plain Pyro modules of one name would share entries of the store, and one of them would silently never
    train (measured). Parameters that a deleted program left behind are replaced.

    Args:
        name: Prefix of the parameters in Pyro's parameter store.

    Raises:
        ValueError: When called, if the store has a value of another shape for a parameter.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._first_name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._claim_parameters()
        return super().__call__(*args, **kwargs)

    def _claim_parameters(self) -> None:
        """Chooses the name of this program in the current parameter store, and loads the values stored under it."""
        name, first_name = self.__dict__["_pyro_name"], self.__dict__["_first_name"]
        numbered = name == first_name or name.removeprefix(f"{first_name}_").isdecimal()
        if not numbered or pyro.settings.get("module_local_params"):
            return  # part of another program, or without a store
        store = pyro.get_param_store()
        suffix, parameter = next(_trainable(self), (None, None))
        if suffix is None or (name + suffix in store and store[name + suffix].unconstrained() is parameter):
            return
        parameters, stored = dict(_trainable(self)), dict(store.named_parameters())
        candidates = (f"{first_name}_{number}" if number else first_name for number in itertools.count())
        for candidate in itertools.chain([name] if stored else [], candidates):
            entries = {suffix: stored[candidate + suffix] for suffix in parameters if candidate + suffix in stored}
            foreign = {suffix for suffix, entry in entries.items() if entry is not parameters[suffix]}
            owners = {suffix: _owner(entries[suffix]) for suffix in foreign}
            if all(owner is None or owner() is None for owner in owners.values()):
                break
        if candidate != name:
            _rename(self, candidate)
        for suffix in foreign:
            full_name, loaded = candidate + suffix, owners[suffix] is None
            if not _is_constrained(self, suffix):
                if loaded:
                    _load(parameters[suffix], entries[suffix], full_name)
                store[full_name] = parameters[suffix]
            elif not loaded:  # Pyro itself takes over the values of a PyroParam
                del store[full_name]
        for parameter in parameters.values():
            _own(parameter, self)


def _trainable(module: PyroModule, prefix: str = "") -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that train, under the names that Pyro gives them below the name of the program."""
    for name, parameter in module._parameters.items():
        if isinstance(parameter, nn.Parameter) and parameter.requires_grad:
            yield f"{prefix}.{name.removesuffix(_CONSTRAINED)}", parameter
    for name, child in module._modules.items():
        if isinstance(child, PyroModule):
            yield from _trainable(child, f"{prefix}.{name}")
        elif child is not None:
            for inner, parameter in child.named_parameters():
                if isinstance(parameter, nn.Parameter) and parameter.requires_grad:
                    yield f"{prefix}.{name}$$${inner}", parameter


def _is_constrained(module: PyroModule, suffix: str) -> bool:
    *path, name = suffix.removeprefix(".").split(".")
    return "$$$" not in suffix and name in module.get_submodule(".".join(path))._pyro_params


def _rename(module: PyroModule, name: str) -> None:
    module._pyro_name = name
    for child_name, child in module._modules.items():
        if isinstance(child, PyroModule):
            _rename(child, f"{name}.{child_name}")


def _load(parameter: nn.Parameter, value: Tensor, name: str) -> None:
    if parameter.shape != value.shape:
        raise ValueError(
            f"Pyro's parameter store has {name!r} of shape {tuple(value.shape)}, this program of shape "
            f"{tuple(parameter.shape)}: give the program another name, or call pyro.clear_param_store()"
        )
    with torch.no_grad():
        parameter.copy_(value)


def _owner(parameter: Tensor) -> weakref.ref | None:
    """A reference to the program that has put a parameter into a store, dead if the program is; None if none has."""
    entry = _OWNERS.get(id(parameter))
    return entry[1] if entry is not None and entry[0]() is parameter else None


def _own(parameter: nn.Parameter, program: Program) -> None:
    owner = _owner(parameter)
    if owner is None or owner() is None:
        key = id(parameter)
        _OWNERS[key] = (weakref.ref(parameter, lambda _: _OWNERS.pop(key, None)), weakref.ref(program))
