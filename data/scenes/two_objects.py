"""Rendered scenes and their sentences: two objects and their relation, and one red or blue sphere."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.scenes.composition import WORDS
from multipyro.data.scenes.render_jobs import SHARD, SceneRecipe, can_render, count_shards, load_shards, render_missing
from multipyro.data.splits import Splits

__all__ = ["SceneSet", "load_scenes", "scene_arrays", "scenes_missing"]

_MIN_SIZE, _MAX_SIZE = 32, 512


class SceneSet(NamedTuple):
    """A set of scenes: objects per scene, whether they are simple, and rows for training, validation and test."""

    num_objects: int
    simple: bool
    rows: tuple[int, int, int]


_SETS = {
    "two-objects": SceneSet(2, False, (90_000, 5_000, 5_000)),
    "one-object": SceneSet(1, True, (9_000, 500, 500)),
}
_SIZE = 112
_SIMPLE_WORDS = ("small", "large", "red", "blue", "metal", "sphere")
_SIMPLE_SENTENCES = tuple(f"{size} {color} metal sphere" for size in ("small", "large") for color in ("red", "blue"))


def load_scenes(
    name: str,
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    size: int = _SIZE,
    num_rows: int | None = None,
    likelihood: str = "beta",
    processes: int | None = None,
) -> Splits:
    """Images of objects in the style of CLEVR, and sentences that describe them.

    Modalities: `image` uint8 `(rows, 3, size, size)` in memory, float32 in `[0, 1]` in batches; and `text`, int64
    `(rows, words)`.

    `"two-objects"` has sentences of the nine words `size color material shape relation size color material shape` out
    of 19. The first object of the sentence is right or left of the second, in front of it or behind, as seen from the
    camera. Which object comes first and which of the two true relations is named is drawn at random. The parts are rows
    0 to 89,999, 90,000 to 94,999 and 95,000 to 99,999.

    `"one-object"` has one metal sphere, red or blue, small or large, anywhere on the ground, and four words such as
    `large red metal sphere`. Labels are the four sentences. 9,000 training, 500 validation and 500 test examples.

    Scenes that are in no searched folder are rendered at the first use (the extra `[render]`), a hundred per file, into
    `TwoObjects/` in the download folder, which can be copied into a data root. An interrupted run continues where it
    stopped. Image and sentence depend on the seed and on the number of the row alone, bit for bit on one machine: not
    on the number of processes, and not on `num_rows`, so a larger set contains the smaller one.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders, appendices 5.2 and
        5.5, Figure 1: 100,000 pairs of two objects, 90,000 for training and 10,000 for validation. Departures: the
        10,000 are halved into validation and test, and the images are rendered by VTK and not by Blender. The paper
        does not say whether the first object is right of the second or the second of the first, nor how the scenes were
        framed: here neither object hides any of the other or leaves the image. Of one object, the number of images is
        not published, nor whether position and light vary; here both do.

        CLEVR (Johnson et al., 2017): shapes, sizes, colors, relations, jitter of the camera and of the lamps.

    Args:
        name: `"two-objects"` or `"one-object"`.
        data_root: Folder with `TwoObjects/`; see `multipyro.data.storage.locations` for where else is searched.
        seed: Seed of the scenes and of the sentences; another seed is another data set, which is rendered again.
        size: Height and width in pixels, 32 to 512.
        num_rows: Largest number of rows of each part, the first ones; None for all. Only these are rendered, rounded
            up to hundreds.
        likelihood: Likelihood of the pixels, see `Modality`; the paper's is `"beta"`.
        processes: Number of rendering processes; one per core by default.

    Returns:
        The three parts.

    Raises:
        ImportError: If scenes have to be rendered and pyvista is not installed.
        ValueError: If an option is out of range.
        OSError: If the download folder cannot be written.
    """
    scene_set, recipe = _SETS[name], _recipe(name, seed, size, num_rows, processes)
    # all parts at once, under one progress bar
    parts = {split: _shards(scene_set, split, num_rows)[1] for split in Splits.NAMES}
    render_missing(recipe, [number for shards in parts.values() for number in shards], data_root, processes)
    words, sentences = (WORDS, None) if not scene_set.simple else (_SIMPLE_WORDS, _SIMPLE_SENTENCES)
    positions = 4 if scene_set.num_objects == 1 else 9
    text = Modality("text", (positions,), "text", "categorical", len(words), sentences, vocabulary=words)
    modalities = {"image": Modality("image", (3, size, size), "image", likelihood), "text": text}
    ids = torch.tensor([words.index(word) if word in words else -1 for word in WORDS])
    splits = {}
    for split in Splits.NAMES:
        arrays = scene_arrays(name, split, ("image", "text"), data_root, seed, size, num_rows, processes)
        x = {"image": torch.from_numpy(arrays["image"]), "text": ids[torch.from_numpy(arrays["text"]).long()]}
        labels = None
        if sentences is not None:
            labels = (x["text"][:, None] == text.encode(list(sentences))).all(-1).int().argmax(1)
        splits[split] = MultimodalData(name, modalities, x, labels=labels, split=split, label_names=sentences)
    return Splits(**splits)


def scene_arrays(
    name: str,
    split: str,
    fields: Sequence[str],
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    size: int = _SIZE,
    num_rows: int | None = None,
    processes: int | None = None,
) -> dict[str, np.ndarray]:
    """Facts about the scenes of one part, in the order of its rows, to check images and sentences.

    Args:
        name: `"two-objects"` or `"one-object"`.
        split: `"train"`, `"validation"` or `"test"`.
        fields: Some of `image`, uint8 `(rows, 3, size, size)`; `text`, indices of `WORDS` `(rows, words)`;
            `attributes` `(rows, objects, 4)`, indices of the words for size, color, material and shape in the order
            of `multipyro.data.scenes.composition`; `position` of the centers `(rows, objects, 3)`, with z upwards;
            `rotation` `(rows, objects)` in degrees; `pixel` `(rows, objects, 3)`, where the centers appear: pixels
            from the left, pixels from the top, and depth; `camera` `(rows, 3)` and `lights` `(rows, 4, 3)`, positions.
        data_root: See `load_scenes`.
        seed: See `load_scenes`.
        size: See `load_scenes`.
        num_rows: See `load_scenes`.
        processes: See `load_scenes`.

    Returns:
        Field -> array.

    Raises:
        ImportError: See `load_scenes`.
        ValueError: See `load_scenes`.
        OSError: See `load_scenes`.
    """
    scene_set, recipe = _SETS[name], _recipe(name, seed, size, num_rows, processes)
    rows, shards = _shards(scene_set, split, num_rows)
    render_missing(recipe, shards, data_root, processes)
    result: dict[str, np.ndarray] = {}
    for start, arrays in zip(range(0, rows, SHARD), load_shards(recipe, shards, data_root, processes), strict=True):
        for field in fields:
            values = arrays[field][: rows - start]
            # filled in place, because two copies of a hundred thousand images need too much memory
            result.setdefault(field, np.empty((rows, *values.shape[1:]), values.dtype))[start : start + SHARD] = values
    return result


def scenes_missing(name: str, data_root: str | os.PathLike | None = None) -> str:
    """What remains to be rendered of a set with the default options, and how, or an empty string."""
    scene_set = _SETS[name]
    total = sum(scene_set.rows) // SHARD
    there = count_shards(SceneRecipe(scene_set.num_objects, scene_set.simple, _SIZE, 0), range(total), data_root)
    if there == total:
        return ""
    state = f"{there * SHARD:,} of {total * SHARD:,} scenes are rendered; the others will be at first use"
    return state if can_render() else f'{state}, which needs pip install "multipyro[render]"'


def _recipe(name: str, seed: int, size: int, num_rows: int | None, processes: int | None) -> SceneRecipe:
    options = (("seed", seed, 0), ("size", size, _MIN_SIZE), ("num_rows", num_rows, 1), ("processes", processes, 1))
    for option, value, least in options:
        optional = option in ("num_rows", "processes")
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not whole and not (optional and value is None):
            wanted = f"a whole number from {least} on{', or None' if optional else ''}"
            raise ValueError(f"{option} must be {wanted}, got {value!r}")
    if size > _MAX_SIZE:
        raise ValueError(f"size must be at most {_MAX_SIZE}, got {size}")
    return SceneRecipe(_SETS[name].num_objects, _SETS[name].simple, size, seed, SHARD)


def _shards(scene_set: SceneSet, split: str, num_rows: int | None) -> tuple[int, range]:
    """Rows of a part, and its files."""
    part = Splits.NAMES.index(split)
    first = sum(scene_set.rows[:part])
    rows = min(num_rows or scene_set.rows[part], scene_set.rows[part])
    return rows, range(first // SHARD, (first + rows - 1) // SHARD + 1)
