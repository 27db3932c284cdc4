"""Data sets as dicts of tensors, and batches fetched from them by index."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from multipyro.data.indexed import IndexedTensor
from multipyro.data.modality import Modality

__all__ = ["Batch", "Batches", "MultimodalData"]

Batch = tuple[dict[str, Tensor], dict[str, Tensor] | None]
Transform = Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]


def _generator(*numbers: int | str) -> torch.Generator:
    digest = hashlib.sha256("/".join(map(str, numbers)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


@dataclass(frozen=True)
class MultimodalData:
    """Rows of several modalities, held in memory.

    Args:
        name: Name of the data set.
        modalities: Modality name -> its description, in order.
        x: Modality name -> values `(rows, *shape)`, a tensor, or an `IndexedTensor` where rows repeat. Images may
            be stored as uint8; batches contain them as float32 in `[0, 1]`.
        observed: Modality name -> rows that are observed, bool `(rows,)`; None when all are.
        labels: Class of each row, int64 `(rows,)`, for metrics; None if there are no classes.
        split: `"train"`, `"validation"` or `"test"`.
        transform: Called as `transform(x, generator)` on the modalities of a batch, with a generator that depends on
            the seed, the epoch and the batch alone: a draw that is new in every epoch and repeats in a resumed run.
            After `select` it sees the selected modalities only.
        options: The options with which `load_dataset` loads it again, by name; None where it does not.

    Raises:
        TypeError: If something is no tensor or has the wrong dtype: int64 for a categorical modality and for labels,
            bool for masks, a floating one (or uint8 for an image) else.
        ValueError: If tensors disagree in their number of rows or with their descriptions.

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
    transform: Transform | None = field(default=None, repr=False)
    options: Mapping[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if set(self.x) != set(self.modalities) or not self.x:
            raise ValueError(f"x has the modalities {list(self.x)}, described are {list(self.modalities)}")
        unknown = [name for name in self.observed or {} if name not in self.x]
        if unknown:
            raise ValueError(f"observed has the unknown modality {unknown}: there are {list(self.modalities)}")
        self._check_types()
        sizes = {name: len(values) for name, values in self.x.items()}
        sizes |= {} if self.labels is None else {"labels": len(self.labels)}
        sizes |= {f"observed {name}": len(mask) for name, mask in (self.observed or {}).items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"all tensors must have the same number of rows, got {sizes}")
        shapes = {f"modality {name!r}": (values, self.modalities[name].shape) for name, values in self.x.items()}
        shapes |= {f"observed[{name!r}]": (mask, ()) for name, mask in (self.observed or {}).items()}
        shapes |= {} if self.labels is None else {"labels": (self.labels, ())}
        for name, (values, shape) in shapes.items():
            if tuple(values.shape[1:]) != shape:
                wanted = ", ".join(map(str, ("rows", *shape)))
                raise ValueError(f"{name} must have shape ({wanted}), got {tuple(values.shape)}")

    def _check_types(self) -> None:
        wanted = {}
        for name, values in self.x.items():
            modality = self.modalities[name]
            kinds = "int64" if modality.likelihood == "categorical" else "a floating dtype"
            kinds += " or uint8" if modality.kind == "image" and kinds != "int64" else ""
            wanted[f"modality {name!r}"] = (values, kinds)
        wanted |= {f"observed[{name!r}]": (mask, "bool") for name, mask in (self.observed or {}).items()}
        wanted |= {} if self.labels is None else {"labels": (self.labels, "int64")}
        for name, (values, kinds) in wanted.items():
            if not isinstance(values, Tensor | IndexedTensor) or not values.dim():
                raise TypeError(f"{name} must be a tensor with the rows first, got {values!r}")
            kind = "a floating dtype" if values.is_floating_point() else str(values.dtype).removeprefix("torch.")
            if kind not in kinds.split(" or "):
                raise TypeError(f"{name} must have {kinds}, got {values.dtype}")

    def __len__(self) -> int:
        return len(next(iter(self.x.values())))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the modalities and masks, to be carried into every result made from them."""
        digest = hashlib.sha256()
        tensors = {**self.x, **{f"observed/{name}": mask for name, mask in (self.observed or {}).items()}}
        for name in sorted(tensors):
            values = tensors[name]
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            for part in values.distinct() if isinstance(values, IndexedTensor) else (values,):
                digest.update(part.detach().cpu().reshape(-1).numpy())
        return digest.hexdigest()

    @cached_property
    def labels_hash(self) -> str | None:
        """SHA-256 over the classes that metrics judge by, which `content_hash` leaves out; None without classes."""
        return None if self.labels is None else hashlib.sha256(self.labels.cpu().numpy()).hexdigest()

    def select(self, modalities: Sequence[str]) -> "MultimodalData":
        """The same rows with some of the modalities."""
        unknown = [name for name in modalities if name not in self.modalities]
        if unknown or not modalities:
            raise ValueError(
                f"data set {self.name!r} has the modalities {list(self.modalities)}, got {list(modalities)}"
            )
        masks = None if self.observed is None else {n: m for n, m in self.observed.items() if n in modalities}
        return replace(
            self,
            modalities={name: self.modalities[name] for name in modalities},
            x={name: self.x[name] for name in modalities},
            observed=masks,
        )

    def with_likelihoods(
        self, likelihoods: Mapping[str, str], scales: Mapping[str, float | str | None] | None = None
    ) -> "MultimodalData":
        """The same rows, described by other likelihoods.

        Args:
            likelihoods: Modality name -> family, see `Modality`; the others keep theirs.
            scales: Modality name -> scale, of modalities that `likelihoods` names; that of the family by default.

        Raises:
            ValueError: If a modality or a family is unknown, or has no scale.
            TypeError: If the values are not such as the family has.

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
            raise ValueError(f"scales name {named}, likelihoods only {list(likelihoods)}")
        changed = {
            name: replace(self.modalities[name], likelihood=family, scale=(scales or {}).get(name))
            for name, family in likelihoods.items()
        }
        return replace(self, modalities={**self.modalities, **changed})

    def named(self, split: str) -> "MultimodalData":
        """The same rows as another split."""
        return replace(self, split=split)

    def take(self, index: Tensor) -> "MultimodalData":
        """The data set of the rows `index`, int64 `(n,)`."""
        masks = None if self.observed is None else {name: mask[index] for name, mask in self.observed.items()}
        labels = None if self.labels is None else self.labels[index]
        return replace(self, x={name: values[index] for name, values in self.x.items()}, observed=masks, labels=labels)

    def rows(self, index: Tensor, generator: torch.Generator | None = None) -> Batch:
        """The batch `(x, observed)` of the rows `index`, copied, images as float32 in `[0, 1]`.

        Args:
            index: The rows, int64 `(n,)`.
            generator: Draws what the transform draws; by default one that is the same at every call.
        """
        x = {name: values.index_select(0, index) for name, values in self.x.items()}
        # 0..255 becomes 0..1
        x = {name: values.float() / 255 if values.dtype == torch.uint8 else values for name, values in x.items()}
        if self.transform is not None:
            x = self.transform(x, generator if generator is not None else _generator(self.split))
        masks = None if self.observed is None else {n: mask.index_select(0, index) for n, mask in self.observed.items()}
        return x, masks

    def batches(
        self,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> "Batches":
        """The batches of one epoch, which can be iterated again and again.

        Args:
            batch_size: Rows of a batch (of each process).
            shuffle: Whether rows come in an order drawn from `seed` and `epoch` alone.
            seed: Seed of the order and of the transform.
            epoch: Number of the epoch.
            rank: Number of this process among `world_size`. Together the processes go through the same batches as one
                process with `world_size * batch_size` rows; each gets the same number of them, the first rows of the
                order being repeated at its end where the number of processes does not divide that of the rows.
            world_size: Number of processes.
            drop_last: Whether a last, smaller batch is left out.
        """
        return Batches(self, batch_size, shuffle, seed, epoch, rank, world_size, drop_last)


class Batches:
    """The batches `(x, observed)` of one epoch; made by `MultimodalData.batches`.

    Rows are fetched by index from the tensors in memory. What a transform draws depends on the split, the seed, the
    epoch, the rank and the number of the batch alone, so going through the batches again repeats it.

    Example:
        >>> label = Modality("label", (), "label", "categorical", num_classes=3)
        >>> data = MultimodalData("toy", {"label": label}, {"label": torch.tensor([0, 2, 1])})
        >>> len(data.batches(2)), len(data.batches(2, drop_last=True))
        (2, 1)
    """

    def __init__(
        self,
        data: MultimodalData,
        batch_size: int,
        shuffle: bool,
        seed: int,
        epoch: int,
        rank: int,
        world_size: int,
        drop_last: bool,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size), got {rank} of {world_size}")
        self.data, self.batch_size, self.seed, self.epoch = data, batch_size, seed, epoch
        self.rank = rank
        order = torch.arange(len(data))
        if shuffle:
            order = torch.randperm(len(data), generator=_generator("order", seed, epoch))
        share = -(-len(order) // world_size)
        repeated = torch.arange(share * world_size) % max(len(order), 1)
        mine = order[repeated[rank::world_size]]
        parts = list(mine.split(batch_size)) if len(mine) else []  # an empty tensor splits into one empty part
        if drop_last and parts and len(parts[-1]) < batch_size:
            parts.pop()
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Batch]:
        for number, index in enumerate(self._parts):
            generator = None
            if self.data.transform is not None:
                generator = _generator("transform", self.data.split, self.seed, self.epoch, self.rank, number)
            yield self.data.rows(index, generator)
