"""What a training run is asked to do: its settings, checked before anything is written, and described for resuming."""

import functools
import hashlib
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor, nn

from multipyro.data import Batch, MultimodalData
from multipyro.inference.objectives import spec_of
from multipyro.inference.recipes import METHODS, Recipe, Stage, Update
from multipyro.inference.training.batches import batches_of, check_batch, first_batch

__all__ = ["check_complete", "check_settings", "optimizer_from", "plan_of", "trained_parameters", "updates_of"]

# settings of `fit` that must not change within a run
_SETTINGS = ("batch_size", "drop_last", "lr", "seed", "early_stopping", "gradient_clip", "devices")
# Pyro replaces it by what it guesses at the first call
_GUESSED = "max_plate_nesting"


def check_complete(recipe: Recipe, data: Any) -> None:
    """Raises where a method cannot learn from rows that miss a modality, and there are some."""
    info = METHODS.get(recipe.name)
    masks = list((data.observed or {}).values()) if isinstance(data, MultimodalData) else []
    rows = int((~torch.stack(masks).all(0)).sum()) if masks else 0
    if rows and info is not None and info.needs_complete_rows:
        raise ValueError(
            f"{recipe.name} needs complete rows, {rows} of the {len(data)} training rows miss a modality: leave them "
            "out or take a method that does not (`multipyro methods`)"
        )


def check_settings(settings: Mapping[str, Any], train: Any, validation: Any) -> None:
    """Raises where a setting of `fit` makes no sense, before anything is trained or written."""
    for name in ("epochs", "batch_size"):
        if settings[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {settings[name]}")
    if settings["drop_last"] and isinstance(train, MultimodalData) and len(train) < settings["batch_size"]:
        raise ValueError(f"drop_last leaves no batch: {len(train)} rows are fewer than {settings['batch_size']}")
    if not (math.isfinite(settings["lr"]) and settings["lr"] >= 0):
        raise ValueError(f"lr must be a number from 0 on, got {settings['lr']}")
    _check_device(settings["device"])
    if settings["logger"] not in (None, "csv", "tensorboard"):
        raise ValueError(f"logger must be 'csv', 'tensorboard' or None, got {settings['logger']!r}")
    if settings["early_stopping"] is not None and validation is None:
        raise ValueError("early_stopping needs validation data, got none")
    if settings["early_stopping"] is not None and settings["early_stopping"] < 1:
        raise ValueError(f"early_stopping must be at least 1 epoch, got {settings['early_stopping']}")
    if settings["resume"] and settings["out"] is None:
        raise ValueError("resume needs the folder of the run: pass out")


def _check_device(device: str) -> None:
    """Raises if an accelerator is named that is not there; Lightning would say so after the run has its folder."""
    kind, _, index = device.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r} is not there: torch finds {torch.cuda.device_count()} CUDA devices")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' is not there: torch finds no Metal device")


def optimizer_from(optimizer: Any, lr: float) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    """What `fit` takes for an optimizer, as a function of the parameters."""
    if optimizer is None:
        return lambda parameters: torch.optim.Adam(parameters, lr=lr)
    if isinstance(optimizer, PyroOptim):
        if isinstance(optimizer, PyroLRScheduler) or callable(optimizer.pt_optim_args) or optimizer.pt_clip_args:
            raise TypeError(
                "an optimizer of Pyro with a scheduler, clipping arguments or a function of arguments cannot be used: "
                "pass a plain one, with gradient_clip, or a function from parameters to a torch optimizer"
            )
        return lambda parameters: optimizer.pt_optim_constructor(parameters, **optimizer.pt_optim_args)
    if not callable(optimizer):
        raise TypeError(
            f"optimizer must be a function of the parameters or a PyroOptim, got {type(optimizer).__name__}"
        )
    return optimizer


def updates_of(stage: Stage, programs: Sequence[nn.Module]) -> tuple[Update, ...]:
    """What each batch of a stage does, one update or several."""
    trained = tuple(programs) if stage.train is None else stage.train
    return stage.updates or (Update(stage.objective, trained, stage.optimizer, stage.name),)


def trained_parameters(update: Update) -> list[nn.Parameter]:
    """The parameters of modules that an update trains, each once."""
    return list({id(p): p for part in update.train for p in part.parameters() if p.requires_grad}.values())


def plan_of(
    recipe: Recipe, programs: Sequence[nn.Module], train: Any, validation: Any, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides how a run goes on, as plain values: settings, stages with loss and optimizer, and batches.

    Args:
        recipe: What is trained.
        programs: The modules of its programs.
        train: Rows or batches.
        validation: Rows or batches; None for none.
        settings: The arguments of `fit`.
    """
    stages = []
    for stage in recipe.stages:
        found = []
        for update in updates_of(stage, programs):
            make = optimizer_from(update.optimizer or settings["optimizer"], settings["lr"])
            # `param` statements of plain functions are not there yet
            optimizer = make(trained_parameters(update) or [torch.zeros(1, requires_grad=True)])
            # a flag that is off says nothing, and a later torch may have more of them
            groups = [
                {
                    name: _plain(value)
                    for name, value in group.items()
                    if name != "params" and value not in (None, False)
                }
                for group in optimizer.param_groups
            ]
            found.append(
                {"loss": spec_of(update.objective), "optimizer": {"class": _name(optimizer), "groups": groups}}
            )
        stages.append({"loss": spec_of(stage.objective), "updates": found} if stage.updates else found[0])
    sizes = {"batch_size": settings["batch_size"], "seed": settings["seed"]}
    return {
        **{name: settings[name] for name in _SETTINGS},
        "epochs": [settings["epochs"] if stage.epochs is None else stage.epochs for stage in recipe.stages],
        "stages": stages,
        "train": _fingerprint(recipe.model, train, shuffle=True, **sizes),
        "validation": None if validation is None else _fingerprint(recipe.model, validation, shuffle=False, **sizes),
    }


def _fingerprint(model: Any, data: Any, **settings: Any) -> dict[str, Any]:
    """The number of the batches, and a digest of the first one; of a list of all of them."""
    feed = batches_of(data, **settings)
    with torch.random.fork_rng():
        batches = list(data) if isinstance(data, list | tuple) else [first_batch(feed)]
        for batch in batches:
            check_batch(model, batch)
        digest = _digest(batches)
        # what draws from a generator that no seed reaches cannot be told from other data
        repeats = isinstance(data, MultimodalData | list | tuple) or _digest([first_batch(feed)]) == digest
        found = feed(0, 0, 1)
    return {"batches": len(found) if hasattr(data, "__len__") else None, "digest": digest if repeats else "random"}


def _digest(batches: Sequence[Batch]) -> str:
    digest = hashlib.sha256()
    for x, observed in batches:
        tensors = {**x, **{f"observed/{name}": mask for name, mask in (observed or {}).items()}}
        for name in sorted(tensors):
            values = tensors[name].detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """A setting as plain values: of an object its class and what its constructor was given, never its state."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Tensor) and value.numel() == 1:
        return _plain(value.item())
    if isinstance(value, functools.partial):
        return [_plain(value.func), _plain(value.args), _plain(value.keywords)]
    if isinstance(value, types.FunctionType | types.MethodType):
        return _function(getattr(value, "__func__", value))
    settings = {}
    kept = getattr(value, "__dict__", None)
    if kept and not isinstance(value, nn.Module | Tensor | type):
        names = [name for name in inspect.signature(type(value).__init__).parameters if name != _GUESSED]
        stored = {name: f"_{name}" if f"_{name}" in kept else name for name in names}
        settings = {name: _plain(kept[key]) for name, key in stored.items() if key in kept}
    return {"class": _name(value), **settings}


def _function(function: types.FunctionType) -> dict[str, Any]:
    """A function by its name, the numbers in it, and the weights it closes over."""
    numbers, codes = [], [function.__code__]
    while codes:
        for constant in codes.pop().co_consts:
            if isinstance(constant, types.CodeType):
                codes.append(constant)
            elif isinstance(constant, int | float) and not isinstance(constant, bool):
                numbers.append(_plain(constant))
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # of a name that is not bound yet
            values.append(cell.cell_contents)
    # programs are held by their checkpoints, and a list may be a function's notes
    weights = [_plain(value) for value in values if isinstance(value, int | float | str | Mapping) or _numbers(value)]
    return {"function": function.__qualname__, "numbers": numbers, "weights": weights}


def _numbers(value: Any) -> bool:
    """Whether a value is a tuple of numbers or a tensor of one."""
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, tuple) and all(isinstance(inner, int | float) for inner in value)


def _name(value: Any) -> str:
    return (value if isinstance(value, type) else type(value)).__qualname__
