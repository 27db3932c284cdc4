"""MoPoE: a mixture over the products of all subsets of experts."""

from collections.abc import Mapping

from multipyro.guides import MixtureOfProducts
from multipyro.inference.objectives.terms import Term, WeightedELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes._private import PRIVATE_OPTIONS, private_latents
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["MOPOE"]

_KL = {"mixture": "sampled", "subsets": "components"}


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    objective: str = "mixture",
    prior_expert: str = "full",
    private: int | Mapping[str, int] | None = None,
    private_beta: float | Mapping[str, float] = 1.0,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    if objective not in _KL:
        raise ValueError(f"objective must be 'mixture' or 'subsets', got {objective!r}")
    sites, schedules = site_weights(networks, beta, warmup, weights)
    own = private_latents(networks, latent_dim, private, private_beta, beta, warmup)
    sites, schedules = {**sites, **own.sites}, (*schedules, *own.schedules)
    model = MultimodalModel(latent_dim, own.likelihoods, private=own.dims)
    encoders = networks.encoders(latent_dim)
    guide = MixtureOfProducts(latent_dim, encoders, prior_expert=prior_expert, private=own.encoders)
    # with the components' KLs, one subset a row estimates the mean of the subsets' own bounds
    elbo = WeightedELBO(lambda m, g, _: [Term(m, g, sites=sites)], kl=_KL[objective], schedules=schedules)
    return Recipe("mopoe", model, guide, (Stage(elbo),), latent_dim)


MOPOE = MethodInfo(
    name="mopoe",
    title="mixture of products of experts",
    paper="Sutter et al., 2021, eq. 6",
    programs="ELBO(m || g), g the mixture over subset products",
    stages=1,
    subsets="every subset",
    needs_complete_rows=False,
    networks="M encoders",
    options={"objective": "mixture", "prior_expert": "full", **PRIVATE_OPTIONS},
    build=_build,
    architectures=("residual", "characters"),
)
