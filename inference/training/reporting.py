"""What a training run reports while it trains: callbacks, loggers, progress."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from multipyro._optional import optional_imports
from multipyro.inference.programs import Program
from multipyro.inference.progress import Progress
from multipyro.inference.runs.folder import Run
from multipyro.inference.training.settings import CALLBACK_METHODS, TrainingSettings

__all__ = ["FitState", "Reporter"]


@dataclass
class FitState:
    """The state of a training run, with which its callbacks are called.

    A callback is any object with some of these methods, each called as `method(state)`, in every process:
    `on_fit_start` before the first step, `on_step_end` after each step, `on_epoch_end` after each epoch, before its
    checkpoint is written, and `on_fit_end` after the last stage.

    Args:
        model: The generative program.
        guide: The variational program.
        stage: Number of the stage, from 0.
        stage_name: Its name.
        epochs: Its number of epochs.
        steps_per_epoch: Its number of steps per epoch; None if the batches have no length.
        epoch: Number of the epoch in the stage, from 0.
        batch: Number of the batch in the epoch, from 0.
        step: Number of steps done in the stage.
        examples: Number of examples in the last batch.
        losses: The loss of each update of the last batch, summed over it: tensors, since reading one waits for the
            device.
        history: The metrics of all epochs so far, as in `FitResult`.
        stop: May be set to True, which ends the stage after this epoch.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, fit_recipe, networks_for
        >>> class StepCounter:
        ...     def on_epoch_end(self, state):
        ...         print(f"epoch {state.epoch}, step {state.step}")
        >>> digits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(digits.train.modalities, (8,)), latent_dim=2)
        >>> _ = fit_recipe(recipe, digits, epochs=2, batch_size=50, callbacks=[StepCounter()], progress=False)
        epoch 0, step 2
        epoch 1, step 4
    """

    model: Program
    guide: Program
    stage: int = 0
    stage_name: str = ""
    epochs: int = 0
    steps_per_epoch: int | None = None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    examples: int = 0
    losses: Sequence[Tensor] = ()
    history: list[dict[str, float]] = field(default_factory=list)
    stop: bool = False

    @property
    def total_steps(self) -> int | None:
        """Number of steps of the stage; None if the batches have no length."""
        return None if self.steps_per_epoch is None else self.epochs * self.steps_per_epoch

    @property
    def place(self) -> str:
        """The stage and the epoch, in words."""
        return f"{self.stage_name}, epoch {self.epoch + 1} of {self.epochs}"


class Reporter:
    """Calls the callbacks, writes the logs and shows the progress of a run.

    Args:
        settings: The settings of the run.
        run: Its folder; None for none.
        is_main: Whether this process logs and shows progress.

    Attributes:
        progress: The progress bar, or the lines in its place.
    """

    def __init__(self, settings: TrainingSettings, run: Run | None, is_main: bool) -> None:
        loggers = settings.logger if is_main else ()
        self._run, self._csv = run, run is not None and "csv" in loggers
        self._methods = {
            name: [getattr(callback, name) for callback in settings.callbacks if hasattr(callback, name)]
            for name in CALLBACK_METHODS
        }
        self._loggers = [logger for logger in loggers if not isinstance(logger, str)]
        if "tensorboard" in loggers:
            with optional_imports("the logger 'tensorboard'"):
                import tensorboard  # noqa: F401  the next import would also accept tensorboardX
                from lightning_fabric.loggers import TensorBoardLogger
            self._loggers.append(TensorBoardLogger(run.folder, name="tensorboard", version=""))
        self.progress = Progress(settings.progress and is_main)

    @contextmanager
    def reporting(self, state: FitState) -> Iterator[None]:
        """The context of a whole run."""
        self.call("on_fit_start", state)
        try:
            yield
            self.call("on_fit_end", state)
        finally:
            self.progress.close()
            for logger in self._loggers:
                if hasattr(logger, "finalize"):
                    logger.finalize("success" if sys.exc_info()[0] is None else "failed")

    def call(self, name: str, state: FitState) -> None:
        """Calls a method of the callbacks."""
        for method in self._methods[name]:
            method(state)

    def write_log(self, state: FitState) -> None:
        """Writes `log.csv`, if it is wanted."""
        if self._csv:
            self._run.write_log(state.history)

    def step_end(self, state: FitState) -> None:
        """After a step."""
        self.call("on_step_end", state)
        self.progress.update(
            state.step, state.total_steps, lambda: f"{state.place}: loss {float(state.losses[0]) / state.examples:.4g}"
        )

    def checkpoint_end(self, state: FitState) -> None:
        """After the checkpoint of an epoch: a run killed before it repeats the epoch, and logs it once."""
        row = state.history[-1]
        self.write_log(state)
        for logger in self._loggers:
            metrics = {name: value for name, value in row.items() if name not in ("stage", "epoch")}
            logger.log_metrics(metrics, step=len(state.history) - 1)
        bounds = [f"{name} {row[name]:.4g}" for name in ("train/bound", "validation/bound") if name in row]
        left = self.progress.time_left(state.step, state.total_steps)
        speed = f"{row['examples_per_second']:,.0f} examples/s"
        self.progress.finish_line(f"{state.place}: {', '.join(bounds)}, {speed}{left}")
