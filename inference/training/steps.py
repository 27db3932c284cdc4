"""One parameter update: loss, gradients and optimizer; and the error for a loss that is not finite."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from multipyro.inference.capture import CapturedGradients
from multipyro.inference.handlers import frozen, frozen_modules
from multipyro.inference.objectives import Objective
from multipyro.inference.recipes import Recipe, Stage, Update
from multipyro.inference.runs.checkpoints import programs_of
from multipyro.inference.training.devices import Worker
from multipyro.inference.training.optimizers import ScheduledOptimizer
from multipyro.inference.training.settings import TrainingSettings
from multipyro.inference.training.statements import Statements

__all__ = ["NonFiniteLossError", "TrainingStep"]


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the epoch, the step and the sites."""


class TrainingStep:
    """An update that each batch of a stage performs.

    It trains the same parameters as `SVI` on the same programs: those of programs that are modules, and those of
    `pyro.param` and `pyro.module` statements, from the step in which they first occur. As in Pyro, each statement has
    its own optimizer.

    Args:
        recipe: The recipe.
        part: A stage of the recipe, or one of a stage's updates: it defines what is minimized and which modules train.
        settings: The settings of the run.
        worker: This process.
        statements: The parameter store of the run.
        factor: Number of a step -> factor of the learning rate; None where that is constant.
        note: Called with a one-line reason if steps are not captured or compiled.

    Attributes:
        captured: Computes the gradients.
        parameters: The trained parameters.
        optimizers: Name of a statement, or `""` for the modules of the programs -> optimizer.
    """

    def __init__(
        self,
        recipe: Recipe,
        part: Stage | Update,
        settings: TrainingSettings,
        worker: Worker,
        statements: Statements,
        factor: Callable[[int], float | None],
        note: Callable[[str], None],
    ) -> None:
        self._settings, self._worker, self._statements, self._factor = settings, worker, statements, factor
        self.name, self.objective, self._others = part.name, part.objective, recipe.others
        self.model, self.guide, self._train = recipe.model, recipe.guide, part.train
        self._is_whole, self._is_first = part.train is None, True
        if self._is_whole:
            self._train = tuple(program for program in (self.model, self.guide) if isinstance(program, nn.Module))
        else:
            self.model, self.guide = frozen(self.model, part.train), frozen(self.guide, part.train)
        self._bound = self.objective
        if isinstance(self.objective, Objective):
            self._bound = self.objective.bind(self.model, self.guide)
        self._optimizer = part.optimizer or settings.optimizer
        self._norm: Tensor | None = None
        self._saved: dict[str, Any] = {}
        self.parameters: list[Tensor] = []
        self.optimizers: dict[str, ScheduledOptimizer] = {}
        self._add({"": [p for module in self._train for p in module.parameters() if p.requires_grad]})
        self.captured = CapturedGradients(
            self._by_programs,
            lambda objective, *batch: self._loss(objective.bind(self.model, self.guide), *batch),
            self.objective,
            self.parameters,
            [buffer for module in programs_of(self.model, self.guide, *self._others) for buffer in module.buffers()],
            5e-2 if worker.mixed_precision else 1e-3,
            note,
        )
        if settings.compile is True and worker.size == 1:
            self.captured.mode = "compiled"
        elif settings.compile is True:
            note("steps are not captured: training uses several processes")

    def gradients(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None) -> Tensor:
        """Returns the loss of a batch and stores its gradients in the parameters, both summed over the processes."""
        return self._worker.sum_gradients(self.captured(x, observed), self.parameters)

    def _by_programs(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None) -> Tensor:
        """Runs the programs on a batch, stores the gradients in the parameters and returns the loss."""
        for parameter in self.parameters:
            parameter.grad = None
        occurring = self._is_first or self._is_whole
        with self._statements.occurring(self._is_first) if occurring else nullcontext({}) as modules:
            loss = self._loss(self._bound, x, observed)
            if loss.requires_grad:
                loss.backward()
        self._add(modules)
        if not self.parameters:
            raise ValueError(f"{self.name!r} has nothing to train: no parameter requires a gradient")
        self._is_first = False
        return loss.detach()

    def _loss(self, objective: ELBO, x: Any, observed: Any) -> Tensor:
        """The loss of a batch; an objective that is not ours also stores its gradients in the parameters."""
        with (
            frozen_modules(self._others, self._train) if self._others else nullcontext(),
            self._worker.autocast(),
        ):
            if isinstance(objective, Objective):
                return objective.differentiable_loss(self.model, self.guide, x, observed)
            return torch.as_tensor(objective.loss_and_grads(self.model, self.guide, x, observed)).detach()

    def apply(self, number: int) -> None:
        """Updates the parameters in a step, the number of which in its stage counts from 0."""
        if self._settings.gradient_clip is not None:
            self._norm = nn.utils.clip_grad_norm_(self.parameters, self._settings.gradient_clip)
        factor = self._factor(number)
        for optimizer in self.optimizers.values():
            optimizer.step(factor)

    def gradient_norm(self) -> float:
        """The norm of the last gradient, before it was clipped."""
        # an infinite limit clips nothing
        return float(nn.utils.clip_grad_norm_(self.parameters, math.inf) if self._norm is None else self._norm)

    def state_dict(self) -> dict[str, Any]:
        """The states of the optimizers, by what they train, and of the captured steps."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"optimizers": {**self._saved, **optimizers}, "captured": self.captured.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], captured: bool) -> None:
        """Restores what `state_dict` returned; statements that have not occurred yet get their state when they do.

        Args:
            state: What it returned.
            captured: Whether steps that were captured are captured again.
        """
        self._saved = dict(state["optimizers"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(self._saved.pop(name))
        if captured:
            self.captured.load_state_dict(state["captured"])

    def _add(self, modules: Mapping[str, list[Tensor]]) -> None:
        """Creates optimizers for the parameters of modules and statements that are not trained yet."""
        for name, parameters in modules.items():
            known = {id(parameter) for parameter in self.parameters}
            new = list({id(p): p for p in parameters if id(p) not in known}.values())
            if new:
                while name in self.optimizers:  # a parameter of a known module that requires a gradient only now
                    name += "+"
                self.parameters += new
                self.optimizers[name] = ScheduledOptimizer(self._optimizer, new, self._settings)
                if name in self._saved:
                    self.optimizers[name].load_state_dict(self._saved.pop(name))
