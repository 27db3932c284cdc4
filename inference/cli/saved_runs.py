"""A saved run, its data and its metrics."""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from multipyro.data import MultimodalData, Splits, load_dataset, load_toml
from multipyro.data.storage import write_atomically
from multipyro.inference.cli.jobs import incomplete
from multipyro.inference.cli.plugins import guide_class, method_name
from multipyro.inference.evaluation import Report
from multipyro.inference.recipes import Recipe
from multipyro.inference.runs import checkpoint_of, describe_modalities, load, read_run

__all__ = [
    "SavedRun",
    "check_writable",
    "chosen_parts",
    "open_run",
    "read_report",
    "training_of",
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
    """

    recipe: Recipe
    splits: Splits
    config: dict[str, Any]


def open_run(arguments: argparse.Namespace) -> SavedRun:
    """The run in a folder, and its data or that of `--data`.

    Raises:
        FileNotFoundError: If there is no run in the folder.
        ValueError: If the run cannot be rebuilt, or the data is not the data of the run.
    """
    config = read_run(arguments.run)
    if arguments.method is not None and method_name(arguments.method) != config["method"]:
        raise ValueError(f"--method {arguments.method}: {arguments.run} was trained by {config['method']}")
    guide = None if arguments.guide is None else guide_class(arguments.guide)
    recipe = load(arguments.run, guide, arguments.checkpoint).recipe
    splits = _same_data(arguments, config) if arguments.data is None else _other_data(arguments, recipe)
    return SavedRun(recipe, splits, config)


def chosen_parts(arguments: argparse.Namespace, splits: Splits) -> list[MultimodalData]:
    """The parts of `--part`: by default the test data of the run, and all parts of other data."""
    part = arguments.part or ("test" if arguments.data is None else "all")
    parts = [getattr(splits, name) for name in (Splits.NAMES if part == "all" else [part])]
    return [data for data in parts if len(data)]


def _same_data(arguments: argparse.Namespace, config: Mapping[str, Any]) -> Splits:
    """The data that a run was trained on."""
    data = config["data"]
    if data["options"] is None:
        what = "user-defined batches" if data["name"] is None else f"the user-defined data set {data['name']!r}"
        raise ValueError(f"{arguments.run} was trained on {what}: pass --data, or evaluate in Python")
    file = data["options"].get("file")
    source = data["name"] if file is None else os.path.normpath(arguments.run / file)
    splits = load_dataset(source, arguments.data_root, **({} if file else data["options"]))
    names = list(data["modalities"])
    missing = (config["config"] or {}).get("missing", {})
    before = splits.select([name for name in splits.train.modalities if name in {*missing, *names}])
    trained = (incomplete(before, missing, config["settings"]["seed"]) if missing else before).select(names)
    hashes = {name: getattr(trained, name).content_hash for name in Splits.NAMES}
    other = [name for name, was in data["content_hash"].items() if was is not None and was != hashes[name]]
    if other:
        raise ValueError(
            f"{arguments.run} was trained on other examples ({', '.join(other)}) of {data['name']} than there are now"
        )
    return _described_as(splits.select(names), data["modalities"], arguments.run)


def _other_data(arguments: argparse.Namespace, recipe: Recipe) -> Splits:
    """The data of `--data`, with those modalities of the run that it has, read by the descriptions of the run."""
    wanted = recipe.networks.modalities
    if arguments.data.endswith(".toml"):
        splits = load_toml(arguments.data, wanted)
    else:
        splits = load_dataset(arguments.data, arguments.data_root)
    names = [name for name in wanted if name in splits.train.modalities]
    if not names:
        raise ValueError(
            f"--data {arguments.data} has none of the modalities {', '.join(wanted)} of {arguments.run}: it has "
            f"{', '.join(splits.train.modalities)}"
        )
    return _described_as(splits.select(names), describe_modalities(wanted), arguments.run)


def _described_as(splits: Splits, wanted: Mapping[str, Any], run: Any) -> Splits:
    """The data with the likelihoods of a run, whose other descriptions must be those of the run."""
    names = list(splits.train.modalities)
    likelihoods = {name: wanted[name]["likelihood"] for name in names}
    splits = splits.with_likelihoods(likelihoods, {name: wanted[name].get("scale") for name in names})
    wanted, found = json.loads(json.dumps([wanted, describe_modalities(splits.train.modalities)]))
    for name, now in found.items():
        changed = [field for field in {**now, **wanted[name]} if now.get(field) != wanted[name].get(field)]
        if changed:
            raise ValueError(f"modality {name!r} has another {changed[0]} than in {run}")
    return splits


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
    record = {name: config[name] for name in ("method", "options", "config")}
    record = {
        **record,
        "training": training_of(config),
        "checkpoint": checkpoint_of(run, checkpoint).stem,
        **report.to_dict(),
    }
    write_atomically(run / _EXAMPLES, report.save_examples)
    write_json(run / "metrics.json", record)
    return record


def read_report(run: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads what `write_report` wrote: the metrics, and the values of the test examples.

    Raises:
        FileNotFoundError: If one of the two files does not exist.
    """
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return metrics, Report.load_examples(run / _EXAMPLES)


def training_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `run.json` that determine the result of a run."""
    return {"settings": config["settings"], "stages": config["stages"]}


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file at once or not at all."""
    write_atomically(file, json.dumps(content, indent=2, allow_nan=False) + "\n")
