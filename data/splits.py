"""The three parts of a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from multipyro.data.multimodal import MultimodalData

__all__ = ["Splits", "check_num_rows"]


@dataclass(frozen=True)
class Splits:
    """A data set in three parts that share no row: one trains, one chooses, one judges.

    Example:
        >>> from multipyro.data import load_dataset
        >>> splits = load_dataset("digits").head(50).select(["label"])
        >>> len(splits.train), len(splits.validation), list(splits.test.modalities)
        (50, 50, ['label'])
    """

    NAMES: ClassVar[tuple[str, str, str]] = ("train", "validation", "test")

    train: MultimodalData
    validation: MultimodalData
    test: MultimodalData

    def select(self, modalities: Sequence[str]) -> "Splits":
        """The same parts with some of the modalities."""
        return Splits(*(getattr(self, name).select(modalities) for name in self.NAMES))

    def with_likelihoods(
        self, likelihoods: Mapping[str, str], scales: Mapping[str, float | str | None] | None = None
    ) -> "Splits":
        """The same parts described by other likelihoods, see `MultimodalData.with_likelihoods`."""
        return Splits(*(getattr(self, name).with_likelihoods(likelihoods, scales) for name in self.NAMES))

    def head(self, num_rows: int | None) -> "Splits":
        """The first `num_rows` rows of each part, or as many as it has; all of them with None.

        Raises:
            ValueError: If `num_rows` is no positive whole number.
        """
        check_num_rows(num_rows)
        if num_rows is None:
            return self
        parts = (getattr(self, name) for name in self.NAMES)
        return Splits(*(part.take(torch.arange(min(num_rows, len(part)))) for part in parts))


def check_num_rows(num_rows: int | None) -> None:
    """Refuses what is no number of rows.

    Raises:
        ValueError: If `num_rows` is neither a whole number from 1 on nor None.
    """
    if num_rows is not None and (isinstance(num_rows, bool) or not isinstance(num_rows, int) or num_rows < 1):
        raise ValueError(f"num_rows must be a whole number from 1 on, or None, got {num_rows!r}")
