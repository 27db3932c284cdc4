"""Run folders: the settings of a run, its progress, and a lock."""

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multipyro.data.storage import write_atomically
from multipyro.inference.runs.description import changes

__all__ = ["Run", "checkpoint_of", "read_run"]

_FILE, _LOCK = "run.json", ".lock"
# the parameters of an exported run
_WEIGHTS = "model.safetensors"
_LARGEST = 2**24  # bytes; a run.json has a few thousand
# temporary names of `write_atomically`
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.part")
# the entries of a run.json, and their types
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("settings", "options", "data", "versions", "data.size", "data.content_hash"), dict),
    **dict.fromkeys(("method", "guide_class", "data.name"), str | None),
    **dict.fromkeys(("modalities", "covariates", "architectures", "config"), dict | None),
    **dict.fromkeys(("data.options", "data.modalities"), dict | None),
    **{"state": str, "stages": list, "latent_dim": int, "hidden_features": list | None, "settings.seed": int},
}
# those that are mappings, and the types of their values
_VALUES: dict[str, Any] = {
    **dict.fromkeys(("modalities", "covariates", "data.modalities"), dict),
    **{"architectures": str, "data.size": int | None, "data.content_hash": str | None},
}
_STAGE = {"name": str, "equation": str, "epochs": int}
# learning-rate schedules of another shape with more epochs
_FIXED_SCHEDULES = ("cosine", "exponential", "one-cycle")


def read_run(folder: str | os.PathLike) -> dict[str, Any]:
    """The content of a run folder's `run.json`.

    Raises:
        FileNotFoundError: If there is no run in the folder.
        ValueError: If the file is damaged; the message says where.
    """
    path = Path(folder) / _FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no {_FILE}")
    try:
        content = json.loads(path.read_text(encoding="utf-8") if path.stat().st_size < _LARGEST else "")
        _check_entries(content, _KINDS)
        for place, kind in _VALUES.items():
            values = _entry(content, place) or {}
            _check_entries(values, dict.fromkeys(values, kind))
        if content["latent_dim"] < 0:  # 0 for user-defined programs
            raise TypeError(f"latent_dim is {content['latent_dim']}")
        for stage in content["stages"]:
            _check_entries(stage, _STAGE)
            if Path(stage["name"]).name != stage["name"]:  # it would lead out of the folder
                raise TypeError(f"stages is {str(content['stages'])[:80]}")
        if not (content["guide_class"] or "_").isidentifier():  # it is part of commands that are shown
            raise TypeError(f"guide_class is {content['guide_class'][:80]}")
    except KeyError as error:
        raise ValueError(f"{path} is damaged or not written by multipyro: {error} is missing") from error
    except (ValueError, RecursionError, TypeError) as error:
        raise ValueError(f"{path} is damaged or not written by multipyro: {error}") from error
    return content


def _check_entries(content: Any, kinds: Mapping[str, Any]) -> None:
    """Raises if an entry is missing or of another type than that in `kinds`, whose keys say where it is."""
    for place, kind in kinds.items():
        value = _entry(content, place)
        if not isinstance(value, kind):
            raise TypeError(f"{place} is {str(value)[:80]}")


def _entry(content: Any, place: str) -> Any:
    """The entry at keys that are joined by dots."""
    if place in content:
        return content[place]
    outer, _, inner = place.partition(".")
    if outer not in content or not inner:
        raise KeyError(place)
    return _entry(content[outer], inner)


def checkpoint_of(folder: str | os.PathLike, which: str = "best") -> Path:
    """The checkpoint of the last stage that has one.

    Args:
        folder: The run folder.
        which: `"best"` for that of the best validation bound, the last where there was no validation; or `"last"`.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If there is no run, or it has no checkpoint yet.
        ValueError: If `which` is neither `"best"` nor `"last"`.
    """
    if which not in ("best", "last"):
        raise ValueError(f"which must be 'best' or 'last', got {which!r}")
    run = Run(Path(folder), read_run(folder))
    stages, names = reversed(range(len(run.content["stages"]))), dict.fromkeys((which, "last"))
    paths = [run.checkpoint(stage, name) for stage in stages for name in names]
    for path in [*paths, Path(folder) / _WEIGHTS]:
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} has no checkpoint yet: let it train for an epoch, or resume it")


@dataclass
class Run:
    """A run folder.

    Args:
        folder: The folder.
        content: The content of its `run.json`.
    """

    folder: Path
    content: dict[str, Any]

    @contextmanager
    def opened(self, resume: bool) -> Iterator[None]:
        """Starts the run in the folder, or continues the one in it; no other process trains there in this context.

        A run that fails before its first checkpoint leaves the folder as it was, so that a corrected call can use it.

        Args:
            resume: Whether a run in the folder is continued. It must have been started with the same content.

        Raises:
            ValueError: If there is a run and it is not to be resumed, or was started with other settings; or if
                another process trains in the folder.
        """
        try:
            self.content = json.loads(json.dumps({"state": "running", **self.content}))
        except TypeError as error:
            raise TypeError(f"options must be plain values that {_FILE} can hold: {error}") from error
        existed, started = self.folder.is_dir(), False
        try:
            with _locked(self.folder):
                try:
                    started = self._start(resume)
                    yield
                except BaseException:
                    if started:
                        self._discard()
                    raise
        finally:
            if not existed:
                with suppress(OSError):  # it is in use
                    self.folder.rmdir()

    def checkpoint(self, stage: int, name: str) -> Path:
        """The path of the checkpoint `"best"` or `"last"` of a stage, by its number."""
        folder = f"stage-{stage + 1}-{self.content['stages'][stage]['name']}"
        return self.folder / "checkpoints" / folder / f"{name}.ckpt"

    def finish(self) -> None:
        """Records that all stages are trained."""
        if self.content["state"] != "finished":
            self._write(state="finished")

    def write_log(self, history: Sequence[Mapping[str, float]]) -> None:
        """Rewrites `log.csv`, one row per epoch, so that it never has an epoch twice or in part."""
        text, path = io.StringIO(), self.folder / "log.csv"
        table = csv.DictWriter(text, list(dict.fromkeys(name for row in history for name in row)))
        table.writeheader()
        table.writerows(history)
        if not path.is_file() or path.read_bytes() != text.getvalue().encode():
            write_atomically(path, text.getvalue())

    def _start(self, resume: bool) -> bool:
        """Writes `run.json`, or reads and compares it; returns whether the run was started now."""
        if not (self.folder / _FILE).is_file():
            strays = [name for name in ("checkpoints", "log.csv") if (self.folder / name).exists()]
            if strays:
                raise ValueError(f"{self.folder} has {', '.join(strays)} but no {_FILE}: choose another folder")
            self._write()
            return True
        if not resume:
            raise ValueError(f"{self.folder} already contains a run: resume it (--resume) or choose another folder")
        new, self.content = self.content, read_run(self.folder)
        if self.content["state"] == "exported":
            raise ValueError(f"{self.folder} is an exported run without its history: start a new one (--init-from)")
        pairs = list(zip(self.content["stages"], new["stages"], strict=False))
        different = changes("", *(_compared(content) for content in (self.content, new)))
        different += [f"{was['name']} has fewer epochs" for was, now in pairs if now["epochs"] < was["epochs"]]
        if different:
            raise ValueError(
                f"the run in {self.folder} was started with other settings: {'; '.join(different)}: continue it with "
                "those, or choose another folder (--out)"
            )
        grown = [number for number, (was, now) in enumerate(pairs) if now["epochs"] > was["epochs"]]
        for number in grown:
            stage, schedule = f"stage {pairs[number][0]['name']!r}", self.content["settings"]["lr_schedule"]
            if schedule in _FIXED_SCHEDULES:
                raise ValueError(f"{stage} cannot have more epochs: lr_schedule {schedule!r} depends on their number")
            if any(self.checkpoint(later, "last").exists() for later in range(number + 1, len(pairs))):
                raise ValueError(f"{stage} cannot have more epochs: a later stage has been trained on its result")
        if grown:
            self._write(state="running", stages=new["stages"])
        for place in (self.folder, *self.folder.glob("checkpoints/*")):
            for leftover in place.glob(".*.part"):  # of a write of ours that was killed
                if _LEFTOVER.fullmatch(leftover.name):
                    leftover.unlink(missing_ok=True)
        return False

    def _discard(self) -> None:
        """Removes what this run wrote, unless there is a checkpoint."""
        if not any(self.folder.glob("checkpoints/*/*.ckpt")):
            for name in (_FILE, "log.csv"):
                (self.folder / name).unlink(missing_ok=True)
            for place in (*self.folder.glob("checkpoints/*"), self.folder / "checkpoints"):
                with suppress(OSError):  # it is not there, or contains files of others
                    place.rmdir()

    def _write(self, **changed: Any) -> None:
        self.content |= changed
        write_atomically(self.folder / _FILE, json.dumps(self.content, indent=2) + "\n")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """No other process trains in the folder in this context; the lock ends with the process, however it ends."""
    import fcntl

    path = folder / _LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(f"another process is training in {folder}") from error
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # its last owner removed the file before it was locked here
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _compared(content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries in which a run and its continuation must agree."""
    stages = [{name: value for name, value in stage.items() if name != "epochs"} for stage in content["stages"]]
    data = {name: value for name, value in content["data"].items() if name != "options"}  # the content has a hash
    others = {name: value for name, value in content.items() if name not in ("state", "versions")}
    return {**others, "stages": stages, "data": data}
