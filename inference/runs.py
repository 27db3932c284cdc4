"""Run folders: what a run was made from, how far it is, and how to load it again."""

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import multipyro
from multipyro.data import Modality, MultimodalData, write_atomically
from multipyro.inference.checkpoints import load_programs, programs_of, read_checkpoint
from multipyro.inference.networks import Networks
from multipyro.inference.recipes import Recipe, build

__all__ = ["LoadedRun", "Run", "describe_data", "load", "read_run", "versions"]

_FILE = "run.json"


class LoadedRun(NamedTuple):
    """A run read back: the programs with their trained parameters, and the recipe they belong to."""

    model: Any
    guide: Any
    recipe: Recipe


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = ("torch", "pyro-ppl", "lightning", "numpy", "scikit-learn")
    found = {name: version(name) for name in packages}
    return {"multipyro": multipyro.__version__, "python": platform.python_version(), **found}


def describe_data(data: Any) -> dict[str, Any] | None:
    """Name, rows, content hash and modalities of a data set; None for batches of one's own."""
    if not isinstance(data, MultimodalData):
        return None
    return {
        "name": data.name,
        "rows": len(data),
        "content_hash": data.content_hash,
        "modalities": {name: asdict(modality) for name, modality in data.modalities.items()},
    }


def read_run(folder: str | os.PathLike) -> dict[str, Any]:
    """The content of a run folder's `run.json`.

    Raises:
        FileNotFoundError: If there is no run in the folder.
        ValueError: If the file is no such file.
    """
    path = Path(folder) / _FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no run: there is no {_FILE} in it")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config["state"], config["stages"], config["stages_done"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or not written by multipyro ({error})") from error
    return config


class Run:
    """A run folder that is being trained in; made by `Run.open`."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.config = folder, config

    @classmethod
    def open(
        cls, folder: str | os.PathLike, recipe: Recipe, data: dict[str, Any] | None, plan: dict[str, Any], resume: bool
    ) -> "Run":
        """Starts a run in `folder`, or goes on with the one that is there.

        Raises:
            ValueError: If a run is there and `resume` is False, or it was started with other settings.
        """
        folder = Path(folder)
        config = {
            "format": 1,
            "state": "running",
            "stages": [stage.name for stage in recipe.stages],
            "stages_done": 0,
            "method": recipe.name or None,
            "latent_dim": recipe.latent_dim,
            "options": recipe.options,
            "hidden_features": None if recipe.networks is None else list(recipe.networks.hidden_features),
            "guide_class": recipe.guide_class,
            "data": data,
            "plan": plan,
            "versions": versions(),
        }
        config = json.loads(json.dumps(config))
        if not (folder / _FILE).is_file():
            run = cls(folder, config)
            run._write()
            return run
        # processes that Lightning starts for the same run find the folder of the first one
        if not resume and os.environ.get("LOCAL_RANK", "0") == "0":
            raise ValueError(f"{folder} already holds a run: resume it (--resume) or choose another folder")
        found = read_run(folder)
        changed = [
            name
            for name in ("stages", "method", "latent_dim", "options", "hidden_features", "guide_class", "data", "plan")
            if found.get(name) != config[name]
        ]
        if changed:
            details = "; ".join(f"{n} was {_short(found.get(n))}, now {_short(config[n])}" for n in changed)
            raise ValueError(f"the run in {folder} was started with other settings: {details}")
        return cls(folder, found)

    @property
    def finished(self) -> bool:
        """Whether all stages are trained."""
        return self.config["state"] == "finished"

    @property
    def stages_done(self) -> int:
        """Number of stages that are trained."""
        return self.config["stages_done"]

    def stage_folder(self, number: int, name: str) -> Path:
        """Where the checkpoints of a stage are."""
        return self.folder / "checkpoints" / f"{number}-{name}"

    def stage_folders(self) -> list[Path]:
        """The checkpoint folders of all stages, in order."""
        return [self.stage_folder(number, name) for number, name in enumerate(self.config["stages"])]

    def stage_done(self, number: int) -> None:
        """Notes that `number` stages are trained."""
        self.config["stages_done"] = number
        self._write()

    def finish(self) -> None:
        """Notes that the run is finished."""
        self.config["state"] = "finished"
        self._write()

    def _write(self) -> None:
        write_atomically(self.folder / _FILE, json.dumps(self.config, indent=2) + "\n")


def load(run_folder: str | os.PathLike, guide: type | None = None) -> LoadedRun:
    """Rebuilds a run of `fit_recipe` (or of the command line) with its best parameters, else its last.

    Nothing is imported because a file says so: a run made with a guide class of one's own stores its name, and
    loading it asks for the class.

    Args:
        run_folder: The folder of the run.
        guide: The guide class, for a run that was made with one.

    Returns:
        A named tuple `(model, guide, recipe)`, the modules in evaluation mode.

    Raises:
        FileNotFoundError: If there is no run, or it has no checkpoint yet.
        ValueError: If the run cannot be rebuilt from its folder, or a file in it is damaged.
    """
    config = read_run(run_folder)
    if config["method"] is None:
        raise ValueError(
            f"{run_folder} was trained from programs of one's own: build them and call "
            "multipyro.inference.load_state(checkpoint, model, guide)"
        )
    name = config["guide_class"]
    if (name is None) != (guide is None) or (guide is not None and guide.__name__ != name):
        asked = f"the guide class {name}" if name is not None else "no guide class"
        given = "none" if guide is None else guide.__name__
        raise ValueError(f"{run_folder} was made with {asked}, got {given}: pass it as guide= (--guide FILE.py:CLASS)")
    modalities = {
        key: Modality(**{k: tuple(v) if isinstance(v, list) else v for k, v in described.items()})
        for key, described in config["data"]["modalities"].items()
    }
    networks = Networks(modalities, config["hidden_features"])
    recipe = build(config["method"], networks, config["latent_dim"], guide, **config["options"])
    folder = Run(Path(run_folder), config).stage_folders()[-1]
    path = next((p for p in (folder / "best.ckpt", folder / "last.ckpt") if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{run_folder} has no checkpoint yet: let it train for an epoch, or resume it")
    programs = programs_of(recipe.model, recipe.guide)
    load_programs(read_checkpoint(path), programs, path)
    for program in programs:
        program.eval()
    return LoadedRun(recipe.model, recipe.guide, recipe)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
