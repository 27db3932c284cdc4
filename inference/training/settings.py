"""The settings of a training run: the arguments of `fit`, the command line's flags, and what `run.json` records."""

import json
import math
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_args

__all__ = ["RESUMABLE", "TrainingSettings"]

#: Settings that may differ between a run and its continuation, because they do not change the result.
RESUMABLE = ("epochs", "device", "strategy", "logger", "progress", "out", "resume", "callbacks")
_CALLBACK_METHODS = ("on_fit_start", "on_step_end", "on_epoch_end", "on_fit_end")


def _setting(default: Any, help: str, minimum: float | None = None, choices: Sequence[str] = ()) -> Any:
    """A field with its help and its constraints for the command line."""
    return field(default=default, metadata={"help": help, "minimum": minimum, "choices": tuple(choices)})


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How `fit` and `fit_recipe` train: every setting, checked when the object is created.

    A resumed run must have the settings it was started with, except `epochs`, which may grow, and those that do not
    change the result: `device`, `strategy`, `logger`, `progress`, `out`, `resume` and `callbacks`.

    Args:
        epochs: Number of passes over the training data, of each stage that does not set its own.
        batch_size: Examples per batch, in each process.
        drop_last: Whether a last, smaller training batch is dropped in each epoch. Has no effect on user-defined
            batches.
        optimizer: `"adam"`, `"adamw"`, `"amsgrad"`, `"sgd"` (with momentum 0.9) or `"rmsprop"`; a function from a list
            of parameters to a torch optimizer; or a plain optimizer of Pyro, such as `pyro.optim.Adam({"lr": 1e-3})`.
        lr: Learning rate of an optimizer given by name.
        lr_schedule: `"constant"`; `"cosine"` and `"exponential"`, which fall from `lr` to `lr_final * lr` at the end
            of each stage; `"one-cycle"`, which rises to `lr` over the first 30 % of a stage and then falls, with the
            shape and constants of `torch.optim.lr_scheduler.OneCycleLR` and without its cycle of the momentum; or a
            function from an optimizer to a scheduler of torch, which is stepped once per epoch. The named ones change
            with every step.
        lr_warmup: Number of epochs over which the learning rate grows linearly from 0 before a named schedule starts.
        lr_final: The factor that `"cosine"` and `"exponential"` reach.
        gradient_clip: The largest norm of the gradient of an update; None for no limit.
        early_stopping: Number of epochs without a better validation bound before a stage stops; None for never.
        seed: Seed of the order of examples and of every step.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, or a `torch.device`.
        devices: Number of devices, with one process each.
        strategy: How several devices work together: `"ddp"`, which `"auto"` means too.
        precision: `"32-true"`, or `"bf16-mixed"` for automatic mixed precision.
        logger: `"csv"` writes `log.csv` into `out`, `"tensorboard"` event files; or any object with
            `log_metrics(metrics, step)`, such as the loggers of Lightning; or a list of these; None for none.
        progress: Whether progress is shown: a bar in a terminal, one line per epoch elsewhere.
        out: Run folder for `run.json`, the log and the checkpoints; None keeps nothing on disk.
        resume: Continue the run in `out`, or start one if there is none.
        callbacks: Objects with any of the methods `on_fit_start`, `on_step_end`, `on_epoch_end` and `on_fit_end`,
            each called with a `FitState`.
        config: Plain values to record in `run.json`.

    Raises:
        TypeError: If a setting has a wrong type.
        ValueError: If a setting has a wrong value.

    Example:
        >>> TrainingSettings(epochs=50, lr_schedule="cosine").batch_size
        128
        >>> TrainingSettings(epochs=0)
        Traceback (most recent call last):
            ...
        ValueError: epochs must be at least 1, got 0
    """

    epochs: int = _setting(10, "number of passes over the training data", 1)
    batch_size: int = _setting(128, "examples per batch, in each process", 1)
    drop_last: bool = _setting(False, "drop a last, smaller training batch in each epoch")
    optimizer: str | Callable = _setting("adam", "optimizer", choices=["adam", "adamw", "amsgrad", "sgd", "rmsprop"])
    lr: float = _setting(1e-3, "learning rate", 0)
    lr_schedule: str | Callable = _setting(
        "constant", "how the learning rate changes", choices=["constant", "cosine", "exponential", "one-cycle"]
    )
    lr_warmup: float = _setting(0.0, "epochs over which the learning rate grows from 0", 0)
    lr_final: float = _setting(0.01, "factor of the learning rate at the end of cosine or exponential", 0)
    gradient_clip: float | None = _setting(None, "largest norm of the gradient", 0)
    early_stopping: int | None = _setting(None, "epochs without a better validation bound before a stage stops", 1)
    seed: int = _setting(0, "seed of the order of examples and of every step")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:1 or mps")
    devices: int = _setting(1, "number of devices, with one process each", 1)
    strategy: str = _setting("auto", "how several devices work together", choices=["auto", "ddp"])
    precision: str = _setting("32-true", "precision of the arithmetic", choices=["32-true", "bf16-mixed"])
    logger: Any = _setting("csv", "where metrics are logged", choices=["csv", "tensorboard"])
    progress: bool = _setting(True, "show progress")
    out: str | os.PathLike | None = _setting(None, "run folder")
    resume: bool = _setting(False, "continue the run in the run folder")
    callbacks: Sequence[Any] = _setting((), "objects whose methods are called during training")
    config: Mapping[str, Any] | None = _setting(None, "plain values to record in run.json")

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = _converted(setting.name, get_args(setting.type) or (setting.type,), getattr(self, setting.name))
            object.__setattr__(self, setting.name, value)
            minimum, choices = setting.metadata["minimum"], setting.metadata["choices"]
            names = [part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, str)]
            if choices and not set(names) <= set(choices):
                raise ValueError(f"{setting.name} must be one of {', '.join(choices)}, got {', '.join(names)}")
            if minimum is not None and value is not None and value < minimum:
                raise ValueError(f"{setting.name} must be at least {minimum}, got {value}")
        if self.lr_warmup and (self.lr_schedule == "one-cycle" or callable(self.lr_schedule)):
            raise ValueError("lr_warmup is for schedules without a built-in warm-up: leave it at 0")
        if self.lr_schedule == "exponential" and not self.lr_final:
            raise ValueError("lr_final must be above 0 for lr_schedule 'exponential'")
        if self.out is None and (self.resume or "tensorboard" in self.logger):
            raise ValueError(f"{'resume' if self.resume else 'tensorboard'} needs the folder of the run: pass out")
        for logger in self.logger:
            if not isinstance(logger, str) and not callable(getattr(logger, "log_metrics", None)):
                raise TypeError(f"logger {logger!r} has no method log_metrics(metrics, step)")
        for callback in self.callbacks:
            if any(base.__module__.startswith(("lightning.", "pytorch_lightning")) for base in type(callback).__mro__):
                raise TypeError(
                    f"{callback!r} needs the Trainer of Lightning: pass an object with a method on_epoch_end(state)"
                )
            if not any(hasattr(callback, name) for name in _CALLBACK_METHODS):
                raise TypeError(f"callback {callback!r} has none of the methods {', '.join(_CALLBACK_METHODS)}")


def _converted(name: str, kinds: tuple[Any, ...], value: Any) -> Any:
    """A value in its declared type; numbers of numpy, paths and devices are accepted as such."""
    if name == "logger":
        return tuple(value) if isinstance(value, list | tuple) else () if value is None else (value,)
    if value is None and type(None) in kinds:
        return None
    if name == "out":
        if not os.fspath(value):
            raise ValueError("out must name a folder, got an empty string")
        return os.fspath(value)
    if name == "device":
        if not re.fullmatch(r"auto|cpu|mps(:0)?|cuda(:\d+)?", str(value)):
            raise ValueError(f"device must be auto, cpu, cuda, cuda:1 or mps, got {str(value)!r}")
        return str(value)
    if name == "config":
        try:
            return json.loads(json.dumps(value))
        except (TypeError, ValueError) as error:
            raise TypeError(f"config must be plain values that JSON can represent: {error}") from error
    for kind, accepted, expected in (
        (bool, bool, "True or False"),
        (int, numbers.Integral, "a whole number"),
        (float, numbers.Real, "a number"),
        (str, str | Callable if len(kinds) > 1 else str, "a name or a function" if len(kinds) > 1 else "a name"),
    ):
        if kind in kinds and (not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool)):
            raise TypeError(f"{name} must be {expected}, got {value!r}")
    if float in kinds and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    return next((kind(value) for kind in (bool, int, float) if kind in kinds), value)
