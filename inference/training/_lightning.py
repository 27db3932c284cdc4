"""The Lightning side of `fit`; imported by nothing else, because Lightning takes seconds to import."""

import math
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pyro
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from multipyro.batch import batch_rows
from multipyro.data import Batch
from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference.handlers import frozen_modules
from multipyro.inference.objectives import GUIDE, MODEL, Objective, elbo, schedules_of
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.training._work import Step, Work
from multipyro.inference.training.checkpoints import read_checkpoint, store_state, write_checkpoint
from multipyro.inference.training.fitting import NonFiniteLossError
from multipyro.inference.training.seeds import step_seed

__all__ = ["AtomicCheckpointIO", "SVIModule", "run_trainer", "trainer_for"]

# validation draws from seeds of its own, outside the batches that training counts
_VALIDATION = -1


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all, and read without running code from them."""

    def __init__(self) -> None:
        super().__init__()
        self._read_back = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, path)
        if not self._read_back:  # an optimizer or callback with a state that cannot be read again shows at once
            read_checkpoint(path)
            self._read_back = True

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(path)


class SVIModule(L.LightningModule):
    """SVI of one objective, or of several in turn, as a Lightning module.

    It optimizes by hand with `loss_and_grads`, as `pyro.infer.SVI` does, so that every ELBO of Pyro fits, and sums
    gradients over processes itself, because losses are sums over rows.

    Args:
        work: What to train.
    """

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.programs = nn.ModuleList(work.programs)
        self._work = (work,)  # in a tuple, lest its modules be registered twice
        self.trained = list({id(p): p for step in work.steps for p in step.parameters}.values())
        losses = (work.loss, *(step.loss for step in work.steps))
        self._schedules = tuple({id(s): s for loss in losses for s in schedules_of(loss)}.values())
        self.history: list[dict[str, float]] = []
        self._best, self._waited = -math.inf, 0
        self._losses, self._rows = [], 0

    @property
    def work(self) -> Work:
        """What is trained."""
        return self._work[0]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [step.optimizer(step.parameters) for step in self.work.steps]

    def train_dataloader(self) -> Any:
        return self.work.train(self.current_epoch, self.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> Any:
        validation = self.work.validation
        return [] if validation is None else validation(0, self.global_rank, self.trainer.world_size)

    def on_train_epoch_start(self) -> None:
        self._losses, self._rows, self._seconds = [0.0] * len(self.work.steps), 0, 0.0
        self._started = time.perf_counter()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        x, _ = batch
        work = self.work
        for schedule in self._schedules:
            # Lightning counts the steps of all optimizers
            schedule.set(epoch=self.current_epoch, step=self.global_step // len(work.steps))
        self._seed(self.current_epoch, batch_idx)
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        losses = []
        for step, optimizer in zip(work.steps, optimizers, strict=True):
            optimizer.zero_grad()
            with frozen_modules(work.others, step.train):
                losses.append(self._update(step, batch, batch_idx))
            optimizer.step()
        self._losses = [total + loss for total, loss in zip(self._losses, losses, strict=True)]
        if batch_idx == 0:
            self._first = batch
        self._rows += batch_rows(x) * self.trainer.world_size
        self._seconds = time.perf_counter() - self._started
        if work.show:
            rows = batch_rows(x) * self.trainer.world_size
            self.log("loss", losses[0] / rows, prog_bar=True, logger=False, batch_size=rows)
            self.log("rows/s", self._rows / self._seconds, prog_bar=True, logger=False, batch_size=rows)

    def _update(self, step: Step, batch: Batch, batch_idx: int) -> float:
        """The loss of one update, after leaving its gradients in its parameters."""
        x, observed = batch
        try:
            loss = step.loss.loss_and_grads(step.model, step.guide, x, observed)
        except ValueError as error:  # Pyro's validation stumbles over NaN parameters before there is a loss
            places = self._not_finite(x, observed)
            if not places:
                raise
            raise NonFiniteLossError(self._message("no loss can be computed", batch_idx, places)) from error
        loss = self._sum_over_processes(loss, step.parameters)
        if not math.isfinite(loss):
            places = self._not_finite(x, observed)
            raise NonFiniteLossError(self._message(f"the loss is {loss}", batch_idx, places))
        if self.work.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(step.parameters, self.work.gradient_clip)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._validated: dict[str, Tensor] = {}
        self._validated_rows = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._seed(_VALIDATION, batch_idx)
        for name, value in self._measure(batch).items():
            self._validated[name] = self._validated.get(name, 0.0) + value
        self._validated_rows += batch_rows(batch[0])

    def on_train_epoch_end(self) -> None:
        self._check_parameters()
        row = {
            "stage": self.work.stage,
            "epoch": self.current_epoch,
            "train/bound": -self._losses[0] / self._rows,
            "rows_per_second": self._rows / self._seconds,
        }
        if len(self.work.steps) > 1:
            names = [f"train/loss/{step.name}" for step in self.work.steps]
            row.update({name: loss / self._rows for name, loss in zip(names, self._losses, strict=True)})
        if self.work.validation is None:
            self._seed(_VALIDATION, 0)
            sums, rows, prefix = self._measure(self._first), batch_rows(self._first[0]), "train"
            del sums["bound"]
        else:
            sums, rows, prefix = self._validated, self._validated_rows, "validation"
        rows = self._total(torch.tensor(float(rows)))
        row.update({f"{prefix}/{name}": (self._total(value) / rows).item() for name, value in sums.items()})
        if self.work.validation is not None:
            self.log("validation/bound", row["validation/bound"], prog_bar=True, logger=False)
        if self.logger is not None:
            scalars = {name: value for name, value in row.items() if name not in ("stage", "epoch")}
            self.logger.log_metrics(scalars, step=self.current_epoch)
        self.history.append(row)
        self._keep(row.get("validation/bound"))
        if self.trainer.is_global_zero:
            self.work.on_epoch(self.history)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["best_bound"], checkpoint["epochs_without_better"] = self._best, self._waited
        checkpoint["rng_state"] = torch.get_rng_state()
        checkpoint["param_store"] = store_state(list(self.work.statements))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
        self._best, self._waited = checkpoint["best_bound"], checkpoint["epochs_without_better"]
        torch.set_rng_state(checkpoint["rng_state"])

    def _seed(self, epoch: int, batch_idx: int) -> None:
        number = batch_idx * self.trainer.world_size + self.global_rank
        torch.manual_seed(step_seed(self.work.seed, epoch, number))

    def _keep(self, bound: float | None) -> None:
        """Writes the checkpoints of this epoch, and stops the training when the bound has not risen for long."""
        better = bound is not None and bound > self._best
        if better:
            self._best, self._waited = bound, 0
        else:
            self._waited += 1
        if self.work.folder is not None:
            # the last one follows the best one: a kill between the two repeats the epoch, and with it the best one
            for name in ("best", "last") if better else ("last",):
                self.trainer.save_checkpoint(self.work.folder / f"{name}.ckpt")
        if self.work.patience is not None and self._waited >= self.work.patience:
            self.trainer.should_stop = True

    def _sum_over_processes(self, loss: float, trained: Sequence[Tensor]) -> float:
        """The loss of all processes together; their gradients are summed too."""
        if self.trainer.world_size == 1:
            return loss
        device = self.device
        parts = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained]
        present = torch.tensor([float(p.grad is not None) for p in trained], device=device)
        everything = torch.cat([*parts, present, torch.tensor([loss], device=device)])
        torch.distributed.all_reduce(everything)
        *sums, present, total = everything.split([*(len(part) for part in parts), len(parts), 1])
        for parameter, gradient, count in zip(trained, sums, present.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if count else None
        return total.item()

    def _measure(self, batch: Batch) -> dict[str, Tensor]:
        """The bound and the per-site sums of one batch, with every warm-up at its end."""
        (x, observed), work = batch, self.work
        with ExitStack() as stack, torch.no_grad():
            for schedule in self._schedules:
                stack.enter_context(schedule.finished())
            if isinstance(work.loss, Objective):
                with encoders_run_once():
                    found = work.loss.evaluate(work.model, work.guide, x, observed)
                return {"bound": found.bound, **found.sites}
            bound = torch.tensor(-work.loss.loss(work.model, work.guide, x, observed))
            if isinstance(work.loss, TraceEnum_ELBO):  # the guide lacks the sites that it sums out
                return {"bound": bound}
            report = getattr(work.loss, "report", _PLAIN.report)
            return {"bound": bound, **report(work.model, work.guide, x, observed)}

    def _total(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes."""
        return self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum").cpu()

    def _check_parameters(self) -> None:
        """Raises before a checkpoint is written if the last step left something that is no number."""
        if not all(torch.isfinite(parameter).all() for parameter in self.trained):
            (x, observed), last = self._first, self.trainer.num_training_batches - 1
            places = self._not_finite(x, observed)
            raise NonFiniteLossError(self._message("parameters are not finite after the last step", last, places))

    def _message(self, what: str, batch_idx: int, places: Sequence[str]) -> str:
        found = ", ".join(places) if places else "no single site of this process: the terms overflow together"
        return f"{what} in epoch {self.current_epoch}, step {batch_idx}; not finite: {found}"

    @torch.no_grad()
    def _not_finite(self, x: dict[str, Tensor], observed: dict[str, Tensor] | None) -> list[str]:
        """The sites whose value or log-probability is not finite, found by tracing the programs once more."""
        places = []
        with pyro.validation_enabled(False), torch.random.fork_rng():
            guide_trace = poutine.trace(self.work.guide).get_trace(x, observed)
            model_trace = poutine.trace(poutine.replay(self.work.model, trace=guide_trace)).get_trace(x, observed)
            for trace, side in ((guide_trace, "guide"), (model_trace, "model")):
                for name, site in sample_sites(trace).items():
                    finite_value = torch.isfinite(site["value"]).all()
                    if not finite_value or not torch.isfinite(site["fn"].log_prob(site["value"])).all():
                        what = "log-probability" if finite_value else "value"
                        places.append(f"the {what} of site {name!r} in the {side}")
        return places


def trainer_for(
    work: Work,
    epochs: int,
    device: str,
    devices: int,
    strategy: str,
    tensorboard: Path | None,
    callbacks: Sequence[Any],
) -> L.Trainer:
    """A trainer that does what `SVIModule` needs and nothing else.

    Args:
        work: What to train.
        epochs: Number of epochs.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.
        devices: Number of processes.
        strategy: Lightning's name of a strategy.
        tensorboard: The folder for event files; None for none.
        callbacks: Further callbacks of Lightning.
    """
    kind, _, index = device.partition(":")
    return L.Trainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=[int(index)] if index else devices,
        strategy=strategy,
        max_epochs=epochs,
        callbacks=[*callbacks, *([RichProgressBar(leave=False)] if work.show else [])],
        plugins=[AtomicCheckpointIO()],
        logger=False if tensorboard is None else TensorBoardLogger(tensorboard, name=None, version=""),
        enable_checkpointing=any(isinstance(callback, L.callbacks.Checkpoint) for callback in callbacks),
        enable_progress_bar=work.show,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        limit_val_batches=0 if work.validation is None else None,
        use_distributed_sampler=False,
        inference_mode=False,
    )


def run_trainer(trainer: L.Trainer, module: SVIModule, resumed: Path | None) -> None:
    """Trains; an interrupt from the keyboard stays one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=resumed, weights_only=True)
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        # Lightning turns it into an exit, and leaves the process deaf to the next one
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


_PLAIN = elbo(MODEL, GUIDE)
