"""MNIST as image, label and word, from torchvision's files."""

import gzip
import hashlib
import os
import struct
import tempfile
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

__all__ = ["BINARISE", "draw_pixels", "is_available", "mnist", "mnist_arrays"]

BINARISE = ("dynamic", "fixed", "none")

_FOLDER = "MNIST/raw"
_SIDE = 28
# magic numbers of idx files: unsigned bytes in three dimensions, in one
_IMAGES, _LABELS = 2051, 2049
# name, magic number, rows, md5 of the unpacked file as commonly published
_FILES = {
    ("train", "images"): ("train-images-idx3-ubyte", _IMAGES, 60_000, "6bbc9ace898e44ae57da46a324031adb"),
    ("train", "labels"): ("train-labels-idx1-ubyte", _LABELS, 60_000, "a25bea736e30d166cdddb491f175f624"),
    ("test", "images"): ("t10k-images-idx3-ubyte", _IMAGES, 10_000, "2646ac647ad5339dbf082846283269ea"),
    ("test", "labels"): ("t10k-labels-idx1-ubyte", _LABELS, 10_000, "27ae3e4e09519cfbb04c329615203637"),
}
_TRAIN_ROWS = 50_000


def mnist(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    binarise: str = "dynamic",
    word: bool = False,
    num_rows: int | None = None,
    download: bool = True,
) -> Splits:
    """MNIST with 50,000 rows to train, the last 10,000 of the training files to validate, and 10,000 to test.

    Modalities: `image` `(rows, 1, 28, 28)`, uint8 in memory and float32 in `[0, 1]` in batches; `label` int64
    `(rows,)`; on request `word` int64 `(rows, 5)`.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), section 5.1: binarised anew in each epoch. Its released code trains on all 60,000; the paper on 50,000.

    Args:
        data_root: Folder with `MNIST/raw/`, unpacked or `.gz`; see `multipyro.data._root` for where else is searched.
        seed: Seed of the binarisation that is drawn once.
        binarise: `"dynamic"` draws training pixels with the grey level as probability, anew in each epoch (from the
            seed, the epoch and the number of the batch alone, so a resumed run repeats it), and validation and test
            pixels once; `"fixed"` draws all once; `"none"` keeps grey levels in `[0, 1]`.
        word: Whether the digit's name is a third modality.
        num_rows: At most so many rows of each part, the first ones; None for all.
        download: Whether torchvision may download what is found nowhere.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If the files are found nowhere and cannot be downloaded, or only some of them are found.
        ValueError: If an option is unknown, or a file is truncated, damaged or another one; the message names it.
    """
    if binarise not in BINARISE:
        raise ValueError(f"binarise must be one of {BINARISE}, got {binarise!r}")
    family = "continuous_bernoulli" if binarise == "none" else "bernoulli"
    modalities = digit_modalities(Modality("image", (1, 28, 28), "image", family))
    words = modalities["word"].encode(list(DIGIT_WORDS))
    if not word:
        del modalities["word"]
    parts = {}
    for number, (split, (pixels, classes)) in enumerate(mnist_arrays(data_root, download).items()):
        dynamic = binarise == "dynamic" and split == "train"
        if binarise != "none" and not dynamic:
            pixels = _binarised(pixels, torch.Generator().manual_seed(1_000_003 * seed + number))
        x = {"image": pixels.unsqueeze(1), "label": classes}
        if word:
            x["word"] = words[classes]
        transform = draw_pixels if dynamic else None
        parts[split] = MultimodalData("mnist", modalities, x, labels=classes, split=split, transform=transform)
    return Splits(**parts).head(num_rows)


def draw_pixels(x: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Draws each pixel of `image` as 0 or 1, its grey level being the probability of 1; other modalities stay."""
    if "image" not in x:
        return x
    grey = x["image"]
    return {**x, "image": (torch.rand(grey.shape, generator=generator) < grey).to(grey.dtype)}


def mnist_arrays(data_root: str | os.PathLike | None = None, download: bool = True) -> dict[str, tuple[Tensor, Tensor]]:
    """Pixels uint8 `(rows, 28, 28)` and labels int64 `(rows,)` of `"train"`, `"validation"` and `"test"`.

    Args:
        data_root: See `mnist`.
        download: See `mnist`.

    Raises:
        FileNotFoundError: See `mnist`.
        ValueError: If a file is truncated, damaged or another one; the message names it.
    """
    paths = _located(data_root)
    if download and not any(paths.values()):
        _download()
        paths = _located(data_root)
    missing = [_FILES[key][0] for key, path in paths.items() if path is None]
    if missing:
        raise FileNotFoundError(_absent(missing, [path for path in paths.values() if path is not None]))
    pixels, labels = {}, {}
    for (part, kind), path in paths.items():
        values = torch.from_numpy(_read(path, *_FILES[part, kind][1:]))
        if kind == "images":
            pixels[part] = values.reshape(-1, _SIDE, _SIDE)
        else:
            labels[part] = values.long()
    return {
        "train": (pixels["train"][:_TRAIN_ROWS], labels["train"][:_TRAIN_ROWS]),
        "validation": (pixels["train"][_TRAIN_ROWS:], labels["train"][_TRAIN_ROWS:]),
        "test": (pixels["test"], labels["test"]),
    }


def is_available(data_root: str | os.PathLike | None = None) -> bool:
    """Whether all four files are found without a download."""
    return all(_located(data_root).values())


def _located(data_root: str | os.PathLike | None) -> dict[tuple[str, str], Path | None]:
    names = {key: f"{_FOLDER}/{file[0]}" for key, file in _FILES.items()}
    return {key: find([name, f"{name}.gz"], data_root) for key, name in names.items()}


def _absent(missing: list[str], there: list[Path]) -> str:
    names = ", ".join(f"{name}[.gz]" for name in missing)
    where = f"MNIST is incomplete: {there[0].parent} lacks" if there else "MNIST is not there: missing are"
    otherwise = "" if there else f", or let torchvision download it to {download_root()}"
    return (
        f"{where} {names}; put them into <folder>/{_FOLDER} and name <folder> with --data-root or {VARIABLE}{otherwise}"
    )


def _download() -> None:
    """Downloads to a temporary folder first: a download that breaks off leaves nothing that looks like MNIST."""
    # torchvision takes seconds to import, and only a download needs it
    from torchvision.datasets import MNIST

    root = download_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".MNIST-", dir=root) as folder:
            MNIST(folder, download=True)
            (root / _FOLDER).mkdir(parents=True, exist_ok=True)
            for name, *_ in _FILES.values():
                os.replace(Path(folder) / _FOLDER / name, root / _FOLDER / name)
    except (OSError, RuntimeError) as error:
        names = [file[0] for file in _FILES.values()]
        raise FileNotFoundError(f"{_absent(names, [])} (the download failed: {error})") from error


def _read(path: Path, magic: int, rows: int, md5: str) -> np.ndarray:
    """The bytes after the header of one idx file, checked against what the file must hold."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}): fetch it again") from error
    header = 16 if magic == _IMAGES else 8
    expected = header + rows * (_SIDE**2 if magic == _IMAGES else 1)
    seen = struct.unpack(">II", content[:8]) if len(content) >= 8 else ()
    if seen != (magic, rows) or len(content) != expected:
        found = f"magic number {seen[0]}, {seen[1]} rows" if seen else "no header"
        raise ValueError(
            f"{path} is truncated or not the MNIST file: expected magic number {magic}, {rows} rows and {expected} "
            f"bytes unpacked, got {found} and {len(content)} bytes"
        )
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != md5:
        raise ValueError(f"{path} is damaged: its unpacked md5 is {digest}, expected {md5}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=header).copy()


def _binarised(pixels: Tensor, generator: torch.Generator) -> Tensor:
    parts = [torch.rand(part.shape, generator=generator) < part.float() / 255 for part in pixels.split(10_000)]
    return torch.cat(parts).to(torch.uint8) * 255
