"""What a training run is fed with: the rows of its data, checked once, and their batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from multipyro.batch import modality_of
from multipyro.data import Batch, MultimodalData, Splits
from multipyro.inference.programs import Program
from multipyro.inference.training.seeds import step_seed
from multipyro.ppl_models.conditional import check_conditions

__all__ = ["batches_of", "check_batch", "check_data", "first_batch", "parts_of"]

# rows that are checked at a time
_CHUNK = 8_192
# the order of rows draws from a seed of its own, outside the batches that training counts
_ORDER = -2


def parts_of(model: Program, data: Any, validation: Any) -> tuple[Any, Any]:
    """Training and validation data, of the modalities that the model has."""
    if isinstance(data, Splits):
        data, validation = data.train, data.validation if validation is None else validation
    modalities = getattr(model, "modalities", None)

    def selected(part: Any) -> Any:
        if isinstance(part, MultimodalData) and modalities is not None:
            return part.select([name for name in part.modalities if name in modalities] or list(modalities))
        if part is not None and (not isinstance(part, MultimodalData | Iterable) or isinstance(part, Iterator)):
            raise TypeError(
                "data must be a MultimodalData, Splits, or batches (x, observed) that can be iterated again, such as a "
                f"list or a DataLoader, got {type(part).__name__}"
            )
        return part

    return selected(data), selected(validation)


def check_data(model: Program, data: Any) -> None:
    """Checks values before anything is trained or written, so that bad data stops a run at once."""
    if isinstance(data, MultimodalData):
        if not len(data):
            raise ValueError(f"the {data.split} rows of {data.name!r} are empty")
        batches: Iterable = (data.rows(rows) for rows in torch.arange(len(data)).split(_CHUNK))
    elif isinstance(data, list | tuple):
        batches = data
    else:
        return
    empty = True
    for batch in batches:
        empty = False
        check_batch(model, batch)
    if empty:
        raise ValueError("data holds no batches")


def check_batch(model: Program, batch: Any) -> None:
    """Checks that a batch is a pair `(x, observed)` of values that the model's likelihoods can have."""
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[0], Mapping):
        raise TypeError(f"a batch must be a pair (x, observed) with x a dict of tensors, got {type(batch).__name__}")
    x, observed = batch
    likelihoods, conditions = getattr(model, "likelihoods", None), getattr(model, "conditions", ())
    if likelihoods is None:
        return
    unknown = [name for name in x if modality_of(name) not in (*likelihoods, *conditions)]
    if unknown:
        raise ValueError(f"unknown modality {unknown}: the model has {[*likelihoods, *conditions]}")
    check_conditions(conditions, x, observed)
    for name in [name for name in x if name in likelihoods]:
        values = x[name]
        mask = None if observed is None else observed.get(name)
        rows = values if mask is None else values[mask]
        if len(rows) and hasattr(likelihoods[name], "check"):
            likelihoods[name].check(rows, name)


def batches_of(
    data: Any, batch_size: int, seed: int, shuffle: bool, drop_last: bool = False
) -> Callable[[int, int, int], Any]:
    """A function of epoch, rank and number of processes that gives the batches of one process."""

    def batches(epoch: int, rank: int, world_size: int) -> Any:
        if isinstance(data, MultimodalData):
            return data.batches(batch_size, shuffle, seed, epoch, rank, world_size, drop_last)
        if world_size > 1:
            raise ValueError("several devices need a MultimodalData, whose rows can be dealt out, got batches")
        return _Seeded(data, step_seed(seed, epoch, _ORDER))

    return batches


class _Seeded:
    """Batches of one's own; a loader that shuffles draws its order from the global generator, or from one it holds."""

    def __init__(self, batches: Any, seed: int) -> None:
        self.batches, self.seed = batches, seed

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        torch.manual_seed(self.seed)
        batches = getattr(self.batches, "batch_sampler", None)
        samplers = (getattr(self.batches, "sampler", None), batches, getattr(batches, "sampler", None))
        for holder in (self.batches, *samplers):
            if isinstance(getattr(holder, "generator", None), torch.Generator):
                holder.generator.manual_seed(self.seed)
        yield from self.batches


def first_batch(batches: Callable[[int, int, int], Any]) -> Batch:
    """The first batch of the first epoch."""
    for batch in batches(0, 0, 1):
        return batch
    raise ValueError("data holds no batches")
