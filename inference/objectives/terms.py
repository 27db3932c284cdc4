"""Objectives as weighted sums of ELBOs between programs, with one trace a guide and step."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from torch import Tensor

from multipyro.batch import private_modality
from multipyro.guides import StratifiedMixture
from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference.handlers import Program, program_key
from multipyro.inference.objectives.schedules import LinearWarmup

__all__ = ["MultimodalELBO", "SiteWeights", "Term", "WeightedELBO"]

Weight = float | Tensor | LinearWarmup
SiteWeights = Mapping[str, Weight]


def weight_value(weight: Weight) -> float | Tensor:
    """The present value of a weight."""
    return weight.value if isinstance(weight, LinearWarmup) else weight


def schedules_in(sites: SiteWeights) -> list[LinearWarmup]:
    """The schedules among the weights of sites."""
    return [weight for weight in sites.values() if isinstance(weight, LinearWarmup)]


@dataclass(frozen=True)
class Term:
    r"""One weighted ELBO between two programs.

    .. math:: w \, \mathrm{ELBO}(p \| q) = w \, E_q [ \log p - \log q ]

    Args:
        p: The generative program: a model, or a guide that scores the latents another guide drew (then the term is
            `-KL(q || p)`, summed over the batch).
        q: The variational program.
        weight: Weight of the term: a number, a tensor `()` or `(batch,)`, or a schedule. 0 is allowed.
        sites: Site name -> weight, applied to that site on both sides (for example a KL weight for `z`).
        name: Prefix of the term's sums in reports; empty for the main term.

    Example:
        >>> elbo = WeightedELBO(lambda m, g, modalities: [Term(m, g, sites={"z": 0.5, "label": 10.0})])
    """

    p: Program
    q: Program
    weight: Weight = 1.0
    sites: SiteWeights | None = None
    name: str = ""


@dataclass
class Evaluation:
    """The value of an objective on one batch: its bound and, per site, the unweighted sums behind it."""

    bound: Tensor
    sites: dict[str, Tensor] = field(default_factory=dict)

    def add(self, site: str, value: Tensor) -> None:
        """Adds to the sum of one site."""
        self.sites[site] = self.sites[site] + value if site in self.sites else value


class MultimodalELBO(ELBO):
    """Base of the objectives here: `evaluate` computes a bound, the rest of Pyro's `ELBO` interface follows from it.

    Losses are minus the bound, summed over the batch, in nats.

    Args:
        num_particles: Number of samples of the latents a row, drawn in one vectorized call.
        schedules: The schedules among the weights, moved by whoever trains.

    Example:
        >>> from multipyro.inference import SubsetELBO
        >>> issubclass(WeightedELBO, MultimodalELBO) and issubclass(SubsetELBO, MultimodalELBO)
        True
    """

    def __init__(self, num_particles: int = 1, schedules: Sequence[LinearWarmup] = ()) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles must be at least 1, got {num_particles}")
        super().__init__(num_particles, max_plate_nesting=1, vectorize_particles=num_particles > 1)
        self.schedules = tuple(schedules)

    @abstractmethod
    def evaluate(
        self, model: Program, guide: Program, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> Evaluation:
        """The bound, a tensor that can be differentiated, and its per-site sums."""

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, a tensor `()` summed over the batch, in nats."""
        with encoders_run_once():
            return -self.evaluate(model, guide, *args, **kwargs).bound  # a loss is minimized

    @torch.no_grad()
    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, summed over the batch, in nats."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """As `loss`, after adding its gradients to the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    @torch.no_grad()
    def report(
        self, model: Program, guide: Program, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Per-site sums, unweighted, in nats over the batch: `reconstruction/<modality>` and `kl/<latent>`.

        The sums of a named term carry its name as a prefix.
        """
        with encoders_run_once():
            return self.evaluate(model, guide, x, observed).sites

    def _get_trace(self, model: Program, guide: Program, args: tuple, kwargs: dict) -> tuple:
        guide_trace = self._guide_trace(guide, *args, **kwargs)
        return self._model_trace(model, guide_trace, *args, **kwargs), guide_trace

    def _guide_trace(self, guide: Program, *args: Any, **kwargs: Any) -> poutine.Trace:
        return poutine.trace(self._vectorized_num_particles(guide)).get_trace(*args, **kwargs)

    def _model_trace(self, model: Program, guide_trace: poutine.Trace, *args: Any, **kwargs: Any) -> poutine.Trace:
        replayed = poutine.replay(self._vectorized_num_particles(model), trace=guide_trace)
        return poutine.trace(replayed).get_trace(*args, **kwargs)


class TermsELBO(MultimodalELBO):
    """Base of the objectives that are sums of terms: a subclass says which, in `terms`.

    Args:
        num_particles: Number of samples of the latents a row.
        kl: `"analytic"` uses closed forms where the families have one and the latents of both programs come in one
            order (elsewhere it falls back to samples); `"sampled"` never does; `"components"` replaces the KL of a
            mixture by the weighted mean of its components' KLs, an upper bound, so that the objective estimates the
            mean of the components' own bounds with one component a row.
        schedules: As in `MultimodalELBO`.
    """

    def __init__(self, num_particles: int = 1, kl: str = "analytic", schedules: Sequence[LinearWarmup] = ()) -> None:
        super().__init__(num_particles, schedules)
        if kl not in ("analytic", "sampled", "components"):
            raise ValueError(f"kl must be 'analytic', 'sampled' or 'components', got {kl!r}")
        self.kl = kl

    @abstractmethod
    def terms(self, model: Program, guide: Program, modalities: tuple[str, ...]) -> Sequence[Term]:
        """The terms for a batch that holds `modalities`."""

    def evaluate(
        self, model: Program, guide: Program, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> Evaluation:
        result = Evaluation(torch.zeros(()))
        traces: dict[tuple, poutine.Trace] = {}
        for term in self.terms(model, guide, tuple(x)):
            key = program_key(term.q)
            if key not in traces:
                traces[key] = self._guide_trace(term.q, x, observed)
                traces[key].compute_log_prob()
            p_trace = self._model_trace(term.p, traces[key], x, observed)
            p_trace.compute_log_prob()
            self._add_term(result, term, p_trace, traces[key])
        return result

    def _add_term(self, result: Evaluation, term: Term, p_trace: poutine.Trace, q_trace: poutine.Trace) -> None:
        p_sites, q_sites = sample_sites(p_trace), sample_sites(q_trace)
        latents = [name for name, site in q_sites.items() if not site["is_observed"]]
        check_sites(p_sites, latents)
        weights = term.sites or {}
        for scheduled in (term.weight, *weights.values()):
            moves = isinstance(scheduled, LinearWarmup) and scheduled.length > 1
            if moves and not any(scheduled is known for known in self.schedules):
                raise ValueError(
                    f"a warm-up over {scheduled.length} {scheduled.unit}s weighs a term but is not among the schedules "
                    f"of the {type(self).__name__}, so that nobody would move it: pass it in schedules="
                )
        weight = weight_value(term.weight)
        ordered = [name for name in p_sites if name in latents] == latents
        for name, site in p_sites.items():
            if name in latents:
                value, label = -self._kl(site, q_sites[name], ordered), f"kl/{name}"
            else:
                value, label = site["log_prob"], f"reconstruction/{name}"
            rows = common_rows(name, p_sites, q_sites, latents)
            if rows is not None:
                value = torch.where(rows, value, 0.0)
            if value.dim() > 1:
                value = value.mean(0)  # particles
            weighted = value * weight * weight_value(weights.get(name, 1.0))
            result.bound = result.bound + weighted.sum()
            total = value.detach().sum()
            result.add(f"{term.name}/{label}" if term.name else label, -total if name in latents else total)

    def _kl(self, p_site: dict, q_site: dict, ordered: bool) -> Tensor:
        """The KL of one latent site, exact or estimated, `(..., batch)`, masked and scaled as the site is."""
        exact = None
        if self.kl == "components" and isinstance(q_site["fn"], StratifiedMixture):
            mixture = q_site["fn"]
            divergences = [closed_form(component, p_site["fn"]) for component in mixture.components]
            if all(divergence is not None for divergence in divergences):
                exact = (mixture.weights * torch.stack(divergences, -1)).sum(-1)
        elif self.kl != "sampled" and ordered:
            exact = closed_form(q_site["fn"], p_site["fn"])
        if exact is None:
            return q_site["log_prob"] - p_site["log_prob"]
        return scale_and_mask(exact, q_site["scale"], q_site["mask"])


class WeightedELBO(TermsELBO):
    r"""The weighted sum of the ELBOs that a function names.

    .. math:: L = \sum_t w_t \, \mathrm{ELBO}(p_t \| q_t)

    Every guide is traced once a step and every generative program replayed on its trace, so each latent is drawn once
    and each encoder runs once. Use it as any ELBO of Pyro: `SVI(model, guide, optim, loss)`.

    Args:
        terms: Called as `terms(model, guide, modalities)` with the names of the modalities in the batch; returns
            `Term`s.
        num_particles: Number of samples of the latents a row.
        kl: `"analytic"`, `"sampled"` or `"components"`, as in `TermsELBO`.
        schedules: The schedules among the weights.

    Example:
        >>> beta = LinearWarmup(200)
        >>> elbo = WeightedELBO(lambda m, g, modalities: [Term(m, g, sites={"z": beta})], schedules=[beta])
    """

    def __init__(
        self,
        terms: Callable[[Program, Program, tuple[str, ...]], Sequence[Term]],
        num_particles: int = 1,
        kl: str = "analytic",
        schedules: Sequence[LinearWarmup] = (),
    ) -> None:
        super().__init__(num_particles, kl, schedules)
        self._terms = terms

    def terms(self, model: Program, guide: Program, modalities: tuple[str, ...]) -> Sequence[Term]:
        return self._terms(model, guide, modalities)


def sample_sites(trace: poutine.Trace) -> dict[str, dict]:
    """The sample sites of a trace by name, plates left out."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site)
    }


def check_sites(p_sites: Mapping[str, dict], latents: Sequence[str]) -> None:
    """Raises unless the generative program's unobserved sites are exactly the latents the guide drew."""
    unobserved = [name for name, site in p_sites.items() if not site["is_observed"] and name not in latents]
    if unobserved:
        raise ValueError(
            f"the generative program samples {unobserved}, which the guide does not: it has {list(latents)}"
        )
    missing = [name for name in latents if name not in p_sites]
    if missing:
        raise ValueError(f"the guide samples {missing}, which the generative program does not: it has {list(p_sites)}")


def common_rows(
    name: str, p_sites: Mapping[str, dict], q_sites: Mapping[str, dict], latents: Sequence[str]
) -> Tensor | None:
    """The rows that count at a site, bool `(batch,)`; None for all.

    A row whose shared latents one program leaves out is left out on both sides, everywhere; one whose private latent
    is left out, at that latent and at its modality.
    """
    rows = None
    for latent in latents:
        modality = private_modality(latent)
        if modality is None or name in (latent, modality):
            for mask in (p_sites[latent]["mask"], q_sites[latent]["mask"]):
                if isinstance(mask, Tensor):
                    rows = mask if rows is None else rows & mask
    return rows


def closed_form(q: Any, p: Any) -> Tensor | None:
    """`KL(q || p)` where the two families have a formula for it, else None."""
    try:
        return torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return None
