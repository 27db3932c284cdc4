"""PolyMNIST, built from MNIST and background photographs: five pictures of one digit in different hands."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from multipyro.data._files import write_atomically
from multipyro.data._root import VARIABLE, download_root, roots
from multipyro.data.mnist import mnist_arrays
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.splits import Splits

__all__ = ["polymnist"]

_FOLDER = "PolyMNIST/backgrounds"
_MODALITIES = 5
_VALIDATION = 10_000
_SIDE = 28
# part of the name of the cached file: another recipe is another file
_VERSION = 1


def polymnist(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    num_modalities: int = _MODALITIES,
    download: bool = True,
) -> Splits:
    """Modalities `m0` to `m4`: digits of one class, each in another handwriting over a patch of its own photograph.

    For the original training and test files apart, each class and modality has a random order of its own; the i-th
    digits of all modalities are one row, so every MNIST image occurs once a modality and none in two splits. Pixels
    above 128 invert a random 28x28 patch of the modality's background (values in `[0, 1]`).

    The last 10,000 rows of the shuffled training part validate. The result is cached in the download folder, whole or
    not at all. Departure: the photographs are whatever five lie in the folder, so published numbers compare loosely.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), section 4.2.

    Args:
        data_root: Folder with `PolyMNIST/backgrounds/*.jpg` and MNIST.
        seed: Seed of the pairing and of the patches.
        num_modalities: The first so many of the five.
        download: Whether torchvision may download MNIST.

    Raises:
        FileNotFoundError: If fewer than five backgrounds are found.
        ValueError: If a background is no image or too small.
    """
    if not 1 <= num_modalities <= _MODALITIES:
        raise ValueError(f"num_modalities must lie in 1 to {_MODALITIES}, got {num_modalities}")
    paths = background_paths(data_root)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]
    cached = download_root() / "PolyMNIST" / f"v{_VERSION}-seed{seed}-{digest}.npz"
    if not cached.is_file():
        arrays = _build(paths, data_root, seed, download)
        write_atomically(cached, lambda file: np.savez(file, **arrays))
    with np.load(cached, allow_pickle=False) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    modalities = {
        f"m{m}": Modality(f"m{m}", (3, _SIDE, _SIDE), "image", "laplace") for m in range(num_modalities)
    }
    cut = len(arrays["train_labels"]) - _VALIDATION
    slices = {"train": ("train", slice(None, cut)), "validation": ("train", slice(cut, None)), "test": ("test", slice(None))}
    parts = {}
    for split, (part, rows) in slices.items():
        x = {name: arrays[f"{part}_{name}"][rows] for name in modalities}
        parts[split] = MultimodalData("polymnist", modalities, x, labels=arrays[f"{part}_labels"][rows], split=split)
    return Splits(**parts)


def background_paths(data_root: str | os.PathLike | None = None) -> list[Path]:
    """The five background photographs, sorted by name."""
    for root in roots(data_root):
        paths = sorted((root / _FOLDER).glob("*.jpg"))
        if len(paths) >= _MODALITIES:
            return paths[:_MODALITIES]
    raise FileNotFoundError(
        f"PolyMNIST needs {_MODALITIES} photographs: put .jpg files into <folder>/{_FOLDER} and name <folder> with "
        f"--data-root or {VARIABLE}"
    )


def _background(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): replace it") from error
    if min(pixels.shape[:2]) <= _SIDE:
        raise ValueError(f"{path} must be larger than {_SIDE}x{_SIDE} pixels, got {pixels.shape[1]}x{pixels.shape[0]}")
    return pixels


def _build(paths: list[Path], data_root, seed: int, download: bool) -> dict[str, np.ndarray]:
    backgrounds = [_background(path) for path in paths]
    arrays = {}
    for number, part in enumerate(("train", "test")):
        pixels, labels = (values.numpy() for values in mnist_arrays(part, data_root, download))
        generator = np.random.default_rng([seed, number])
        classes = [np.flatnonzero(labels == digit) for digit in range(10)]
        order = generator.permutation(len(labels))
        arrays[f"{part}_labels"] = np.repeat(np.arange(10), [len(rows) for rows in classes])[order].astype(np.int64)
        for m, background in enumerate(backgrounds):
            rows = np.concatenate([generator.permutation(members) for members in classes])[order]
            # (rows, 28, 28, 3) patches; the upper end is exclusive, as in the original
            tops = generator.integers(0, background.shape[0] - _SIDE, len(rows))
            lefts = generator.integers(0, background.shape[1] - _SIDE, len(rows))
            windows = np.lib.stride_tricks.sliding_window_view(background, (_SIDE, _SIDE), axis=(0, 1))
            patches = windows[tops, lefts]  # (rows, 3, 28, 28)
            digit = (pixels[rows] > 128)[:, None]
            arrays[f"{part}_m{m}"] = np.where(digit, 255 - patches, patches)
    return arrays
