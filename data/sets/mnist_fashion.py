"""MNIST, Fashion-MNIST and their label: a digit, a garment and the class that both have."""

import os

import numpy as np
import torch
from torch import Tensor

from multipyro.data.indexed import IndexedTensor
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.sets._pairs import pairs_by_class
from multipyro.data.sets._parts import check_choice, check_pairs
from multipyro.data.sets.digits import DIGIT_WORDS, digit_modalities
from multipyro.data.sets.mnist import BINARIZE, MNIST_FILES, binarize_once, draw_pixels, mnist_arrays
from multipyro.data.splits import Splits
from multipyro.data.storage.idx import IdxSet, idx_arrays

__all__ = ["FASHION_FILES", "load_mnist_fashion"]

_MD5 = 3
# Fashion-MNIST has the names and sizes of MNIST, and no md5 of its unpacked files is commonly published
FASHION_FILES = IdxSet(
    "FashionMNIST",
    {key: (*file[:_MD5], None) for key, file in MNIST_FILES.files.items()},
    60_000,
    {file[_MD5]: "MNIST" for file in MNIST_FILES.files.values()},
)


def load_mnist_fashion(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    binarize: str = "dynamic",
    pairs: int = 1,
    num_rows: int | None = None,
    download: bool = True,
) -> Splits:
    """A digit, a garment with the same class number, and that number.

    Modalities: `image` and `fashion` `(rows, 1, 28, 28)`, uint8 in memory, where each image is stored once, and float32
    in `[0, 1]` in batches; `label` int64 `(rows,)`.

    Both data sets are split first: MNIST as in `load_mnist`; the training files of Fashion-MNIST into the first five
    sixths of each class for training and the last sixth for validation, its test files for test. In each part and class
    the first `n` of both are paired `pairs` times at random, `n` being the smaller of the two numbers. So no image
    occurs in two parts. With one pair for each image there are 49,046, 9,807 and 9,786 examples.

    References:
        Bridged Variational Autoencoders for Joint Modeling of Images and Attributes (Yadav et al., 2020), the trimodal
        data set. The paper states neither the rule of the pairs nor their number, nor a binarization.

    Args:
        data_root: Folder with `MNIST/raw/` and `FashionMNIST/raw/`.
        seed: Seed of the pairs, of the order and of the binarization that is drawn once.
        binarize: For both images; see `load_mnist`.
        pairs: How often each image is paired.
        num_rows: Largest number of rows of each part, the first ones; None for all.
        download: Whether torchvision may download files of which none is found.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If files are not found and cannot be downloaded, or only some of them are found.
        ValueError: If an option is out of range, or a file is truncated, damaged or another one; the message names it.
    """
    check_choice("binarize", binarize, BINARIZE)
    check_pairs(pairs)
    sets = {
        "image": mnist_arrays(data_root, download),
        "fashion": _split(idx_arrays(FASHION_FILES, data_root, download)),
    }
    likelihood = "continuous_bernoulli" if binarize == "none" else "bernoulli"
    image, fashion = (Modality(name, (1, 28, 28), "image", likelihood) for name in sets)
    modalities = {"image": image, "fashion": fashion, "label": digit_modalities(image)["label"]}
    parts = {}
    for number, split in enumerate(Splits.NAMES):
        labels = {name: arrays[split][1].numpy() for name, arrays in sets.items()}
        rows, classes = pairs_by_class(labels, pairs, seed=(seed, number))
        dynamic = binarize == "dynamic" and split == "train"
        x: dict[str, Tensor | IndexedTensor] = {"label": torch.from_numpy(classes)}
        for place, (name, arrays) in enumerate(sets.items()):
            pixels = arrays[split][0][:, None]
            if binarize != "none" and not dynamic:
                pixels = binarize_once(pixels, torch.Generator().manual_seed(1_000_003 * seed + 3 * place + number))
            x[name] = IndexedTensor(pixels, torch.from_numpy(rows[name]))
        parts[split] = MultimodalData(
            "mnist-fashion",
            modalities,
            {name: x[name] for name in modalities},
            labels=torch.from_numpy(classes),
            split=split,
            transform=draw_pixels if dynamic else None,
            label_names=DIGIT_WORDS,
        )
    return Splits(**parts).head(num_rows)


def _split(arrays: dict[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Fashion-MNIST with the last sixth of each class of its training files for validation."""
    pixels, labels = arrays["train"]
    classes = [np.flatnonzero(labels.numpy() == label) for label in range(10)]
    train = torch.from_numpy(np.sort(np.concatenate([rows[: 5 * len(rows) // 6] for rows in classes])))
    validation = torch.from_numpy(np.sort(np.concatenate([rows[5 * len(rows) // 6 :] for rows in classes])))
    return {
        "train": (pixels[train], labels[train]),
        "validation": (pixels[validation], labels[validation]),
        "test": arrays["test"],
    }
