"""What a modality is: its shape, its kind, and the likelihood that suits it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KINDS", "LIKELIHOODS", "SCALED", "Modality"]

KINDS = ("image", "label", "text", "vector")
LIKELIHOODS = (
    "bernoulli",
    "beta",
    "categorical",
    "continuous_bernoulli",
    "discretized_logistic",
    "laplace",
    "normal",
)
#: Those with a location and a scale.
SCALED = ("discretized_logistic", "laplace", "normal")
# pad texts of words: as the paper on aggregate posteriors prints it, and as vocabularies of captions have it
_BLANK, _PAD = "-", "<pad>"


@dataclass(frozen=True)
class Modality:
    """The description of one modality of a data set.

    Args:
        name: Its name, also the name of its site.
        shape: Shape of one row: `(channels, height, width)` of an image, `()` of a label, `(positions,)` of a text.
        kind: `"image"`, `"label"`, `"text"` or `"vector"`.
        likelihood: The family that suits it, one of `LIKELIHOODS`.
        num_classes: Number of classes of a categorical, a position.
        class_names: What the classes of the data set are called, for labels and texts that spell them.
        alphabet: The characters of a text by class id; the first one pads, after a text or on both sides of it.
        vocabulary: In place of an alphabet, the words of a text by class id; they stand between single spaces. One
            that is `"<pad>"`, or the first one if it is `"-"`, is the blank, which pads; without such a word a text
            has a word at every position.
        scale: Of a normal, Laplace or discretized logistic likelihood, in the unit of the data: a number, which stays;
            `"learned"`; `"channels"`, one learned for each channel; None for what the likelihood or the network has.

    Raises:
        ValueError: If the kind or the likelihood is unknown, or the description contradicts itself.

    Example:
        >>> word = Modality("word", (3,), "text", "categorical", 4, ("ab", "ca"), " abc")
        >>> word.decode(word.encode(["ab", "ca"]))
        ['ab', 'ca']
        >>> text = Modality("text", (3,), "text", "categorical", 3, vocabulary=("-", "red", "cube"))
        >>> text.encode(["red cube"]).tolist(), text.decode(torch.tensor([[2, 0, 0]]))
        ([[1, 2, 0]], ['cube'])
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    likelihood: str
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    alphabet: str | None = None
    vocabulary: tuple[str, ...] | None = None
    scale: float | str | None = None

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
        if self.scale is not None:
            self._check_scale()
        if self.class_names is not None:
            object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.vocabulary is not None:
            object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
            self._check_vocabulary()
        if self.alphabet is not None:
            if len(set(self.alphabet)) != len(self.alphabet) or len(self.alphabet) != self.num_classes:
                raise ValueError(
                    f"alphabet of modality {self.name!r} must have num_classes = {self.num_classes} different "
                    f"characters, got {self.alphabet!r}"
                )
        if (self.alphabet is not None or self.vocabulary is not None) and len(self.shape) != 1:
            raise ValueError(f"text {self.name!r} must have the shape (positions,), got {self.shape}")

    def _check_scale(self) -> None:
        if self.likelihood not in SCALED:
            raise ValueError(
                f"modality {self.name!r} is {self.likelihood} and takes no scale, got {self.scale!r}: {SCALED} have one"
            )
        number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if self.scale not in ("learned", "channels") and not (number and 0 < self.scale < math.inf):
            raise ValueError(
                f"scale of modality {self.name!r} must be a number above 0, 'learned' or 'channels', got {self.scale!r}"
            )
        if self.scale == "channels" and not self.shape:
            raise ValueError(f"modality {self.name!r} has no channels: its shape is ()")

    def _check_vocabulary(self) -> None:
        words = self.vocabulary
        if self.alphabet is not None:
            raise ValueError(f"text {self.name!r} has an alphabet or a vocabulary, got both")
        # what str.split gives back is a word: nothing empty and no space inside
        if len(set(words)) != len(words) or len(words) != self.num_classes or any(w.split() != [w] for w in words):
            raise ValueError(
                f"vocabulary of modality {self.name!r} must have num_classes = {self.num_classes} different words "
                f"without spaces, got {words!r}"
            )

    @property
    def dim(self) -> int:
        """Number of elements of one row; of a text its positions, of a label 1."""
        return math.prod(self.shape)

    @property
    def pad(self) -> int | None:
        """The class id that pads a text; None where nothing pads."""
        if self.vocabulary is None or self.vocabulary[0] == _BLANK:
            return None if self.vocabulary is None and self.alphabet is None else 0
        return self.vocabulary.index(_PAD) if _PAD in self.vocabulary else None

    def encode(self, texts: list[str]) -> Tensor:
        """Class ids `(len(texts), positions)` of texts, padded on the right.

        Raises:
            ValueError: If a text has too many characters or words, one that is unknown, or too few where nothing pads;
                or if it begins or ends with what pads, which `decode` would take away.
        """
        symbols, length, pad = self._symbols(), self.shape[0], self.pad
        ids = {symbol: number for number, symbol in enumerate(symbols)}
        rows = []
        for text in texts:
            parts = list(text) if self.vocabulary is None else text.split()
            if pad is not None and parts and symbols[pad] in (parts[0], parts[-1]):
                raise ValueError(f"{text!r} begins or ends with {symbols[pad]!r}, which pads texts {self.name!r}")
            if pad is not None:
                parts += [symbols[pad]] * (length - len(parts))
            if len(parts) != length or not ids.keys() >= set(parts):
                unit = "characters" if self.vocabulary is None else "words"
                raise ValueError(f"{text!r} does not fit {length} {unit} of {symbols!r}")
            rows.append([ids[part] for part in parts])
        return torch.tensor(rows, dtype=torch.int64).reshape(len(texts), length)

    def decode(self, values: Tensor) -> list[str]:
        """The texts of class ids `(rows, positions)` without the padding around them, wherever they start.

        What `encode` made becomes the text that it was.

        Raises:
            ValueError: If the shape is another one or an id is outside the alphabet or vocabulary.
        """
        symbols, pad = self._symbols(), self.pad
        if values.dim() != 2 or values.shape[1] != self.shape[0]:
            raise ValueError(f"texts {self.name!r} must have shape (rows, {self.shape[0]}), got {tuple(values.shape)}")
        if len(values) and not 0 <= values.min() <= values.max() < len(symbols):
            raise ValueError(
                f"class ids of {self.name!r} must lie in 0 to {len(symbols) - 1}, got {values.min().item()} to "
                f"{values.max().item()}"
            )
        separator = "" if self.vocabulary is None else " "
        rows = []
        for row in values.tolist():
            inside = [position for position, i in enumerate(row) if i != pad]
            rows.append(row[inside[0] : inside[-1] + 1] if inside else [])
        return [separator.join(symbols[i] for i in row) for row in rows]

    def _symbols(self) -> str | tuple[str, ...]:
        symbols = self.alphabet if self.vocabulary is None else self.vocabulary
        if symbols is None:
            raise ValueError(f"modality {self.name!r} has no alphabet and no vocabulary")
        return symbols
