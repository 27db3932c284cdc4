"""The embedded default: scikit-learn's 1,797 handwritten digits as image, label and word. No download."""

import torch

from multipyro._optional import optional_imports
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.splits import Splits

__all__ = ["DIGIT_WORDS", "digit_modalities", "load_digits"]

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

#: rows of the fixed split: 1,297 training, 200 validation, 300 test
_VALIDATION, _TEST = 200, 300
_SPLIT_SEED = 0


def digit_modalities(image: Modality) -> dict[str, Modality]:
    """An image of a digit, its label, and its name: one categorical for each position, padded with blanks to five."""
    alphabet = " " + "".join(sorted(set("".join(DIGIT_WORDS))))
    length = max(map(len, DIGIT_WORDS))
    label = Modality("label", (), "label", "categorical", len(DIGIT_WORDS), DIGIT_WORDS)
    word = Modality("word", (length,), "text", "categorical", len(alphabet), DIGIT_WORDS, alphabet)
    return {"image": image, "label": label, "word": word}


def load_digits(seed: int = 0) -> Splits:
    r"""The 8x8 digits, their labels and their names.

    A pixel counts `k = 0, ..., 16` and becomes the center of its share of the unit interval, :math:`(k + 1/2) / 17`. At
    exactly 0 and 1 the density of a continuous Bernoulli is unbounded: a model gains more there from blank margins than
    from everything that distinguishes the digits (in `examples/own_guide.py`, 0.93 of the images generated from words
    are right, and 0.50 with pixels `k / 16`).

    Modalities: `image` float32 `(rows, 1, 8, 8)` in `(0, 1)`, `label` int64 `(rows,)`, `word` int64 `(rows, 5)`. The
    split is fixed, whatever the seed: 1,297 training, 200 validation and 300 test examples, stratified by class.

    Args:
        seed: Not used; every data set takes one.

    Returns:
        The three parts.

    Example:
        >>> train = load_digits().train
        >>> tuple(train.x["image"].shape), train.modalities["word"].decode(train.x["word"][:1])
        ((1297, 1, 8, 8), ['zero'])
    """
    with optional_imports("the digits"):
        from sklearn import datasets

    raw = datasets.load_digits()
    modalities = digit_modalities(Modality("image", (1, 8, 8), "image", "continuous_bernoulli"))
    labels = torch.as_tensor(raw.target, dtype=torch.int64)
    words = modalities["word"].encode(list(DIGIT_WORDS))
    x = {
        "image": (torch.as_tensor(raw.images, dtype=torch.float32).unsqueeze(1) + 0.5) / 17,
        "label": labels,
        "word": words[labels],
    }
    data = MultimodalData("digits", modalities, x, labels=labels, label_names=DIGIT_WORDS)
    rest, test = _stratified(torch.arange(len(labels)), labels, _TEST)
    train, validation = _stratified(rest, labels, _VALIDATION)
    parts = {"train": train, "validation": validation, "test": test}
    return Splits(**{split: data.take(index).with_split(split) for split, index in parts.items()})


def _stratified(index: torch.Tensor, labels: torch.Tensor, held_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers in two parts, the second with `held_out` rows, with the same proportions of classes."""
    from sklearn.model_selection import train_test_split

    kept, out = train_test_split(
        index.numpy(), test_size=held_out, random_state=_SPLIT_SEED, stratify=labels[index].numpy()
    )
    return torch.as_tensor(kept).sort().values, torch.as_tensor(out).sort().values
