"""The Lightning side of `fit`; imported by nothing else, because Lightning takes seconds to import."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as L
import pyro
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn

from multipyro.data import Batch
from multipyro.guides._once import encoders_run_once
from multipyro.inference._seeds import step_seed
from multipyro.inference.checkpoints import write_checkpoint
from multipyro.inference.combinators import Program
from multipyro.inference.terms import MultimodalELBO, Term, WeightedELBO, sample_sites
from multipyro.ppl_models._batch import batch_rows

__all__ = ["AtomicCheckpointIO", "NonFiniteLossError", "SVIModule"]

# validation draws from seeds of its own, outside the batches that training counts
_VALIDATION = -1


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the epoch, the step and the sites."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, path)


class SVIModule(L.LightningModule):
    """SVI of one objective as a Lightning module, optimised by hand so that every ELBO of Pyro fits.

    Args:
        model: The generative program.
        guide: The variational program.
        loss: The objective.
        programs: The modules whose state a checkpoint holds.
        parameters: What trains.
        extra: Unconstrained tensors of `param` statements, by name; they train and are kept too.
        optimizer: Called with the parameters, returns the optimiser.
        train: Called with epoch, rank and world size, returns the batches.
        validation: As `train`; None for no validation.
        seed: Seed of the run.
        gradient_clip: Largest norm of the gradient; None for no limit.
        show_loss: Whether each step's loss goes to the progress bar.
        on_epoch: Called with the history after each epoch.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        loss: ELBO,
        programs: Sequence[nn.Module],
        parameters: Sequence[Tensor],
        extra: dict[str, Tensor],
        optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
        train: Callable[[int, int, int], Any],
        validation: Callable[[int, int, int], Any] | None,
        seed: int,
        gradient_clip: float | None,
        show_loss: bool,
        on_epoch: Callable[[list[dict[str, float]]], None],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.programs = nn.ModuleList(programs)
        self._model, self._guide = (model,), (guide,)  # in tuples, lest a module be registered twice
        self._loss = loss
        self._trained, self._extra = list(parameters), extra
        self._optimizer, self._train, self._validation = optimizer, train, validation
        self._seed, self._clip, self._show_loss, self._on_epoch = seed, gradient_clip, show_loss, on_epoch
        self._schedules = tuple(getattr(loss, "schedules", ()))
        self.history: list[dict[str, float]] = []
        self._reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._optimizer(self._trained + list(self._extra.values()))

    def train_dataloader(self) -> Any:
        return self._train(self.current_epoch, self.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> Any:
        return [] if self._validation is None else self._validation(0, self.global_rank, self.trainer.world_size)

    def on_train_epoch_start(self) -> None:
        self._reset()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        started = time.perf_counter()
        x, observed = batch
        optimizer = self.optimizers()
        for schedule in self._schedules:
            schedule.set(epoch=self.current_epoch, step=self.global_step)
        torch.manual_seed(step_seed(self._seed, self.current_epoch, batch_idx))
        optimizer.zero_grad()
        loss = self._backward(x, observed)
        if not torch.isfinite(loss):
            raise NonFiniteLossError(self._explain(x, observed, loss.item(), batch_idx))
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._trained + list(self._extra.values()), self._clip)
        optimizer.step()
        self._bound -= loss
        self._rows += batch_rows(x)
        self._seconds += time.perf_counter() - started
        if self._show_loss:
            self.log("loss", loss / batch_rows(x), prog_bar=True, logger=False)
            self.log("rows/s", self._rows / self._seconds, prog_bar=True, logger=False)

    def on_validation_epoch_start(self) -> None:
        self._validated: dict[str, Tensor] = {}
        self._validated_rows = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, observed = batch
        torch.manual_seed(step_seed(self._seed, _VALIDATION, batch_idx))
        with ExitStack() as stack:
            for schedule in self._schedules:
                stack.enter_context(schedule.finished())
            sums = self._measure(x, observed)
        for name, value in sums.items():
            self._validated[name] = self._validated.get(name, 0.0) + value
        self._validated_rows += batch_rows(x)

    def on_train_epoch_end(self) -> None:
        rows = self._total(torch.tensor(float(self._rows)))
        row = {
            "epoch": self.current_epoch,
            "train/bound": (self._total(self._bound) / rows).item(),
            "rows_per_second": rows.item() / max(self._seconds, 1e-9),
        }
        if self._validation is not None:
            rows = self._total(torch.tensor(float(self._validated_rows)))
            for name, value in self._validated.items():
                row[f"validation/{name}"] = (self._total(value) / rows).item()
            self.log("validation/bound", row["validation/bound"], prog_bar=True, logger=False)
        if self.logger is not None:
            self.logger.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=self.current_epoch)
        self.history.append(row)
        if self.trainer.is_global_zero:
            self._on_epoch(self.history)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["rng_state"] = torch.get_rng_state()
        checkpoint["param_store"] = {name: value.detach() for name, value in self._extra.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
        torch.set_rng_state(checkpoint["rng_state"])
        with torch.no_grad():
            for name, value in checkpoint["param_store"].items():
                self._extra[name].copy_(value)

    def _reset(self) -> None:
        self._bound, self._rows, self._seconds = torch.zeros(()), 0, 0.0

    def _backward(self, x: dict[str, Tensor], observed: dict[str, Tensor] | None) -> Tensor:
        """Adds the gradients of the loss of all processes together, and returns that of this one."""
        model, guide = self._model[0], self._guide[0]
        if hasattr(self._loss, "differentiable_loss"):
            loss = self._loss.differentiable_loss(model, guide, x, observed)
            # losses are sums over the batch, but processes average their gradients
            self.manual_backward(loss * self.trainer.world_size)
            return loss.detach().cpu()
        loss = torch.tensor(self._loss.loss_and_grads(model, guide, x, observed))
        if self.trainer.world_size > 1:
            for parameter in self._trained:
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
        return loss

    def _measure(self, x: dict[str, Tensor], observed: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """The bound and the per-site sums of one batch."""
        model, guide = self._model[0], self._guide[0]
        if isinstance(self._loss, MultimodalELBO):
            with encoders_run_once():
                found = self._loss.evaluate(model, guide, x, observed)
            return {"bound": found.bound, **found.sites}
        bound = torch.tensor(-self._loss.loss(model, guide, x, observed))
        return {"bound": bound, **_PLAIN.report(model, guide, x, observed)}

    def _total(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes."""
        return self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum").cpu()

    @torch.no_grad()
    def _explain(self, x: dict[str, Tensor], observed: dict[str, Tensor] | None, loss: float, batch_idx: int) -> str:
        """What was not finite, found by tracing the programs once more."""
        names = []
        with pyro.validation_enabled(False), torch.random.fork_rng():
            guide_trace = poutine.trace(self._guide[0]).get_trace(x, observed)
            model_trace = poutine.trace(poutine.replay(self._model[0], trace=guide_trace)).get_trace(x, observed)
            for trace, side in ((guide_trace, "guide"), (model_trace, "model")):
                for name, site in sample_sites(trace).items():
                    finite_value = torch.isfinite(site["value"]).all()
                    if not finite_value or not torch.isfinite(site["fn"].log_prob(site["value"])).all():
                        what = "log-probability" if finite_value else "value"
                        names.append(f"the {what} of site {name!r} in the {side}")
        found = ", ".join(names) if names else "no single site: the terms overflow together"
        return f"the loss is {loss} in epoch {self.current_epoch}, step {batch_idx}; not finite: {found}"


_PLAIN = WeightedELBO(lambda model, guide, modalities: [Term(model, guide)])
