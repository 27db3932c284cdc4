"""Training: one objective, or all stages of a recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyro.infer import ELBO

from multipyro.data import MultimodalData, Splits
from multipyro.inference.programs import Program
from multipyro.inference.recipes import Recipe, Stage
from multipyro.inference.training.batches import training_data
from multipyro.inference.training.loop import Trainer
from multipyro.inference.training.settings import TrainingSettings

__all__ = ["FitResult", "fit", "fit_recipe"]


@dataclass(frozen=True)
class FitResult:
    """The result of a training run.

    Args:
        history: One dict per epoch. `stage` and `epoch` count from 0. In nats per example: `train/bound`,
            `validation/bound`, `validation/reconstruction/<modality>`, `validation/kl/<latent>`, and in a stage of
            several updates `train/loss/<update>`. Without validation data the sums by site are `train/...`, of the
            first batch after the epoch. Of the last step: `learning_rate`, and `gradient_norm` before clipping.
            `seconds`, and `examples_per_second` of the training steps.
        best: The checkpoint of the best validation bound; None without validation or without `out`.
        last: The checkpoint of the last epoch; None without `out`.

    Example:
        >>> FitResult([{"epoch": 0, "train/bound": -12.5}], best=None, last=None).epochs
        1
    """

    history: list[dict[str, float]]
    best: Path | None
    last: Path | None

    @property
    def epochs(self) -> int:
        """Number of epochs that were trained, over all stages."""
        return len(self.history)


def fit(
    model: Program,
    guide: Program,
    loss: ELBO,
    data: MultimodalData | Splits | Sequence,
    settings: TrainingSettings | None = None,
    *,
    validation: MultimodalData | Sequence | None = None,
    **overrides: Any,
) -> FitResult:
    r"""Trains a model and a guide on any ELBO, of this library or of Pyro, as `SVI` does in a plain loop.

    With the same optimizer it agrees with `torch.manual_seed(step_seed(seed, epoch, batch)); svi.step(x, observed)`
    over `data.batches(batch_size, shuffle=True, seed=seed, epoch=epoch)` up to rounding, and it trains the same
    parameters: those of a model or guide that is a module, and those that `pyro.param` and `pyro.module` statements
    show. A module that a plain function calls without `pyro.module` stays as it is. Pyro's global parameter store and
    torch's global generators are as before afterwards; only values of `pyro.param` statements in plain functions
    continue from the store and are put back into it, since they live nowhere else.

    Lightning's Trainer is not used: even with every feature that changes results switched off, it cost 0.1 to 0.4 of a
    hand-written step. Its loggers work here, its callbacks do not; `FitState` describes callbacks. With several
    devices, Lightning Fabric starts one process for each. The examples are divided among the processes, `batch_size` is
    that of one process, and gradients are summed, because losses are sums over examples.

    Args:
        model: The generative program, called as `model(x, observed)`.
        guide: The variational program, called in the same way.
        loss: The objective, minimized; summed over the batch. Anything with the `loss` and `loss_and_grads` of an ELBO.
        data: Training data (with `Splits`, validation data too); or batches `(x, observed)` that can be iterated again.
            All values are checked against the model's likelihoods first, of a loader only its first batch. The
            generators of a loader and its samplers are seeded anew in each epoch.
        settings: How to train; None for the defaults.
        validation: Data or batches for the validation bound, with every warm-up at its end.
        **overrides: Single fields of `TrainingSettings`, in place of those of `settings`.

    Returns:
        The history of all epochs, and where the checkpoints are.

    Raises:
        ValueError: If a setting or the data does not fit; if `out` contains a run and `resume` is False, the run was
            started with other settings, or another process is training in it; if a checkpoint is damaged or of other
            programs.
        TypeError: If a setting or a modality has the wrong type.
        OSError: If `out` cannot be written or the disk is full; the last checkpoint stays.
        NonFiniteLossError: If the loss becomes NaN or infinite; names the epoch, the step and the site.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits")
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> result = fit(recipe.model, recipe.guide, Trace_ELBO(), splits, epochs=1, progress=False)
        >>> sorted(result.history[0])[:4]
        ['epoch', 'examples_per_second', 'gradient_norm', 'learning_rate']
    """
    recipe = Recipe(model, guide, (Stage(loss),))
    return fit_recipe(recipe, data, settings, validation=validation, **overrides)


def fit_recipe(
    recipe: Recipe,
    data: MultimodalData | Splits | Sequence,
    settings: TrainingSettings | None = None,
    *,
    validation: MultimodalData | Sequence | None = None,
    **overrides: Any,
) -> FitResult:
    """Trains all stages of a recipe, one after the other, as `fit` trains one objective.

    A stage's own number of epochs and optimizer take precedence over the settings; the modules that it does not name
    are frozen bit for bit. The run can be resumed in any stage: the result is bit for bit that of a run that was never
    interrupted, as long as both compile their steps from the same epoch on. With `compile="auto"` that depends on the
    time of the first epoch, and the two may differ by rounding; with False it never does. `load` rebuilds what `build`
    returned from the run's folder.

    A resumed run must have the settings, the objectives and the data it was started with. Of a function among the
    settings its name is compared, and of the optimizer that it returns the class and the hyperparameters; of batches
    in a list all, of a loader the first. More epochs than at the start are allowed where the learning rate does not
    depend on their number and no later stage has begun.

    Args:
        recipe: What `build` returned, or a user-defined `Recipe`.
        data: As in `fit`; it may have more modalities than the recipe's model.
        settings: As in `fit`.
        validation: As in `fit`.
        **overrides: As in `fit`.

    Returns:
        As `fit`, over all stages.

    Raises:
        ValueError: As in `fit`.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits")
        >>> recipe = build("mopoe", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> fit_recipe(recipe, splits, epochs=1, progress=False).epochs
        1
    """
    settings = replace(settings or TrainingSettings(), **overrides)
    trainer = Trainer(recipe, settings, training_data(recipe, data, validation, settings.seed))
    history = trainer.fit()
    return FitResult(history, *(trainer.checkpoint(name) for name in ("best", "last")))
