"""Data sets as dicts of tensors."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multipyro.data.batches import Batch, Batches, seeded_generator
from multipyro.data.display import describe, describe_html
from multipyro.data.indexed import IndexedTensor
from multipyro.data.modality import Modality

__all__ = ["MultimodalData"]

Transform = Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]

_INTEGERS = ("uint8", "int16", "int32", "int64")


@dataclass(frozen=True, repr=False)
class MultimodalData:
    """Examples of several modalities, in memory or mapped from files.

    Args:
        name: Name of the data set.
        modalities: Modality name -> its description, in order.
        x: Modality name -> values `(rows, *shape)`, a tensor, or an `IndexedTensor` where rows repeat. Images may be
            stored as uint8, which batches contain as float32 in `[0, 1]`; counts as integers, which become float32. A
            missing entry of an example is NaN.
        observed: Modality name -> which examples have the modality, bool `(rows,)`; None if all have all.
        labels: Class of each example, int64 `(rows,)`, for metrics; None without classes.
        split: `"train"`, `"validation"` or `"test"`.
        transform: Called as `transform(x, generator)` on the modalities of a batch, with a generator that depends on
            the seed, the epoch and the batch alone: random augmentation that is new in every epoch and repeats in a
            resumed run. After `select` it gets the selected modalities only.
        options: The options with which `load_dataset` loads it again, by name; None if it cannot.
        ids: The user's identifier of each row, strings or integers; by default 0, 1, 2, ... They follow the rows
            through `take` and splits.
        weights: Sampling weight of each row, nonnegative floats `(rows,)`: a shuffled epoch draws as many rows as there
            are, with replacement, in proportion to them. None for each row once.
        label_names: Names of the classes in `labels`.
        exposures: Counts modality -> exposure of each row, positive floats `(rows,)`, such as the library size of a
            cell; a batch has them as `x["<modality>.exposure"]`.
        covariate_data: What decoders and encoders are conditioned on, such as a batch, a site or an age: the same rows
            with a label, an ordinal or a vector for each covariate, present in every row; a batch has them as
            `x["<name>.covariate"]`. None for none.

    Raises:
        TypeError: If a value is not a tensor or has the wrong dtype: int64 for discrete modalities and for labels, bool
            for masks, floating point otherwise.
        ValueError: If numbers of rows differ, or shapes differ from the descriptions.

    Example:
        >>> label = Modality("label", (), "label", "categorical", num_classes=3)
        >>> data = MultimodalData("toy", {"label": label}, {"label": torch.tensor([0, 2, 1])})
        >>> [x["label"].tolist() for x, observed in data.batches(2)]
        [[0, 2], [1]]
    """

    name: str
    modalities: Mapping[str, Modality]
    x: Mapping[str, Tensor | IndexedTensor]
    observed: Mapping[str, Tensor] | None = None
    labels: Tensor | None = None
    split: str = "train"
    transform: Transform | None = None
    options: Mapping[str, Any] | None = None
    ids: np.ndarray | None = None
    weights: Tensor | None = None
    label_names: tuple[str, ...] | None = None
    exposures: Mapping[str, Tensor] | None = None
    covariate_data: "MultimodalData | None" = None

    def __post_init__(self) -> None:
        if set(self.x) != set(self.modalities) or not self.x:
            raise ValueError(f"x has the modalities {list(self.x)}, but {list(self.modalities)} are described")
        unknown = [name for name in self.observed or {} if name not in self.x]
        if unknown:
            raise ValueError(f"observed has the unknown modality {unknown}: there are {list(self.modalities)}")
        tensors = {f"modality {name!r}": (values, *self._expected(name)) for name, values in self.x.items()}
        tensors |= {f"observed[{name!r}]": (mask, (), ("bool",)) for name, mask in (self.observed or {}).items()}
        tensors |= {} if self.labels is None else {"labels": (self.labels, (), ("int64",))}
        floats = {f"exposures[{name!r}]": exposure for name, exposure in (self.exposures or {}).items()}
        floats |= {} if self.weights is None else {"weights": self.weights}
        tensors |= {name: (values, (), ("a floating dtype",)) for name, values in floats.items()}
        for name, (values, shape, dtypes) in tensors.items():
            _check(name, values, shape, dtypes)
        object.__setattr__(self, "ids", np.arange(len(self)) if self.ids is None else np.asarray(self.ids))
        sizes = {name: len(values) for name, (values, _, _) in tensors.items()} | {"ids": len(self.ids)}
        sizes |= {} if self.covariate_data is None else {"covariates": len(self.covariate_data)}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
            raise ValueError(f"all tensors must have the same number of rows, got {listed}")
        if self.weights is not None:
            _check_weights(self.weights)
        for name, exposure in (self.exposures or {}).items():
            if name not in self.x or self.modalities[name].kind != "counts":
                raise ValueError(f"exposures are of counts, got some of {name!r}")
            if not (exposure.isfinite() & (exposure > 0)).all():
                raise ValueError(f"exposures of {name!r} must be finite and positive")
        if self.covariate_data is not None:
            _check_covariates(self.covariate_data, self.modalities)

    def _expected(self, name: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Shape of an example of a modality, and the dtypes it may have."""
        modality = self.modalities[name]
        integers = {"image": ("uint8",), "counts": _INTEGERS}.get(modality.kind, ())
        return modality.shape, ("int64",) if modality.is_discrete else ("a floating dtype", *integers)

    @property
    def covariates(self) -> dict[str, Modality]:
        """Name -> description of each covariate."""
        return {} if self.covariate_data is None else dict(self.covariate_data.modalities)

    def __len__(self) -> int:
        return len(next(iter(self.x.values())))

    def __repr__(self) -> str:
        modalities = ", ".join(f"{name} {modality.shape}" for name, modality in self.modalities.items())
        return f"<{self.name}, {self.split}: {len(self):,} examples of {modalities}>"

    def _repr_html_(self) -> str:
        return describe_html(self)

    def describe(self) -> str:
        """A table of the modalities: kind, shape, likelihood, range of the values, share that is missing.

        Ranges are those of the first rows, in the units of the data. Below the table, hints say how to declare what a
        modality is where its values allow another reading.

        Example:
            >>> from multipyro.data import load_dataset
            >>> print(load_dataset("digits").train.select(["label"]).describe())
            digits, train: 1,297 examples
            modality  kind   shape  likelihood   values                           missing
            label     label  ()     categorical  10 classes: zero, one, two, ...  none
        """
        return describe(self)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the values and masks, which identifies the data in every result."""
        digest = hashlib.sha256()
        tensors = {**self.x, **{f"observed/{name}": mask for name, mask in (self.observed or {}).items()}}
        tensors |= {f"exposures/{name}": exposure for name, exposure in (self.exposures or {}).items()}
        if self.covariate_data is not None:
            tensors |= {f"covariates/{name}": values for name, values in self.covariate_data.x.items()}
        for name in sorted(tensors):
            values = tensors[name]
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            for part in values.distinct() if isinstance(values, IndexedTensor) else (values,):
                digest.update(part.detach().cpu().reshape(-1).numpy())
        return digest.hexdigest()

    @cached_property
    def labels_hash(self) -> str | None:
        """SHA-256 of the labels, which `content_hash` leaves out; None without labels."""
        return None if self.labels is None else hashlib.sha256(self.labels.cpu().numpy()).hexdigest()

    def select(self, modalities: Sequence[str]) -> "MultimodalData":
        """The same rows with some of the modalities.

        Raises:
            ValueError: If a modality is unknown, or there are none.
        """
        unknown = [name for name in modalities if name not in self.modalities]
        if unknown or not modalities:
            raise ValueError(
                f"data set {self.name!r} has the modalities {list(self.modalities)}, got {list(modalities)}"
            )

        def chosen(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
            return None if values is None else {name: values[name] for name in modalities if name in values}

        return replace(
            self,
            modalities=chosen(self.modalities),
            x=chosen(self.x),
            observed=chosen(self.observed),
            exposures=chosen(self.exposures),
        )

    def with_likelihoods(
        self, likelihoods: Mapping[str, str], scales: Mapping[str, float | str | None] | None = None
    ) -> "MultimodalData":
        """The same rows, described by other likelihoods.

        Args:
            likelihoods: Modality name -> likelihood that suits its kind, see `Modality`; the others keep theirs.
            scales: Modality name -> scale, for modalities in `likelihoods`; the default of the likelihood for others.

        Raises:
            ValueError: If a modality or a likelihood is unknown, or a likelihood has no scale.

        Example:
            >>> from multipyro.data import load_dataset
            >>> digits = load_dataset("digits").train.with_likelihoods({"image": "laplace"}, {"image": 0.1})
            >>> digits.modalities["image"].likelihood, digits.modalities["image"].scale
            ('laplace', 0.1)
        """
        unknown = [name for name in likelihoods if name not in self.modalities]
        if unknown:
            raise ValueError(f"likelihoods name unknown modalities {unknown}: there are {list(self.modalities)}")
        named = [name for name in scales or {} if name not in likelihoods]
        if named:
            raise ValueError(f"scales name {named}, but likelihoods only {list(likelihoods)}")
        changed = {
            name: replace(self.modalities[name], likelihood=likelihood, scale=(scales or {}).get(name))
            for name, likelihood in likelihoods.items()
        }
        return replace(self, modalities={**self.modalities, **changed})

    def with_covariates(self, names: Sequence[str]) -> "MultimodalData":
        """The same rows, with some of the modalities as covariates, beside those that there are already.

        Args:
            names: Modalities of kind label, ordinal or vector, which every row has; or covariates already.

        Raises:
            ValueError: If a modality is unknown or cannot be a covariate, or none would be left.

        Example:
            >>> from multipyro.data import load_dataset
            >>> digits = load_dataset("digits").train.with_covariates(["label"])
            >>> list(digits.modalities), list(digits.covariates)
            (['image', 'word'], ['label'])
        """
        names = [name for name in names if name not in self.covariates]
        if not names:
            return self
        chosen = replace(self.select(names), labels=None, exposures=None, transform=None, covariate_data=None)
        if self.covariate_data is not None:
            old = self.covariate_data
            chosen = replace(chosen, modalities={**old.modalities, **chosen.modalities}, x={**old.x, **chosen.x})
        rest = self.select([name for name in self.modalities if name not in names])
        return replace(rest, covariate_data=chosen)

    def with_split(self, split: str) -> "MultimodalData":
        """The same rows under the name of another split."""
        return replace(self, split=split)

    def balanced(self, modality: str | None = None) -> "MultimodalData":
        """The same rows, sampled in training so that every class is equally frequent.

        Args:
            modality: The label or ordinal modality whose classes count, for which every row needs a value; `labels` by
                default.

        Returns:
            The data with `weights` inversely proportional to the frequency of a row's class.

        Raises:
            ValueError: If there are no classes, or a row has none.

        Example:
            >>> label = Modality("label", (), "label", "categorical", num_classes=2)
            >>> data = MultimodalData("toy", {"label": label}, {"label": torch.tensor([0, 0, 0, 1])})
            >>> data.balanced("label").weights.tolist() == [1 / 3, 1 / 3, 1 / 3, 1]
            True
        """
        classes = self.labels if modality is None else self.select([modality]).x[modality]
        if classes is None:
            raise ValueError(f"data set {self.name!r} has no labels: name a modality of kind label")
        if modality is not None and self.modalities[modality].kind not in ("label", "ordinal"):
            raise ValueError(f"modality {modality!r} has no classes: it is of kind {self.modalities[modality].kind!r}")
        if modality is not None and not (self.observed or {}).get(modality, torch.ones(1, dtype=torch.bool)).all():
            raise ValueError(f"some rows have no {modality!r}: classes can be balanced only where every row has one")
        counts = classes.bincount()
        return replace(self, weights=(1 / counts.double())[classes])

    def take(self, index: Tensor | slice) -> "MultimodalData":
        """The data set of the rows `index`, int64 `(n,)`; a slice gives views, and reads nothing that is mapped."""

        def taken(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
            return None if values is None else {name: tensor[index] for name, tensor in values.items()}

        return replace(
            self,
            x=taken(self.x),
            observed=taken(self.observed),
            labels=None if self.labels is None else self.labels[index],
            ids=self.ids[index if isinstance(index, slice) else index.numpy()],
            weights=None if self.weights is None else self.weights[index],
            exposures=taken(self.exposures),
            covariate_data=None if self.covariate_data is None else self.covariate_data.take(index),
        )

    def complete(self) -> "MultimodalData":
        """The data set of the rows that have every modality.

        Raises:
            ValueError: If there is none.
        """
        if self.observed is None:
            return self
        index = torch.stack(list(self.observed.values())).all(0).nonzero()[:, 0]
        if not len(index):
            raise ValueError(f"no {self.split} example of {self.name!r} has every modality")
        return replace(self.take(index), observed=None)

    def rows(self, index: Tensor, generator: torch.Generator | None = None) -> Batch:
        """The batch `(x, observed)` of the rows `index`, copied, images as float32 in `[0, 1]`.

        Args:
            index: The rows, int64 `(n,)`.
            generator: Random numbers for the transform; by default the same at every call.
        """
        x = {name: self._floats(name, values.index_select(0, index)) for name, values in self.x.items()}
        if self.transform is not None:
            x = self.transform(x, generator if generator is not None else seeded_generator(self.split))
        for name, exposure in (self.exposures or {}).items():
            x[f"{name}.exposure"] = exposure.index_select(0, index)
        if self.covariate_data is not None:
            covariates, _ = self.covariate_data.rows(index)
            x |= {f"{name}.covariate": values for name, values in covariates.items()}
        masks = None if self.observed is None else {n: mask.index_select(0, index) for n, mask in self.observed.items()}
        return x, masks

    def _floats(self, name: str, values: Tensor) -> Tensor:
        if values.is_floating_point() or self.modalities[name].is_discrete:
            return values
        return values.float() / 255 if self.modalities[name].kind == "image" else values.float()

    def batches(
        self,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> Batches:
        """The batches of one epoch, which can be iterated repeatedly.

        Args:
            batch_size: Examples of a batch (of each process).
            shuffle: Whether the rows come in an order that depends on `seed` and `epoch` alone, each once or, with
                `weights`, drawn in proportion to them.
            seed: Seed of the order and of the transform.
            epoch: Number of the epoch.
            rank: Number of this process among `world_size`. Together the processes go through the same batches as one
                process with `world_size * batch_size` examples; all get the same number of examples: the first rows of
                the order are repeated at its end if the number of processes does not divide that of the rows.
            world_size: Number of processes.
            drop_last: Whether a last, smaller batch is left out.
        """
        return Batches(self, batch_size, shuffle, seed, epoch, rank, world_size, drop_last)


def _check_weights(weights: Tensor) -> None:
    if not (weights.isfinite() & (weights >= 0)).all():
        raise ValueError("weights must be finite numbers that are not negative")
    if len(weights) and not weights.any():
        raise ValueError("weights are all 0: no row could be drawn")


def _check_covariates(covariates: MultimodalData, modalities: Mapping[str, Modality]) -> None:
    for name, description in covariates.modalities.items():
        if name in modalities:
            raise ValueError(f"{name!r} is a modality and a covariate: rename one of them")
        if description.kind not in ("label", "ordinal", "vector"):
            raise ValueError(f"covariate {name!r} must be of kind label, ordinal or vector, got {description.kind!r}")
        values, mask = covariates.x[name], (covariates.observed or {}).get(name)
        missing = ~mask if mask is not None else torch.zeros(len(covariates), dtype=torch.bool)
        if values.is_floating_point():
            missing = missing | values.isnan().any(1)
        if missing.any():
            row = covariates.ids[int(missing.nonzero()[0])]
            raise ValueError(
                f"covariate {name!r} is missing in {int(missing.sum())} rows (first: {row}), and every row needs it: "
                "leave such rows out, or make the missing value a class"
            )


def _check(name: str, values: Any, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
    if not isinstance(values, Tensor | IndexedTensor) or not values.dim():
        raise TypeError(f"{name} must be a tensor with the rows first, got {_kind_of(values)}")
    dtype = "a floating dtype" if values.is_floating_point() else str(values.dtype).removeprefix("torch.")
    if dtype not in dtypes:
        raise TypeError(f"{name} must have {' or '.join(dtypes)}, got {values.dtype}")
    if tuple(values.shape[1:]) != shape:
        expected = ", ".join(map(str, ("rows", *shape)))
        raise ValueError(f"{name} must have shape ({expected}), got {tuple(values.shape)}")


def _kind_of(value: Any) -> str:
    return f"the scalar {value.item()}" if isinstance(value, Tensor) else type(value).__name__
