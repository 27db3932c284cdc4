"""Schedules: weights of terms and sites that move while a model trains."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["LinearWarmup"]


class LinearWarmup:
    r"""A weight that grows linearly from exactly 0 to its peak.

    In the `i`-th unit (counted from 0) it is :math:`\beta \min(1, i / (n - 1))`: 0 in the first of `length` units and
    :math:`\beta` in the last. In plain SVI call `step()` after each update (or once an epoch, by unit);
    `fit` calls `set`.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), section 5.1 (per epoch); Wu and Goodman (2018) warm up per minibatch.

    Args:
        length: Number of units until the weight is at its peak; 0 or 1 for no warm-up.
        unit: `"epoch"` or `"step"`.
        peak: The weight at the end.

    Example:
        >>> beta = LinearWarmup(3)
        >>> values = []
        >>> for epoch in range(4):
        ...     values.append(beta.value.item())
        ...     beta.step()
        >>> values
        [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, length: int, unit: str = "epoch", peak: float = 1.0) -> None:
        if unit not in ("epoch", "step"):
            raise ValueError(f"unit must be 'epoch' or 'step', got {unit!r}")
        if length < 0:
            raise ValueError(f"length must not be negative, got {length}")
        self.length, self.unit, self.peak = length, unit, peak
        self._done = 0
        # one tensor, changed in place, so that a compiled step reads the new weight without being traced again
        self.value: Tensor = torch.zeros(())
        self._write()

    def step(self) -> None:
        """Moves on by one unit."""
        self._done += 1
        self._write()

    def set(self, epoch: int, step: int) -> None:
        """Moves to a place in a run, both counted from 0 over the whole of it."""
        self._done = epoch if self.unit == "epoch" else step
        self._write()

    @contextmanager
    def finished(self) -> Iterator[None]:
        """The weight is at its peak in this context, as an evaluation needs it."""
        self.value.fill_(self.peak)
        try:
            yield
        finally:
            self._write()

    def _write(self) -> None:
        share = 1.0 if self.length <= 1 else min(1.0, self._done / (self.length - 1))
        self.value.fill_(self.peak * share)
