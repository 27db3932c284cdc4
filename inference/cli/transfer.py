"""What one run takes over from another: descriptions of modalities, parameters, arguments."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from multipyro.data import Modality, Splits
from multipyro.inference.cli.console import say
from multipyro.inference.options import Option, Share
from multipyro.inference.recipes import Recipe
from multipyro.inference.runs import checkpoint_of, describe_modalities, read_run
from multipyro.inference.runs.checkpoints import programs_of, read_checkpoint

__all__ = [
    "arguments_of",
    "check_described_as",
    "initialize",
    "likelihood_text",
    "modalities_of",
    "naming_damage",
    "options_of",
    "source_of",
]


_MISSING = Option("missing", {}, Mapping[str, Share])


@contextmanager
def naming_damage(files: str | Path) -> Iterator[None]:
    """Names the files whose entries are read, where one of them turns out to be missing or wrong.

    Raises:
        ValueError: In place of the error that such an entry causes.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{files} is damaged: {type(error).__name__}: {error}") from error


def modalities_of(run: Path) -> dict[str, Modality]:
    """The descriptions of a run's modalities and covariates.

    Raises:
        ValueError: If it was trained from user-defined programs, or its `run.json` is damaged.
    """
    content = read_run(run)
    if content["modalities"] is None:
        raise ValueError(f"{run} was trained from user-defined programs, which describe no modalities")
    try:
        descriptions = {**content["modalities"], **(content["covariates"] or {})}
        return {name: Modality(**values) for name, values in descriptions.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{run / 'run.json'} is damaged: {error}") from error


def check_described_as(splits: Splits, wanted: Mapping[str, Modality], run: Path) -> None:
    """Checks that the modalities that the data shares with a run have the same descriptions.

    Raises:
        ValueError: If a description differs; names the modality and what differs.
    """
    described = {**splits.train.modalities, **splits.train.covariates}
    shared = [name for name in described if name in wanted]
    present = describe_modalities({name: described[name] for name in shared})
    expected = describe_modalities({name: wanted[name] for name in shared})
    present, expected = json.loads(json.dumps([present, expected]))
    for name, now in present.items():
        changed = [field for field in {**now, **expected[name]} if now.get(field) != expected[name].get(field)]
        if changed:
            raise ValueError(
                f"modality {name!r} has a different {changed[0]} than in {run}: got {_short(now.get(changed[0]))}, "
                f"expected {_short(expected[name].get(changed[0]))}"
            )


def initialize(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Copies the trained parameters of a run into a recipe where both have them; new ones keep their initial values.

    Returns:
        What was taken over, for `run.json`.

    Raises:
        ValueError: If the method or the latent size differs, or no parameter can be copied.
    """
    content = read_run(run)
    if content["method"] != recipe.name:
        raise ValueError(f"--init-from {run} was trained by {content['method']}, not by {recipe.name}")
    if content["latent_dim"] != recipe.latent_dim:
        raise ValueError(f"--init-from {run} has latent_dim {content['latent_dim']}, got {recipe.latent_dim}")
    path = checkpoint_of(run)
    trained, taken, new = read_checkpoint(path)["state_dict"], 0, []
    with torch.no_grad():
        for number, program in enumerate(programs_of(recipe.model, recipe.guide, *recipe.others)):
            for name, value in program.state_dict().items():
                before = trained.get(f"programs.{number}.{name}")
                if before is not None and before.shape == value.shape:
                    value.copy_(before)
                    taken += 1
                else:
                    new.append(name)
    if not taken:
        raise ValueError(f"--init-from {run} has no parameter of this model: the modalities or the networks differ")
    say(f"starts from {taken} of {taken + len(new)} tensors of {run}{'; new: ' + _listed(new) if new else ''}")
    return {"method": content["method"], "checkpoint": hashlib.sha256(path.read_bytes()).hexdigest(), "tensors": taken}


def arguments_of(run: Path, whole: bool) -> dict[str, Any]:
    """The arguments of `train` with which a run was started.

    Args:
        run: The run folder.
        whole: Whether to continue the run, with its data and its settings; otherwise the method and its networks only.

    Raises:
        ValueError: If its data was user-defined and the data is wanted, or its `run.json` is damaged.
    """
    content = read_run(run)
    data, config, settings = content["data"], content["config"] or {}, content["settings"]
    if whole and data["options"] is None:
        raise ValueError(f"{run} was trained on user-defined data: continue it in Python")
    with naming_damage(run / "run.json"):
        arguments = {
            "method": content["method"],
            "latent_dim": content["latent_dim"],
            "hidden": tuple(content["hidden_features"] or ()) or None,
            "networks": content["architectures"] or {},
            "covariates": tuple(content["covariates"] or ()) or None,
            "option": content["options"],
        }
        if not whole:
            return arguments
        names = list(data["modalities"])
        return {
            **arguments,
            "data": source_of(run, data),
            "data_option": options_of(data),
            "modalities": list(dict.fromkeys([*config.get("missing", ()), *names])),
            "likelihood": {name: likelihood_text(data["modalities"][name]) for name in names},
            **{name: config[name] for name in ("exposure", "drop_incomplete") if name in config},
            "missing": _MISSING.convert(config.get("missing", {})),
            "epochs": content["stages"][0]["epochs"],
            **{name: value for name, value in settings.items() if name != "config"},
        }


def source_of(run: Path, data: Mapping[str, Any]) -> str:
    """The name or the path of a run's data, from the entry `data` of its `run.json`."""
    file = data["options"].get("file")
    return data["name"] if file is None else os.path.normpath(run / file)


def options_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The options with which a run's data is loaded again; none for a description, which contains them."""
    options = {name: value for name, value in data["options"].items() if name != "file"}
    return {} if str(data["options"].get("file", "")).endswith(".toml") else options


def likelihood_text(modality: Mapping[str, Any]) -> str:
    """The likelihood of a modality, described by an entry of `run.json`, as `--likelihood` takes it."""
    scale = modality.get("scale")
    return f"{modality['likelihood']}" if scale is None else f"{modality['likelihood']}:{scale}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
