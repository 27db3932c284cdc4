"""A training job: the data, the recipe and the settings that the arguments of a command describe."""

import argparse
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from multipyro.data import DATASETS, Modality, Splits, drop_modalities, load_dataset
from multipyro.inference.cli.plugins import load_object
from multipyro.inference.evaluation import supports
from multipyro.inference.recipes import METHODS, Recipe, build, options_for
from multipyro.inference.recipes.architectures import first_suitable
from multipyro.inference.recipes.networks import networks_for
from multipyro.inference.training._plan import check_complete
from multipyro.inference.training.batches import parts_of
from multipyro.inference.training.fitting import FitResult, fit_recipe
from multipyro.inference.training.settings import TrainingSettings

__all__ = [
    "TrainingJob",
    "check_options",
    "figure_modalities",
    "incomplete",
    "load_data",
    "paper_architectures",
    "training_job",
]


class TrainingJob(NamedTuple):
    """What a command trains.

    Args:
        recipe: The method, built.
        splits: The data.
        settings: How it is trained.
    """

    recipe: Recipe
    splits: Splits
    settings: TrainingSettings

    def train(self) -> FitResult:
        """Trains the recipe."""
        taken = set(inspect.signature(fit_recipe).parameters) - {"optimizer"}
        settings = {f.name: getattr(self.settings, f.name) for f in fields(self.settings) if f.name in taken}
        return fit_recipe(self.recipe, self.splits, **settings)


def check_options(arguments: argparse.Namespace, methods: Sequence[str]) -> None:
    """Raises if a method is unknown, or no method has one of the options.

    Raises:
        ValueError: Names the method or the options, and those there are.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}: choose from {', '.join(METHODS)}")
    for name in arguments.options:
        if not any(name in options_for(method) for method in methods):
            owners = [method for method, info in METHODS.items() if name in options_for(method)]
            hint = f"it is an option of {', '.join(owners)}" if owners else f"see multipyro methods {methods[0]}"
            raise ValueError(f"{', '.join(methods)} has no option {name}: {hint}")


def load_data(arguments: argparse.Namespace) -> Splits:
    """The data that a command trains on, without the missing modalities of `--missing`."""
    splits = load_dataset(arguments.data, arguments.data_root, **arguments.data_options)
    if arguments.modalities is not None:
        splits = splits.select(arguments.modalities)
    likelihoods = {name: choice.likelihood for name, choice in arguments.likelihood.items()}
    return splits.with_likelihoods(likelihoods, {name: choice.scale for name, choice in arguments.likelihood.items()})


def training_job(
    arguments: argparse.Namespace,
    method: str,
    splits: Splits,
    seed: int,
    out: Path | None = None,
    resume: bool = False,
    guide: type | None = None,
) -> TrainingJob:
    """Builds a method on its data, so that every mistake in the arguments shows before anything trains.

    Args:
        arguments: The parsed arguments.
        method: Name of the method.
        splits: The result of `load_data`.
        seed: Seed of the parameters, of the missing modalities and of the training.
        out: The run folder.
        resume: Whether the run in the folder is continued.
        guide: A guide class in place of the method's.
    """
    options = {
        name: options_for(method)[name].parse(value) if isinstance(value, str) else value
        for name, value in arguments.options.items()
        if name in options_for(method)
    }
    modalities = splits.train.modalities
    config = {}
    if arguments.missing:
        # the share of every modality: which one an otherwise empty example keeps depends on those there are
        config["missing"] = {name: 0.0 for name in modalities} | _for_each(arguments.missing, modalities)
        splits = incomplete(splits, config["missing"], seed)
    names = [setting.name for setting in fields(TrainingSettings) if hasattr(arguments, setting.name)]
    settings = {name: _loaded(getattr(arguments, name)) for name in names}
    settings |= {"seed": seed, "out": out, "resume": resume, "config": config or None}
    torch.manual_seed(seed)
    architectures = _architectures(arguments.networks, method, modalities)
    networks = networks_for(modalities, arguments.hidden, architectures)
    recipe = build(method, networks, arguments.latent_dim, guide, **options)
    check_complete(recipe, parts_of(recipe.model, splits, None)[0])
    return TrainingJob(recipe, splits, TrainingSettings(**settings))


def incomplete(splits: Splits, missing: Mapping[str, float], seed: int) -> Splits:
    """Training and validation data that miss modalities at random; the test data stays complete."""
    parts = (drop_modalities(part, missing, seed) for part in (splits.train, splits.validation))
    return Splits(*parts, splits.test)


def figure_modalities(arguments: argparse.Namespace, recipe: Recipe) -> tuple[list[str], list[str]]:
    """The modalities that the figure at the end of a training is conditioned on, and those that it shows.

    Raises:
        ValueError: If `--given` or `--target` names a modality that does not exist, or that the method cannot use.
    """
    names, conditions = recipe.model.modalities, list(getattr(recipe.model, "conditions", ()))
    for flag in ("given", "target"):
        unknown = [name for name in getattr(arguments, flag) or () if name not in names]
        if unknown:
            raise ValueError(f"--{flag} names {', '.join(unknown)}: {recipe.name} has {', '.join(names)}")
    default = DATASETS[arguments.data].default_given if arguments.data in DATASETS else ()
    given = arguments.given or conditions
    given = given or [name for name in default if name in names] or list(names[:1])
    if arguments.given and not (supports(recipe.guide, given) and set(conditions) <= set(given)):
        raise ValueError(f"--given {' '.join(given)}: {recipe.name} predicts nothing from it")
    fixed = [name for name in arguments.target or () if name in conditions]
    if fixed:
        raise ValueError(f"--target {' '.join(fixed)}: {recipe.name} is conditioned on it and cannot generate it")
    generated = [name for name in names if name not in conditions]
    return given, arguments.target or [name for name in generated if name not in given] or generated


def _loaded(setting: Any) -> Any:
    """The value of a setting, where `FILE.py:NAME` stands for an object; a class of callbacks or loggers is called."""
    if isinstance(setting, list):
        return [value() if isinstance(value, type) else value for value in map(_loaded, setting)]
    return load_object(setting) if isinstance(setting, str) and ".py:" in setting else setting


def _for_each(named: Mapping[str | None, Any], modalities: Mapping[str, Modality]) -> dict[str, Any]:
    """Modality -> value, where the value under None is that of all that are not named."""
    defaults = dict.fromkeys(modalities, named[None]) if None in named else {}
    return {**defaults, **{name: value for name, value in named.items() if name is not None}}


def _architectures(
    named: Mapping[str | None, str], method: str, modalities: Mapping[str, Modality]
) -> dict[str, str] | str | None:
    """What `--networks` stands for: modality -> architecture, or one architecture for all that it suits."""
    by_modality = {name: architecture for name, architecture in named.items() if name is not None}
    if None not in named:
        return by_modality or None
    if named[None] != "paper":
        return {**first_suitable(modalities, [named[None]]), **by_modality} if by_modality else named[None]
    return {**paper_architectures(method, modalities), **by_modality}


def paper_architectures(method: str, modalities: Mapping[str, Modality]) -> dict[str, str]:
    """Modality -> architecture of the method's paper, for those modalities that one of them suits.

    Raises:
        ValueError: If the architectures of the paper are not known.
    """
    if not METHODS[method].architectures:
        known = ", ".join(name for name, info in METHODS.items() if info.architectures)
        raise ValueError(f"--networks paper: the architectures of {method}'s paper are not known, only of {known}")
    return first_suitable(modalities, METHODS[method].architectures)
