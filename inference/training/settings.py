"""The settings of a training run: the arguments of `fit`, the command line's flags, and what `run.json` records."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from multipyro.inference.options import Count, Option, Weight

__all__ = ["CALLBACK_METHODS", "RESUMABLE", "TrainingSettings"]

#: Settings that may differ between a run and its continuation, because they do not change the result.
RESUMABLE = ("epochs", "device", "strategy", "logger", "progress", "out", "resume", "callbacks")
#: The methods of callbacks, each called with a `FitState`.
CALLBACK_METHODS = ("on_fit_start", "on_step_end", "on_epoch_end", "on_fit_end")
_LOGGERS = ("csv", "tensorboard")


def _setting(default: Any, help: str) -> Any:
    """A field with its help on the command line."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How `fit` and `fit_recipe` train: every setting, checked when the object is created.

    A resumed run must have the settings it was started with, except `epochs`, which may grow, and those that do not
    change the result: `device`, `strategy`, `logger`, `progress`, `out`, `resume` and `callbacks`.

    Args:
        epochs: Number of passes over the training data, of each stage that does not set its own.
        batch_size: Examples per batch, in each process.
        drop_last: Whether the last training batch of each epoch is dropped if it is smaller. Has no effect on
            user-defined batches.
        optimizer: `"adam"`, `"adamw"`, `"amsgrad"`, `"sgd"` (with momentum 0.9) or `"rmsprop"`; a function from a list
            of parameters to a torch optimizer; or a plain optimizer of Pyro, such as `pyro.optim.Adam({"lr": 1e-3})`.
        lr: Learning rate of an optimizer given by name.
        lr_schedule: `"constant"`; `"cosine"` and `"exponential"`, which fall from `lr` to `lr_final * lr` at the end
            of each stage; `"one-cycle"`, which rises to `lr` over the first 30 % of a stage and then falls, with the
            shape and constants of `torch.optim.lr_scheduler.OneCycleLR` but without its momentum cycle; or a
            function from an optimizer to a scheduler of torch, which is stepped once per epoch. The named ones change
            with every step.
        lr_warmup: Number of epochs over which the learning rate grows linearly from 0 before a named schedule starts.
        lr_final: The factor of `lr` that `"cosine"` and `"exponential"` reach at the end of a stage.
        gradient_clip: The largest norm of the gradient of an update; None for no limit.
        early_stopping: Number of epochs without a better validation bound before a stage stops; None for never.
        seed: Seed of the order of examples and of every step.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, or a `torch.device`.
        devices: Number of devices, with one process each.
        strategy: How several devices work together: `"ddp"`, which `"auto"` means too.
        precision: `"32-true"`, or `"bf16-mixed"` for automatic mixed precision.
        compile: Whether the loss and gradients of a step are captured as a graph of tensor operations, which is
            compiled where there is a C++ compiler and replayed as it is elsewhere. A replayed graph gives the same bits
            as the programs, a compiled one the same numbers up to rounding. Anything that the programs do besides
            tensor operations then happens only once. `"auto"` captures, and compiles, programs whose parts all come
            from multipyro or torch, if the first epoch of a stage shows that this saves more time than it takes. It
            captures nothing in a run with callbacks, which may change what a step does.
        logger: `"csv"` writes `log.csv` into `out`, `"tensorboard"` event files; or any object with
            `log_metrics(metrics, step)`, such as the loggers of Lightning; or a list of these; None for no log.
        progress: Whether progress is shown: a bar in a terminal, one line per epoch elsewhere.
        out: Run folder for `run.json`, the log and the checkpoints; None keeps nothing on disk.
        resume: Continue the run in `out`, or start one if there is none.
        callbacks: Objects with any of the methods `on_fit_start`, `on_step_end`, `on_epoch_end` and `on_fit_end`,
            each called with a `FitState`.
        config: Plain values to record in `run.json`.

    Raises:
        ValueError: If a setting has a wrong type or value.
        TypeError: If a logger or a callback does not have the required methods, or `config` contains anything but
            plain values.

    Example:
        >>> TrainingSettings(epochs=50, lr_schedule="cosine").batch_size
        128
        >>> TrainingSettings(epochs=0)
        Traceback (most recent call last):
            ...
        ValueError: epochs must be an integer (at least 1), got 0
    """

    epochs: Count = _setting(10, "number of passes over the training data")
    batch_size: Count = _setting(128, "examples per batch, in each process")
    drop_last: bool = _setting(False, "drop the last training batch of each epoch if it is smaller")
    optimizer: Literal["adam", "adamw", "amsgrad", "sgd", "rmsprop"] | Callable = _setting("adam", "optimizer")
    lr: Weight = _setting(1e-3, "learning rate")
    lr_schedule: Literal["constant", "cosine", "exponential", "one-cycle"] | Callable = _setting(
        "constant", "how the learning rate changes"
    )
    lr_warmup: Weight = _setting(0.0, "epochs over which the learning rate grows from 0")
    lr_final: Weight = _setting(0.01, "factor of the learning rate at the end of cosine or exponential")
    gradient_clip: Weight | None = _setting(None, "largest norm of the gradient")
    early_stopping: Count | None = _setting(None, "epochs without a better validation bound before a stage stops")
    seed: int = _setting(0, "seed of the order of examples and of every step")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:1 or mps")
    devices: Count = _setting(1, "number of devices, with one process each")
    strategy: Literal["auto", "ddp"] = _setting("auto", "how several devices work together")
    precision: Literal["32-true", "bf16-mixed"] = _setting("32-true", "precision of the arithmetic")
    compile: Literal["auto", True, False] = _setting("auto", "whether steps are captured as graphs and compiled")
    logger: Any = _setting("csv", f"where metrics are logged: {', '.join(_LOGGERS)}")
    progress: bool = _setting(True, "show progress")
    out: str | None = _setting(None, "run folder")
    resume: bool = _setting(False, "continue the run in the run folder")
    callbacks: Sequence[Any] = _setting((), "objects whose methods are called during training")
    config: Mapping[str, Any] | None = _setting(None, "plain values to record in run.json")

    def __post_init__(self) -> None:
        plain = {"device": str(self.device), "out": None if self.out is None else os.fspath(self.out)}
        plain["logger"] = self.logger if isinstance(self.logger, list | tuple) else (self.logger,)
        for setting in fields(self):
            value = plain.get(setting.name, getattr(self, setting.name))
            object.__setattr__(self, setting.name, Option(setting.name, None, setting.type).convert(value))
        if not re.fullmatch(r"auto|(cpu|mps)(:0)?|cuda(:\d+)?", self.device):
            raise ValueError(f"device must be auto, cpu, cuda, cuda:1 or mps, got {self.device!r}")
        if self.out == "":
            raise ValueError("out must name a folder, got an empty string")
        if self.lr_warmup and (self.lr_schedule == "one-cycle" or callable(self.lr_schedule)):
            raise ValueError("lr_warmup is for schedules without a built-in warm-up: leave it at 0")
        if self.lr_schedule == "exponential" and not self.lr_final:
            raise ValueError("lr_final must be above 0 for lr_schedule 'exponential'")
        if self.out is None and (self.resume or "tensorboard" in self.logger):
            raise ValueError(f"{'resume' if self.resume else 'tensorboard'} needs the folder of the run: pass out")
        object.__setattr__(self, "logger", tuple(logger for logger in self.logger if logger is not None))
        for logger in self.logger:
            if logger not in _LOGGERS and not callable(getattr(logger, "log_metrics", None)):
                names = " or ".join(_LOGGERS)
                raise TypeError(f"logger must be {names}, or an object with log_metrics(metrics, step), got {logger!r}")
        for callback in self.callbacks:
            if any(base.__module__.startswith(("lightning.", "pytorch_lightning")) for base in type(callback).__mro__):
                raise TypeError(
                    f"{callback!r} needs the Trainer of Lightning: pass an object with a method on_epoch_end(state)"
                )
            if not any(hasattr(callback, name) for name in CALLBACK_METHODS):
                raise TypeError(f"callback {callback!r} has none of the methods {', '.join(CALLBACK_METHODS)}")
        try:
            object.__setattr__(self, "config", json.loads(json.dumps(self.config)))
        except (TypeError, ValueError) as error:
            raise TypeError(f"config must be plain values that JSON can represent: {error}") from error
