"""What a stage of training is made of: its updates of each batch, its batches, and where its checkpoints go."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from multipyro.inference.handlers import frozen
from multipyro.inference.programs import Program
from multipyro.inference.recipes import Recipe, Stage, Update
from multipyro.inference.training._plan import optimizer_from, trained_parameters

__all__ = ["Step", "Work", "steps_of"]


@dataclass(frozen=True)
class Step:
    """One update of a batch.

    Args:
        loss: Its objective.
        model: The generative program, with what does not train frozen.
        guide: The variational program, likewise.
        train: The modules that train.
        parameters: What trains.
        optimizer: Called with `parameters`, returns the optimizer.
        name: Its name in logs.
    """

    loss: ELBO
    model: Program
    guide: Program
    train: Sequence[nn.Module]
    parameters: list[Tensor]
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    name: str


@dataclass(frozen=True)
class Work:
    """What a stage of training is made of.

    Args:
        model: The generative program, as it is validated.
        guide: The variational program, likewise.
        loss: The objective that is validated.
        programs: The modules whose state a checkpoint holds.
        others: Those of them that are part of no program; each update freezes what it does not train.
        steps: The updates of each batch.
        statements: Unconstrained values of `param` statements, by name; they train and are kept too.
        train: Called with epoch, rank and world size, returns the batches.
        validation: As `train`; None for no validation.
        seed: Seed of the run.
        gradient_clip: Largest norm of the gradient of an update; None for no limit.
        patience: Number of epochs without a better validation bound after which training stops; None for never.
        show: Whether there is a progress bar to show each step's loss in.
        folder: Where the checkpoints go; None for nowhere.
        stage: Number of the stage, for the history.
        on_epoch: Called with the history after each epoch, by one process.
    """

    model: Program
    guide: Program
    loss: ELBO
    programs: Sequence[nn.Module]
    others: Sequence[nn.Module]
    steps: Sequence[Step]
    statements: dict[str, Tensor]
    train: Callable[[int, int, int], Any]
    validation: Callable[[int, int, int], Any] | None
    seed: int
    gradient_clip: float | None
    patience: int | None
    show: bool
    folder: Path | None
    stage: int
    on_epoch: Callable[[list[dict[str, float]]], None]


def steps_of(
    recipe: Recipe,
    stage: Stage,
    updates: Sequence[Update],
    statements: Mapping[str, Tensor],
    optimizer: Any,
    lr: float,
) -> list[Step]:
    """The steps of a stage.

    Args:
        recipe: What is trained.
        stage: The stage.
        updates: What `updates_of` gives for it.
        statements: Values of `param` statements, which train too; a stage with updates has none.
        optimizer: What `fit` takes for an optimizer, for the updates without one of their own.
        lr: Learning rate of Adam.

    Raises:
        ValueError: If an update has nothing to train.
    """
    whole = not stage.updates and stage.train is None
    steps = []
    for update in updates:
        model, guide = (p if whole else frozen(p, update.train) for p in (recipe.model, recipe.guide))
        parameters = [*trained_parameters(update), *statements.values()]
        if not parameters:
            part = f" of stage {stage.name!r}" if stage.updates else ""
            kind = "update" if stage.updates else "stage"
            raise ValueError(f"{kind} {update.name!r}{part} has nothing to train: no parameter requires a gradient")
        make = optimizer_from(update.optimizer or optimizer, lr)
        steps.append(Step(update.objective, model, guide, update.train, parameters, make, update.name))
    return steps
