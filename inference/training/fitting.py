"""Training loops: one objective, or all stages of a recipe, on Lightning."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import nn

from multipyro.data import MultimodalData, Splits
from multipyro.inference.handlers import frozen
from multipyro.inference.programs import Program
from multipyro.inference.recipes import Recipe, Stage
from multipyro.inference.training._plan import check_complete, check_settings, plan_of, updates_of
from multipyro.inference.training._work import Work, steps_of
from multipyro.inference.training.batches import batches_of, check_data, first_batch, parts_of
from multipyro.inference.training.checkpoints import (
    load_programs,
    own_store,
    param_statements,
    programs_of,
    read_checkpoint,
)
from multipyro.inference.training.runs import Run, describe_data
from multipyro.inference.training.seeds import step_seed

__all__ = ["FitResult", "NonFiniteLossError", "fit", "fit_recipe"]


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the epoch, the step and the sites.

    Example:
        >>> try:
        ...     raise NonFiniteLossError("the loss is nan in epoch 0, step 3; not finite: the value of site 'z'")
        ... except RuntimeError as error:
        ...     print(type(error).__name__)
        NonFiniteLossError
    """


@dataclass(frozen=True)
class FitResult:
    """What a training run left behind.

    Args:
        history: One dict an epoch: `stage`, `epoch` (both from 0), `rows_per_second` and, in nats a row,
            `train/bound`, `validation/bound`, `validation/reconstruction/<modality>` and `validation/kl/<latent>`.
            Without validation data the last two are `train/...`, of the first batch after the epoch.
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
    *,
    validation: MultimodalData | Sequence | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    drop_last: bool = False,
    lr: float = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] | PyroOptim | None = None,
    seed: int = 0,
    out: str | os.PathLike | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    logger: str | None = "csv",
    early_stopping: int | None = None,
    gradient_clip: float | None = None,
    progress: bool = True,
    callbacks: Sequence[Any] = (),
    config: Mapping[str, Any] | None = None,
) -> FitResult:
    r"""Trains a model and a guide on any ELBO, ours or Pyro's, as `SVI` would in a plain loop.

    With the same optimizer it agrees with `torch.manual_seed(step_seed(seed, epoch, batch)); svi.step(x, observed)`
    over `data.batches(batch_size, shuffle=True, seed=seed, epoch=epoch)` up to rounding. Pyro's global parameter
    store and torch's global generators are as before afterwards; only values of `pyro.param` statements in plain
    functions go on from the store and are put back into it, since they live nowhere else.

    With several processes (`strategy="ddp"`) the rows are dealt out, `batch_size` is that of one process, and
    gradients are summed, because losses are sums over rows.

    Args:
        model: The generative program, called as `model(x, observed)`.
        guide: The variational program, called likewise. Of a plain function the `pyro.param` and `pyro.module`
            statements train, and the modules in its closure.
        loss: The objective, minimized; summed over the batch. Anything with the `loss` and `loss_and_grads` of an ELBO.
        data: Training rows (of `Splits`, validation too); or batches `(x, observed)` that can be iterated again. All
            values are checked against the model's likelihoods first; of a loader only its first batch. The generators
            of a loader and its samplers are seeded anew in each epoch.
        validation: Rows or batches for the validation bound, with every warm-up at its end.
        epochs: Number of passes over the data.
        batch_size: Rows of a batch.
        drop_last: Whether a last, smaller training batch is left out in each epoch (of batches of one's own, no).
        lr: Learning rate of Adam.
        optimizer: Called with the parameters, returns a torch optimizer; or an optimizer of Pyro; None for Adam.
        seed: Seed of the order of rows and of every step.
        out: Run folder: `run.json`, `log.csv`, `checkpoints/`. None keeps nothing on disk.
        resume: Continue the run in `out`; start one if there is none; return at once if it is finished. The result
            is bit for bit that of a run never interrupted. The settings must be those it was started with; of losses,
            optimizers and batches of one's own the class, the numbers they were made with and the first batch are
            compared.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.
        devices: Number of devices (processes).
        strategy: Lightning's name of a strategy, such as `"ddp"`.
        logger: `"csv"` writes `log.csv`, `"tensorboard"` event files besides, None neither.
        early_stopping: Stop after so many epochs without a better validation bound.
        gradient_clip: Largest norm of the gradient.
        progress: Whether a progress bar is shown.
        callbacks: Further callbacks of Lightning.
        config: Plain values to keep in `run.json`, for whoever reads it.

    Returns:
        The history of all epochs, and where the checkpoints are.

    Raises:
        ValueError: If data does not fit the model, if `out` holds a run and `resume` is False or the run was started
            with other settings, or if a checkpoint is damaged or of other programs.
        TypeError: If a modality has the wrong dtype, or the optimizer is of a kind that cannot be used.
        OSError: If `out` cannot be written or the disk is full; the last checkpoint stays.
        NonFiniteLossError: If the loss becomes NaN or infinite; names the site.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits")
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> result = fit(recipe.model, recipe.guide, Trace_ELBO(), splits, epochs=1, progress=False)
        >>> sorted(result.history[0])[:4]
        ['epoch', 'rows_per_second', 'stage', 'train/bound']
    """
    recipe = Recipe(model, guide, (Stage(loss),))
    return _train(recipe, data, validation, dict(locals()))


def fit_recipe(
    recipe: Recipe,
    data: MultimodalData | Splits | Sequence,
    *,
    validation: MultimodalData | Sequence | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    drop_last: bool = False,
    lr: float = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] | PyroOptim | None = None,
    seed: int = 0,
    out: str | os.PathLike | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    logger: str | None = "csv",
    early_stopping: int | None = None,
    gradient_clip: float | None = None,
    progress: bool = True,
    callbacks: Sequence[Any] = (),
    config: Mapping[str, Any] | None = None,
) -> FitResult:
    """Trains all stages of a recipe, one after the other.

    A stage's own number of epochs and optimizer go before `epochs`, `lr` and `optimizer`; the modules that it does not
    name are frozen bit for bit. The run can be resumed in any stage, and `load` rebuilds what `build` made from its
    folder.

    Args:
        recipe: What `build` made, or a `Recipe` of one's own.
        data: As in `fit`, like all further arguments; rows may hold more modalities than the recipe's model.
        validation: As in `fit`.
        epochs: As in `fit`, of each stage that does not say.
        batch_size: As in `fit`.
        drop_last: As in `fit`.
        lr: As in `fit`.
        optimizer: As in `fit`, of each stage that does not say.
        seed: As in `fit`.
        out: As in `fit`.
        resume: As in `fit`.
        device: As in `fit`.
        devices: As in `fit`.
        strategy: As in `fit`.
        logger: As in `fit`.
        early_stopping: As in `fit`, in each stage.
        gradient_clip: As in `fit`.
        progress: As in `fit`.
        callbacks: As in `fit`.
        config: As in `fit`.

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
    return _train(recipe, data, validation, dict(locals()))


def _train(recipe: Recipe, data: Any, validation: Any, settings: dict[str, Any]) -> FitResult:
    train, validation = parts_of(recipe.model, data, validation)
    check_settings(settings, train, validation)
    check_complete(recipe, train)
    for part in (train, validation):
        check_data(recipe.model, part)
    programs = programs_of(recipe.model, recipe.guide, *recipe.others)
    epochs = [settings["epochs"] if stage.epochs is None else stage.epochs for stage in recipe.stages]
    run = None
    if settings["out"] is not None:
        plan = plan_of(recipe, programs_of(recipe.model, recipe.guide), train, validation, settings)
        test = data.test.select(list(train.modalities)) if isinstance(data, Splits) else None
        described = describe_data(train, validation, test)
        run = Run.open(settings["out"], recipe, described, plan, settings["resume"], settings["config"])
    try:
        return _run_stages(recipe, programs, train, validation, epochs, settings, run)
    except BaseException:
        if run is not None:
            run.release()
        raise


def _run_stages(
    recipe: Recipe,
    programs: list[nn.Module],
    train: Any,
    validation: Any,
    epochs: Sequence[int],
    settings: dict[str, Any],
    run: Run | None,
) -> FitResult:
    history: list[dict[str, float]] = []
    best = last = None
    for number, stage in enumerate(recipe.stages):
        folder = None if run is None else run.stage_folder(number, stage.name)
        if run is not None:
            best, last = folder / "best.ckpt", folder / "last.ckpt"
        if run is not None and number < run.stages_done:
            checkpoint = read_checkpoint(last)
            load_programs(checkpoint, programs, last)
            history += checkpoint["history"]
            continue
        stage_settings = {**settings, "epochs": epochs[number]}
        history += _run_stage(recipe, number, programs, train, validation, stage_settings, run, list(history))
        if run is not None:
            run.stage_done(number + 1)
    if run is not None and not run.finished:
        run.finish()
    return FitResult(history, best if best is not None and best.is_file() else None, last)


def _run_stage(
    recipe: Recipe,
    number: int,
    programs: list[nn.Module],
    train: Any,
    validation: Any,
    settings: dict[str, Any],
    run: Run | None,
    before: list[dict[str, float]],
) -> list[dict[str, float]]:
    """Trains one stage from wherever its folder says it is; returns the history of its epochs."""
    stage = recipe.stages[number]
    model, guide = recipe.model, recipe.guide
    if stage.train is not None:
        model, guide = frozen(model, stage.train), frozen(guide, stage.train)
    folder = None if run is None else run.stage_folder(number, stage.name)
    resumed = None if folder is None else folder / "last.ckpt"
    log = run is not None and settings["logger"] is not None
    if resumed is not None and resumed.is_file():
        checkpoint = read_checkpoint(resumed)
        load_programs(checkpoint, programs, resumed)
        patience, history = settings["early_stopping"], checkpoint["history"]
        stopped = patience is not None and checkpoint["epochs_without_better"] >= patience
        if stopped or len(history) >= settings["epochs"]:
            if log:
                run.write_log(before + history)
            return history
    else:
        resumed = None
    for part in stage.activates:
        part.activate()
    outer = pyro.get_param_store().get_state()
    with _quiet(), own_store() as statements, torch.random.fork_rng():
        from multipyro.inference.training._lightning import SVIModule, run_trainer, trainer_for

        sizes = {"batch_size": settings["batch_size"], "seed": settings["seed"]}
        feed = batches_of(train, shuffle=True, drop_last=settings["drop_last"], **sizes)
        held_out = None if validation is None else batches_of(validation, shuffle=False, **sizes)
        first = first_batch(feed)
        torch.manual_seed(step_seed(settings["seed"], 0, 0))
        if not stage.updates:  # they train modules alone
            statements.update(param_statements(lambda: stage.objective.loss(model, guide, *first), programs, outer))
        updates = updates_of(stage, programs_of(recipe.model, recipe.guide))
        work = Work(
            model=model,
            guide=guide,
            loss=stage.objective,
            programs=programs,
            others=recipe.others,
            steps=steps_of(recipe, stage, updates, statements, settings["optimizer"], settings["lr"]),
            statements=statements,
            train=feed,
            validation=held_out,
            seed=settings["seed"],
            gradient_clip=settings["gradient_clip"],
            patience=settings["early_stopping"],
            show=settings["progress"],
            folder=folder,
            stage=number,
            on_epoch=lambda history: run.write_log(before + history) if log else None,
        )
        events = run is not None and settings["logger"] == "tensorboard"
        tensorboard = run.folder / "tensorboard" if events else None
        places = {name: settings[name] for name in ("device", "devices", "strategy", "callbacks")}
        trainer = trainer_for(work, settings["epochs"], tensorboard=tensorboard, **places)
        module = SVIModule(work)
        modes = [(part, part.training) for program in programs for part in program.modules()]
        for program in programs:
            program.train()
        try:
            run_trainer(trainer, module, resumed)
        finally:
            for part, training in modes:
                part.training = training
            for parameter in module.trained:  # a plain loop afterwards would add to it
                parameter.grad = None
    return module.history


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice about loaders, loggers and folders stays out of the way; its errors do not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        # NonFiniteLossError says more than Pyro's warning, and where
        warnings.filterwarnings("ignore", message="Encountered (NaN|[+-]?inf)")
        import lightning.pytorch as lightning  # sets the levels of its logs

        logs = [logging.getLogger(name) for name in (lightning.__name__, "lightning.fabric")]
        levels = [log.level for log in logs]
        for log in logs:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)
