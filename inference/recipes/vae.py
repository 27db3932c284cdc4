"""The variational autoencoder of one modality, the baseline of every table."""

from collections.abc import Mapping

from multipyro.guides import ProductOfExperts
from multipyro.inference.objectives.terms import Term, WeightedELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["VAE"]


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    modality: str | None = None,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    # weights may name modalities of the data that it does not take, as in a comparison of methods
    sites, schedules = site_weights(networks, beta, warmup, weights)
    networks = networks.select([modality if modality is not None else next(iter(networks.modalities))])
    model = MultimodalModel(latent_dim, networks.likelihoods(latent_dim))
    guide = ProductOfExperts(latent_dim, networks.encoders(latent_dim), prior_expert=False)
    elbo = WeightedELBO(lambda m, g, _: [Term(m, g, sites=sites)], schedules=schedules)
    return Recipe("vae", model, guide, (Stage(elbo),), latent_dim)


VAE = MethodInfo(
    name="vae",
    title="VAE of one modality",
    paper="Kingma and Welling, 2014",
    programs="ELBO(m|{a} || g|{a})",
    stages=1,
    subsets="{a}",
    needs_complete_rows=False,
    networks="1 encoder",
    options={"modality": None},
    build=_build,
    takes="the first; itself",
)
