"""Contexts that change how modules and programs run, and leave them as they were."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["batch_norms", "batch_statistics", "evaluation_mode", "masked", "training_mode"]


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The batch norms within a module; while one trains, the output of an example depends on the others."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def evaluation_mode(*modules: nn.Module) -> AbstractContextManager[None]:
    """Puts modules, with all that is in them, into evaluation mode."""
    return _mode(modules, training=False)


def training_mode(*modules: nn.Module) -> AbstractContextManager[None]:
    """Puts modules, with all that is in them, into training mode."""
    return _mode(modules, training=True)


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms within normalize by the statistics of their batch and leave the running statistics as they are."""
    norms = batch_norms(module)
    tracking = [norm.track_running_stats for norm in norms]
    with training_mode(*norms):
        for norm in norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm, tracked in zip(norms, tracking, strict=True):
                norm.track_running_stats = tracked


def masked(rows: Tensor | None) -> AbstractContextManager:
    """Excludes the rows that are False from every density in this context; None excludes none."""
    return nullcontext() if rows is None else poutine.mask(mask=rows)


@contextmanager
def _mode(modules: Iterable[nn.Module], training: bool) -> Iterator[None]:
    # each part once, or one that two modules share would be restored to what the first has set
    parts = {id(part): part for module in modules for part in module.modules()}.values()
    modes = [part.training for part in parts]
    for part in parts:
        part.training = training
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
