"""MNIST-SVHN and MNIST-SVHN-Text: a written digit, a house number's digit of the same class, and its name."""

import os

import torch

from multipyro.data.indexed import IndexedTensor
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.sets._characters import draw_start, padded_alphabet, placed
from multipyro.data.sets._pairs import pairs_by_class
from multipyro.data.sets.digits import DIGIT_WORDS
from multipyro.data.sets.mnist import mnist_arrays
from multipyro.data.sets.svhn import svhn_arrays
from multipyro.data.splits import Splits

__all__ = ["load_mnist_svhn", "load_mnist_svhn_text"]

# rows of a class that each set has at most
_MOST = 10_000
_POSITIONS = 8


def load_mnist_svhn(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    pairs: int = 20,
    num_rows: int | None = None,
    download: bool = True,
) -> Splits:
    """Pairs of digits of one class.

    Modalities: `mnist` `(rows, 1, 28, 28)` and `svhn` `(rows, 3, 32, 32)`, uint8 in memory, where each picture is held
    once, and float32 in `[0, 1]` in batches; labels are the digits.

    Both sets are cut into parts first: MNIST as in `load_mnist`, SVHN's training file into its first nine tenths to
    train and its last tenth to validate, its test file to test. In each part and class the first `n` digits of both are
    paired `pairs` times at random, `n` being the smaller of the two numbers and 10,000 at most. So no picture occurs in
    two parts. With both full sets and 20 pairs these are 965,460, 139,360 and 200,000 rows.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), section
        4.2; its script pairs 30 times. Departures: the original has no validation part and orders the rows by class,
        here they come in a random order.

    Args:
        data_root: Folder with `MNIST/raw/` and `SVHN/`. A selection of SVHN that keeps its format is taken as it is.
        seed: Seed of the pairs and of the order.
        pairs: How often each digit is paired.
        num_rows: At most so many rows of each part, the first ones; None for all.
        download: Whether torchvision may download what is found nowhere.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If files are found nowhere and cannot be downloaded, or only some of them are found.
        ValueError: If an option is out of range, or a file is cut off, damaged or another one; the message names it.
    """
    if isinstance(pairs, bool) or not isinstance(pairs, int) or pairs < 1:
        raise ValueError(f"pairs must be a whole number from 1 on, got {pairs!r}")
    svhn = svhn_arrays(data_root, download)
    mnist = mnist_arrays(data_root, download)
    begin = 9 * len(svhn["train"][1]) // 10
    cut = {
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
        sets = {"mnist": (mnist[split][0][:, None], mnist[split][1]), "svhn": cut[split]}
        labels = {name: digits.numpy() for name, (_, digits) in sets.items()}
        rows, classes = pairs_by_class(labels, pairs, _MOST, (seed, number))
        x = {name: IndexedTensor(pixels, torch.from_numpy(rows[name])) for name, (pixels, _) in sets.items()}
        parts[split] = MultimodalData("mnist-svhn", modalities, x, labels=torch.from_numpy(classes), split=split)
    return Splits(**parts).head(num_rows)


def load_mnist_svhn_text(
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    pairs: int = 20,
    num_rows: int | None = None,
    download: bool = True,
) -> Splits:
    """The pairs of `load_mnist_svhn` and the digit's name as a third modality.

    `text` int64 `(rows, 8)`: a name from `zero` to `nine` over 71 characters, blanks before and after it; class 0 is
    the blank, the others follow in the published order. It starts at random, so that its last position is blank: anew
    at every access in training, once for the other parts.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), section 4.1. Its alphabet has `-` twice; in the second place
        stands a minus sign here, which no text holds either. Its test texts start elsewhere at every access.

    Args:
        data_root: See `load_mnist_svhn`.
        seed: See `load_mnist_svhn`; also of the starts that are drawn once.
        pairs: See `load_mnist_svhn`.
        num_rows: See `load_mnist_svhn`.
        download: See `load_mnist_svhn`.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: See `load_mnist_svhn`.
        ValueError: See `load_mnist_svhn`.
    """
    splits = load_mnist_svhn(data_root, seed, pairs, num_rows, download)
    alphabet = padded_alphabet(" ")
    text = Modality("text", (_POSITIONS,), "text", "categorical", len(alphabet), DIGIT_WORDS, alphabet)
    words = text.encode(list(DIGIT_WORDS))
    parts = {}
    for number, split in enumerate(Splits.NAMES):
        part = getattr(splits, split)
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        parts[split] = MultimodalData(
            "mnist-svhn-text",
            {**part.modalities, "text": text},
            {**part.x, "text": placed(words[part.labels], generator)},
            labels=part.labels,
            split=split,
            transform=draw_start if split == "train" else None,
        )
    return Splits(**parts)
