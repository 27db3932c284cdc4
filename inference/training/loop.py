"""The loop over stages, epochs and batches: steps, validation, checkpoints."""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multipyro._modes import evaluation_mode, training_mode
from multipyro.batch import batch_rows
from multipyro.data import Batch
from multipyro.inference.capture import repeats_itself
from multipyro.inference.objectives import LinearWarmup, schedules_of
from multipyro.inference.objectives.reports import evaluation_of, non_finite_sites
from multipyro.inference.recipes import Recipe
from multipyro.inference.runs.checkpoints import load_programs, programs_of, read_checkpoint, state_of, write_checkpoint
from multipyro.inference.runs.description import describe_run
from multipyro.inference.runs.folder import Run
from multipyro.inference.training.batches import VALIDATION, BatchFeed
from multipyro.inference.training.devices import connect
from multipyro.inference.training.optimizers import lr_factor
from multipyro.inference.training.reporting import FitState, Reporter
from multipyro.inference.training.settings import RESUMABLE, TrainingSettings
from multipyro.inference.training.statements import Statements
from multipyro.inference.training.steps import NonFiniteLossError, TrainingStep

__all__ = ["Trainer"]

# steps between reads of the losses, each of which waits for an accelerator
_INTERVAL = 50
# entries of a checkpoint besides the programs: the progress of the stage
_PARTS = {"updates": list, "history": list, "step": int, "stopped": bool, "rng": Tensor}


class Trainer:
    """Trains the stages of a recipe, continuing from the checkpoints in the run folder.

    Args:
        recipe: The recipe.
        settings: The settings of the run.
        data: The parts of the data, as `training_data` returns them.
    """

    def __init__(self, recipe: Recipe, settings: TrainingSettings, data: Mapping[str, Any]) -> None:
        if settings.early_stopping is not None and data["validation"] is None:
            raise ValueError("early_stopping needs validation data, got none")
        if any(stage.epochs is not None and stage.epochs < 1 for stage in recipe.stages):
            raise ValueError(f"every stage needs at least 1 epoch, got {[stage.epochs for stage in recipe.stages]}")
        self._recipe, self._settings, self._programs = recipe, settings, (recipe.model, recipe.guide)
        self._modules = programs_of(*self._programs, *recipe.others)
        self._worker = connect(settings)
        self._feed = BatchFeed(recipe.model, data, settings, self._worker)
        self._run = None
        if settings.out is not None:
            self._run = Run(Path(settings.out), describe_run(recipe, settings, RESUMABLE, data))
        self._reporter = Reporter(settings, self._run, self._worker.is_main)
        self._statements, self._state = Statements(), FitState(*self._programs)
        # state of the current stage
        self._steps: list[TrainingStep] = []
        self._schedules: list[LinearWarmup] = []
        self._history: list[dict[str, float]] = []
        # state of the current epoch
        self._totals: list[float] = []
        self._pending: list[Sequence[Tensor]] = []

    def fit(self) -> list[dict[str, float]]:
        """Trains the remaining stages and epochs; returns the metrics of all epochs."""
        state, is_main = self._state, self._run is not None and self._worker.is_main
        with (
            self._run.opened(self._settings.resume) if is_main else nullcontext(),
            self._worker.hosting(self._modules),
            self._statements.opened(),
            self._reporter.reporting(state),
            # modules that a plain function calls stay in the mode that the user has set
            training_mode(*(p for p in (*self._programs, *self._recipe.others) if isinstance(p, nn.Module))),
        ):
            for state.stage in range(len(self._recipe.stages)):
                self._start_stage()
                while len(self._history) < state.epochs and not state.stop:
                    state.epoch = len(self._history)
                    self._train_epoch()
            if is_main:
                self._run.finish()
        return state.history

    def checkpoint(self, name: str) -> Path | None:
        """The checkpoint `"best"` or `"last"` of the last stage, if there is one."""
        path = None if self._run is None else self._run.checkpoint(self._state.stage, name)
        return path if path is not None and path.is_file() else None

    def _start_stage(self) -> None:
        """Prepares a stage, and continues from its last checkpoint if there is one."""
        state, stage = self._state, self._recipe.stages[self._state.stage]
        state.epochs = self._settings.epochs if stage.epochs is None else stage.epochs
        state.stage_name, state.step, state.stop = stage.name, 0, False
        state.steps_per_epoch = self._feed.steps_per_epoch
        factor = lr_factor(self._settings, state.epochs, state.steps_per_epoch)
        common = self._settings, self._worker, self._statements, factor, self._note
        self._steps = [TrainingStep(self._recipe, part, *common) for part in stage.updates or (stage,)]
        schedules = [s for objective in (stage.objective, *stage.objectives) for s in schedules_of(objective)]
        self._schedules = list({id(schedule): schedule for schedule in schedules}.values())
        self._history = []
        for part in stage.activates:
            part.activate()
        path = None if self._run is None else self._run.checkpoint(state.stage, "last")
        if path is not None and path.is_file():
            self._restore(path)
            self._reporter.write_log(state)  # a run killed in between may not have logged its last epoch
        self._reporter.progress.restart(state.step)

    def _train_epoch(self) -> None:
        state, started, examples, first = self._state, time.perf_counter(), 0, None
        self._totals = [0.0] * len(self._steps)
        for number, batch in enumerate(self._feed.batches(state.epoch)):
            first = first or batch
            state.batch, state.examples = number, batch_rows(batch[0]) * self._worker.size
            self._train_batch(*batch)
            examples += state.examples
            self._reporter.step_end(state)
        if first is None:
            raise ValueError("data has no batches")
        self._read_losses()
        if not all(bool(torch.isfinite(parameter).all()) for step in self._steps for parameter in step.parameters):
            raise self._error("parameters are not finite after the last step", self._steps[0], first)
        optimizers = [optimizer for step in self._steps for optimizer in step.optimizers.values()]
        speed = examples / (time.perf_counter() - started)
        row = {"stage": state.stage, "epoch": state.epoch, "train/bound": -self._totals[0] / examples}
        if len(self._steps) > 1:
            row |= {f"train/loss/{s.name}": t / examples for s, t in zip(self._steps, self._totals, strict=True)}
        row |= self._validate(first)
        row["learning_rate"] = optimizers[0].optimizer.param_groups[0]["lr"]
        row["gradient_norm"] = math.hypot(*(step.gradient_norm() for step in self._steps))
        row |= {"examples_per_second": speed, "seconds": time.perf_counter() - started}
        for optimizer in optimizers:
            optimizer.after_epoch(row.get("validation/bound", row["train/bound"]))
        self._history.append(row)
        state.history.append(row)
        # NaN, which max() would keep if it came first, is never the best
        bounds = [max(-math.inf, row.get("validation/bound", math.nan)) for row in self._history]
        waited = len(bounds) - 1 - bounds.index(max(bounds))
        state.stop = self._settings.early_stopping is not None and waited >= self._settings.early_stopping
        self._reporter.call("on_epoch_end", state)
        if self._settings.compile == "auto" and len(self._history) == 1 and self._may_capture():
            for step in self._steps:
                step.captured.choose(first, (state.epochs - 1) * examples / speed / len(self._steps))
        if self._run is not None and self._worker.is_main:
            self._save(is_best=waited == 0 and bounds[-1] > -math.inf)
        self._reporter.checkpoint_end(state)

    def _train_batch(self, x: dict[str, Tensor], observed: dict[str, Tensor] | None) -> None:
        state, losses = self._state, []
        for schedule in self._schedules:
            schedule.set(epoch=state.epoch, step=state.step)
        for step in self._steps:
            try:
                losses.append(step.gradients(x, observed))
            except ValueError as error:  # Pyro's validation fails on NaN parameters before there is a loss
                if not non_finite_sites(step.model, step.guide, x, observed):
                    raise
                raise self._error("no loss can be computed", step, (x, observed)) from error
            if self._worker.device.type == "cpu" and not math.isfinite(losses[-1]):
                raise self._error(f"the loss is {float(losses[-1])}", step, (x, observed))
            step.apply(state.step)
        state.losses, state.step = losses, state.step + 1
        self._pending.append(losses)
        if len(self._pending) == _INTERVAL:
            self._read_losses()

    def _read_losses(self) -> None:
        """Adds up the losses since the last call.

        On an accelerator the losses are read only here, so a loss that is not finite is noticed up to 49 steps late.
        The error then names the step but no site, because by then all sites are NaN.
        """
        for number, losses in enumerate(self._pending, self._state.batch + 1 - len(self._pending)):
            values = [float(loss) for loss in losses]
            if not all(map(math.isfinite, values)):
                where = f"in epoch {self._state.epoch}, step {number}"
                raise NonFiniteLossError(f"the loss is {values} {where}, noticed after step {self._state.batch}")
            self._totals = [total + value for total, value in zip(self._totals, values, strict=True)]
        self._pending.clear()

    def _error(self, what: str, step: TrainingStep, batch: Batch) -> NonFiniteLossError:
        sites = ", ".join(non_finite_sites(step.model, step.guide, *batch))
        sites = sites or "no single site of this process: the terms overflow together"
        where = f"in epoch {self._state.epoch}, step {self._state.batch}"
        return NonFiniteLossError(f"{what} {where}; not finite: {sites}")

    def _may_capture(self) -> bool:
        """Whether steps may be captured: all that the user wants to be, by default those that repeat themselves."""
        objectives = [step.objective for step in self._steps]
        others = *self._programs, *self._settings.callbacks  # a callback may change what a step does
        wanted = self._settings.compile is True or repeats_itself(self._modules, objectives, others)
        return wanted and self._worker.size == 1

    def _note(self, text: str) -> None:
        if self._settings.compile is True:
            warnings.warn(text, stacklevel=2)
        else:
            self._reporter.progress.note(text)

    @torch.no_grad()
    def _validate(self, first: Batch) -> dict[str, float]:
        """The metrics of the validation data per example, with every warm-up at its end.

        Without validation data, the metrics are those of the first training batch, without its bound, which would
        describe a single batch only.
        """
        sums: dict[str, Tensor] = {}
        objective = self._recipe.stages[self._state.stage].objective
        with ExitStack() as stack:
            stack.enter_context(evaluation_mode(*self._modules))
            stack.enter_context(self._worker.autocast())
            for schedule in self._schedules:
                stack.enter_context(schedule.finished())
            for x, observed in self._feed.batches(VALIDATION, otherwise=[first]):
                evaluation = evaluation_of(objective, *self._programs, x, observed)
                values = {"bound": evaluation.bound, **evaluation.sites, "": torch.tensor(batch_rows(x))}
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value.float().cpu()
        totals = dict(zip(sums, self._worker.sum(torch.stack(list(sums.values()))).tolist(), strict=True))
        examples, prefix = totals.pop(""), "validation" if self._feed.validates else "train"
        if not self._feed.validates:
            del totals["bound"]
        return {f"{prefix}/{name}": total / examples for name, total in totals.items()}

    def _save(self, is_best: bool) -> None:
        """Writes the checkpoints of this epoch."""
        state = self._state
        checkpoint = state_of(self._modules, sorted(self._statements.names))
        checkpoint |= {"updates": [step.state_dict() for step in self._steps], "history": self._history}
        checkpoint |= {"step": state.step, "stopped": state.stop, "rng": torch.get_rng_state()}
        # "last" is written after "best": a run killed between the two repeats the epoch and writes both again
        paths = [self._run.checkpoint(state.stage, name) for name in (("best", "last") if is_best else ("last",))]
        write_checkpoint(checkpoint, *paths)
        if len(self._history) == 1:  # fails early if the state of an optimizer cannot be read back
            read_checkpoint(paths[-1], _PARTS)

    def _restore(self, path: Path) -> None:
        """Continues from a checkpoint."""
        state, checkpoint = self._state, read_checkpoint(path, _PARTS)
        load_programs(checkpoint, self._modules, path)
        self._statements.names |= checkpoint["param_store"].keys()
        try:
            for step, saved in zip(self._steps, checkpoint["updates"], strict=True):
                step.load_state_dict(saved, captured=self._may_capture())  # there may be callbacks now
            torch.set_rng_state(checkpoint["rng"])
        except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"the run cannot be continued from {path}: {error}") from error
        self._history, state.step, state.stop = (checkpoint[name] for name in ("history", "step", "stopped"))
        state.history += self._history
