"""Run folders: what a run was made from, how far it is, and how to load it again."""

import contextlib
import csv
import io
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import multipyro
from multipyro.data import Modality, MultimodalData
from multipyro.data.storage import write_atomically
from multipyro.inference.recipes import METHODS, Recipe, build
from multipyro.inference.recipes.networks import Networks
from multipyro.inference.training.checkpoints import load_programs, programs_of, read_checkpoint

__all__ = ["LoadedRun", "Run", "checkpoint_of", "describe_data", "described", "load", "read_run", "versions"]

_FILE = "run.json"
# what `write_atomically` calls a file until it is whole
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.part")
# what must not change between the parts of an interrupted run
_FIXED = (
    *(
        "stages",
        "method",
        "latent_dim",
        "options",
        "hidden_features",
        "architectures",
        "modalities",
        "guide_class",
        "data",
    ),
    *("plan", "config"),
)
# what a run.json must hold, and of which kind
_KINDS: dict[str, Any] = {
    **{"state": str, "stages": list, "stages_done": int, "options": dict, "latent_dim": int},
    **dict.fromkeys(("method", "guide_class"), str | None),
    **dict.fromkeys(("modalities", "data", "plan", "config"), dict | None),
    "hidden_features": list | None,
}


class LoadedRun(NamedTuple):
    """A run read back: the programs with their trained parameters, and the recipe they belong to.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import networks_for
        >>> recipe = build("mvae", networks_for(load_dataset("digits").train.modalities, (8,)), latent_dim=2)
        >>> LoadedRun(recipe.model, recipe.guide, recipe).recipe.name
        'mvae'
    """

    model: Any
    guide: Any
    recipe: Recipe


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = ("torch", "pyro-ppl", "lightning", "numpy", "scikit-learn")
    found = {name: version(name) for name in packages}
    return {"multipyro": multipyro.__version__, "python": platform.python_version(), **found}


def describe_data(train: Any, validation: Any = None, test: Any = None) -> dict[str, Any] | None:
    """Name, options, rows, content hashes and modalities of a data set; None for batches of one's own.

    Args:
        train: The rows that are trained on.
        validation: The rows to choose by; None for none.
        test: The rows to judge by; None for none.
    """
    if not isinstance(train, MultimodalData):
        return None
    others = {"validation_hash": validation, "test_hash": test}
    return {
        "name": train.name,
        "options": None if train.options is None else dict(train.options),
        "rows": len(train),
        "content_hash": train.content_hash,
        **{name: part.content_hash for name, part in others.items() if isinstance(part, MultimodalData)},
        "modalities": described(train.modalities),
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
        wrong = [name for name, kinds in _KINDS.items() if not isinstance(config[name], kinds)]
        if wrong:
            raise TypeError(f"{wrong[0]} is {_short(config[wrong[0]])}")
    except KeyError as error:
        raise ValueError(f"{path} is damaged or not written by multipyro (it lacks {error})") from error
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is damaged or not written by multipyro ({error})") from error
    return config


def is_main_process() -> bool:
    """Whether this process writes the files of a run; the others of a distributed run only train."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


class Run:
    """A run folder that is being trained in; made by `Run.open`.

    Args:
        folder: The folder.
        config: The content of its `run.json`.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.config = folder, config
        self._started_here = False

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike,
        recipe: Recipe,
        data: dict[str, Any] | None,
        plan: dict[str, Any],
        resume: bool,
        config: Mapping[str, Any] | None = None,
    ) -> "Run":
        """Starts a run in `folder`, or goes on with the one that is there.

        Args:
            folder: The run folder; made if need be.
            recipe: What is trained.
            data: The result of `describe_data`.
            plan: The settings of the training.
            resume: Whether a run that is there goes on.
            config: Further plain values to keep.

        Raises:
            ValueError: If a run is there and `resume` is False, or it was started with other settings.
        """
        folder = Path(folder)
        wanted = {
            "format": 1,
            "state": "running",
            "stages": [stage.name for stage in recipe.stages],
            "stages_done": 0,
            "method": recipe.name or None,
            "latent_dim": recipe.latent_dim,
            "options": recipe.options,
            "hidden_features": None if recipe.networks is None else list(recipe.networks.hidden_features),
            "architectures": None if recipe.networks is None else recipe.networks.architectures,
            "guide_class": recipe.guide_class,
            "modalities": None if recipe.networks is None else described(recipe.networks.modalities),
            "data": data,
            "plan": plan,
            "config": config,
            "versions": versions(),
        }
        try:
            wanted = json.loads(json.dumps(wanted))
        except TypeError as error:
            raise TypeError(f"options and config must be plain values that {_FILE} can hold: {error}") from error
        if not (folder / _FILE).is_file():
            strays = [name for name in ("checkpoints", "log.csv") if (folder / name).exists()]
            if strays and is_main_process():
                raise ValueError(f"{folder} holds {', '.join(strays)} but no {_FILE}: choose another folder")
            run = cls(folder, wanted)
            run._write()
            run._started_here = True
            return run
        # processes that Lightning starts for the same run find the folder of the first one
        if not resume and is_main_process():
            raise ValueError(f"{folder} already holds a run: resume it (--resume) or choose another folder")
        found = read_run(folder)
        # a run of an earlier version may not say which networks it has
        known = {name: found.get(name, wanted[name]) for name in _FIXED}
        pairs = [(name, known[name], wanted[name]) for name in _FIXED]
        changed = [change for pair in pairs for change in _changes(*pair)]
        if changed:
            details = "; ".join(f"{name} was {_short(was)}, now {_short(now)}" for name, was, now in changed)
            raise ValueError(f"the run in {folder} was started with other settings: {details}")
        if is_main_process():
            for place in (folder, *folder.glob("checkpoints/*")):
                for leftover in place.glob(".*.part"):  # of a write of ours that was killed
                    if _LEFTOVER.fullmatch(leftover.name):
                        leftover.unlink(missing_ok=True)
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
        return self.folder / "checkpoints" / f"stage-{number + 1}-{name}"

    def stage_folders(self) -> list[Path]:
        """The checkpoint folders of all stages, in order."""
        return [self.stage_folder(number, name) for number, name in enumerate(self.config["stages"])]

    def stage_done(self, number: int) -> None:
        """Notes that `number` stages are trained."""
        self.config["stages_done"] = number
        self._write()

    def release(self) -> None:
        """Gives the folder up if this process started the run and it failed before its first checkpoint.

        A corrected call finds the folder free then, whatever was wrong with the first one.
        """
        if self._started_here and is_main_process() and not any(self.folder.glob("checkpoints/*/*.ckpt")):
            for name in (_FILE, "log.csv"):
                (self.folder / name).unlink(missing_ok=True)
            for empty in (*self.stage_folders(), self.folder / "checkpoints"):
                with contextlib.suppress(OSError):  # it is not there, or holds something of another's
                    empty.rmdir()

    def finish(self) -> None:
        """Notes that the run is finished."""
        self.config["state"] = "finished"
        self._write()

    def write_log(self, history: Sequence[Mapping[str, float]]) -> None:
        """Writes `log.csv` anew, one row an epoch, so that it never holds an epoch twice or in part."""
        text = io.StringIO()
        table = csv.DictWriter(text, list(dict.fromkeys(name for row in history for name in row)))
        table.writeheader()
        table.writerows(history)
        write_atomically(self.folder / "log.csv", text.getvalue())

    def _write(self) -> None:
        if is_main_process():
            write_atomically(self.folder / _FILE, json.dumps(self.config, indent=2) + "\n")


def checkpoint_of(run_folder: str | os.PathLike, which: str = "best") -> Path:
    """The checkpoint of the last stage that has one.

    Args:
        run_folder: The folder of the run.
        which: `"best"` for that of the best validation bound, the last where there was no validation; or `"last"`.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If there is no run, or it has no checkpoint yet.
        ValueError: If `which` is neither.
    """
    if which not in ("best", "last"):
        raise ValueError(f"which must be 'best' or 'last', got {which!r}")
    folders = reversed(Run(Path(run_folder), read_run(run_folder)).stage_folders())
    files = (folder / f"{name}.ckpt" for folder in folders for name in dict.fromkeys((which, "last")))
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{run_folder} has no checkpoint yet: let it train for an epoch, or resume it")
    return path


def load(run_folder: str | os.PathLike, guide: type | None = None, which: str = "best") -> LoadedRun:
    """Rebuilds a run of `fit_recipe` (or of the command line) with its best parameters, or its last.

    Nothing is imported because a file says so: a run made with a guide class of one's own stores its name, and
    loading it asks for the class.

    Args:
        run_folder: The folder of the run.
        guide: The guide class, for a run that was made with one.
        which: `"best"` for the parameters of the best validation bound, the last where there was no validation; or
            `"last"`.

    Returns:
        A named tuple `(model, guide, recipe)`, the modules in evaluation mode, those in `recipe.others` too.

    Raises:
        FileNotFoundError: If there is no run, or it has no checkpoint yet.
        ValueError: If the run cannot be rebuilt from its folder, or a file in it is damaged.

    Example:
        >>> import tempfile
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, fit_recipe, networks_for
        >>> splits = load_dataset("digits")
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = fit_recipe(recipe, splits, epochs=1, out=folder, progress=False)
        ...     model, guide, recipe = load(folder)
        >>> model.modalities
        ('image', 'label', 'word')
    """
    config = read_run(run_folder)
    if config["method"] is None or config["modalities"] is None:
        raise ValueError(
            f"{run_folder} was trained from programs of one's own: build them and call "
            "multipyro.inference.load_state(checkpoint, model, guide)"
        )
    if config["method"] not in METHODS:
        raise ValueError(
            f"{run_folder} was trained by {config['method']!r}, which is no method known here: register it first "
            "(--method FILE.py:NAME)"
        )
    name = config["guide_class"]
    if (name is None) != (guide is None) or (guide is not None and guide.__name__ != name):
        asked = f"the guide class {name}" if name is not None else "no guide class"
        given = "none" if guide is None else guide.__name__
        raise ValueError(f"{run_folder} was made with {asked}, got {given}: pass it as guide= (--guide FILE.py:CLASS)")
    try:
        modalities = {name: Modality(**fields) for name, fields in config["modalities"].items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{Path(run_folder) / _FILE} is damaged: {error}") from error
    networks = Networks(modalities, config["hidden_features"], architectures=config.get("architectures"))
    recipe = build(config["method"], networks, config["latent_dim"], guide, **config["options"])
    path = checkpoint_of(run_folder, which)
    programs = programs_of(recipe.model, recipe.guide, *recipe.others)
    load_programs(read_checkpoint(path), programs, path)
    for program in programs:
        program.eval()
    return LoadedRun(recipe.model, recipe.guide, recipe)


def described(modalities: Mapping[str, Modality]) -> dict[str, dict[str, Any]]:
    """Descriptions of modalities as plain values, without what they do not say."""
    fields = {name: asdict(modality) for name, modality in modalities.items()}
    return {name: {key: value for key, value in told.items() if value is not None} for name, told in fields.items()}


def _changes(name: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """The places in which two plain values differ, with both values."""
    if isinstance(was, dict) and isinstance(now, dict):
        # a run of an earlier version may say less about its plan and its data
        keys = [key for key in now if key in was] if name in ("plan", "data") else dict.fromkeys([*was, *now])
        for key in keys:
            yield from _changes(f"{name}.{key}", was.get(key), now.get(key))
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for number, pair in enumerate(zip(was, now, strict=True)):
            yield from _changes(f"{name}[{number}]", *pair)
    elif was != now:
        yield name, was, now


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
