"""PolyMNIST: five images of one digit in different handwritings, published or built from MNIST and photographs."""

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.sets._polymnist_files import find_original, original_arrays, original_digest
from multipyro.data.sets.digits import DIGIT_WORDS
from multipyro.data.sets.mnist import mnist_arrays
from multipyro.data.splits import Splits, check_num_rows
from multipyro.data.storage.cache import cached
from multipyro.data.storage.files import printable
from multipyro.data.storage.images import read_rgb
from multipyro.data.storage.locations import VARIABLE, roots

__all__ = ["background_paths", "load_polymnist", "polymnist_source"]

_FOLDER = "PolyMNIST/backgrounds"
_SUFFIXES = (".jpeg", ".jpg", ".png")
_MODALITIES = 5
_SIDE = 28
_THRESHOLD = 128
# part of the recipe, whose digest names the cached file: another recipe is another file
_VERSION = 2


def load_polymnist(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    num_modalities: int = _MODALITIES,
    num_rows: int | None = None,
    download: bool = True,
) -> Splits:
    """Modalities `m0` to `m4`: digits of one class, each in another handwriting over a patch of its own photograph.

    The published images are read where they are found: `train/m0/0.7.png` is the image with number 0 among those of the
    digit 7. Of the 60,000 training images, listed class by class and in each by their number, the sixth, the twelfth
    and so on are for validation, 10,000 examples. They were paired before, so a handwriting that is for training in one
    modality may be for validation in another, but none for test.

    Otherwise they are built. MNIST is split first, into 50,000 images for training, the last 10,000 of its training
    files for validation, and 10,000 for test. Within each part, each class and modality has its own random order; the
    i-th digits of all modalities form one example. So every MNIST image occurs once in each modality, and none in two
    parts. Pixels above 128 invert a random 28x28 patch of the modality's background.

    Values are uint8 in memory and float32 in `[0, 1]` in batches, shape `(rows, 3, 28, 28)`.

    The result is cached in the download folder, complete or not at all, and loaded without running code from the file.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), section 4.2; its images are
        https://zenodo.org/record/4899160.
        Departures: it has no validation part; where the data set is built, the photographs are whatever five are in the
        folder, in the order of their names, so published numbers are only roughly comparable.

    Args:
        data_root: Folder with the published images (`train/` and `test/` in `PolyMNIST/`, `PolyMNIST/MMNIST/` or
            `MMNIST/`), or with `PolyMNIST.zip`, which is read where it is; or with `PolyMNIST/backgrounds/*.jpg` and
            MNIST.
        seed: Seed of the pairing and of the patches, where they are built.
        num_modalities: Number of modalities, the first ones of the five.
        num_rows: Largest number of rows of each part, the first ones of the complete data set; None for all. Only these
            are built.
        download: Whether torchvision may download MNIST.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If neither the published images nor backgrounds and MNIST are found, or only some of them.
        ValueError: If an option is out of range, a file is damaged or not an image of the right size, or the folders do
            not have the same images.
    """
    whole = isinstance(num_modalities, int) and not isinstance(num_modalities, bool)
    if not whole or not 1 <= num_modalities <= _MODALITIES:
        raise ValueError(f"num_modalities must be a whole number from 1 to {_MODALITIES}, got {num_modalities!r}")
    check_num_rows(num_rows)
    source = polymnist_source(data_root)
    recipe = {"version": _VERSION, "num_rows": num_rows}
    if source is not None:
        recipe |= {"modalities": num_modalities, "images": original_digest(source, num_modalities)}
        build = functools.partial(original_arrays, source, num_modalities, num_rows)
    else:
        paths = background_paths(data_root)[:num_modalities]
        recipe |= {"seed": seed, "backgrounds": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]}
        build = functools.partial(_build, paths, data_root, seed, num_rows, download)
    kinds = ("labels", *(f"m{m}" for m in range(num_modalities)))
    arrays = cached("PolyMNIST", recipe, [f"{split}_{kind}" for split in Splits.NAMES for kind in kinds], build)
    modalities = {f"m{m}": Modality(f"m{m}", (3, _SIDE, _SIDE), "image", "laplace") for m in range(num_modalities)}
    parts = {}
    for split in Splits.NAMES:
        x = {name: torch.from_numpy(arrays[f"{split}_{name}"]) for name in modalities}
        labels = torch.from_numpy(arrays[f"{split}_labels"])
        parts[split] = MultimodalData("polymnist", modalities, x, labels=labels, split=split, label_names=DIGIT_WORDS)
    return Splits(**parts)


def polymnist_source(data_root: str | os.PathLike | None = None) -> Path | None:
    """The folder or the archive of the published images; None where they are to be built.

    The first folder that is searched and has them or any photograph decides.
    """
    for root in roots(data_root):
        source = find_original(root)
        if source is not None or _photographs(root):
            return source
    return None


def background_paths(data_root: str | os.PathLike | None = None) -> list[Path]:
    """The five background photographs, sorted by name.

    Raises:
        FileNotFoundError: If no searched folder has five.
        ValueError: If the first folder that has any has more than five.
    """
    advice = (
        f"put {_MODALITIES} photographs (.jpg or .png) into <folder>/{_FOLDER}, or the published images (PolyMNIST.zip "
        "of https://zenodo.org/record/4899160) into <folder>, and name <folder> with --data-root"
    )
    incomplete = []
    for root in roots(data_root):
        folder, paths = root / _FOLDER, _photographs(root)
        if len(paths) > _MODALITIES:
            raise ValueError(f"{folder} has {len(paths)} photographs, expected {_MODALITIES}: remove the others")
        if len(paths) == _MODALITIES:
            return paths
        if paths:
            incomplete.append(f"{folder} has {len(paths)} of {_MODALITIES}")
    raise FileNotFoundError(
        f"the backgrounds of PolyMNIST are missing ({'; '.join(incomplete) or 'none found'}): {advice} or {VARIABLE}"
    )


def _photographs(root: Path) -> list[Path]:
    return sorted(path for path in (root / _FOLDER).glob("*") if path.suffix.lower() in _SUFFIXES)


def _background(path: Path) -> np.ndarray:
    pixels = read_rgb(path)
    if min(pixels.shape[:2]) <= _SIDE:
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise ValueError(f"{printable(path)} must be larger than {_SIDE}x{_SIDE} pixels, got {size}")
    return pixels


def _build(
    paths: list[Path], data_root: str | os.PathLike | None, seed: int, num_rows: int | None, download: bool
) -> dict[str, np.ndarray]:
    backgrounds = [_background(path) for path in paths]
    arrays = {}
    for number, (split, (pixels, labels)) in enumerate(mnist_arrays(data_root, download).items()):
        pixels, labels = pixels.numpy(), labels.numpy()
        classes = [np.flatnonzero(labels == digit) for digit in range(10)]
        order = np.random.default_rng([seed, number]).permutation(len(labels))
        kept = slice(None, num_rows)
        arrays[f"{split}_labels"] = np.sort(labels)[order][kept]
        for m, background in enumerate(backgrounds):
            # a stream for each modality: fewer modalities or rows leave the others as they are
            generator = np.random.default_rng([seed, number, m + 1])
            rows = np.concatenate([generator.permutation(members) for members in classes])[order]
            # the upper end is exclusive, as in the original
            tops, lefts = (generator.integers(0, size - _SIDE, len(rows))[kept] for size in background.shape[:2])
            windows = np.lib.stride_tricks.sliding_window_view(background, (_SIDE, _SIDE), axis=(0, 1))
            patches = windows[tops, lefts]  # (rows, 3, 28, 28)
            digit = (pixels[rows[kept]] > _THRESHOLD)[:, None]
            arrays[f"{split}_m{m}"] = np.where(digit, 255 - patches, patches)
    return arrays
