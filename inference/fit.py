"""Training loops: one objective, or all stages of a recipe, on Lightning."""

import contextlib
import csv
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from multipyro.data import MultimodalData, Splits, write_atomically
from multipyro.inference._seeds import step_seed
from multipyro.inference.checkpoints import load_programs, programs_of, read_checkpoint
from multipyro.inference.combinators import Program, frozen
from multipyro.inference.recipes import Recipe, Stage
from multipyro.inference.runs import Run, describe_data

__all__ = ["FitResult", "fit", "fit_recipe"]


@dataclass(frozen=True)
class FitResult:
    """What a training run left behind.

    Args:
        history: One dict an epoch: `epoch`, `train/bound`, `rows_per_second`, and with validation data
            `validation/bound`, `validation/reconstruction/<modality>` and `validation/kl/<latent>`; nats a row.
        best: The checkpoint of the best validation bound; None without validation or without `out`.
        last: The checkpoint of the last epoch; None without `out`.
    """

    history: list[dict[str, float]]
    best: Path | None
    last: Path | None


def fit(
    model: Program,
    guide: Program,
    loss: ELBO,
    data: MultimodalData | Splits | Sequence,
    *,
    validation: MultimodalData | Sequence | None = None,
    epochs: int = 10,
    batch_size: int = 128,
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
) -> FitResult:
    r"""Trains a model and a guide on any ELBO, ours or Pyro's, as `SVI` would in a plain loop.

    With the same optimiser it agrees with `torch.manual_seed(step_seed(seed, epoch, batch)); svi.step(x, observed)`
    over `data.batches(batch_size, shuffle=True, seed=seed, epoch=epoch)` up to rounding. Pyro's global parameter
    store and torch's global generator are as before afterwards; values of `pyro.param` statements in plain functions
    are put back into the store.

    Args:
        model: The generative program, called as `model(x, observed)`.
        guide: The variational program, called likewise; a plain function's modules are found in its closure.
        loss: The objective, minimised; summed over the batch.
        data: Training rows (of `Splits`, validation too); or batches `(x, observed)` that can be iterated again.
        validation: Rows or batches for the validation bound, with every warm-up at its end.
        epochs: Number of passes over the data.
        batch_size: Rows of a batch.
        lr: Learning rate of Adam.
        optimizer: Called with the parameters, returns a torch optimiser; or an optimiser of Pyro.
        seed: Seed of the order of rows and of every step.
        out: Run folder: `run.json`, `log.csv`, `checkpoints/`. None keeps nothing on disk.
        resume: Continue the run in `out`; start one if there is none; return at once if it is finished. The result
            is bit for bit that of a run never interrupted.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.
        devices: Number of devices (processes).
        strategy: Lightning's name of a strategy, such as `"ddp"`.
        logger: `"csv"` writes `log.csv`, `"tensorboard"` event files besides, None neither.
        early_stopping: Stop after so many epochs without a better validation bound.
        gradient_clip: Largest norm of the gradient.
        progress: Whether a progress bar is shown.
        callbacks: Further callbacks of Lightning.

    Raises:
        ValueError: If data does not fit the model, or `out` holds another or an unfinished run.
        NonFiniteLossError: If the loss becomes NaN or infinite; names the site.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits")
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> result = fit(recipe.model, recipe.guide, Trace_ELBO(), splits, epochs=1, progress=False)
        >>> sorted(result.history[0])[:3]
        ['epoch', 'rows_per_second', 'train/bound']
    """
    recipe = Recipe("", model, guide, (Stage(loss),), getattr(model, "latent_dim", 0))
    return _train(recipe, data, validation, dict(locals()))


def fit_recipe(
    recipe: Recipe,
    data: MultimodalData | Splits | Sequence,
    *,
    validation: MultimodalData | Sequence | None = None,
    epochs: int = 10,
    batch_size: int = 128,
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
) -> FitResult:
    """Trains all stages of a recipe, one after the other; arguments as in `fit`.

    A stage's own number of epochs and optimiser go before `epochs`, `lr` and `optimizer`. The run can be resumed in
    any stage, and `load` rebuilds it from its folder.
    """
    return _train(recipe, data, validation, dict(locals()))


def _train(recipe: Recipe, data: Any, validation: Any, settings: dict[str, Any]) -> FitResult:
    train, validation = _parts(recipe.model, data, validation)
    _check_data(recipe.model, train)
    programs = programs_of(recipe.model, recipe.guide)
    if not programs and not callable(recipe.guide):
        raise TypeError(f"model and guide must be programs, got {type(recipe.model)} and {type(recipe.guide)}")
    epochs = [settings["epochs"] if stage.epochs is None else stage.epochs for stage in recipe.stages]
    run = None
    if settings["out"] is not None:
        plan = {name: settings[name] for name in ("batch_size", "lr", "seed", "early_stopping", "gradient_clip")}
        run = Run.open(settings["out"], recipe, describe_data(train), {**plan, "epochs": epochs}, settings["resume"])
        if run.finished:
            return _load_finished(run, programs)
    history: list[dict[str, float]] = []
    best = last = None
    for number, stage in enumerate(recipe.stages):
        folder = None if run is None else run.stage_folder(number, stage.name)
        if run is not None and number < run.stages_done:
            checkpoint = read_checkpoint(folder / "last.ckpt")
            load_programs(checkpoint, programs, folder / "last.ckpt")
            history += checkpoint["history"]
            continue
        stage_settings = {**settings, "epochs": epochs[number], "optimizer": stage.optimizer or settings["optimizer"]}
        before = list(history)
        history = before + _run_stage(recipe, stage, programs, train, validation, stage_settings, folder, run, before)
        if run is not None:
            run.stage_done(number + 1)
            best, last = folder / "best.ckpt", folder / "last.ckpt"
    if run is not None:
        run.finish()
    return FitResult(history, best if best is not None and best.is_file() else None, last)


def _run_stage(recipe, stage, programs, train, validation, settings, folder, run, before) -> list[dict[str, float]]:
    """Trains one stage from wherever its folder says it is; returns the history of its epochs."""
    model, guide, parts = recipe.model, recipe.guide, programs
    if stage.train is not None:
        model, guide = frozen(model, stage.train), frozen(guide, stage.train)
        parts = list(stage.train)
    resumed = None
    if folder is not None and (folder / "last.ckpt").is_file():
        resumed = folder / "last.ckpt"
        load_programs(read_checkpoint(resumed), programs, resumed)  # says what is wrong before Lightning reads it
    with _quiet(), _store() as store, torch.random.fork_rng():
        first = _first_batch(train, settings)
        extra = _param_statements(stage.loss, model, guide, first, parts, settings["seed"], store)
        from lightning.pytorch import Trainer

        from multipyro.inference._lightning import SVIModule

        parameters = list({id(p): p for part in parts for p in part.parameters() if p.requires_grad}.values())
        if not parameters and not extra:
            raise ValueError(f"stage {stage.name!r} has nothing to train: no parameter requires a gradient")
        module = SVIModule(
            model,
            guide,
            stage.loss,
            programs,
            parameters,
            extra,
            _optimizer(settings["optimizer"], settings["lr"]),
            _loader(train, settings, shuffle=True),
            None if validation is None else _loader(validation, settings, shuffle=False),
            settings["seed"],
            settings["gradient_clip"],
            settings["progress"],
            _log_writer(settings, run, before),
        )
        trainer = Trainer(**_trainer_arguments(settings, folder, validation is not None))
        modes = {id(part): part.training for program in programs for part in program.modules()}
        for program in programs:
            program.train()
        try:
            trainer.fit(module, ckpt_path=resumed, weights_only=True)
        finally:
            for program in programs:
                for part in program.modules():
                    part.training = modes[id(part)]
        if trainer.interrupted:
            raise KeyboardInterrupt
        store.trained = {name: (value.detach().clone(), store.constraints[name]) for name, value in extra.items()}
    return module.history


def _trainer_arguments(settings: dict[str, Any], folder: Path | None, validates: bool) -> dict[str, Any]:
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
    from lightning.pytorch.loggers import TensorBoardLogger

    from multipyro.inference._lightning import AtomicCheckpointIO

    callbacks = list(settings["callbacks"])
    if settings["progress"]:
        callbacks.append(RichProgressBar(leave=False))
    if settings["early_stopping"] is not None:
        if not validates:
            raise ValueError("early_stopping needs validation data, got none")
        callbacks.append(EarlyStopping("validation/bound", patience=settings["early_stopping"], mode="max"))
    if folder is not None:
        keep = {"dirpath": folder, "save_on_train_epoch_end": True, "enable_version_counter": False}
        if validates:
            callbacks.append(ModelCheckpoint(filename="best", monitor="validation/bound", mode="max", **keep))
        # the last one is written after the best one and holds its state: a kill between the two repeats the epoch
        callbacks.append(ModelCheckpoint(filename="last", **keep))
    logger: Any = False
    if settings["logger"] == "tensorboard":
        logger = TensorBoardLogger(Path(settings["out"] or "."), name="tensorboard", version="")
    elif settings["logger"] not in (None, "csv"):
        raise ValueError(f"logger must be 'csv', 'tensorboard' or None, got {settings['logger']!r}")
    kind, _, index = settings["device"].partition(":")
    return {
        "accelerator": "gpu" if kind == "cuda" else kind,
        "devices": [int(index)] if index else settings["devices"],
        "strategy": settings["strategy"],
        "max_epochs": settings["epochs"],
        "callbacks": callbacks,
        "plugins": [AtomicCheckpointIO()],
        "logger": logger,
        "enable_checkpointing": folder is not None,
        "enable_progress_bar": settings["progress"],
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "reload_dataloaders_every_n_epochs": 1,
        "limit_val_batches": None if validates else 0,
        "use_distributed_sampler": False,
        "inference_mode": False,
    }


def _parts(model: Program, data: Any, validation: Any) -> tuple[Any, Any]:
    """Training and validation data, of the modalities that the model has."""
    if isinstance(data, Splits):
        data, validation = data.train, data.validation if validation is None else validation
    modalities = getattr(model, "modalities", None)

    def selected(part: Any) -> Any:
        if not isinstance(part, MultimodalData) or modalities is None:
            return part
        return part.select([name for name in part.modalities if name in modalities] or list(modalities))

    return selected(data), selected(validation)


def _check_data(model: Program, data: Any) -> None:
    """Checks all training values once, so that bad data stops a run before it starts."""
    likelihoods = getattr(model, "likelihoods", None)
    if likelihoods is None or not isinstance(data, MultimodalData):
        return
    for rows in torch.arange(len(data)).split(8_192):
        x, observed = data.rows(rows)
        for name, values in x.items():
            if hasattr(likelihoods[name], "check"):
                likelihoods[name].check(values if observed is None or name not in observed else values[observed[name]], name)


def _loader(data: Any, settings: dict[str, Any], shuffle: bool) -> Callable[[int, int, int], Any]:
    if not isinstance(data, MultimodalData):
        return lambda epoch, rank, world_size: data
    return lambda epoch, rank, world_size: data.batches(
        settings["batch_size"], shuffle, settings["seed"], epoch, rank, world_size
    )


def _first_batch(data: Any, settings: dict[str, Any]) -> Any:
    return next(iter(_loader(data, settings, False)(0, 0, 1)))


def _optimizer(optimizer: Any, lr: float) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    if optimizer is None:
        return lambda parameters: torch.optim.Adam(parameters, lr=lr)
    if isinstance(optimizer, PyroOptim):
        if callable(optimizer.pt_optim_args):
            raise TypeError("an optimiser of Pyro with a function of arguments is not supported: pass a dict")
        return lambda parameters: optimizer.pt_optim_constructor(parameters, **optimizer.pt_optim_args)
    return optimizer


def _log_writer(settings: dict[str, Any], run: Run | None, before: list[dict[str, float]]):
    if run is None or settings["logger"] is None:
        return lambda history: None

    def write(history: list[dict[str, float]]) -> None:
        rows = before + history
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, names)
        table.writeheader()
        table.writerows(rows)
        write_atomically(run.folder / "log.csv", text.getvalue())

    return write


def _load_finished(run: Run, programs: list[nn.Module]) -> FitResult:
    folders = run.stage_folders()
    checkpoints = [read_checkpoint(folder / "last.ckpt") for folder in folders]
    last, best = folders[-1] / "last.ckpt", folders[-1] / "best.ckpt"
    load_programs(checkpoints[-1], programs, last)
    history = [row for checkpoint in checkpoints for row in checkpoint["history"]]
    return FitResult(history, best if best.is_file() else None, last)


class _Store:
    """What the parameter store held before training, and what training put into `param` statements of functions."""

    def __init__(self, before: dict[str, Any]) -> None:
        self.before = before
        self.constraints: dict[str, Any] = {}
        self.trained: dict[str, tuple[Tensor, Any]] = {}


@contextlib.contextmanager
def _store() -> Iterator[_Store]:
    """An empty parameter store for a training run; values of param statements go back into the outer one."""
    outer = pyro.get_param_store()
    found = _Store(outer.get_state())
    with outer.scope():
        yield found
    for name, (unconstrained, constraint) in found.trained.items():
        outer[name] = torch.distributions.transform_to(constraint)(unconstrained)


def _param_statements(loss, model, guide, batch, parts, seed: int, store: _Store) -> dict[str, Tensor]:
    """The unconstrained values of `param` statements that belong to no module, by name."""
    if isinstance(model, nn.Module) and isinstance(guide, nn.Module):
        return {}
    known = {id(parameter) for part in parts for parameter in part.parameters()}
    inner = pyro.get_param_store()
    for name, value in store.before["params"].items():
        if id(value) not in known:  # a statement goes on from the value it already has
            constraint = store.before["constraints"][name]
            inner.setdefault(name, torch.distributions.transform_to(constraint)(value.detach().clone()), constraint)
    torch.manual_seed(step_seed(seed, 0, 0))
    modes = [(part, part.training) for root in parts for part in root.modules()]
    for part, _ in modes:
        part.training = False  # batch-norm statistics must not move
    with poutine.trace(param_only=True) as captured, torch.no_grad():
        loss.loss(model, guide, *batch)
    for part, training in modes:
        part.training = training
    extra = {}
    for name, site in captured.trace.nodes.items():
        unconstrained = site["value"].unconstrained() if hasattr(site["value"], "unconstrained") else site["value"]
        if id(unconstrained) not in known:
            extra[name] = unconstrained
            store.constraints[name] = inner._constraints[name]
    return extra


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice about loaders, loggers and folders stays out of the way; its errors do not."""
    import lightning.pytorch  # noqa: F401  it sets the level of its log when imported

    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            warnings.filterwarnings("ignore", message=".*weights_only.*")
            yield
    finally:
        log.setLevel(level)
