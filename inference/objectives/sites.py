"""From a trace of a model and one of a guide to the contribution of each site: shared by all objectives."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from multipyro.batch import private_modality

__all__ = [
    "TracePair",
    "check_latents",
    "check_plates",
    "check_reparametrized",
    "closed_form",
    "log_prob_of",
    "sample_sites",
]

_PLATES = ("data", "num_particles_vectorized")


class TracePair:
    """The sites of a generative program's trace, replayed on that of a variational program.

    Args:
        p_sites: Site name -> site of the generative program.
        q_sites: Site name -> site of the variational program; those that are not observed are the latents.

    Raises:
        ValueError: If the generative program's unobserved sites are not exactly the latents; with Pyro's validation
            enabled also if a site lies in a plate other than `data`, a latent lies in none, or a latent has no
            reparametrized samples to pass a gradient through.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 8), 2)})
        >>> x = {"image": torch.zeros(5, 4)}
        >>> guide_trace = poutine.trace(guide).get_trace(x)
        >>> model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(x)
        >>> pair = TracePair.of_traces(model_trace, guide_trace)
        >>> pair.latents, pair.kl("z").shape, pair.log_prob("image").shape
        (['z'], torch.Size([5]), torch.Size([5]))
    """

    def __init__(self, p_sites: Mapping[str, dict], q_sites: Mapping[str, dict]) -> None:
        self.p_sites, self.q_sites = p_sites, q_sites
        self.latents = [name for name, site in q_sites.items() if not site["is_observed"]]
        check_latents(p_sites, self.latents)
        check_plates(p_sites, self.latents, "generative program")
        check_plates(q_sites, self.latents, "guide")
        check_reparametrized(q_sites)

    @classmethod
    def of_traces(cls, p_trace: poutine.Trace, q_trace: poutine.Trace) -> "TracePair":
        """The pair of two traces."""
        return cls(sample_sites(p_trace), sample_sites(q_trace))

    @property
    def subsample_scale(self) -> float:
        """`N / n` of a generative program whose plate `data` is a subsample of size `n` of `N` data points; else 1."""
        frames = {frame for site in self.p_sites.values() for frame in site["cond_indep_stack"] if frame.name == "data"}
        return max((frame.full_size / frame.size for frame in frames if frame.full_size), default=1.0)

    @property
    def is_ordered(self) -> bool:
        """Whether both programs sample their latents in one order, as a divergence in closed form requires."""
        return [name for name in self.p_sites if name in self.latents] == self.latents

    def masked(self, name: str, value: Tensor) -> Tensor:
        """The value of a site `(..., batch)`, 0 in the rows that do not count there.

        A row whose shared latents one program leaves out is left out on both sides, everywhere; one whose private
        latent is left out, at that latent and at its modality.
        """
        rows = None
        for latent in self.latents:
            modality = private_modality(latent)
            if modality is None or name in (latent, modality):
                for mask in (self.p_sites[latent]["mask"], self.q_sites[latent]["mask"]):
                    if isinstance(mask, Tensor):
                        rows = mask if rows is None else rows & mask
        return value if rows is None else torch.where(rows, value, 0.0)

    def log_prob(self, name: str) -> Tensor:
        """The log-density of a site of the generative program `(..., batch)`, in nats."""
        return log_prob_of(self.p_sites[name])

    def kl(self, name: str, exact: bool = True) -> Tensor:
        """The divergence `KL(q || p)` of a latent `(..., batch)`, in closed form or estimated by its sample.

        Both densities have the scale of the generative program's site, so that a plate with a subsample, which only
        one of the programs may declare, scales both.

        Args:
            name: The latent.
            exact: Whether to use a closed form where there is one.
        """
        p_site, q_site = self.p_sites[name], self.q_sites[name]
        divergence = closed_form(q_site["fn"], p_site["fn"]) if exact else None
        if divergence is None:
            return log_prob_of(q_site, p_site["scale"]) - log_prob_of(p_site)
        return scale_and_mask(divergence, p_site["scale"], q_site["mask"])


def check_latents(p_sites: Mapping[str, dict], latents: Sequence[str]) -> None:
    """Raises unless the generative program's unobserved sites are exactly the latents that the guide samples."""
    extra = [name for name, site in p_sites.items() if not site["is_observed"] and name not in latents]
    if extra:
        raise ValueError(f"the generative program samples {extra}, which the guide does not: it has {list(latents)}")
    missing = [name for name in latents if name not in p_sites]
    if missing:
        raise ValueError(f"the guide samples {missing}, which the generative program does not: it has {list(p_sites)}")


def check_plates(sites: Mapping[str, dict], latents: Sequence[str], program: str) -> None:
    """Raises if a site is in a plate other than `data`, or a latent in none; with Pyro's validation enabled."""
    if not is_validation_enabled():
        return
    for name, site in sites.items():
        plates = [frame.name for frame in site["cond_indep_stack"]]
        foreign = [plate for plate in plates if plate not in _PLATES]
        if foreign:
            raise ValueError(
                f"site {name!r} of the {program} is in the plate {foreign[0]!r}, but the only plate of an objective is "
                "'data': declare further dimensions of a site by `.to_event()`"
            )
        if name in latents and "data" not in plates:
            raise ValueError(
                f"latent {name!r} of the {program} is outside the plate 'data': a latent that all data points share is "
                "supported by Pyro's own objectives alone, such as Trace_ELBO"
            )


def check_reparametrized(q_sites: Mapping[str, dict]) -> None:
    """Raises if a latent has no reparametrized samples to pass a gradient through; with Pyro's validation enabled."""
    if not (is_validation_enabled() and torch.is_grad_enabled()):
        return
    for name, site in q_sites.items():
        distribution = site["fn"]
        if not site["is_observed"] and not distribution.has_rsample and _has_gradient(distribution):
            raise ValueError(
                f"latent {name!r} of the guide has the distribution {_innermost(distribution)}, which has no "
                "reparametrized samples, so that the gradient of the guide would be wrong"
            )


def sample_sites(trace: poutine.Trace) -> dict[str, dict]:
    """The sample sites of a trace by name, plates left out."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site)
    }


def log_prob_of(site: dict, scale: float | Tensor | None = None) -> Tensor:
    """The log-density of a site's value `(..., batch)`, scaled and masked as the site is, or by another scale."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, site["scale"] if scale is None else scale, site["mask"])


def closed_form(q: Any, p: Any) -> Tensor | None:
    """`KL(q || p)` where the two families have a formula for it, else None."""
    try:
        return torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return None


def _innermost(distribution: Any) -> str:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return type(distribution).__name__


def _has_gradient(distribution: Any) -> bool:
    """Whether a parameter of a distribution requires a gradient."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    parameters = (distribution.__dict__.get(name) for name in distribution.arg_constraints)
    return any(isinstance(parameter, Tensor) and parameter.requires_grad for parameter in parameters)
