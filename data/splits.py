"""The three parts of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from multipyro.data.multimodal import MultimodalData

__all__ = ["Splits"]


@dataclass(frozen=True)
class Splits:
    """A data set in three parts that share no row: one trains, one chooses, one judges."""

    NAMES: ClassVar[tuple[str, str, str]] = ("train", "validation", "test")

    train: MultimodalData
    validation: MultimodalData
    test: MultimodalData

    def select(self, modalities: Sequence[str]) -> "Splits":
        """The same parts with some of the modalities."""
        return Splits(*(getattr(self, name).select(modalities) for name in self.NAMES))
