"""The inputs of a run as plain values: `run.json` records them, and a resumed run must have the same."""

import functools
import hashlib
import itertools
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim

import multipyro
from multipyro.data import Batch, Modality, MultimodalData
from multipyro.inference.objectives import Objective, spec_of
from multipyro.inference.recipes import Recipe

__all__ = [
    "changes",
    "describe_data",
    "describe_function",
    "describe_modalities",
    "describe_recipe",
    "describe_run",
    "describe_settings",
    "length_of",
    "versions",
]


def describe_run(recipe: Recipe, settings: Any, left_out: Sequence[str], data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that `run.json` records.

    Args:
        recipe: The recipe.
        settings: The settings, a dataclass.
        left_out: The fields of it that do not matter for the result.
        data: The arguments of `describe_data`.
    """
    return {
        **describe_recipe(recipe, settings.epochs),
        "settings": describe_settings(settings, left_out),
        "data": describe_data(settings.out, **data),
        "config": settings.config,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"multipyro": multipyro.__version__, "python": platform.python_version()}
    for package in ("torch", "pyro-ppl", "numpy", "scikit-learn"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def describe_recipe(recipe: Recipe, epochs: int) -> dict[str, Any]:
    """The facts of a recipe, and its stages with the equations and the contents of their objectives.

    Args:
        recipe: The recipe.
        epochs: Number of epochs of a stage that does not set its own.
    """

    def describe(name: str, objective: ELBO, optimizer: Any, **more: Any) -> dict[str, Any]:
        equation = objective.equation() if isinstance(objective, Objective) else type(objective).__name__
        made_by = None if optimizer is None else describe_function(optimizer)
        return {"name": name, "equation": equation, "objective": spec_of(objective), "optimizer": made_by, **more}

    stages = []
    for stage in recipe.stages:
        updates = [describe(update.name, update.objective, update.optimizer) for update in stage.updates]
        number = epochs if stage.epochs is None else stage.epochs
        stages.append(describe(stage.name, stage.objective, stage.optimizer, epochs=number, updates=updates))
    networks = recipe.networks
    return {
        "method": recipe.name or None,
        "latent_dim": recipe.latent_dim,
        "options": recipe.options,
        "hidden_features": None if networks is None else list(networks.hidden_features),
        "architectures": None if networks is None else networks.architectures,
        "guide_class": recipe.guide_class,
        "modalities": None if networks is None else describe_modalities(networks.modalities),
        "covariates": None if networks is None else describe_modalities(networks.covariates),
        "stages": stages,
    }


def describe_settings(settings: Any, left_out: Sequence[str]) -> dict[str, Any]:
    """The fields of a dataclass as plain values, a function by its name; what is neither is left out."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in left_out}
    functions = {name: describe_function(value) for name, value in values.items() if callable(value)}
    return {**{n: v for n, v in values.items() if v is None or isinstance(v, bool | int | float | str)}, **functions}


def describe_data(folder: str, train: Any, validation: Any, test: Any) -> dict[str, Any]:
    """Name, options, modalities and classes of a data set, and of each of its parts the size and the content hash.

    Of user-defined batches the size is their number; hashed are all batches of a list, the first of a loader.

    Args:
        folder: The run folder, to which paths among the options become relative.
        train: Training data.
        validation: Validation data; None for none.
        test: Test data; None for none.
    """
    parts = {"train": train, "validation": validation, "test": test}
    description = {
        "size": {name: None if part is None else length_of(part) for name, part in parts.items()},
        "content_hash": {name: None if part is None else _content_hash(part) for name, part in parts.items()},
    }
    if not isinstance(train, MultimodalData):
        return {"name": None, "options": None, "modalities": None, "label_names": None, **description}
    options = None if train.options is None else {n: _relative(v, folder) for n, v in train.options.items()}
    modalities = describe_modalities(train.modalities)
    named = {"name": train.name, "options": options, "modalities": modalities, "label_names": train.label_names}
    return {**named, **description}


def describe_modalities(modalities: Mapping[str, Modality]) -> dict[str, dict[str, Any]]:
    """Modalities as plain values, without fields that are None."""
    values = {name: asdict(modality) for name, modality in modalities.items()}
    return {name: {k: v for k, v in entries.items() if v is not None} for name, entries in values.items()}


def describe_function(function: Any) -> Any:
    """A function by its name and bound arguments; an optimizer of Pyro by its class and arguments."""
    if isinstance(function, functools.partial):
        return [describe_function(function.func), repr(function.args), repr(function.keywords)]
    if isinstance(function, PyroOptim):
        return [describe_function(function.pt_optim_constructor), repr(function.pt_optim_args)]
    return f"{function.__module__}.{function.__qualname__}"


def length_of(batches: Any) -> int | None:
    """The number of batches; None for a loader without a length."""
    try:
        return len(batches)
    except TypeError:
        return None


def changes(name: str, was: Any, now: Any) -> list[str]:
    """The places in which two plain values differ, in words."""
    if isinstance(was, dict) and isinstance(now, dict):
        return [t for key in {**was, **now} for t in changes(f"{name}.{key}".strip("."), was.get(key), now.get(key))]
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        return [t for index, pair in enumerate(zip(was, now, strict=True)) for t in changes(f"{name}[{index}]", *pair)]
    return [] if was == now else [f"{name} was {str(was)[:120]}, now {str(now)[:120]}"]


def _relative(value: Any, folder: str) -> Any:
    return os.path.relpath(value, folder) if isinstance(value, str) and os.path.isabs(value) else value


def _content_hash(data: Any) -> str:
    if isinstance(data, MultimodalData):
        return data.content_hash
    if isinstance(data, list | tuple):
        return _digest(data)
    with torch.random.fork_rng([]):
        first, again = (_digest(itertools.islice(data, 1)) for _ in range(2))
    # batches drawn from a generator that cannot be seeded differ each time, and cannot be compared
    return first if first == again else "random"


def _digest(batches: Iterable[Batch]) -> str:
    digest = hashlib.sha256()
    for x, observed in batches:
        tensors = {**x, **{f"observed/{name}": mask for name, mask in (observed or {}).items()}}
        for name in sorted(tensors):
            values = tensors[name].detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
