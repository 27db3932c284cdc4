"""The inputs of a run as plain values: `run.json` records them, and a resumed run must have the same."""

import functools
import hashlib
import itertools
import operator
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from pyro.optim import PyroOptim

import multipyro
from multipyro.data import Batch, Modality, MultimodalData
from multipyro.inference.objectives import Objective, spec_of
from multipyro.inference.recipes import Recipe

__all__ = [
    "changes",
    "describe_function",
    "describe_modalities",
    "describe_recipe",
    "describe_run",
    "describe_settings",
    "versions",
]


def describe_run(recipe: Recipe, settings: Any, left_out: Sequence[str], data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that `run.json` records.

    Of the data these are name, options, modalities and classes, and of each part the size and the content hash. Of
    user-defined batches the size is their number; hashed are all batches of a list, the first of a loader.

    Args:
        recipe: The recipe.
        settings: The settings, a dataclass; paths among the options of the data become relative to its `out`.
        left_out: The fields of it that do not matter for the result.
        data: Training, validation and test data by name; None for none.
    """
    train = data["train"]
    facts = {"name": None, "options": None, "modalities": None, "label_names": None}
    if isinstance(train, MultimodalData):
        paths = {n: v for n, v in (train.options or {}).items() if isinstance(v, str) and os.path.isabs(v)}
        relative = {name: os.path.relpath(path, settings.out) for name, path in paths.items()}
        facts = {"name": train.name, "options": None if train.options is None else {**train.options, **relative}}
        facts |= {"modalities": describe_modalities(train.modalities), "label_names": train.label_names}
    facts |= {"size": dict.fromkeys(data), "content_hash": dict.fromkeys(data)}
    for name, part in data.items():
        if part is not None:
            facts["size"][name] = operator.length_hint(part) or None
            facts["content_hash"][name] = part.content_hash if isinstance(part, MultimodalData) else _hash_of(part)
    return {
        **describe_recipe(recipe, settings.epochs),
        "settings": describe_settings(settings, left_out),
        "data": facts,
        "config": settings.config,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    result = {"multipyro": multipyro.__version__, "python": platform.python_version()}
    for package in ("torch", "pyro-ppl", "numpy", "scikit-learn"):
        with suppress(PackageNotFoundError):
            result[package] = version(package)
    return result


def describe_recipe(recipe: Recipe, epochs: int) -> dict[str, Any]:
    """The facts of a recipe, and its stages with the equations and the contents of their objectives.

    Args:
        recipe: The recipe.
        epochs: Number of epochs of a stage that does not set its own.
    """
    stages = []
    for stage in recipe.stages:
        described, *updates = (
            {
                "name": part.name,
                "equation": part.objective.equation()
                if isinstance(part.objective, Objective)
                else type(part.objective).__name__,
                "objective": spec_of(part.objective),
                "optimizer": None if part.optimizer is None else describe_function(part.optimizer),
            }
            for part in (stage, *stage.updates)
        )
        stages.append({**described, "epochs": epochs if stage.epochs is None else stage.epochs, "updates": updates})
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


def changes(name: str, was: Any, now: Any) -> list[str]:
    """The places in which two plain values differ, in words."""
    if isinstance(was, dict) and isinstance(now, dict):
        return [t for key in {**was, **now} for t in changes(f"{name}.{key}".strip("."), was.get(key), now.get(key))]
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        return [t for index, pair in enumerate(zip(was, now, strict=True)) for t in changes(f"{name}[{index}]", *pair)]
    return [] if was == now else [f"{name} was {str(was)[:120]}, now {str(now)[:120]}"]


def _hash_of(batches: Any) -> str:
    if isinstance(batches, list):
        return _digest(batches)
    with torch.random.fork_rng([]):
        first, again = (_digest(itertools.islice(batches, 1)) for _ in range(2))
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
