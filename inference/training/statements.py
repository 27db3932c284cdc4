"""Pyro's parameter store during training, and which of its statements SVI would train."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import pyro
from pyro import poutine
from pyro.params.param_store import ParamStoreDict
from torch import Tensor, nn

__all__ = ["Statements"]


@dataclass
class Statements:
    """The `pyro.param` and `pyro.module` statements of a training run, in a separate parameter store.

    Values of statements in plain functions continue from the store outside, and are put back into it at the end, since
    they live nowhere else. Parameters of modules neither leak in nor out.

    Attributes:
        names: The statements that a checkpoint must keep, because their values are in no module.
    """

    names: set[str] = field(default_factory=set)
    _known: set[str] = field(default_factory=set)
    _store: ParamStoreDict = field(default_factory=pyro.get_param_store)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The context of a whole run."""
        values: dict[str, dict] = {"params": {}, "constraints": {}}
        try:
            with self._store.scope(_without_modules(self._store.get_state())):
                try:
                    yield
                finally:
                    values = _without_modules(self._store.get_state())
        finally:  # after an interrupt too, as for the parameters of modules
            self._store.set_state(values)

    @contextmanager
    def occurring(self, is_first: bool) -> Iterator[dict[str, list[Tensor]]]:
        """The context of a step, which computes gradients in it.

        Args:
            is_first: Whether the step is the first one. SVI trains all parameters of its statements, and in later steps
                those of statements that were not there before and have a gradient.

        Yields:
            A dict that, after this context, has the statements to train from now on: name -> parameters.
        """
        modules: dict[str, list[Tensor]] = {}
        with poutine.trace(param_only=True) if is_first else nullcontext() as recorded:
            yield modules
        if is_first:
            sites = recorded.trace.nodes.items()
            parameters = {name: site["value"].unconstrained() for name, site in sites if site["type"] == "param"}
            # those of a checkpoint may occur later
            self._known = set(self._store.keys()) - (self.names - parameters.keys())
        elif len(self._store) != len(self._known):
            values = self._store.named_parameters()
            parameters = {name: v for name, v in values if name not in self._known and v.grad is not None}
            self._known |= parameters.keys()
        else:
            return
        self.names |= {name for name, value in parameters.items() if not isinstance(value, nn.Parameter)}
        for name, value in parameters.items():
            modules.setdefault(name.partition("$$$")[0], []).append(value)


def _without_modules(state: Mapping[str, dict]) -> dict[str, dict]:
    """The entries of a store that are not parameters of a module."""
    names = [name for name, value in state["params"].items() if not isinstance(value, nn.Parameter)]
    return {kind: {name: state[kind][name] for name in names} for kind in ("params", "constraints")}
