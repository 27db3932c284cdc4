"""What a training run is asked to do: its settings, checked before anything is trained or written."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor

from multipyro.data import MultimodalData
from multipyro.inference.recipes import METHODS, Recipe

__all__ = ["check_complete", "check_settings", "optimizer_from"]


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


def check_settings(settings: Mapping[str, Any], validation: Any) -> None:
    """Raises where a setting of `fit` makes no sense, before anything is trained or written."""
    for name in ("epochs", "batch_size"):
        if settings[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {settings[name]}")
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
    """What `fit` takes for an optimiser, as a function of the parameters."""
    if optimizer is None:
        return lambda parameters: torch.optim.Adam(parameters, lr=lr)
    if isinstance(optimizer, PyroOptim):
        if isinstance(optimizer, PyroLRScheduler) or callable(optimizer.pt_optim_args) or optimizer.pt_clip_args:
            raise TypeError(
                "an optimiser of Pyro with a scheduler, clipping arguments or a function of arguments cannot be used: "
                "pass a plain one, with gradient_clip, or a function from parameters to a torch optimiser"
            )
        return lambda parameters: optimizer.pt_optim_constructor(parameters, **optimizer.pt_optim_args)
    if not callable(optimizer):
        raise TypeError(
            f"optimizer must be a function of the parameters or a PyroOptim, got {type(optimizer).__name__}"
        )
    return optimizer
