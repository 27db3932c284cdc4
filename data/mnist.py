"""MNIST as image, label and word, from torchvision's files."""

import gzip
import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multipyro.data._root import VARIABLE, download_root, find
from multipyro.data.digits import DIGIT_WORDS, digit_modalities
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.splits import Splits

__all__ = ["BINARISE", "mnist", "mnist_arrays"]

BINARISE = ("dynamic", "fixed", "none")

_FOLDER = "MNIST/raw"
# name, magic number, rows, md5 of the unpacked file as commonly published
_FILES = {
    ("train", "images"): ("train-images-idx3-ubyte", 2051, 60_000, "6bbc9ace898e44ae57da46a324031adb"),
    ("train", "labels"): ("train-labels-idx1-ubyte", 2049, 60_000, "a25bea736e30d166cdddb491f175f624"),
    ("test", "images"): ("t10k-images-idx3-ubyte", 2051, 10_000, "2646ac647ad5339dbf082846283269ea"),
    ("test", "labels"): ("t10k-labels-idx1-ubyte", 2049, 10_000, "27ae3e4e09519cfbb04c329615203637"),
}
_TRAIN_ROWS = 50_000


def mnist(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    binarise: str = "dynamic",
    word: bool = False,
    download: bool = True,
) -> Splits:
    """MNIST with 50,000 rows to train, the last 10,000 of the training files to validate, and 10,000 to test.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), section 5.1: binarised anew in each epoch. Its released code trains on all 60,000; the paper on 50,000.

    Args:
        data_root: Folder with `MNIST/raw/`, unpacked or `.gz`; see `multipyro.data._root` for where else is searched.
        seed: Seed of the binarisation that is drawn once.
        binarise: `"dynamic"` draws training pixels with the grey level as probability, anew in each epoch, and
            validation and test pixels once; `"fixed"` draws all once; `"none"` keeps grey levels in `[0, 1]`.
        word: Whether the digit's name is a third modality.
        download: Whether torchvision may download what is found nowhere.

    Raises:
        FileNotFoundError: If the files are found nowhere and `download` is False.
        ValueError: If a file is truncated, damaged or another one; the message names it.
    """
    if binarise not in BINARISE:
        raise ValueError(f"binarise must be one of {BINARISE}, got {binarise!r}")
    family = "continuous_bernoulli" if binarise == "none" else "bernoulli"
    modalities = digit_modalities(Modality("image", (1, 28, 28), "image", family))
    if not word:
        del modalities["word"]
    words = digit_modalities(modalities["image"])["word"].encode(list(DIGIT_WORDS))
    parts = {}
    arrays = {part: mnist_arrays(part, data_root, download) for part in ("train", "test")}
    images, labels = arrays["train"]
    sources = {
        "train": (images[:_TRAIN_ROWS], labels[:_TRAIN_ROWS]),
        "validation": (images[_TRAIN_ROWS:], labels[_TRAIN_ROWS:]),
        "test": arrays["test"],
    }
    for number, (split, (pixels, classes)) in enumerate(sources.items()):
        dynamic = binarise == "dynamic" and split == "train"
        if binarise != "none" and not dynamic:
            pixels = _binarised(pixels, torch.Generator().manual_seed(1_000_003 * seed + number))
        x = {"image": pixels.unsqueeze(1), "label": classes}
        if word:
            x["word"] = words[classes]
        transform = draw_pixels if dynamic else None
        parts[split] = MultimodalData("mnist", modalities, x, labels=classes, split=split, transform=transform)
    return Splits(**parts)


def draw_pixels(x: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Draws each pixel of `image` as 0 or 1, its grey level being the probability of 1."""
    grey = x["image"]
    return {**x, "image": (torch.rand(grey.shape, generator=generator) < grey).to(grey.dtype)}


def mnist_arrays(
    part: str, data_root: str | os.PathLike | None = None, download: bool = True
) -> tuple[Tensor, Tensor]:
    """Pixels uint8 `(rows, 28, 28)` and labels int64 `(rows,)` of the original `"train"` or `"test"` files."""
    paths = {kind: _locate(part, kind, data_root) for kind in ("images", "labels")}
    if any(path is None for path in paths.values()):
        if not download:
            raise FileNotFoundError(_absent(part))
        _download()
        paths = {kind: _locate(part, kind, data_root) for kind in ("images", "labels")}
        if any(path is None for path in paths.values()):
            raise FileNotFoundError(_absent(part))
    pixels, labels = (_read(paths[kind], *_FILES[part, kind][1:]) for kind in ("images", "labels"))
    return torch.from_numpy(pixels.reshape(-1, 28, 28)), torch.from_numpy(labels.astype(np.int64))


def is_available(data_root: str | os.PathLike | None = None) -> bool:
    """Whether all four files are found without a download."""
    return all(_locate(part, kind, data_root) is not None for part, kind in _FILES)


def _locate(part: str, kind: str, data_root: str | os.PathLike | None) -> Path | None:
    name = f"{_FOLDER}/{_FILES[part, kind][0]}"
    return find([name, f"{name}.gz"], data_root)


def _absent(part: str) -> str:
    names = ", ".join(f"{_FILES[part, kind][0]}[.gz]" for kind in ("images", "labels"))
    return (
        f"MNIST is not there: put {names} into <folder>/{_FOLDER} and name <folder> with --data-root or {VARIABLE}, or "
        f"let torchvision download it to {download_root()}"
    )


def _download() -> None:
    import torchvision

    try:
        torchvision.datasets.MNIST(download_root(), download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"{_absent('train')} (the download failed: {error})") from error


def _read(path: Path, magic: int, rows: int, md5: str) -> np.ndarray:
    """The bytes after the header of one idx file, checked against what the file must hold."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}): fetch it again") from error
    header = 16 if magic == 2051 else 8
    expected = header + rows * (784 if magic == 2051 else 1)
    seen = struct.unpack(">II", content[:8]) if len(content) >= 8 else ()
    if seen != (magic, rows) or len(content) != expected:
        raise ValueError(
            f"{path} is no such MNIST file: expected magic number {magic}, {rows} rows and {expected} bytes, "
            f"got {' and '.join(map(str, seen)) or 'nothing'} in {len(content)} bytes"
        )
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != md5:
        raise ValueError(f"{path} is damaged: its unpacked md5 is {digest}, expected {md5}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=header).copy()


def _binarised(pixels: Tensor, generator: torch.Generator) -> Tensor:
    parts = [torch.rand(part.shape, generator=generator) < part.float() / 255 for part in pixels.split(10_000)]
    return torch.cat(parts).to(torch.uint8) * 255
