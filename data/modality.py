"""What a modality is: its shape, its kind, and the likelihood that suits it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KINDS", "LIKELIHOODS", "Modality"]

KINDS = ("image", "label", "text", "vector")
LIKELIHOODS = ("bernoulli", "categorical", "continuous_bernoulli", "laplace", "normal")


@dataclass(frozen=True)
class Modality:
    """The description of one modality of a data set.

    Args:
        name: Its name, also the name of its site.
        shape: Shape of one row: `(channels, height, width)` of an image, `()` of a label, `(positions,)` of a text.
        kind: `"image"`, `"label"`, `"text"` or `"vector"`.
        likelihood: The family that suits it: `"bernoulli"`, `"categorical"`, `"continuous_bernoulli"`, `"laplace"` or
            `"normal"`.
        num_classes: Number of classes of a categorical, a position.
        class_words: What the classes of the data set are called, for labels and texts that spell them.
        alphabet: The characters of a text by class id; the first one pads.

    Raises:
        ValueError: If the kind or the likelihood is unknown, or the description contradicts itself.

    Example:
        >>> word = Modality("word", (3,), "text", "categorical", 4, ("ab", "ca"), " abc")
        >>> word.decode(word.encode(["ab", "ca"]))
        ['ab', 'ca']
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    likelihood: str
    num_classes: int | None = None
    class_words: tuple[str, ...] | None = None
    alphabet: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.kind not in KINDS:
            raise ValueError(f"kind of modality {self.name!r} must be one of {KINDS}, got {self.kind!r}")
        if self.likelihood not in LIKELIHOODS:
            raise ValueError(
                f"likelihood of modality {self.name!r} must be one of {LIKELIHOODS}, got {self.likelihood!r}"
            )
        if self.likelihood == "categorical" and not self.num_classes:
            raise ValueError(f"modality {self.name!r} is categorical and needs num_classes, got {self.num_classes}")
        if self.class_words is not None:
            object.__setattr__(self, "class_words", tuple(self.class_words))
        if self.alphabet is not None:
            if len(set(self.alphabet)) != len(self.alphabet) or len(self.alphabet) != self.num_classes:
                raise ValueError(
                    f"alphabet of modality {self.name!r} must have num_classes = {self.num_classes} different "
                    f"characters, got {self.alphabet!r}"
                )
            if len(self.shape) != 1:
                raise ValueError(f"text {self.name!r} must have the shape (positions,), got {self.shape}")

    @property
    def dim(self) -> int:
        """Number of elements of one row; of a text its positions, of a label 1."""
        return math.prod(self.shape)

    def encode(self, texts: list[str]) -> Tensor:
        """Class ids `(len(texts), positions)` of texts, padded with the alphabet's first character on the right.

        Raises:
            ValueError: If a text is too long or has a character outside the alphabet.
        """
        alphabet = self._characters()
        length = self.shape[0]
        rows = []
        for text in texts:
            if set(text) - set(alphabet) or len(text) > length:
                raise ValueError(f"{text!r} does not fit {length} characters of {alphabet!r}")
            rows.append([alphabet.index(character) for character in text.ljust(length, alphabet[0])])
        return torch.tensor(rows, dtype=torch.int64).reshape(len(texts), length)

    def decode(self, values: Tensor) -> list[str]:
        """The texts of class ids `(rows, positions)`, without the padding on the right; the inverse of `encode`.

        Raises:
            ValueError: If the shape is another one or an id is outside the alphabet.
        """
        alphabet = self._characters()
        if values.dim() != 2 or values.shape[1] != self.shape[0]:
            raise ValueError(f"texts {self.name!r} must have shape (rows, {self.shape[0]}), got {tuple(values.shape)}")
        if len(values) and not 0 <= values.min() <= values.max() < len(alphabet):
            raise ValueError(
                f"class ids of {self.name!r} must lie in 0 to {len(alphabet) - 1}, got {values.min().item()} to "
                f"{values.max().item()}"
            )
        return ["".join(alphabet[i] for i in row).rstrip(alphabet[0]) for row in values.tolist()]

    def _characters(self) -> str:
        if self.alphabet is None:
            raise ValueError(f"modality {self.name!r} has no alphabet")
        return self.alphabet
