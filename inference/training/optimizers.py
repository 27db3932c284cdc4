"""Optimizers and learning-rate schedules, by name or by a function."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from multipyro.inference.training.settings import TrainingSettings

__all__ = ["ScheduledOptimizer", "lr_factor"]

_BY_NAME: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "amsgrad": partial(torch.optim.Adam, amsgrad=True),
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
}
# those of torch.optim.lr_scheduler.OneCycleLR: the share of rising steps, and the factors at the start and at the end
_RISING, _START, _END = 0.3, 1 / 25, 1 / 25 / 1e4
# settings that change how an optimizer computes, but not the result
_IMPLEMENTATION = ("params", "fused", "foreach", "capturable", "differentiable")


class ScheduledOptimizer:
    """An optimizer with the schedule of its learning rate.

    Args:
        optimizer: The setting of the same name, or the optimizer of a stage. One given by name is fused where the
            parameters allow it.
        parameters: The parameters.
        settings: The settings of the run.

    Raises:
        TypeError: If it is an optimizer of Pyro with a scheduler, clipping, or a function of arguments; or if its
            steps need a closure.
    """

    def __init__(self, optimizer: Any, parameters: list[Tensor], settings: TrainingSettings) -> None:
        self.optimizer = _create(optimizer, parameters, settings.lr)
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise TypeError(
                f"{type(self.optimizer).__name__} needs a closure that computes the loss several times in a step, "
                "which is not supported: choose an optimizer whose step() needs no closure"
            )
        groups = [{k: str(v) for k, v in g.items() if k not in _IMPLEMENTATION} for g in self.optimizer.param_groups]
        self._created = f"{type(self.optimizer).__name__} with {groups}"
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._scheduler = settings.lr_schedule(self.optimizer) if callable(settings.lr_schedule) else None

    def step(self, factor: float | None) -> None:
        """Updates the parameters, with the learning rate times `factor` unless that is None."""
        if factor is not None:
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * factor
        self.optimizer.step()

    def after_epoch(self, bound: float) -> None:
        """Steps a scheduler of torch; one that watches a metric gets the loss, minus the bound."""
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(-bound)
        elif self._scheduler is not None:
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of optimizer and scheduler, and what the optimizer was created as."""
        scheduler = self._scheduler and self._scheduler.state_dict()
        return {"created": self._created, "optimizer": self.optimizer.state_dict(), "scheduler": scheduler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; raises a ValueError if the optimizer was created as another one."""
        if self._created != state["created"]:
            raise ValueError(f"the optimizer was {state['created']}, now {self._created}")
        self.optimizer.load_state_dict(state["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])


def lr_factor(settings: TrainingSettings, epochs: int, steps_per_epoch: int | None) -> Callable[[int], float | None]:
    """The factor of the learning rate as a function of the step, counted from 0 in a stage; None where it is constant.

    Args:
        settings: The settings of the run.
        epochs: Number of epochs of the stage.
        steps_per_epoch: Number of steps of an epoch; None if the batches have no length.

    Raises:
        ValueError: If the schedule needs the number of steps and it is not known.
    """
    name, final = settings.lr_schedule, settings.lr_final
    if callable(name) or (name == "constant" and not settings.lr_warmup):
        return lambda step: None
    if steps_per_epoch is None:
        raise ValueError(f"lr_schedule {name!r} needs the number of steps, and these batches have no length")
    warmup, total = round(settings.lr_warmup * steps_per_epoch), epochs * steps_per_epoch
    top = _RISING * total - 1

    def factor(step: int) -> float:
        share = (step - warmup) / max(1, total - warmup)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if name == "one-cycle":
            rising, falling = step / top, (step - top) / (total - 1 - top)
            return _cosine(_START, 1.0, rising) if step <= top else _cosine(1.0, _END, falling)
        return {"constant": 1.0, "cosine": _cosine(1.0, final, share), "exponential": final**share}[name]

    return factor


def _create(optimizer: Any, parameters: list[Tensor], lr: float) -> Optimizer:
    if isinstance(optimizer, str):
        make = partial(_BY_NAME[optimizer], parameters, lr=lr)
        try:
            return make(fused=True)
        except (RuntimeError, TypeError):  # no fused kernel on this device, or for this optimizer
            return make(foreach=True)
    if not isinstance(optimizer, PyroOptim):
        return optimizer(parameters)
    if isinstance(optimizer, PyroLRScheduler) or callable(optimizer.pt_optim_args) or optimizer.pt_clip_args:
        raise TypeError(
            "an optimizer of Pyro with a scheduler, clipping arguments or a function of arguments is not supported: "
            "pass a plain one, with lr_schedule and gradient_clip, or a function from parameters to a torch optimizer"
        )
    return optimizer.pt_optim_constructor(parameters, **optimizer.pt_optim_args)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
