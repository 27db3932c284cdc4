"""A training job: the data, the recipe and the settings that the arguments of a command describe."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from multipyro.data import DATASETS, Modality, Splits, drop_modalities, load_dataset
from multipyro.data.custom.files import TABLES
from multipyro.inference.cli.plugins import load_object
from multipyro.inference.cli.transfer import check_described_as, initialize, modalities_of
from multipyro.inference.evaluation import supports
from multipyro.inference.options import Option
from multipyro.inference.recipes import METHODS, Recipe, build, options_for
from multipyro.inference.recipes.architectures import first_suitable
from multipyro.inference.recipes.networks import networks_for
from multipyro.inference.training.batches import training_data
from multipyro.inference.training.fitting import FitResult, fit_recipe
from multipyro.inference.training.settings import TrainingSettings

__all__ = [
    "METHOD_OPTIONS",
    "TrainingJob",
    "check_options",
    "figure_modalities",
    "load_data",
    "paper_architectures",
    "trained_on",
    "training_job",
]

#: The options of methods that have a flag of their own; all have `--option`.
METHOD_OPTIONS = ("beta", "warmup", "weights", "particles")
_ANY = Option("value", None)


class TrainingJob(NamedTuple):
    """A recipe with its data and settings.

    Args:
        recipe: The method, built.
        splits: The data.
        settings: The training settings.
    """

    recipe: Recipe
    splits: Splits
    settings: TrainingSettings

    def train(self) -> FitResult:
        """Trains the recipe."""
        return fit_recipe(self.recipe, self.splits, self.settings)


def check_options(arguments: argparse.Namespace, methods: Sequence[str]) -> None:
    """Raises if a method is unknown, no method has one of the options, or an option is given two values.

    Raises:
        ValueError: Names the method or the option, and those that exist.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}: choose from {', '.join(METHODS)}")
    given = _given_options(arguments)
    for name in given:
        if not any(name in options_for(method) for method in methods):
            owners = [method for method in METHODS if name in options_for(method)]
            hint = f"it is an option of {', '.join(owners)}" if owners else f"see multipyro methods {methods[0]}"
            raise ValueError(f"{', '.join(methods)} has no option {name}: {hint}")
    for method in methods:
        options = _options(arguments, method)
        for name in (name for name in METHOD_OPTIONS if name in options):
            flag = getattr(arguments, name)
            if flag is not None and flag != options[name]:
                raise ValueError(f"--{name} {flag} contradicts --option {name}={arguments.option[name]}")


def load_data(arguments: argparse.Namespace) -> Splits:
    """The data that a command trains on, before modalities are dropped by `--missing`.

    Data for a run that starts from the parameters of another one is read by the descriptions of that run.
    """
    options = {
        name: _ANY.parse(value) if isinstance(value, str) else value for name, value in arguments.data_option.items()
    }
    if Path(arguments.data).suffix in TABLES and arguments.modalities is not None:
        options = {"columns": [*arguments.modalities, *(arguments.covariates or ())], **options}
    init_from = getattr(arguments, "init_from", None)
    known = None if init_from is None else modalities_of(init_from)
    splits = load_dataset(arguments.data, arguments.data_root, modalities=known, **options)
    splits = splits.with_covariates(arguments.covariates or ())
    if arguments.modalities is not None:
        splits = splits.select(arguments.modalities)
    splits = splits.with_sum_exposures(arguments.exposure or ())
    if known is not None:
        check_described_as(splits, known, init_from)
    likelihoods, scales = {}, {}
    for name, text in arguments.likelihood.items():
        likelihoods[name], separator, scale = text.partition(":")
        scales[name] = _ANY.parse(scale) if separator else None
    return splits.with_likelihoods(likelihoods, scales)


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
        guide: A guide class that replaces the method's.
    """
    modalities = splits.train.modalities
    config: dict[str, Any] = {}
    if arguments.missing:
        # a share for every modality: which one an otherwise empty example keeps depends on all of them
        shares = arguments.missing
        shares = shares if isinstance(shares, Mapping) else dict.fromkeys(modalities, shares)
        config["missing"] = {**dict.fromkeys(modalities, 0.0), **shares}
    config |= {"exposure": list(arguments.exposure)} if arguments.exposure else {}
    config |= {"drop_incomplete": True} if arguments.drop_incomplete else {}
    names = [setting.name for setting in fields(TrainingSettings) if hasattr(arguments, setting.name)]
    settings = {name: _loaded(getattr(arguments, name)) for name in names}
    torch.manual_seed(seed)
    paper = arguments.networks == "paper"
    architectures = paper_architectures(method, modalities) if paper else arguments.networks or None
    networks = networks_for(modalities, arguments.hidden, architectures, splits.train.covariates)
    recipe = build(method, networks, arguments.latent_dim, guide, **_options(arguments, method))
    init_from = getattr(arguments, "init_from", None)
    if init_from is not None:
        config["init_from"] = initialize(recipe, init_from)
    splits = trained_on(splits, list(recipe.model.modalities), config, seed)
    training_data(recipe, splits)  # raises where the method cannot learn from incomplete examples
    settings |= {"seed": seed, "out": out, "resume": resume, "config": config or None}
    return TrainingJob(recipe, splits, TrainingSettings(**settings))


def trained_on(splits: Splits, names: Sequence[str], config: Mapping[str, Any], seed: int) -> Splits:
    """The data that a run with this configuration is trained on; the test data stays complete.

    Args:
        splits: The data with all modalities in `config`.
        names: The modalities of the model.
        config: `missing`, the share of the examples that miss each modality; and whether to `drop_incomplete` ones.
        seed: Seed of the missing modalities.
    """
    parts = [splits.train, splits.validation]
    if config.get("missing"):
        parts = [drop_modalities(part, config["missing"], seed) for part in parts]
    if config.get("drop_incomplete"):
        parts = [part.select(names).complete() for part in parts]
        return Splits(*parts, splits.test.select(names))
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
    if isinstance(setting, tuple):
        return tuple(value() if isinstance(value, type) else value for value in map(_loaded, setting))
    return load_object(setting) if isinstance(setting, str) and ".py:" in setting else setting


def _given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that a command gives: those of its configuration file, of flags and of `--option`."""
    flags = {name: getattr(arguments, name) for name in METHOD_OPTIONS if getattr(arguments, name) is not None}
    return {**arguments.config_options, **flags, **arguments.option}


def _options(arguments: argparse.Namespace, method: str) -> dict[str, Any]:
    """The given options that a method has."""
    return {
        name: option.parse(value) if isinstance(value, str) else option.convert(value)
        for name, value in _given_options(arguments).items()
        if (option := options_for(method).get(name)) is not None
    }


def paper_architectures(method: str, modalities: Mapping[str, Modality]) -> dict[str, str]:
    """Modality -> architecture of the method's paper, for those modalities that one of them suits.

    Raises:
        ValueError: If the architectures of the paper are not known.
    """
    if not METHODS[method].architectures:
        known = ", ".join(name for name, info in METHODS.items() if info.architectures)
        raise ValueError(f"--networks paper: the architectures of {method}'s paper are not known, only of {known}")
    return first_suitable(modalities, METHODS[method].architectures)
