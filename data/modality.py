"""The description of a modality: shape, kind of data, suitable likelihood, units and names of classes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from multipyro.data.scaling import Scaling

__all__ = ["CATEGORICAL", "KINDS", "LIKELIHOODS", "SCALED", "Modality", "check_name"]

_REAL = ("normal", "laplace", "student_t")
_UNIT_INTERVAL = ("bernoulli", "continuous_bernoulli", "beta", "discretized_logistic")
#: Kind of data -> the likelihoods that suit it, the default first.
KINDS: dict[str, tuple[str, ...]] = {
    "angles": ("von_mises",),
    "counts": ("negative_binomial", "poisson", "zero_inflated_negative_binomial", "zero_inflated_poisson"),
    "grid": (*_REAL, *_UNIT_INTERVAL),
    "image": ("laplace", *_UNIT_INTERVAL, "normal", "student_t"),
    "label": ("categorical",),
    "ordinal": ("ordinal", "categorical"),
    "positive": ("log_normal", "gamma"),
    "proportions": ("dirichlet",),
    "text": ("categorical",),
    "vector": (*_REAL, *_UNIT_INTERVAL),
}
#: Every likelihood, by name.
LIKELIHOODS = tuple(sorted({likelihood for suitable in KINDS.values() for likelihood in suitable}))
#: Likelihoods with a location and a scale.
SCALED = ("discretized_logistic", "laplace", "normal", "student_t")
#: Likelihoods of class ids, whose values are int64.
CATEGORICAL = ("categorical", "ordinal")
# kinds whose elements can be shifted and scaled
_SCALABLE = ("grid", "vector")
# the padding of texts of words: as printed in the paper on aggregate posteriors, and as in vocabularies of captions
_BLANK, _PAD = "-", "<pad>"
_LONGEST_NAME = 100


@dataclass(frozen=True, repr=False)
class Modality:
    r"""The description of one modality of a data set.

    The kinds of data, with the shape of one example and its values:

    ============= ============================= ==================================================================
    kind          shape                         values
    ============= ============================= ==================================================================
    `image`       `(channels, height, width)`   pixels in `[0, 1]`, or uint8 in memory
    `grid`        `(channels, *sides)`          real numbers on 1 to 3 axes: a spectrum, a spectrogram, a volume
    `vector`      `(features,)`                 real numbers; one number is a vector of one
    `counts`      `(features,)`                 0, 1, 2, ...
    `positive`    `(features,)`                 numbers above 0
    `proportions` `(parts,)`                    positive numbers that sum to 1
    `angles`      `(features,)`                 radians from :math:`-\pi` to :math:`\pi`
    `label`       `()`                          class ids, int64
    `ordinal`     `()`                          class ids in their order, int64
    `text`        `(positions,)`                token ids, int64
    ============= ============================= ==================================================================

    Missing entries of the kinds with float values are NaN.

    Args:
        name: Name of the modality and of its sample site.
        shape: Shape of one example.
        kind: One of `KINDS`.
        likelihood: The likelihood that suits it, one of `KINDS[kind]`.
        num_classes: Number of classes of a categorical or ordinal likelihood, for each position of a text.
        class_names: Names of the classes of a label; or of a text that spells the name of one of few classes.
        alphabet: The characters of a text by token id; the first one is the padding, after a text or on both sides.
        vocabulary: In place of an alphabet, the words of a text by token id, joined by single spaces. The word
            `"<pad>"`, or the first word if it is `"-"`, is the padding; without one every position has a word.
        scale: Scale of a likelihood in `SCALED`: a number, which stays fixed; `"learned"`; `"channels"`, one learned
            for each channel; None for the default of the likelihood or the architecture. It refers to scaled values.
        columns: Names of the table columns that the modality was read from, one for each element of a vector, or one
            for a label, text or image. New data is read from columns of these names.
        scaling: How values in the units of the data were scaled; None if they were not.
        missing_entries: Whether single entries of an example may be missing (NaN).
        exposure: Where the exposures of counts come from: `"sum"`, the sum of each row; or the name of a column.
        exposure_unit: What they are divided by: their median in the training data.
        mean_counts: Mean of each entry of counts in the training data, where the means of a decoder start.

    Raises:
        TypeError: If the name is not a string.
        ValueError: If the kind or the likelihood is unknown, or the fields contradict one another.

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
    columns: tuple[str, ...] | None = None
    scaling: Scaling | None = None
    missing_entries: bool = False
    exposure: str | None = None
    exposure_unit: float | None = None
    mean_counts: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        for field in ("shape", "class_names", "vocabulary", "columns", "mean_counts"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, tuple(getattr(self, field)))
        if not isinstance(self.missing_entries, bool):
            raise TypeError(f"missing_entries of modality {self.name!r} must be a bool, got {self.missing_entries!r}")
        if isinstance(self.scaling, Mapping):  # as JSON stores it
            object.__setattr__(self, "scaling", Scaling(**self.scaling))
        if self.kind not in KINDS:
            raise ValueError(f"kind of modality {self.name!r} must be one of {tuple(KINDS)}, got {self.kind!r}")
        if self.likelihood not in KINDS[self.kind]:
            raise ValueError(
                f"likelihood of modality {self.name!r}, of kind {self.kind!r}, must be one of {KINDS[self.kind]}, got "
                f"{self.likelihood!r}"
            )
        self._check_classes()
        self._check_text()
        if self.scale is not None:
            self._check_scale()
        if self.scaling is not None:
            self._check_scaling()
        if self.exposure is not None and (self.kind != "counts" or not self.exposure_unit or self.exposure_unit <= 0):
            raise ValueError(
                f"modality {self.name!r} must be of kind 'counts' and have a positive exposure_unit to have exposures, "
                f"got {self.kind!r} and {self.exposure_unit!r}"
            )
        if self.mean_counts is not None:
            self._check_mean_counts()

    def _check_classes(self) -> None:
        if self.is_discrete and not self.num_classes:
            raise ValueError(f"modality {self.name!r} is {self.likelihood} and needs num_classes")
        names, single = self.class_names, self.kind in ("label", "ordinal")
        if single and self.shape != ():
            raise ValueError(f"{self.kind} {self.name!r} must have the shape (), got {self.shape}")
        if single and names is not None and (len(names) != self.num_classes or len(set(names)) != len(names)):
            raise ValueError(
                f"class_names of modality {self.name!r} must be num_classes = {self.num_classes} different names, got "
                f"{len(names)}"
            )

    def _check_text(self) -> None:
        if self.alphabet is None and self.vocabulary is None:
            return
        if len(self.shape) != 1:
            raise ValueError(f"text {self.name!r} must have the shape (positions,), got {self.shape}")
        if self.alphabet is not None and self.vocabulary is not None:
            raise ValueError(f"text {self.name!r} has an alphabet or a vocabulary, got both")
        symbols = self.alphabet if self.vocabulary is None else self.vocabulary
        distinct = len(set(symbols)) == len(symbols) == self.num_classes
        if self.vocabulary is None and not distinct:
            raise ValueError(
                f"alphabet of modality {self.name!r} must have num_classes = {self.num_classes} different characters, "
                f"got {symbols!r}"
            )
        # a word is what `str.split` returns: not empty, and without spaces
        if self.vocabulary is not None and not (distinct and all(word.split() == [word] for word in symbols)):
            raise ValueError(
                f"vocabulary of modality {self.name!r} must have num_classes = {self.num_classes} different words "
                f"without spaces, got {_shortened(symbols)}"
            )

    def _check_scale(self) -> None:
        if self.likelihood not in SCALED:
            raise ValueError(
                f"modality {self.name!r} has a {self.likelihood} likelihood, which takes no scale, got {self.scale!r}: "
                f"{SCALED} do"
            )
        number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if self.scale not in ("learned", "channels") and not (number and 0 < self.scale < math.inf):
            raise ValueError(
                f"scale of modality {self.name!r} must be a number above 0, 'learned' or 'channels', got {self.scale!r}"
            )
        if self.scale == "channels" and not self.shape:
            raise ValueError(f"modality {self.name!r} has no channels: its shape is ()")

    def _check_scaling(self) -> None:
        if self.kind not in _SCALABLE:
            raise ValueError(f"modality {self.name!r} is of kind {self.kind!r}, only {_SCALABLE} can be scaled")
        if len(self.scaling.shift) != self.shape[0]:
            raise ValueError(
                f"scaling of modality {self.name!r} must have {self.shape[0]} numbers, got {len(self.scaling.shift)}"
            )

    def _check_mean_counts(self) -> None:
        if self.kind != "counts" or len(self.mean_counts) != self.dim or not all(m > 0 for m in self.mean_counts):
            raise ValueError(
                f"mean_counts of modality {self.name!r} must be {self.dim} positive numbers, for the kind 'counts', "
                f"got {len(self.mean_counts)}, of which {sum(m > 0 for m in self.mean_counts)} are positive, for the "
                f"kind {self.kind!r}"
            )

    def __repr__(self) -> str:
        required = ", ".join(repr(getattr(self, name)) for name in ("name", "shape", "kind", "likelihood"))
        optional = [
            f", {field.name}={_shortened(getattr(self, field.name))}"
            for field in fields(self)[4:]
            if getattr(self, field.name) != field.default
        ]
        return f"Modality({required}{''.join(optional)})"

    @property
    def dim(self) -> int:
        """Number of elements of one example: of a text its positions, of a label 1."""
        return math.prod(self.shape)

    @property
    def is_discrete(self) -> bool:
        """Whether the values are class or token ids, int64."""
        return self.likelihood in CATEGORICAL

    @property
    def pad(self) -> int | None:
        """The token id of the padding of a text; None without padding."""
        if self.vocabulary is None or self.vocabulary[0] == _BLANK:
            return None if self.vocabulary is None and self.alphabet is None else 0
        return self.vocabulary.index(_PAD) if _PAD in self.vocabulary else None

    def to_units(self, values: Tensor) -> Tensor:
        """Values `(..., *shape)`, as a model generates them, in the units of the data, with the scaling undone."""
        return values if self.scaling is None else self.scaling.to_units(values, len(self.shape))

    def from_units(self, values: Tensor) -> Tensor:
        """Undoes `to_units`."""
        return values if self.scaling is None else self.scaling.to_scaled(values, len(self.shape))

    def log_jacobian(self, values: Tensor) -> Tensor:
        r""":math:`\log |dx/du|` of each element of values `(..., *shape)`, in nats.

        Summed over the observed entries and added to the log-likelihood of the scaled :math:`x`, it gives the
        log-likelihood of the data in its units :math:`u`.
        """
        if self.scaling is None:
            return torch.zeros(values.shape, device=values.device)
        return self.scaling.log_jacobian(values, len(self.shape))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Class ids `(len(texts),)` of names of classes, or token ids `(len(texts), positions)` of texts.

        Texts are padded on the right.

        Raises:
            ValueError: If a name is not one of the classes. If a text has too many characters or words, an unknown
                one, or too few without padding; or if it begins or ends with the padding, which `decode` would remove.
        """
        if self.kind in ("label", "ordinal"):
            return self._encode_classes(texts)
        symbols, length, pad = self._symbols(), self.shape[0], self.pad
        ids = {symbol: number for number, symbol in enumerate(symbols)}
        rows = []
        for text in texts:
            tokens = list(text) if self.vocabulary is None else text.split()
            if pad is not None and tokens and symbols[pad] in (tokens[0], tokens[-1]):
                raise ValueError(f"{text!r} begins or ends with {symbols[pad]!r}, the padding of text {self.name!r}")
            if pad is not None:
                tokens += [symbols[pad]] * (length - len(tokens))
            if len(tokens) != length or not ids.keys() >= set(tokens):
                unit = "characters" if self.vocabulary is None else "words"
                raise ValueError(f"{text!r} does not fit {length} {unit} of {_shortened(symbols)}")
            rows.append([ids[token] for token in tokens])
        return torch.tensor(rows, dtype=torch.int64).reshape(len(texts), length)

    def decode(self, values: Tensor) -> list[str]:
        """Names of class ids `(rows,)`, or texts of token ids `(rows, positions)` without the padding around them.

        It undoes `encode`, wherever a text starts.

        Raises:
            ValueError: If the shape is wrong or an id is outside the classes, the alphabet or the vocabulary.
        """
        label = self.kind in ("label", "ordinal")
        symbols = self._class_names() if label else self._symbols()
        if tuple(values.shape[1:]) != self.shape or not values.dim():
            expected = ", ".join(map(str, ("rows", *self.shape)))
            raise ValueError(f"{self.kind} {self.name!r} must have shape ({expected}), got {tuple(values.shape)}")
        if len(values) and not 0 <= values.min() <= values.max() < len(symbols):
            raise ValueError(
                f"ids of {self.name!r} must lie in 0 to {len(symbols) - 1}, got {values.min().item()} to "
                f"{values.max().item()}"
            )
        if label:
            return [symbols[i] for i in values.tolist()]
        texts, separator = [], "" if self.vocabulary is None else " "
        for row in values.tolist():
            inside = [position for position, i in enumerate(row) if i != self.pad]
            kept = row[inside[0] : inside[-1] + 1] if inside else []
            texts.append(separator.join(symbols[i] for i in kept))
        return texts

    def _encode_classes(self, names: Sequence[str]) -> Tensor:
        ids = {name: number for number, name in enumerate(self._class_names())}
        unknown = next((name for name in names if name not in ids), None)
        if unknown is not None:
            raise ValueError(
                f"modality {self.name!r} has no class {unknown!r}: its classes are {_shortened(self.class_names)}"
            )
        return torch.tensor([ids[name] for name in names], dtype=torch.int64)

    def _class_names(self) -> tuple[str, ...]:
        if self.class_names is None:
            raise ValueError(f"modality {self.name!r} has no class_names")
        return self.class_names

    def _symbols(self) -> str | tuple[str, ...]:
        symbols = self.alphabet if self.vocabulary is None else self.vocabulary
        if symbols is None:
            raise ValueError(f"modality {self.name!r} has no alphabet and no vocabulary")
        return symbols


def check_name(name: str) -> None:
    """Checks the name of a modality, which becomes that of sample sites, of files and of columns of tables.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is empty or longer than 100 characters, or has a dot, a slash, or a character that cannot be
            printed.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a modality must be a string, got {name!r}")
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or any(mark in name for mark in "./\\"):
        raise ValueError(
            f"the name of a modality must have 1 to {_LONGEST_NAME} printable characters without dots and slashes, got "
            f"{name[: _LONGEST_NAME + 1]!r}"
        )


def _shortened(value: object) -> str:
    """The `repr` of a value; of a long tuple, its ends."""
    if isinstance(value, tuple) and len(value) > 8:
        return f"({', '.join(map(repr, value[:3]))}, ..., {value[-1]!r}: {len(value)} in all)"
    if isinstance(value, Scaling):
        numbers = f"shift={_shortened(value.shift)}, scale={_shortened(value.scale)}"
        return f"Scaling({numbers}{', log1p=True' if value.log1p else ''})"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:90]}...{text[-1]}"
