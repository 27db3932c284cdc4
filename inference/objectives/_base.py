"""The base of all objectives, and the result of evaluating one."""

import copy
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Self

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.util import warn_if_nan
from torch import Tensor

from multipyro.batch import Masks, Values
from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference.objectives.spec import fingerprint_of
from multipyro.inference.programs import Binding, Program

__all__ = ["Evaluation", "Objective", "replayed", "trace_of"]


@dataclass
class Evaluation:
    """The value of an objective on one batch.

    Args:
        bound: What is maximized, a tensor `()` that can be differentiated, summed over the batch, in nats.
        sites: The unweighted sums over the batch behind it, by name: `reconstruction/<modality>`, `kl/<latent>`.

    Example:
        >>> evaluation = Evaluation(torch.zeros(()))
        >>> evaluation.add("label", torch.tensor([-1.0, -2.0]), weight=10.0)
        >>> evaluation.bound, evaluation.sites
        (tensor(-30.), {'reconstruction/label': tensor(-3.)})
    """

    bound: Tensor
    sites: dict[str, Tensor] = field(default_factory=dict)

    def add(
        self,
        site: str,
        value: Tensor,
        weight: float | Tensor = 1.0,
        kind: str = "reconstruction",
        prefix: str = "",
    ) -> None:
        """Adds a site to the bound, and its unweighted sum to the report.

        Args:
            site: Name of the site.
            value: Its contribution, `(..., batch)`, of which the mean over the leading dimensions counts: a
                log-likelihood, or minus a divergence.
            weight: A number, or a tensor `()` or `(batch,)`.
            kind: `"reconstruction"`, or the name of a divergence (`"kl"`), which is reported with its own sign.
            prefix: Name of the term, empty for the main one.
        """
        if value.dim() > 1:
            value = value.flatten(0, -2).mean(0)  # particles
        self.bound = self.bound + (value * weight).sum()
        total = value.detach().sum()
        self.record(
            f"{prefix}/{kind}/{site}" if prefix else f"{kind}/{site}", total if kind == "reconstruction" else -total
        )

    def record(self, name: str, value: Tensor) -> None:
        """Adds to one sum of the report."""
        self.sites[name] = self.sites[name] + value if name in self.sites else value


class Objective(ELBO):
    """Base of the objectives: a subclass defines in `evaluate` what is maximized; Pyro's `ELBO` interface follows.

    An objective is a value. It is printed by `equation()`, two are equal if their classes and settings are, and
    `fingerprint_of` shows whether a resumed run has the objective that it was started with. The settings are the
    public attributes: numbers, strings, tensors, modules, schedules, expressions of programs, and lists and dicts of
    these. A function among them is an error when a run is saved; attributes whose name begins with an underscore, and
    the code of the class, are not compared.

    Losses are minus the bound, summed over the batch, in nats.

    Args:
        num_particles: Number of samples of the latents per data point, drawn in one vectorized call.

    Example:
        >>> from multipyro.inference.objectives import TracePair
        >>> class FreeBits(Objective):  # the KL of a data point costs nothing below `free` nats
        ...     def __init__(self, free):
        ...         super().__init__()
        ...         self.free = free
        ...
        ...     def evaluate(self, model, guide, x, observed=None):
        ...         pair = TracePair.of_traces(*self.traces(model, guide, x, observed))
        ...         result = Evaluation(torch.zeros(()))
        ...         for name in pair.p_sites:
        ...             if name in pair.latents:
        ...                 result.add(name, pair.masked(name, -pair.kl(name).clamp(min=self.free)), kind="kl")
        ...             else:
        ...                 result.add(name, pair.masked(name, pair.log_prob(name)))
        ...         return result
        >>> FreeBits(0.5) == FreeBits(0.5), FreeBits(0.5) == FreeBits(1.0)
        (True, False)
    """

    def __init__(self, num_particles: int = 1) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles must be at least 1, got {num_particles}")
        super().__init__(num_particles, max_plate_nesting=1, vectorize_particles=num_particles > 1)

    @abstractmethod
    def evaluate(self, model: Program, guide: Program, x: Values, observed: Masks = None) -> Evaluation:
        """The bound, a tensor that can be differentiated, and the sums by site behind it.

        Args:
            model: The generative program, called as `model(x, observed)`.
            guide: The variational program, called in the same way.
            x: Modality name -> values `(batch, *event)`.
            observed: Modality name -> rows that are observed, bool `(batch,)`; an absent key means all rows.
        """

    def equation(self) -> str:
        """The objective as text, `m` the model, `g` the guide, `|A` restricted to the modalities `A`."""
        return type(self).__name__

    def bind(self, model: Program, guide: Program) -> Self:
        """A copy of the objective that makes its handlers around this model and this guide once, and not in each call.

        The objective itself keeps no model alive.
        """
        bound = copy.copy(self)
        vars(bound)["_cached_binding"] = Binding(model, guide)
        return bound

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, a tensor `()` summed over the batch, in nats."""
        with encoders_run_once():
            return -self.evaluate(model, guide, *args, **kwargs).bound  # a loss is minimized

    @torch.no_grad()
    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, summed over the batch, in nats; warns if it is NaN, as Pyro's objectives do."""
        return warn_if_nan(self.differentiable_loss(model, guide, *args, **kwargs).item(), "loss")

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """As `loss`, after adding the gradients to the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return warn_if_nan(loss.item(), "loss")

    @torch.no_grad()
    def report(self, model: Program, guide: Program, x: Values, observed: Masks = None) -> dict[str, Tensor]:
        """The sums by site, unweighted, in nats over the batch: `reconstruction/<modality>` and `kl/<latent>`.

        The sums of a named term carry its name as a prefix.
        """
        with encoders_run_once():
            return self.evaluate(model, guide, x, observed).sites

    def traces(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> tuple[poutine.Trace, poutine.Trace]:
        """A trace of the guide, and one of the model replayed on it, `(model_trace, guide_trace)`.

        With several particles the latents have them in dimension -2, left of the plate `data`.
        """
        guide_trace = trace_of(guide, self.num_particles, *args, **kwargs)
        return replayed(model, guide_trace, self.num_particles, *args, **kwargs), guide_trace

    def _get_trace(self, model: Program, guide: Program, args: tuple, kwargs: dict) -> tuple:
        return self.traces(model, guide, *args, **kwargs)

    def _binding(self, model: Program, guide: Program) -> Binding:
        """The programs that the expressions in this objective stand for: kept by `bind`, else made for each call."""
        binding = vars(self).get("_cached_binding")
        is_bound = binding is not None and binding.model is model and binding.guide is guide
        return binding if is_bound else Binding(model, guide)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_cached")}

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and fingerprint_of(self) == fingerprint_of(other))

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return self.equation()


def trace_of(program: Program, num_particles: int, *args: Any, **kwargs: Any) -> poutine.Trace:
    """A trace of a program under a plate of particles."""
    return poutine.trace(_with_particles(program, num_particles)).get_trace(*args, **kwargs)


def replayed(program: Program, trace: poutine.Trace, num_particles: int, *args: Any, **kwargs: Any) -> poutine.Trace:
    """A trace of a program whose latents have the values of another trace."""
    program = poutine.replay(_with_particles(program, num_particles), trace=trace)
    return poutine.trace(program).get_trace(*args, **kwargs)


def _with_particles(program: Program, num_particles: int) -> Program:
    if num_particles == 1:
        return program
    return pyro.plate("num_particles_vectorized", num_particles, dim=-2)(program)
