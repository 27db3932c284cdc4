"""A saved run, its data and its metrics."""

import argparse
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from multipyro.data import DATASETS, Modality, MultimodalData, Splits, load_dataset, load_examples
from multipyro.data.custom import is_data_file
from multipyro.data.storage import remove_leftovers, write_atomically
from multipyro.inference.cli.console import warn
from multipyro.inference.cli.jobs import trained_on
from multipyro.inference.cli.plugins import guide_class, method_name
from multipyro.inference.cli.transfer import check_described_as, naming_damage, options_of, source_of
from multipyro.inference.evaluation import Report
from multipyro.inference.handlers import with_covariates
from multipyro.inference.programs import Program
from multipyro.inference.recipes import Recipe
from multipyro.inference.runs import checkpoint_of, describe_modalities, load, read_run

__all__ = [
    "SavedRun",
    "check_writable",
    "model_under",
    "open_run",
    "read_json",
    "read_report",
    "training_part",
    "write_json",
    "write_report",
]

# the values of the test examples, beside metrics.json
_EXAMPLES = "examples.npz"


class SavedRun(NamedTuple):
    """A run and its data.

    Args:
        recipe: The recipe, with the trained parameters.
        splits: The data with the modalities of the run.
        config: The content of its `run.json`.
        is_other: Whether the data is not that of the run, so that its parts have no meaning for the run.
    """

    recipe: Recipe
    splits: Splits
    config: dict[str, Any]
    is_other: bool

    def parts(self, part: str | None) -> list[MultimodalData]:
        """The parts that `--part` selects: by default the test data of the run, or all parts of other data."""
        part = part or ("all" if self.is_other else "test")
        parts = [getattr(self.splits, name) for name in (Splits.NAMES if part == "all" else [part])]
        return [data for data in parts if len(data)]


def open_run(arguments: argparse.Namespace) -> SavedRun:
    """Opens the run in a folder, with its data or that of `--data`.

    If the content of `--data` is that of the run's data, it counts as the run's data, which may have been moved.

    Raises:
        FileNotFoundError: If there is no run in the folder.
        ValueError: If the run cannot be rebuilt, or the data is not the data of the run.
    """
    config = read_run(arguments.run)
    for folder in (arguments.run, *arguments.run.glob("checkpoints/*")):
        remove_leftovers(folder)
    if arguments.method is not None and method_name(arguments.method) != config["method"]:
        raise ValueError(f"--method {arguments.method}: {arguments.run} was trained by {config['method']}")
    recipe = load(arguments.run, guide_class(arguments.guide), arguments.checkpoint).recipe
    if arguments.data is None:
        return SavedRun(recipe, _run_data(arguments, config), config, is_other=False)
    with suppress(ValueError, TypeError):  # new data may be too small to be split, or have no column to split by
        return SavedRun(recipe, _run_data(arguments, config), config, is_other=False)
    return SavedRun(recipe, _other_data(arguments, recipe, config), config, is_other=True)


def _run_data(arguments: argparse.Namespace, config: Mapping[str, Any]) -> Splits:
    """The data that a run was trained on, where it was or at `--data`."""
    data, settings = config["data"], config["config"] or {}
    if data["options"] is None:
        what = "user-defined batches" if data["name"] is None else f"the user-defined data set {data['name']!r}"
        raise ValueError(f"{arguments.run} was trained on {what}: pass --data, or evaluate in Python")
    with naming_damage(arguments.run / "run.json"):
        source = arguments.data or source_of(arguments.run, data)
    if not is_data_file(source) and source not in DATASETS:
        raise ValueError(f"{arguments.run} does not say where its data {data['name']!r} is: pass --data")
    if is_data_file(source) and not Path(source).is_file():
        raise FileNotFoundError(f"the data of {arguments.run} is not at {source}: pass --data FILE")
    splits = load_dataset(source, arguments.data_root, **options_of(data)).with_sum_exposures(settings.get("exposure"))
    splits = splits.with_covariates(list(config["covariates"] or ()))
    names = list(data["modalities"])
    with naming_damage(arguments.run / "run.json"):
        wanted = {*settings.get("missing", ()), *names}
        before = splits.select([name for name in splits.train.modalities if name in wanted])
        trained = trained_on(before, names, settings, config["settings"]["seed"]).select(names)
    hashes = {name: getattr(trained, name).content_hash for name in Splits.NAMES}
    other = [name for name, was in data["content_hash"].items() if was is not None and was != hashes[name]]
    if other:
        raise ValueError(
            f"{arguments.run} was trained on other examples ({', '.join(other)}) of {data['name']} than it has now"
        )
    with naming_damage(arguments.run / "run.json"):
        described = {**data["modalities"], **(config["covariates"] or {})}
        return _described_as(splits.select(names), described, arguments.run)


def _other_data(arguments: argparse.Namespace, recipe: Recipe, config: Mapping[str, Any]) -> Splits:
    """The data of `--data`: the modalities that it shares with the run, read by the descriptions of the run."""
    wanted, covariates = recipe.networks.modalities, recipe.networks.covariates
    if not is_data_file(arguments.data):
        splits = load_dataset(arguments.data, arguments.data_root).with_covariates(list(covariates))
        names = [name for name in wanted if name in splits.train.modalities]
        if not names:
            raise ValueError(
                f"--data {arguments.data} has none of the modalities {', '.join(wanted)} of {arguments.run}: it has "
                f"{', '.join(splits.train.modalities)}"
            )
        return _described_as(splits.select(names), describe_modalities({**wanted, **covariates}), arguments.run)
    columns = {name: (config["data"]["options"] or {}).get(name) for name in ("labels", "ids")}
    label_names = config["data"].get("label_names")
    test = load_examples(arguments.data, wanted, covariates=covariates, **columns, label_names=label_names)
    nothing = test.take(slice(0, 0))
    return Splits(nothing.with_split("train"), nothing.with_split("validation"), test)


def training_part(arguments: argparse.Namespace, saved: SavedRun) -> MultimodalData:
    """The training data of a run, to train classifiers on; if it is unavailable, test data without labels."""
    if not saved.is_other or len(saved.splits.train):
        return saved.splits.train
    with suppress(ValueError, OSError):
        splits = _run_data(argparse.Namespace(**{**vars(arguments), "data": None}), saved.config)
        return splits.train.select(list(saved.splits.test.modalities))
    warn(f"the training data of {arguments.run} is not available: no classifiers are trained, so coherence is left out")
    return replace(saved.splits.test, labels=None)


def _described_as(splits: Splits, wanted: Mapping[str, Any], run: Path) -> Splits:
    """The data with the likelihoods of a run; all other descriptions must equal those of the run."""
    names = list(splits.train.modalities)
    likelihoods = {name: wanted[name]["likelihood"] for name in names}
    splits = splits.with_likelihoods(likelihoods, {name: wanted[name].get("scale") for name in names})
    check_described_as(splits, {name: Modality(**described) for name, described in wanted.items()}, run)
    return splits


def model_under(recipe: Recipe, covariates: Mapping[str, str]) -> Program:
    """The model of a run with other covariates than those of the examples, given as texts in the units of the data.

    Raises:
        ValueError: If the run has no such covariate, or a text is not one of its values.
    """
    known, values = recipe.networks.covariates, {}
    for name, text in covariates.items():
        if name not in known:
            raise ValueError(f"--covariates names {name}: the run has {', '.join(known) or 'none'}")
        if known[name].class_names is not None:
            values[name] = known[name].encode([text])
        elif known[name].is_discrete:
            values[name] = torch.tensor([int(text)])
        else:
            values[name] = known[name].from_units(torch.tensor([[float(number) for number in text.split(",")]]))
    return with_covariates(recipe.model, values) if values else recipe.model


def check_writable(folder: Path) -> None:
    """Raises before a long computation if its result could not be written.

    Raises:
        PermissionError: If no file can be created in the folder.
    """
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} is read-only: metrics.json cannot be written")


def write_report(run: Path, report: Report, checkpoint: str = "best") -> dict[str, Any]:
    """Writes the metrics with the facts of the run and of the evaluated checkpoint; returns all of it.

    The values of the test examples go into a file beside `metrics.json`, for paired comparisons.
    """
    config = read_run(run)
    record = {
        **{name: config[name] for name in ("method", "options", "config")},
        "training": {"settings": config["settings"], "stages": config["stages"]},
        "checkpoint": checkpoint_of(run, checkpoint).stem,
        **report.to_dict(),
    }
    write_atomically(run / _EXAMPLES, report.save_examples)
    write_json(run / "metrics.json", record)
    return record


def read_report(run: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads what `write_report` wrote: the metrics, and the values of the test examples; empty if a file is missing.

    Raises:
        ValueError: If a file is damaged.
    """
    metrics = read_json(run / "metrics.json")
    if not metrics or not (run / _EXAMPLES).is_file():
        return {}, {}
    return metrics, Report.load_examples(run / _EXAMPLES)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file.

    Raises:
        ValueError: If the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged: it contains no object")
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically."""
    write_atomically(file, json.dumps(content, indent=2, allow_nan=False) + "\n")
