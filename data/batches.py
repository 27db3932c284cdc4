"""Batches: the pair `(x, observed)` that programs take, made from a data set or from what a loader yields."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from multipyro.data.multimodal import MultimodalData

__all__ = ["Batch", "Batches", "as_batch", "seeded_generator"]

#: Modality name -> values `(batch, *shape)`; and modality name -> mask bool `(batch,)`, or None.
Batch = tuple[dict[str, Tensor], dict[str, Tensor] | None]


class Batches:
    """The batches of one epoch, which can be iterated repeatedly; see `MultimodalData.batches`.

    Rows are fetched by index from the tensors in memory. The random numbers of a transform depend on the split, the
    seed, the epoch, the rank and the number of the batch alone, so every iteration repeats them.

    Example:
        >>> from multipyro.data import Modality, MultimodalData
        >>> label = Modality("label", (), "label", "categorical", num_classes=3)
        >>> data = MultimodalData("toy", {"label": label}, {"label": torch.tensor([0, 2, 1])})
        >>> len(data.batches(2)), len(data.batches(2, drop_last=True))
        (2, 1)
    """

    def __init__(
        self,
        data: "MultimodalData",
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
        self.data, self.batch_size, self.seed, self.epoch, self.rank = data, batch_size, seed, epoch, rank
        order = torch.arange(len(data))
        if shuffle and len(data):
            generator = seeded_generator(f"order/{seed}/{epoch}")
            if data.weights is None:
                order = torch.randperm(len(data), generator=generator)
            else:
                order = _weighted_draws(data.weights, generator)
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
                key = f"transform/{self.data.split}/{self.seed}/{self.epoch}/{self.rank}/{number}"
                generator = seeded_generator(key)
            yield self.data.rows(index, generator)


def as_batch(batch: Any, modalities: Sequence[str] | None) -> Batch:
    """The pair `(x, observed)` of what a `torch.utils.data.DataLoader` yields.

    Args:
        batch: A pair `(x, observed)`; a dict of modality name to values, None or no such key where the batch does not
            have the modality; or one value per modality, as of a `TensorDataset`, in the order of `modalities`.
        modalities: Names of the modalities, beside which a dict may contain exposures `"<modality>.exposure"` and
            covariates `"<name>.covariate"`; None if they are unknown, and then the batch must name them.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the number of values is not that of the modalities, or a dict has an unknown name.

    Example:
        >>> image, label = torch.zeros(2, 3), torch.zeros(2)
        >>> sorted(as_batch([image, label], ["image", "label"])[0])
        ['image', 'label']
        >>> as_batch({"image": image, "label": None}, ["image", "label"])
        ({'image': tensor([[0., 0., 0.],
                [0., 0., 0.]])}, None)
    """
    masks = None
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Mapping):
        batch, masks = batch
        if masks is not None and not isinstance(masks, Mapping):
            raise TypeError(f"observed must be None or a dict of bool tensors, got {type(masks).__name__}")
    if isinstance(batch, Tensor | np.ndarray):
        batch = [batch]
    if isinstance(batch, tuple | list) and modalities is not None:
        if len(batch) != len(modalities):
            raise ValueError(
                f"a batch of {len(batch)} values does not say which of the modalities {list(modalities)} they are: "
                "yield dicts, or one value per modality"
            )
        batch = dict(zip(modalities, batch, strict=True))
    if not isinstance(batch, Mapping):
        raise TypeError(
            "a batch must be a dict of modality name to tensor, a pair (x, observed), or one tensor per modality, got "
            f"{type(batch).__name__}"
        )
    entries = [entry for entry in (*batch, *(masks or {})) if not entry.endswith(".covariate")]
    names = [entry.removesuffix(".exposure") for entry in entries]
    unknown = [name for name in names if modalities is not None and name not in modalities]
    if unknown:
        raise ValueError(f"a batch has the unknown modality {unknown[0]!r}: there are {list(modalities)}")
    x = {name: torch.as_tensor(values) for name, values in batch.items() if values is not None}
    return x, None if masks is None else {name: torch.as_tensor(mask) for name, mask in masks.items()}


def seeded_generator(key: str, bits: int = 63) -> torch.Generator:
    """A random number generator whose seed is the lowest `bits` bits of a digest of `key`."""
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**bits)


def _weighted_draws(weights: Tensor, generator: torch.Generator) -> Tensor:
    """As many rows as there are, drawn with replacement with probabilities proportional to the weights."""
    # `torch.multinomial` is limited to 2**24 rows
    bounds = weights.double().cumsum(0)
    draws = torch.rand(len(weights), generator=generator, dtype=torch.float64) * bounds[-1]
    return torch.searchsorted(bounds, draws, right=True).clamp_(max=len(weights) - 1)
