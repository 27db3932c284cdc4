"""MNIST as image, label and word, from torchvision's files."""

import os

import torch
from torch import Tensor

from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.sets._parts import check_choice
from multipyro.data.sets.digits import DIGIT_WORDS, digit_modalities
from multipyro.data.splits import Splits
from multipyro.data.storage.idx import IMAGES, LABELS, IdxSet, idx_arrays

__all__ = [
    "BINARIZE",
    "MNIST_FILES",
    "binarize_once",
    "draw_pixels",
    "load_mnist",
    "mnist_arrays",
]

BINARIZE = ("dynamic", "fixed", "none")

# name, magic number, rows, md5 of the unpacked file as commonly published
MNIST_FILES = IdxSet(
    "MNIST",
    {
        ("train", "images"): ("train-images-idx3-ubyte", IMAGES, 60_000, "6bbc9ace898e44ae57da46a324031adb"),
        ("train", "labels"): ("train-labels-idx1-ubyte", LABELS, 60_000, "a25bea736e30d166cdddb491f175f624"),
        ("test", "images"): ("t10k-images-idx3-ubyte", IMAGES, 10_000, "2646ac647ad5339dbf082846283269ea"),
        ("test", "labels"): ("t10k-labels-idx1-ubyte", LABELS, 10_000, "27ae3e4e09519cfbb04c329615203637"),
    },
    50_000,
    {},
)


def load_mnist(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    binarize: str = "dynamic",
    word: bool = False,
    num_rows: int | None = None,
    download: bool = True,
) -> Splits:
    """MNIST: 50,000 training examples, the last 10,000 of the training files for validation, and 10,000 for test.

    Modalities: `image` `(rows, 1, 28, 28)`, uint8 in memory and float32 in `[0, 1]` in batches; `label` int64
    `(rows,)`; optionally `word` int64 `(rows, 5)`.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), section 5.1: binarized anew in each epoch. Its released code trains on all 60,000; the paper on 50,000.

    Args:
        data_root: Folder with `MNIST/raw/`, unpacked or `.gz`; see `multipyro.data.storage.locations` for the
            other places that are searched.
        seed: Seed of the binarization that is drawn once.
        binarize: `"dynamic"` draws training pixels with the gray level as probability, anew in each epoch (from the
            seed, the epoch and the number of the batch alone, so a resumed run repeats it), and validation and test
            pixels once; `"fixed"` draws all once; `"none"` keeps gray levels in `[0, 1]`.
        word: Whether the digit's name is a third modality.
        num_rows: Largest number of rows of each part, the first ones; None for all.
        download: Whether torchvision may download files of which none is found.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If the files are not found and cannot be downloaded, or only some of them are found.
        ValueError: If an option is unknown, or a file is truncated, damaged or another one; the message names it.
    """
    check_choice("binarize", binarize, BINARIZE)
    likelihood = "continuous_bernoulli" if binarize == "none" else "bernoulli"
    modalities = digit_modalities(Modality("image", (1, 28, 28), "image", likelihood))
    words = modalities["word"].encode(list(DIGIT_WORDS))
    if not word:
        del modalities["word"]
    parts = {}
    for number, (split, (pixels, classes)) in enumerate(mnist_arrays(data_root, download).items()):
        dynamic = binarize == "dynamic" and split == "train"
        if binarize != "none" and not dynamic:
            pixels = binarize_once(pixels, torch.Generator().manual_seed(1_000_003 * seed + number))
        x = {"image": pixels.unsqueeze(1), "label": classes}
        if word:
            x["word"] = words[classes]
        parts[split] = MultimodalData(
            "mnist",
            modalities,
            x,
            labels=classes,
            split=split,
            transform=draw_pixels if dynamic else None,
            label_names=DIGIT_WORDS,
        )
    return Splits(**parts).head(num_rows)


def draw_pixels(x: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Draws each pixel of `image` and `fashion` as 0 or 1, its gray level being the probability of 1; others stay."""
    drawn = {}
    for name in ("image", "fashion"):
        if name in x:
            drawn[name] = (torch.rand(x[name].shape, generator=generator) < x[name]).to(x[name].dtype)
    return {**x, **drawn}


def binarize_once(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels 0 or 255, drawn with the gray level uint8 `(rows, ...)` as the probability of 255."""
    parts = [torch.rand(part.shape, generator=generator) < part.float() / 255 for part in pixels.split(10_000)]
    return torch.cat(parts).to(torch.uint8) * 255


def mnist_arrays(data_root: str | os.PathLike | None = None, download: bool = True) -> dict[str, tuple[Tensor, Tensor]]:
    """Pixels uint8 `(rows, 28, 28)` and labels int64 `(rows,)` of `"train"`, `"validation"` and `"test"`.

    Args:
        data_root: See `load_mnist`.
        download: See `load_mnist`.

    Raises:
        FileNotFoundError: See `load_mnist`.
        ValueError: If a file is truncated, damaged or another one; the message names it.
    """
    return idx_arrays(MNIST_FILES, data_root, download)
