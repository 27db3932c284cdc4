"""The three parts of a data set: training, validation and test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from multipyro.data.display import describe_html
from multipyro.data.multimodal import MultimodalData

__all__ = ["Splits", "check_num_rows"]


@dataclass(frozen=True, repr=False)
class Splits:
    """Training, validation and test data, which share no row.

    Example:
        >>> from multipyro.data import load_dataset
        >>> splits = load_dataset("digits").head(50).select(["label"])
        >>> splits
        <digits: 50 training, 50 validation and 50 test examples of label ()>
        >>> list(splits.test.modalities)
        ['label']
    """

    NAMES: ClassVar[tuple[str, str, str]] = ("train", "validation", "test")

    train: MultimodalData
    validation: MultimodalData
    test: MultimodalData

    def __repr__(self) -> str:
        train, validation, test = (f"{len(getattr(self, name)):,}" for name in self.NAMES)
        modalities = ", ".join(f"{name} {modality.shape}" for name, modality in self.train.modalities.items())
        return (
            f"<{self.train.name}: {train} training, {validation} validation and {test} test examples of {modalities}>"
        )

    def _repr_html_(self) -> str:
        return "".join(describe_html(getattr(self, name)) for name in self.NAMES)

    def describe(self) -> str:
        """The number of examples of each part, and the table of modalities of the training data; see `MultimodalData`.

        Example:
            >>> from multipyro.data import load_dataset
            >>> load_dataset("digits").describe().splitlines()[0]
            'digits: 1,297 training, 200 validation and 300 test examples'
        """
        title = repr(self)[1:].partition(" of ")[0]
        return "\n".join([title, *self.train.describe().splitlines()[1:]])

    def select(self, modalities: Sequence[str]) -> "Splits":
        """The same parts with some of the modalities."""
        return Splits(*(getattr(self, name).select(modalities) for name in self.NAMES))

    def with_likelihoods(
        self, likelihoods: Mapping[str, str], scales: Mapping[str, float | str | None] | None = None
    ) -> "Splits":
        """The same parts described by other likelihoods, see `MultimodalData.with_likelihoods`."""
        return Splits(*(getattr(self, name).with_likelihoods(likelihoods, scales) for name in self.NAMES))

    def balanced(self, modality: str | None = None) -> "Splits":
        """The same parts, the classes equally frequent in training; see `MultimodalData.balanced`.

        Example:
            >>> from multipyro.data import load_dataset
            >>> load_dataset("digits").balanced("label").train.weights.sum()
            tensor(10., dtype=torch.float64)
        """
        return replace(self, train=self.train.balanced(modality))

    def head(self, num_rows: int | None) -> "Splits":
        """The first `num_rows` rows of each part, or as many as it has; all of them with None.

        Raises:
            ValueError: If `num_rows` is not a positive integer.
        """
        check_num_rows(num_rows)
        if num_rows is None:
            return self
        parts = (getattr(self, name) for name in self.NAMES)
        return Splits(*(part.take(torch.arange(min(num_rows, len(part)))) for part in parts))


def check_num_rows(num_rows: int | None) -> None:
    """Checks a number of rows.

    Raises:
        ValueError: If `num_rows` is neither a positive integer nor None.
    """
    if num_rows is not None and (isinstance(num_rows, bool) or not isinstance(num_rows, int) or num_rows < 1):
        raise ValueError(f"num_rows must be a positive integer or None, got {num_rows!r}")
