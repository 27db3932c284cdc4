"""Captions as word ids, and their vocabulary."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from multipyro.data.modality import Modality

__all__ = ["END", "PAD", "UNKNOWN", "caption_ids", "caption_modality", "caption_vocabulary"]

UNKNOWN, PAD, END = "<exc>", "<pad>", "<eos>"


def caption_vocabulary(captions: Iterable[Sequence[str]], min_count: int = 4) -> tuple[str, ...]:
    """The special words, then those that occur at least `min_count` times, in the order of their first occurrence.

    Args:
        captions: The words of each training caption.
        min_count: Smallest number of occurrences.

    Returns:
        The words by class id: 0 for unknown words, 1 for padding, 2 for the end of a caption.

    Example:
        >>> caption_vocabulary([["a", "red", "bird"], ["a", "bird"]], min_count=2)
        ('<exc>', '<pad>', '<eos>', 'a', 'bird')
    """
    counts = Counter(word for caption in captions for word in caption)
    return (UNKNOWN, PAD, END, *(word for word, count in counts.items() if count >= min_count))


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
    """Word ids int64 `(captions, length)`: the first `length - 1` words, the one that ends a caption, padding.

    Args:
        captions: The words of each caption.
        modality: What `caption_modality` returns.

    Returns:
        The ids; a word outside the vocabulary has that of the unknown word.

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
