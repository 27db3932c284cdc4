"""Splitting of batches and samples so that memory stays bounded."""

from collections.abc import Iterator

import torch
from pyro import poutine
from torch import Tensor, nn

from multipyro.inference._program_modules import modules_of
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.programs import Program

__all__ = ["MAX_ELEMENTS", "chunks", "elements_per_row", "row_chunks"]

#: elements of the largest tensor at once; beyond about 32 MB one decoder call is slower than several
MAX_ELEMENTS = 8_000_000
# samples per data point that should fit at once, if that many are requested
_SAMPLES_AT_ONCE = 64


def chunks(number: int, elements: int) -> Iterator[int]:
    """Splits `number` samples of `elements` elements each into parts of bounded memory, and yields their sizes."""
    if number < 1:
        raise ValueError(f"the number of samples must be at least 1, got {number}")
    size = max(1, MAX_ELEMENTS // max(elements, 1))
    for start in range(0, number, size):
        yield min(size, number - start)


def row_chunks(rows: int, elements: int, num_samples: int) -> tuple[Tensor, ...]:
    """Indices of rows, in parts small enough for 64 samples of each row (or all, if fewer) to fit at once."""
    samples = min(max(num_samples, 1), _SAMPLES_AT_ONCE)
    return torch.arange(rows).split(max(1, MAX_ELEMENTS // (elements * samples)))


def elements_per_row(program: Program, *args: object, **kwargs: object) -> int:
    """Elements of the largest tensor that a program makes when called with one row, hidden layers included."""
    largest = [1]

    def record(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            largest.append(output.numel())

    hooks = [part.register_forward_hook(record) for root in modules_of(program) for part in root.modules()]
    try:
        sites = sample_sites(poutine.trace(program).get_trace(*args, **kwargs))
    finally:
        for hook in hooks:
            hook.remove()
    # the density of a mixture is that of all its components
    largest += [site["value"].numel() * getattr(site["fn"], "num_components", 1) for site in sites.values()]
    return max(largest)
