"""Rendered scenes in files of a hundred, each complete or absent, rendered by worker processes where missing."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multipyro._optional import optional_imports
from multipyro.data.scenes.composition import COLORS, MATERIALS, SHAPES, SIZES, WORDS, draw_scene, sentence
from multipyro.data.storage.files import write_atomically
from multipyro.data.storage.images import usable_cores
from multipyro.data.storage.locations import download_root, roots
from multipyro.data.storage.stored import stored_arrays

__all__ = ["SHARD", "SceneRecipe", "can_render", "count_shards", "load_shards", "render_missing", "render_worker"]

#: Scenes per file.
SHARD = 100

_VERSION = 1
_INSTALL = 'pip install "multipyro[render]"'
_WORKER = "from multipyro.data.scenes.render_jobs import render_worker; render_worker()"
_ATTRIBUTES = (tuple(SIZES), tuple(COLORS), MATERIALS, SHAPES)


@dataclass(frozen=True)
class SceneRecipe:
    """The settings that images depend on, beside their numbers.

    Args:
        num_objects: Objects per scene.
        simple: Whether all are red or blue metal spheres.
        size: Height and width in pixels.
        seed: Seed of the scenes and of their sentences.
        shard: Scenes per file.
    """

    num_objects: int
    simple: bool
    size: int
    seed: int
    shard: int = SHARD

    def name(self, number: int) -> str:
        """Path of a file within a root."""
        kind = f"{self.num_objects}-{'simple' if self.simple else 'any'}"
        return f"TwoObjects/v{_VERSION}-{kind}-{self.size}px-seed{self.seed}/{number:05d}.npz"

    def header(self, number: int) -> str:
        """The header of a file, which describes its content."""
        return json.dumps({"version": _VERSION, **vars(self), "number": number}, sort_keys=True)


def can_render() -> bool:
    """Whether pyvista is installed."""
    return importlib.util.find_spec("pyvista") is not None


def count_shards(recipe: SceneRecipe, numbers: Iterable[int], data_root: str | os.PathLike | None = None) -> int:
    """How many of the files exist in one of the roots; they are not opened."""
    places = roots(data_root)
    return sum(any((root / recipe.name(number)).is_file() for root in places) for number in numbers)


def render_missing(
    recipe: SceneRecipe,
    numbers: Iterable[int],
    data_root: str | os.PathLike | None = None,
    processes: int | None = None,
) -> None:
    """Renders the files that are in no root into the download folder.

    Raises:
        ImportError: If files are missing and pyvista is not installed.
        RuntimeError: If a worker fails; the message ends with its output.
    """
    places = roots(data_root)
    missing = [number for number in numbers if not any((root / recipe.name(number)).is_file() for root in places)]
    _render(recipe, missing, processes)


def load_shards(
    recipe: SceneRecipe,
    numbers: Iterable[int],
    data_root: str | os.PathLike | None = None,
    processes: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Reads files in order; one that is missing or damaged is rendered again.

    Raises:
        ImportError: See `render_missing`.
        RuntimeError: See `render_missing`.
    """
    places = roots(data_root)
    for number in numbers:
        arrays = _read(recipe, number, places)
        if arrays is None:
            _render(recipe, [number], processes)
            arrays = _read(recipe, number, [download_root()])
        if arrays is None:
            raise RuntimeError(f"{download_root() / recipe.name(number)} was rendered and cannot be read")
        yield arrays


def _read(recipe: SceneRecipe, number: int, places: Iterable[Path]) -> dict[str, np.ndarray] | None:
    for path in (root / recipe.name(number) for root in places):
        if not path.is_file():
            continue
        try:
            arrays = stored_arrays(path)
            if str(arrays.pop("recipe", "")) != recipe.header(number):
                raise ValueError("it has other scenes")
        except ValueError as error:
            warnings.warn(f"{path} is damaged ({error}) and its scenes are rendered again", stacklevel=5)
        else:
            return {name: array for name, array in arrays.items() if name != "made_by"}
    return None


def _render(recipe: SceneRecipe, numbers: Sequence[int], processes: int | None) -> None:
    """Renders files into the download folder by worker processes; finished files stay, whatever happens."""
    if not numbers:
        return
    if not can_render():
        raise ImportError(
            f"{len(numbers) * recipe.shard:,} scenes are not rendered yet, and pyvista, which renders them, is not "
            f"installed: {_INSTALL}"
        )
    count = min(processes or usable_cores(), len(numbers))
    # threads of numpy may round differently, and those of a software renderer block one another
    threads = dict.fromkeys(("LP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # workers import the same packages, whichever folder this process runs in
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with optional_imports("a progress bar"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    columns = (TextColumn("rendering scenes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    reading, writing = os.pipe()
    workers = []
    with tempfile.TemporaryFile() as errors, os.fdopen(reading) as finished:
        try:
            try:
                for first in range(count):
                    task = {"folder": str(download_root()), "recipe": vars(recipe), "numbers": numbers[first::count]}
                    command = [sys.executable, "-P", "-c", _WORKER]
                    worker = subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=writing, stderr=errors, env=environment
                    )
                    workers.append(worker)
                    with worker.stdin:
                        worker.stdin.write(json.dumps(task).encode())
            finally:
                os.close(writing)
            with Progress(*columns, console=Console(stderr=True)) as progress:
                bar = progress.add_task("", total=len(numbers) * recipe.shard)
                for _ in finished:  # one line per file, until the last worker has closed its end
                    progress.advance(bar, recipe.shard)
            failed = [worker.wait() for worker in workers if worker.wait()]
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()
        if failed:
            errors.seek(0)
            output = errors.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(
                f"rendering failed with exit status {failed[0]}; finished scenes stay. The last lines of its output: "
                + "\n".join(output[-5:])
            )


def render_worker() -> None:
    """A worker process: reads its task from standard input, and prints the number of each file that it has written."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exception, so that no part of a file stays
    task = json.loads(sys.stdin.read())
    recipe, folder = SceneRecipe(**task["recipe"]), Path(task["folder"])
    # imported here, because the calling process may not have pyvista
    from multipyro.data.scenes.renderer import Renderer

    renderer = Renderer(recipe.size)
    for number in task["numbers"]:
        arrays = _arrays(recipe, number, renderer)
        header = {"recipe": np.array(recipe.header(number)), "made_by": np.array(renderer.versions)}
        write_atomically(
            folder / recipe.name(number), lambda file, parts=(header | arrays): np.savez_compressed(file, **parts)
        )
        print(number, flush=True)


def _arrays(recipe: SceneRecipe, number: int, renderer) -> dict[str, np.ndarray]:
    indices = range(number * recipe.shard, (number + 1) * recipe.shard)
    scenes = [draw_scene(recipe.seed, index, recipe.num_objects, recipe.simple) for index in indices]
    texts = [sentence(scene, recipe.seed, index) for scene, index in zip(scenes, indices, strict=True)]
    objects = [scene.objects for scene in scenes]
    positions = np.array([[item.position for item in items] for items in objects])
    projected = np.stack([scene.project(place) for scene, place in zip(scenes, positions, strict=True)])
    attributes = [
        [[names.index(word) for names, word in zip(_ATTRIBUTES, item.words, strict=True)] for item in items]
        for items in objects
    ]
    return {
        "image": np.stack([renderer.draw(scene) for scene in scenes]),
        "text": np.array([[WORDS.index(word) for word in text] for text in texts], np.uint8),
        "attributes": np.array(attributes, np.uint8),
        "position": positions,
        "rotation": np.array([[item.rotation for item in items] for items in objects]),
        "pixel": projected * (recipe.size, recipe.size, 1),
        "camera": np.array([scene.camera for scene in scenes]),
        "lights": np.array([scene.lights for scene in scenes]),
    }
