"""The data of a training run: checked once, then divided into batches, each with its own seed."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from multipyro.data import Batch, MultimodalData, Splits, as_batch
from multipyro.inference.evaluation._inputs import check_values as check_inputs
from multipyro.inference.programs import Program
from multipyro.inference.recipes import METHODS, Recipe
from multipyro.inference.runs.description import length_of
from multipyro.inference.training.devices import Worker
from multipyro.inference.training.settings import TrainingSettings

__all__ = ["BatchFeed", "check_values", "step_seed", "training_data"]

# examples whose values are checked at a time
_CHUNK = 8_192
# numbers of epochs that training never reaches, as seeds of validation and of the order of a loader
_VALIDATION, _ORDER = -1, -2


def step_seed(seed: int, epoch: int, batch: int) -> int:
    """The seed of one training step, the same on every machine.

    `torch.manual_seed(step_seed(seed, epoch, batch))` before `svi.step(x, observed)` makes a plain loop draw what
    `fit` draws.

    Returns:
        A whole number from 0 to below 2^63.

    Example:
        >>> step_seed(0, 3, 17) == step_seed(0, 3, 17) != step_seed(0, 3, 18)
        True
    """
    digest = hashlib.sha256(f"{seed}/{epoch}/{batch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % (2**63)


def training_data(recipe: Recipe, data: Any, validation: Any = None, seed: int = 0) -> tuple[Any, Any]:
    """Training and validation data in the modalities of a recipe's model; loaders with an order that can be repeated.

    Raises:
        TypeError: If the data has a type that cannot be trained on.
        ValueError: If examples are incomplete and the method needs complete ones.
    """
    if isinstance(data, Splits):
        data, validation = data.train, data.validation if validation is None else validation
    modalities = getattr(recipe.model, "modalities", None)

    def prepared(part: Any) -> Any:
        if isinstance(part, MultimodalData):
            names = modalities or part.modalities
            return part.select([name for name in part.modalities if name in names] or list(names))
        if part is None:
            return part
        if isinstance(part, list | tuple):
            return [as_batch(batch, modalities) for batch in part]
        if not isinstance(part, Iterable) or isinstance(part, Iterator):
            raise TypeError(
                "data must be a MultimodalData, Splits, or batches that can be iterated again, such as a list or a "
                f"DataLoader of pairs (x, observed), dicts or tuples, got {type(part).__name__}"
            )
        return _SeededLoader(part, modalities, seed)

    train = prepared(data)
    masks = list((getattr(train, "observed", None) or {}).values())
    incomplete = int((~torch.stack(masks).all(0)).sum()) if masks else 0
    if incomplete and recipe.name in METHODS and METHODS[recipe.name].needs_complete_rows:
        raise ValueError(
            f"{recipe.name} needs complete examples, {incomplete} of the {len(train)} training examples miss a "
            "modality: drop them (--drop-incomplete), or choose a method that does not (`multipyro methods`)"
        )
    return train, prepared(validation)


def check_values(model: Program, data: Any) -> None:
    """Checks values before anything is trained or written, so that bad data stops a run at once.

    Data in memory is checked completely, and of a loader, which may take hours, the first batch when it is loaded.
    """
    batches: Iterable = data if isinstance(data, list | tuple) else ()
    if isinstance(data, MultimodalData):
        batches = (data.rows(rows) for rows in torch.arange(len(data)).split(_CHUNK))
    elif data is batches and not data:
        raise ValueError("data has no batches")
    for batch in batches:
        check_inputs(model, *batch)


class BatchFeed:
    """The batches of a run, on the device of this process, with the generators seeded for the step on each.

    Args:
        model: The generative program, against which the first batch of a loader is checked.
        train: Training data, as `training_data` returns it.
        validation: Validation data; None for none.
        settings: The settings of the run.
        worker: This process.

    Attributes:
        steps_per_epoch: The number of training batches; None for a loader without a length.
        validates: Whether there is validation data.

    Raises:
        ValueError: If there is no training batch, or there are user-defined batches and several processes.
    """

    def __init__(self, model: Program, train: Any, validation: Any, settings: TrainingSettings, worker: Worker) -> None:
        self._model, self._train, self._validation = model, train, validation
        self._settings, self._worker = settings, worker
        if worker.size > 1 and not all(isinstance(data, MultimodalData | None) for data in (train, validation)):
            raise ValueError("several devices need a MultimodalData, whose examples they can share, got batches")
        self.steps_per_epoch, self.validates = length_of(self._batches(train, 0)), validation is not None
        if self.steps_per_epoch == 0:
            raise ValueError(f"drop_last leaves no batch: {len(train)} examples are fewer than {settings.batch_size}")

    def training(self, epoch: int) -> Iterator[Batch]:
        """The training batches of an epoch."""
        return self._seeded(self._batches(self._train, epoch), epoch)

    def validation(self, otherwise: Batch) -> Iterator[Batch]:
        """The validation batches, with the same seeds in every epoch; without any, a single other batch."""
        batches = self._batches(self._validation, None) if self.validates else [otherwise]
        return self._seeded(batches, _VALIDATION)

    def _batches(self, data: Any, epoch: int | None) -> Any:
        if isinstance(data, MultimodalData):
            settings, worker, training = self._settings, self._worker, epoch is not None
            place = settings.seed, epoch or 0, worker.rank, worker.size
            return data.batches(settings.batch_size, training, *place, settings.drop_last and training)
        return data.of_epoch(epoch or 0) if isinstance(data, _SeededLoader) else data

    def _seeded(self, batches: Iterable[Batch], epoch: int) -> Iterator[Batch]:
        worker, seed = self._worker, self._settings.seed
        for number, batch in enumerate(batches):
            if number == 0 and isinstance(batches, _SeededLoader):
                check_inputs(self._model, *batch)
            x, observed = batch
            worker.seed(step_seed(seed, epoch, number * worker.size + worker.rank))
            yield worker.moved(x), worker.moved(observed)


class _SeededLoader:
    """A loader whose order depends on the seed and the epoch alone, whichever generator it draws the order from."""

    def __init__(self, loader: Any, modalities: Sequence[str] | None, seed: int, epoch: int = 0) -> None:
        self._loader, self._modalities, self._seed, self._epoch = loader, modalities, seed, epoch

    def of_epoch(self, epoch: int) -> "_SeededLoader":
        return _SeededLoader(self._loader, self._modalities, self._seed, epoch)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        seed = step_seed(self._seed, self._epoch, _ORDER)
        torch.default_generator.manual_seed(seed)
        batches = getattr(self._loader, "batch_sampler", None)
        samplers = (getattr(self._loader, "sampler", None), batches, getattr(batches, "sampler", None))
        for part in (self._loader, *samplers):
            if isinstance(getattr(part, "generator", None), torch.Generator):
                part.generator.manual_seed(seed)
        for batch in self._loader:
            yield as_batch(batch, self._modalities)
