"""Splitting of batches and samples so that memory stays bounded, and the progress of loops over the parts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from multipyro.batch import Masks, Values, batch_rows
from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference._program_modules import modules_of
from multipyro.inference.evaluation._inputs import check_num_samples, take_rows
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.programs import Program
from multipyro.inference.progress import Progress

__all__ = [
    "MAX_ELEMENTS",
    "chunks",
    "elements_of_guide",
    "elements_per_row",
    "in_parts",
    "joined",
    "row_chunks",
    "show_progress",
    "shown",
]

#: elements of the largest tensor at once; beyond about 32 MB one decoder call is slower than several
MAX_ELEMENTS = 8_000_000
# samples per data point that should fit at once, if that many are requested
_SAMPLES_AT_ONCE = 64
# where the loops of an evaluation show how far they are; an evaluation has many, at any depth
_PROGRESS: ContextVar[Progress | None] = ContextVar("progress", default=None)
_Part = TypeVar("_Part")


@contextmanager
def show_progress(show: bool) -> Iterator[None]:
    """Loops over data points inside show how far they are, each with the time left, if `show` is true."""
    progress = Progress(show)
    token = _PROGRESS.set(progress if show else _PROGRESS.get())
    try:
        yield
    finally:
        _PROGRESS.reset(token)
        progress.close()


def shown(parts: Sequence[_Part], what: str) -> Iterator[_Part]:
    """The parts of a loop one after the other, with its progress where that is shown."""
    if progress := _PROGRESS.get():
        progress.restart()
    for number, part in enumerate(parts, 1):
        yield part
        if progress:
            progress.update(number, len(parts), lambda: what)


def chunks(number: int, elements: int) -> Iterator[int]:
    """Splits `number` samples of `elements` elements each into parts of bounded memory, and yields their sizes."""
    check_num_samples(number)
    size = max(1, MAX_ELEMENTS // max(elements, 1))
    for start in range(0, number, size):
        yield min(size, number - start)


def row_chunks(rows: int, elements: int, num_samples: int, what: str = "evaluating") -> Iterator[Tensor]:
    """Indices of rows, in parts that leave room for 64 samples of each at once where so many are wanted."""
    samples = min(max(num_samples, 1), _SAMPLES_AT_ONCE)
    return shown(torch.arange(rows).split(max(1, MAX_ELEMENTS // (elements * samples))), f"{what}, {rows} data points")


def in_parts(
    x: Values,
    observed: Masks,
    num_samples: int,
    elements: int,
    compute: Callable[[dict[str, Tensor], dict[str, Tensor] | None], Mapping[str, Tensor]],
    what: str = "evaluating",
) -> dict[str, Tensor]:
    """What is computed for every sample of every data point, in parts of bounded memory.

    Args:
        x: Modality name -> values `(batch, *event)`.
        observed: Modality name -> which data points are observed.
        num_samples: Number of samples per data point.
        elements: Elements of the largest tensor of one sample of one data point.
        compute: Called with the values and the masks of some data points, under a plate of some samples and with each
            encoder run once for all of them; returns name -> values `(samples, rows, ...)`.
        what: What the loop does, for its progress.

    Returns:
        Name -> values `(num_samples, batch, ...)`.
    """
    check_num_samples(num_samples)
    parts = []
    for rows in row_chunks(batch_rows(x), elements, num_samples, what):
        part, masks = take_rows(x, observed, rows)
        samples = []
        with encoders_run_once():
            for number in chunks(num_samples, len(rows) * elements):
                with pyro.plate("num_samples", number, dim=-2):
                    samples.append(compute(part, masks))
        parts.append(joined(samples, 0))
    return joined(parts, 1)


def joined(parts: Sequence[Mapping[str, Tensor]], dim: int = 0) -> dict[str, Tensor]:
    """The tensors of several dicts, concatenated name by name."""
    return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}


def elements_per_row(program: Program, *args: object, **kwargs: object) -> int:
    """Elements of the largest tensor that a program computes when called with one row, hidden layers included."""
    return max(elements_of_guide(program, *args, **kwargs))


def elements_of_guide(program: Program, *args: object, **kwargs: object) -> tuple[int, int]:
    """Elements of the largest tensors of a program called with one row: once, and for each sample of its latents.

    Once, the networks run, for all components of a mixture. Each sample needs the density of all components, and where
    that is a flow's, networks again.

    Raises:
        ValueError: If a latent lies outside the plate `data`: it has no samples for each data point.
    """
    layers, densities, components = [1], [1], [1]

    def record(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            layers.append(output.numel())

    hooks = [part.register_forward_hook(record) for root in modules_of(program) for part in root.modules()]
    try:
        sites = sample_sites(poutine.trace(program).get_trace(*args, **kwargs))
    finally:
        for hook in hooks:
            hook.remove()
    for name, site in sites.items():
        if not site["is_observed"] and all(frame.name != "data" for frame in site["cond_indep_stack"]):
            raise ValueError(
                f"latent {name!r} is outside the plate 'data': a latent that all data points share, such as weights "
                "with a prior, is not supported here: use pyro.infer.Predictive"
            )
        components.append(getattr(site["fn"], "num_components", 1))
        densities.append(site["value"].numel() * components[-1])
    return max(layers), max(*densities, max(layers) // max(components))
