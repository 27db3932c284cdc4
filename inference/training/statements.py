"""Pyro's parameter store during training, and which of its statements SVI would train."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyro
from pyro import poutine
from torch import Tensor, nn

__all__ = ["Statements"]


class Statements:
    """The `pyro.param` and `pyro.module` statements of a training run, in a parameter store of its own.

    Values of statements in plain functions continue from the store outside, and are put back into it at the end, since
    they live nowhere else. Parameters of modules neither leak in nor out.
    """

    def __init__(self) -> None:
        self._store = pyro.get_param_store()
        self._seen: set[str] = set()
        self.names: dict[str, None] = {}

    @contextmanager
    def opened(self) -> Iterator["Statements"]:
        """The context of a whole run."""
        values: dict[str, dict] = {"params": {}, "constraints": {}}
        try:
            with self._store.scope(_without_modules(self._store.get_state())):
                try:
                    yield self
                finally:
                    values = _without_modules(self._store.get_state())
        finally:  # after an interrupt too, as for the parameters of modules
            self._store.set_state(values)

    @contextmanager
    def recorded(self) -> Iterator[dict[str, Tensor]]:
        """Yields a dict that, after this context, has the parameters that SVI would train in its step."""
        parameters: dict[str, Tensor] = {}
        with poutine.trace(param_only=True) as capture:
            yield parameters
        sites = capture.trace.nodes.items()
        parameters.update((name, site["value"].unconstrained()) for name, site in sites if site["type"] == "param")
        # those of a checkpoint may occur later
        self._seen = set(self._store.keys()) - (self.names.keys() - parameters.keys())
        self.keep(parameters)

    def new(self) -> dict[str, Tensor]:
        """Parameters of statements that occurred since, with a gradient from the last step."""
        if len(self._store) == len(self._seen):
            return {}
        values = self._store.named_parameters()
        parameters = {name: v for name, v in values if name not in self._seen and v.grad is not None}
        self._seen |= parameters.keys()
        self.keep(parameters)
        return parameters

    def keep(self, parameters: Mapping[str, Tensor]) -> None:
        """Records the statements that a checkpoint must keep: those whose values are in no module."""
        self.names.update({name: None for name, value in parameters.items() if not isinstance(value, nn.Parameter)})


def _without_modules(state: Mapping[str, dict]) -> dict[str, dict]:
    """The entries of a store that are not parameters of a module."""
    names = [name for name, value in state["params"].items() if not isinstance(value, nn.Parameter)]
    return {kind: {name: state[kind][name] for name in names} for kind in ("params", "constraints")}
