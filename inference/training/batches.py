"""The data of a training run: checked once, then divided into batches, each with its own seed."""

import hashlib
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from multipyro.data import Batch, MultimodalData, Splits, as_batch
from multipyro.inference.evaluation._inputs import check_values
from multipyro.inference.programs import Program
from multipyro.inference.recipes import METHODS, Recipe
from multipyro.inference.training.devices import Worker
from multipyro.inference.training.settings import TrainingSettings

__all__ = ["VALIDATION", "BatchFeed", "step_seed", "training_data"]

# numbers of epochs that training never reaches, as seeds of validation and of the order of a loader
VALIDATION, _ORDER = -1, -2
# examples whose values are checked at a time
_CHUNK = 8_192


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


def training_data(recipe: Recipe, data: Any, validation: Any = None, seed: int = 0) -> dict[str, Any]:
    """The parts of the data, `"train"`, `"validation"` and `"test"`, in the modalities of a recipe's model.

    Batches become pairs `(x, observed)`, and a loader gets an order that can be repeated; a part that there is not is
    None.

    Raises:
        TypeError: If the data has a type that cannot be trained on.
        ValueError: If examples are incomplete and the method needs complete ones.
    """
    parts = {"train": data, "validation": validation, "test": None}
    if isinstance(data, Splits):
        parts = {name: getattr(data, name) for name in parts}
        parts["validation"] = parts["validation"] if validation is None else validation
    modalities = getattr(recipe.model, "modalities", None)
    for name, part in parts.items():
        if isinstance(part, MultimodalData):
            names = modalities or part.modalities
            parts[name] = part.select([name for name in part.modalities if name in names] or list(names))
        elif isinstance(part, list | tuple):
            parts[name] = [as_batch(batch, modalities) for batch in part]
        elif part is not None:
            if isinstance(part, Mapping | Iterator) or not isinstance(part, Iterable):
                raise TypeError(
                    "data must be a MultimodalData, Splits, or batches that can be iterated again, such as a list or a "
                    "DataLoader of pairs (x, observed), dicts or tuples (as a single batch, [x] of a dict x), got "
                    f"{type(part).__name__}"
                )
            parts[name] = _SeededLoader(part, modalities, seed)
    train = parts["train"]
    masks = list((getattr(train, "observed", None) or {}).values())
    incomplete = int((~torch.stack(masks).all(0)).sum()) if masks else 0
    if incomplete and recipe.name in METHODS and METHODS[recipe.name].needs_complete_rows:
        raise ValueError(
            f"{recipe.name} needs complete examples, {incomplete} of the {len(train)} training examples miss a "
            "modality: drop them (--drop-incomplete), or choose a method that does not (`multipyro methods`)"
        )
    return parts


class BatchFeed:
    """The batches of a run, on the device of this process, with the generators seeded for the step on each.

    Values are checked at once, so that bad data stops a run before anything is trained or written: data in memory
    completely, and of a loader, which may take hours, the first batch when it is loaded.

    Args:
        model: The generative program, against whose likelihoods values are checked.
        data: The parts of the data, as `training_data` returns them.
        settings: The settings of the run.
        worker: This process.

    Attributes:
        steps_per_epoch: The number of training batches; None for a loader without a length.
        validates: Whether there is validation data.

    Raises:
        ValueError: If there is no training batch, a value does not fit the model, or there are user-defined batches and
            several processes.
    """

    def __init__(self, model: Program, data: Mapping[str, Any], settings: TrainingSettings, worker: Worker) -> None:
        self._model, self._data, self._settings, self._worker = model, data, settings, worker
        if worker.size > 1 and not all(isinstance(part, MultimodalData | None) for part in data.values()):
            raise ValueError("several devices need a MultimodalData, whose examples they can share, got batches")
        for part in (data["train"], data["validation"]):
            if isinstance(part, list | MultimodalData):
                if len(part) == 0:
                    raise ValueError("data has no batches: it contains no data points")
                for batch in part.batches(_CHUNK) if isinstance(part, MultimodalData) else part:
                    check_values(model, *batch)
        self.steps_per_epoch = operator.length_hint(self._of(0)) or None
        self.validates = data["validation"] is not None
        if isinstance(data["train"], MultimodalData) and self.steps_per_epoch is None:
            examples = len(data["train"])
            raise ValueError(f"drop_last leaves no batch: {examples} examples are fewer than {settings.batch_size}")

    def batches(self, epoch: int, otherwise: Sequence[Batch] = ()) -> Iterator[Batch]:
        """The training batches of an epoch; or, as epoch `VALIDATION`, those of the validation data.

        Args:
            epoch: Number of the epoch. Validation has the same seeds whenever it is repeated.
            otherwise: The batches that are used where there is no validation data.
        """
        batches, worker = self._of(epoch), self._worker
        for number, batch in enumerate(otherwise if batches is None else batches):
            if number == 0 and isinstance(batches, _SeededLoader):
                check_values(self._model, *batch)
            worker.seed(step_seed(self._settings.seed, epoch, number * worker.size + worker.rank))
            x, observed = (
                part and {n: v.to(worker.device, non_blocking=True) for n, v in part.items()} for part in batch
            )
            yield x, observed

    def _of(self, epoch: int) -> Any:
        settings, worker, training = self._settings, self._worker, epoch != VALIDATION
        data = self._data["train" if training else "validation"]
        if isinstance(data, MultimodalData):
            place = settings.seed, max(epoch, 0), worker.rank, worker.size
            return data.batches(settings.batch_size, training, *place, settings.drop_last and training)
        if isinstance(data, _SeededLoader):
            data.epoch = max(epoch, 0)
        return data


class _SeededLoader:
    """A loader whose order depends on the seed and the epoch alone, whichever generator it draws the order from."""

    def __init__(self, loader: Any, modalities: Sequence[str] | None, seed: int) -> None:
        self._loader, self._modalities, self._seed, self.epoch = loader, modalities, seed, 0

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        seed = step_seed(self._seed, self.epoch, _ORDER)
        torch.default_generator.manual_seed(seed)
        batches = getattr(self._loader, "batch_sampler", None)
        samplers = (getattr(self._loader, "sampler", None), batches, getattr(batches, "sampler", None))
        for part in (self._loader, *samplers):
            if isinstance(getattr(part, "generator", None), torch.Generator):
                part.generator.manual_seed(seed)
        for batch in self._loader:
            yield as_batch(batch, self._modalities)
