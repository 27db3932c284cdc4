"""Families of subsets, over which a sum in an objective runs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral

import torch

from multipyro.batch import subsets_of
from multipyro.inference.programs import Subset, subset_text

__all__ = ["PROPER_SUBSETS", "SINGLES", "SubsetFamily", "listed_subsets", "random_subsets"]


@dataclass(frozen=True, repr=False)
class SubsetFamily(ABC):
    """A family of subsets of the modalities of a batch.

    Args:
        per_row: Whether a data point counts for a subset only if the subset is a proper part of what is observed of it.
    """

    per_row: bool = field(default=False, kw_only=True)

    #: Whether the subsets differ from step to step.
    is_random = False

    def subsets(self, modalities: Subset) -> list[Subset]:
        """The subsets of a batch with these modalities."""
        subsets = self._subsets(modalities)
        return [subset for subset in subsets if set(subset) < set(modalities)] if self.per_row else subsets

    def of_each_row(self) -> "SubsetFamily":
        """The same family, but each subset counts only in the rows of which it is a proper part."""
        return replace(self, per_row=True)

    def drawn(self, modalities: Subset) -> "SubsetFamily":
        """The family with the subsets of one step in place of random ones."""
        return ListedSubsets(self.subsets(modalities), per_row=self.per_row) if self.is_random else self

    @abstractmethod
    def _subsets(self, modalities: Subset) -> list[Subset]:
        """All subsets of the family."""


@dataclass(frozen=True, repr=False)
class ProperSubsets(SubsetFamily):
    """Every subset but the empty and the full one."""

    def _subsets(self, modalities: Subset) -> list[Subset]:
        return subsets_of(modalities, proper=True)

    def __repr__(self) -> str:
        return "A proper"


@dataclass(frozen=True, repr=False)
class Singles(SubsetFamily):
    """Every single modality."""

    def _subsets(self, modalities: Subset) -> list[Subset]:
        return [(name,) for name in modalities]

    def __repr__(self) -> str:
        return "A single"


@dataclass(frozen=True, repr=False)
class ListedSubsets(SubsetFamily):
    """Some subsets by name; those that are not within the batch are left out.

    Args:
        chosen: The subsets, each a sequence of names, or the name of a single modality.
        requires: Modalities without which a batch has none of the subsets.

    Example:
        >>> listed_subsets([("a",), ("a", "b"), ("c",)]).subsets(("a", "b"))
        [('a',), ('a', 'b')]
    """

    chosen: Iterable[Sequence[str]]
    requires: Sequence[str] = ()

    def __post_init__(self) -> None:
        chosen = tuple((subset,) if isinstance(subset, str) else tuple(subset) for subset in self.chosen)
        requires = (self.requires,) if isinstance(self.requires, str) else tuple(self.requires)
        vars(self).update(chosen=chosen, requires=requires)

    def _subsets(self, modalities: Subset) -> list[Subset]:
        if not set(self.requires) <= set(modalities):
            return []
        return [subset for subset in self.chosen if set(subset) <= set(modalities)]

    def __repr__(self) -> str:
        return f"A in {{{', '.join(map(subset_text, self.chosen))}}}"


@dataclass(frozen=True, repr=False)
class RandomSubsets(SubsetFamily):
    """Random subsets of 2 to `M - 1` modalities: a size is drawn uniformly, then a subset of it, without repetition.

    Args:
        count: Number of subsets in each step, drawn from torch's global generator.

    Example:
        >>> sorted(map(len, random_subsets(3).subsets(("a", "b", "c"))))
        [2, 2, 2]
    """

    count: int
    is_random = True

    def __post_init__(self) -> None:
        if not isinstance(self.count, Integral):
            raise TypeError(f"the number of random subsets must be an integer, got {self.count!r}")
        if self.count < 0:
            raise ValueError(f"the number of random subsets must not be negative, got {self.count}")

    def _subsets(self, modalities: Subset) -> list[Subset]:
        remaining = {size: math.comb(len(modalities), size) for size in range(2, len(modalities))}
        drawn: list[Subset] = []
        while len(drawn) < self.count and any(remaining.values()):
            sizes = [size for size, left in remaining.items() if left]
            size = sizes[torch.randint(len(sizes), ()).item()]
            members = torch.randperm(len(modalities))[:size].sort().values.tolist()
            subset = tuple(modalities[member] for member in members)
            if subset not in drawn:  # rejection rather than a list: 19 modalities have half a million subsets
                drawn.append(subset)
                remaining[size] -= 1
        return drawn

    def __repr__(self) -> str:
        return f"{self.count} random A"


PROPER_SUBSETS = ProperSubsets()
SINGLES = Singles()
# in equations they read as functions
listed_subsets, random_subsets = ListedSubsets, RandomSubsets
