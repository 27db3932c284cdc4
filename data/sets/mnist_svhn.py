"""MNIST-SVHN and MNIST-SVHN-Text: a handwritten digit, a house-number digit of the same class, and its name."""

import os
from dataclasses import replace

import torch

from multipyro.data.indexed import IndexedTensor
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.sets._characters import padded_alphabet, place_randomly, replace_randomly
from multipyro.data.sets._pairs import pairs_by_class
from multipyro.data.sets._parts import check_pairs
from multipyro.data.sets.digits import DIGIT_WORDS
from multipyro.data.sets.mnist import mnist_arrays
from multipyro.data.sets.svhn import svhn_arrays
from multipyro.data.splits import Splits

__all__ = ["load_mnist_svhn"]

# rows that each data set contributes to a class at most
_LIMIT = 10_000
_POSITIONS = 8


def load_mnist_svhn(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    pairs: int = 20,
    num_rows: int | None = None,
    text: bool = False,
    download: bool = True,
) -> Splits:
    """Pairs of digits of one class, and the digit's name.

    Modalities: `mnist` `(rows, 1, 28, 28)` and `svhn` `(rows, 3, 32, 32)`, uint8 in memory, where each image is stored
    once, and float32 in `[0, 1]` in batches; optionally `text` int64 `(rows, 8)`, a name from `zero` to `nine` over 71
    characters, with blanks before and after it; class 0 is the blank, the others follow in the published order. It
    starts at a random position and leaves the last one blank: anew at every access in training, drawn once in
    validation and test. Labels are the digits.

    Both data sets are split first: MNIST as in `load_mnist`; the training file of SVHN into its first nine tenths for
    training and its last tenth for validation, its test file for test. In each part and class the first `n` digits of
    both are paired `pairs` times at random, `n` being the smaller of the two numbers and at most 10,000. So no image
    occurs in two parts. With both complete data sets and 20 pairs there are 965,460, 139,360 and 200,000 examples.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), section
        4.2; its script pairs 30 times. Departures: the original has no validation part and orders the examples by
        class, here they are in a random order. Text: Generalized Multimodal ELBO (Sutter et al., 2021), section 4.1.
        Its alphabet has `-` twice; here the second is a minus sign, which no text contains either. Its test texts start
        elsewhere at every access.

    Args:
        data_root: Folder with `MNIST/raw/` and `SVHN/`. A selection of SVHN in the same format is used as it is.
        seed: Seed of the pairs, of the order and of the starts of texts that are drawn once.
        pairs: How often each digit is paired.
        num_rows: Largest number of rows of each part, the first ones; None for all.
        text: Whether the digit's name is a third modality.
        download: Whether torchvision may download files of which none is found.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If files are not found and cannot be downloaded, or only some of them are found.
        ValueError: If an option is out of range, or a file is truncated, damaged or another one; the message names it.
    """
    check_pairs(pairs)
    svhn = svhn_arrays(data_root, download)
    mnist = mnist_arrays(data_root, download)
    begin = 9 * len(svhn["train"][1]) // 10
    svhn = {
        "train": tuple(values[:begin] for values in svhn["train"]),
        "validation": tuple(values[begin:] for values in svhn["train"]),
        "test": svhn["test"],
    }
    modalities = {
        "mnist": Modality("mnist", (1, 28, 28), "image", "laplace"),
        "svhn": Modality("svhn", (3, 32, 32), "image", "laplace"),
    }
    parts = {}
    for number, split in enumerate(Splits.NAMES):
        sets = {"mnist": (mnist[split][0][:, None], mnist[split][1]), "svhn": svhn[split]}
        labels = {name: digits.numpy() for name, (_, digits) in sets.items()}
        rows, classes = pairs_by_class(labels, pairs, _LIMIT, (seed, number))
        x = {name: IndexedTensor(pixels, torch.from_numpy(rows[name])) for name, (pixels, _) in sets.items()}
        digits = torch.from_numpy(classes)
        parts[split] = MultimodalData("mnist-svhn", modalities, x, labels=digits, split=split, label_names=DIGIT_WORDS)
    splits = Splits(**parts).head(num_rows)
    return _with_names(splits, seed) if text else splits


def _with_names(splits: Splits, seed: int) -> Splits:
    alphabet = padded_alphabet(" ")
    text = Modality("text", (_POSITIONS,), "text", "categorical", len(alphabet), DIGIT_WORDS, alphabet)
    words = text.encode(list(DIGIT_WORDS))
    parts = {}
    for number, split in enumerate(Splits.NAMES):
        part = getattr(splits, split)
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        parts[split] = replace(
            part,
            name="mnist-svhn-text",
            modalities={**part.modalities, "text": text},
            x={**part.x, "text": place_randomly(words[part.labels], generator)},
            transform=replace_randomly if split == "train" else None,
        )
    return Splits(**parts)
