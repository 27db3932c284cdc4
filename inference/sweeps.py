"""Resumable sweeps: each cell is computed once, in this process, in several processes or on a Ray cluster."""

import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal

import torch

from multipyro._optional import optional_imports
from multipyro.data.storage import write_atomically

__all__ = ["Cell", "CellResult", "run_cells"]

_RESULT = "cell.json"
_ERROR = "error.txt"


@dataclass(frozen=True)
class Cell:
    """One computation of a sweep, such as a method with one seed.

    Args:
        name: Name of its folder inside the folder of the sweep.
        run: Called as `run(folder, **arguments)`; returns plain values that JSON can represent. Other processes import
            it, so it must be a top-level function of a module. The files that it writes into the folder are kept when
            an interrupted cell is started again, so that it can resume from them.
        arguments: Its arguments.
        key: Plain values that the result depends on; None for the arguments. A finished cell with a different key is
            computed again.

    Example:
        >>> Cell("mopoe-0", print, {"seed": 0}).identity
        {'seed': 0}
    """

    name: str
    run: Callable[..., Mapping[str, Any]]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    key: Any = None

    @property
    def identity(self) -> Any:
        """The key, as JSON reads it back."""
        return json.loads(json.dumps(dict(self.arguments) if self.key is None else self.key))


@dataclass(frozen=True)
class CellResult:
    """The outcome of a cell.

    Args:
        values: What `run` returned; None if it did not return.
        error: The traceback or the exit code if it did not return. Empty for a finished cell, and for one that was not
            started because the budget was used up.
        seconds: Processor time of the process that finished it.
    """

    values: dict[str, Any] | None
    error: str = ""
    seconds: float = 0.0


def run_cells(
    cells: Sequence[Cell],
    out: str | os.PathLike,
    *,
    workers: int = 0,
    engine: Literal["processes", "ray"] = "processes",
    budget: float | None = None,
    report: Callable[[Cell, CellResult], None] | None = None,
) -> dict[str, CellResult]:
    """Computes the cells that are not finished yet, and returns the results of all.

    A finished cell has a `cell.json` in its folder and is never computed again. A cell that raises leaves `error.txt`.
    If a cell raises or its process is killed, the other cells continue, and the next call starts it again.

    Args:
        cells: The cells, in the order in which they are started.
        out: Folder of the sweep, with one folder per cell; on a Ray cluster one that all machines share.
        workers: Number of cells computed at once, each in a process with an equal share of the processors; 0 to compute
            them one after the other in this process, where a crash in a cell ends the sweep.
        engine: `"processes"` on this machine; or `"ray"`, tasks on the cluster that `RAY_ADDRESS` names, or on one that
            is started here. Ray decides how many run at once, up to `workers`.
        budget: Processor time in minutes, after which no further cell is started; None for no limit.
        report: Called with each cell and its result, as soon as it is known.

    Returns:
        Name -> result.

    Raises:
        ValueError: If two cells have the same name, or an argument is wrong.

    Example:
        >>> import tempfile
        >>> def square(folder, number):
        ...     return {"square": number**2}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     results = run_cells([Cell(f"square-{n}", square, {"number": n}) for n in (2, 3)], folder)
        >>> [result.values for result in results.values()]
        [{'square': 4}, {'square': 9}]
    """
    names = [cell.name for cell in cells]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"cells must have different names, got {', '.join(repeated)} more than once")
    if workers < 0 or engine not in ("processes", "ray") or (engine == "ray" and not workers):
        raise ValueError(f"workers must be at least {int(engine == 'ray')} and engine processes or ray, got {workers}")
    results: dict[str, CellResult] = {}

    def finish(cell: Cell, result: CellResult) -> None:
        results[cell.name] = result
        if report is not None:
            report(cell, result)

    waiting = []
    for cell in cells:
        finished = _finished(cell, Path(out) / cell.name)
        if finished is None:
            waiting.append(cell)
        else:
            finish(cell, finished)
    used, pool = 0.0, _POOLS[engine](workers) if workers else _Here()
    try:
        while waiting or pool.running:
            if waiting and len(pool.running) < max(1, workers) and (budget is None or used < 60 * budget):
                cell = waiting.pop(0)
                (Path(out) / cell.name / _ERROR).unlink(missing_ok=True)
                pool.start(cell, Path(out) / cell.name)
                continue
            if not pool.running:
                break
            for cell, problem in pool.wait():
                result = _finished(cell, Path(out) / cell.name) or CellResult(None, problem)
                used += result.seconds
                finish(cell, result)
    finally:
        pool.stop()
    for cell in waiting:
        finish(cell, CellResult(None))
    return {name: results[name] for name in names}


def _finished(cell: Cell, folder: Path) -> CellResult | None:
    """The result in a folder, if it is that of the cell."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        record = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
        if record["key"] == cell.identity:
            return CellResult(record["values"], seconds=record["seconds"])
    return None


def _compute(cell: Cell, folder: Path) -> None:
    """Computes a cell and writes its result, or why there is none."""
    started = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        values = dict(cell.run(folder, **cell.arguments))
        record = {"key": cell.identity, "values": values, "seconds": time.process_time() - started}
        write_atomically(folder / _RESULT, json.dumps(record, indent=1, allow_nan=False) + "\n")
        (folder / _ERROR).unlink(missing_ok=True)  # of another sweep that failed at the same time
    except Exception:
        write_atomically(folder / _ERROR, traceback.format_exc())


def _compute_in_process(cell: Cell, folder: Path, threads: int) -> None:
    """Computes a cell in a process that ends whenever its parent does, because the next call needs the folder."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    torch.set_num_threads(threads)
    _compute(cell, folder)


def _problem(folder: Path, otherwise: str) -> str:
    """What a cell wrote about its failure, or how its process ended."""
    with suppress(FileNotFoundError):
        return (folder / _ERROR).read_text(encoding="utf-8").strip()
    return otherwise


class _Pool(ABC):
    """Where cells are computed.

    Attributes:
        running: Handle of a running computation -> its cell and folder.
    """

    def __init__(self) -> None:
        self.running: dict[Any, tuple[Cell, Path]] = {}

    @abstractmethod
    def start(self, cell: Cell, folder: Path) -> None:
        """Starts a cell."""

    @abstractmethod
    def wait(self) -> list[tuple[Cell, str]]:
        """Waits until at least one cell has ended; returns the ended cells, each with the error if it has no result."""

    def stop(self) -> None:
        """Ends what is still running."""
        self.running.clear()


class _Here(_Pool):
    """This process."""

    def start(self, cell: Cell, folder: Path) -> None:
        self.running[cell.name] = (cell, folder)
        _compute(cell, folder)

    def wait(self) -> list[tuple[Cell, str]]:
        (ended,) = self.running.values()
        self.running.clear()
        return [(ended[0], _problem(ended[1], "it ended without a result"))]


class _Processes(_Pool):
    """One process per cell, so that a crash affects no other cell."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self._context = multiprocessing.get_context("spawn")  # a fork would share the locks of torch's threads
        self._threads = max(1, (os.cpu_count() or 1) // workers)

    def start(self, cell: Cell, folder: Path) -> None:
        process = self._context.Process(target=_compute_in_process, args=(cell, folder, self._threads))
        process.start()
        self.running[process] = (cell, folder)

    def wait(self) -> list[tuple[Cell, str]]:
        connection.wait([process.sentinel for process in self.running])
        ended = []
        for process in [process for process in self.running if not process.is_alive()]:
            cell, folder = self.running.pop(process)
            ended.append((cell, _problem(folder, f"its process ended with exit code {process.exitcode}")))
        return ended

    def stop(self) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.join()
        super().stop()


class _Ray(_Pool):
    """One Ray task per cell; Ray does not retry it."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        with optional_imports("sweeps over a cluster"):
            import ray
        self._ray = ray
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        # all machines share the files of this one, so they can import the same modules
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
        self._task = ray.remote(max_retries=0, runtime_env=environment)(_compute)

    def start(self, cell: Cell, folder: Path) -> None:
        self.running[self._task.remote(cell, folder.absolute())] = (cell, folder)

    def wait(self) -> list[tuple[Cell, str]]:
        (task,), _ = self._ray.wait(list(self.running))
        cell, folder = self.running.pop(task)
        try:
            self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return [(cell, _problem(folder, str(error)))]
        return [(cell, _problem(folder, "it ended without a result"))]

    def stop(self) -> None:
        for task in self.running:
            self._ray.cancel(task, force=True)
        super().stop()


_POOLS = {"processes": _Processes, "ray": _Ray}
