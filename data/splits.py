"""The three parts of a data set: training, validation and test."""

from collections.abc import Callable, Mapping, Sequence
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

    def map(self, change: Callable[[MultimodalData], MultimodalData]) -> "Splits":
        """The three parts, each changed by a function."""
        return Splits(*(change(getattr(self, name)) for name in self.NAMES))

    def select(self, modalities: Sequence[str]) -> "Splits":
        """The same parts with some of the modalities."""
        return self.map(lambda part: part.select(modalities))

    def with_likelihoods(
        self, likelihoods: Mapping[str, str], scales: Mapping[str, float | str | None] | None = None
    ) -> "Splits":
        """The same parts described by other likelihoods, see `MultimodalData.with_likelihoods`."""
        return self.map(lambda part: part.with_likelihoods(likelihoods, scales))

    def with_covariates(self, names: Sequence[str]) -> "Splits":
        """The same parts with some of the modalities as covariates, see `MultimodalData.with_covariates`."""
        return self.map(lambda part: part.with_covariates(names))

    def balanced(self, modality: str | None = None) -> "Splits":
        """The same parts, the classes equally frequent in training; see `MultimodalData.balanced`.

        Example:
            >>> from multipyro.data import load_dataset
            >>> load_dataset("digits").balanced("label").train.weights.sum()
            tensor(10., dtype=torch.float64)
        """
        return replace(self, train=self.train.balanced(modality))

    def with_sum_exposures(self, modalities: Sequence[str]) -> "Splits":
        """The same parts, the exposures of counts being the sums of their rows, over the median of the training data.

        Raises:
            ValueError: If a modality is unknown, its kind is not `"counts"`, or it has no count in an example.

        Example:
            >>> from multipyro.data import from_tensors
            >>> genes = torch.tensor([[1, 3], [2, 2], [8, 0], [3, 3]]).repeat(5, 1)
            >>> splits = from_tensors({"genes": genes}, kinds={"genes": "counts"}).with_sum_exposures(["genes"])
            >>> splits.train.modalities["genes"].exposure
            'sum'
        """
        if not modalities:
            return self
        parts = {part: getattr(self, part) for part in self.NAMES}
        for name in modalities:
            sums = {part: _sums(data, name) for part, data in parts.items()}
            observed = (self.train.observed or {}).get(name)
            unit = (sums["train"] if observed is None else sums["train"][observed]).median().item()
            modality = replace(self.train.modalities[name], exposure="sum", exposure_unit=unit)
            parts = {
                part: replace(
                    data,
                    modalities={**data.modalities, name: modality},
                    exposures={**(data.exposures or {}), name: sums[part] / unit},
                )
                for part, data in parts.items()
            }
        return Splits(**parts)

    def head(self, num_rows: int | None) -> "Splits":
        """The first `num_rows` rows of each part, or as many as it has; all of them with None.

        Raises:
            ValueError: If `num_rows` is not a positive integer.
        """
        check_num_rows(num_rows)
        if num_rows is None:
            return self
        return self.map(lambda part: part.take(torch.arange(min(num_rows, len(part)))))


def _sums(data: MultimodalData, name: str) -> torch.Tensor:
    """The sums of the rows of counts; 1 in examples that do not have the modality."""
    if name not in data.modalities or data.modalities[name].kind != "counts":
        counts = [key for key, modality in data.modalities.items() if modality.kind == "counts"]
        raise ValueError(f"exposures are of modalities of kind 'counts', which are {counts}, got {name!r}")
    sums = data.x[name].float().nansum(1)
    observed = (data.observed or {}).get(name)
    sums = sums if observed is None else torch.where(observed, sums, 1.0)
    if not (sums > 0).all():
        raise ValueError(f"exposures must be positive: the counts of {name!r} sum to 0 in some {data.split} examples")
    return sums


def check_num_rows(num_rows: int | None) -> None:
    """Checks a number of rows.

    Raises:
        ValueError: If `num_rows` is neither a positive integer nor None.
    """
    if num_rows is not None and (isinstance(num_rows, bool) or not isinstance(num_rows, int) or num_rows < 1):
        raise ValueError(f"num_rows must be a positive integer or None, got {num_rows!r}")
