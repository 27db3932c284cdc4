"""Sentences as words: a small tokenizer after the Penn Treebank's rules, and the vocabulary of training captions."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from multipyro.data.modality import Modality

__all__ = ["END", "PAD", "UNKNOWN", "caption_ids", "caption_modality", "vocabulary_of"]

UNKNOWN, PAD, END = "<exc>", "<pad>", "<eos>"


def vocabulary_of(captions: Iterable[Sequence[str]], least: int = 4) -> tuple[str, ...]:
    """The special words, then those that occur at least `least` times, in the order in which they first occur.

    Args:
        captions: The words of each caption that trains.
        least: Least number of occurrences.

    Returns:
        The words by class id: 0 for unknown ones, 1 pads, 2 ends a caption.

    Example:
        >>> vocabulary_of([["a", "red", "bird"], ["a", "bird"]], least=2)
        ('<exc>', '<pad>', '<eos>', 'a', 'bird')
    """
    counts = Counter(word for caption in captions for word in caption)
    return (UNKNOWN, PAD, END, *(word for word, count in counts.items() if count >= least))


def caption_modality(name: str, vocabulary: Sequence[str], length: int) -> Modality:
    """The description of captions of up to `length - 1` words and the word that ends them.

    Returns:
        The modality.

    Example:
        >>> caption_modality("caption", ("<exc>", "<pad>", "<eos>", "bird"), 8).shape
        (8,)
    """
    return Modality(name, (length,), "text", "categorical", len(vocabulary), vocabulary=tuple(vocabulary))


def caption_ids(captions: Sequence[Sequence[str]], modality: Modality) -> Tensor:
    """Class ids int64 `(captions, length)`: the first `length - 1` words, the one that ends, padding.

    Args:
        captions: The words of each caption.
        modality: What `caption_modality` returns.

    Returns:
        The ids; of a word outside the vocabulary that of the unknown one.

    Example:
        >>> modality = caption_modality("caption", ("<exc>", "<pad>", "<eos>", "bird"), 4)
        >>> caption_ids([["red", "bird"]], modality).tolist()
        [[0, 3, 2, 1]]
    """
    known = {word: number for number, word in enumerate(modality.vocabulary or ())}
    unknown, pad, end = (known.pop(word) for word in (UNKNOWN, PAD, END))
    ids = torch.full((len(captions), modality.shape[0]), pad)
    for row, caption in zip(ids.numpy(), captions, strict=True):
        kept = caption[: len(row) - 1]
        row[: len(kept) + 1] = [*(known.get(word, unknown) for word in kept), end]
    return ids
