"""MVAE: a product of experts trained on sub-sampled modalities."""

from collections.abc import Mapping

from multipyro.guides import ProductOfExperts
from multipyro.inference.objectives.subset import SubsetELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes._private import PRIVATE_OPTIONS, private_latents
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["MVAE"]


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    random_subsets: int = 1,
    private: int | Mapping[str, int] | None = None,
    private_beta: float | Mapping[str, float] = 1.0,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    sites, _ = site_weights(networks, beta, warmup, weights)
    own = private_latents(networks, latent_dim, private, private_beta, beta, warmup)
    model = MultimodalModel(latent_dim, own.likelihoods, private=own.dims)
    guide = ProductOfExperts(latent_dim, networks.encoders(latent_dim), private=own.encoders)
    elbo = SubsetELBO(random_subsets, {**sites, **own.sites})
    return Recipe("mvae", model, guide, (Stage(elbo),), latent_dim)


MVAE = MethodInfo(
    name="mvae",
    title="product of experts, sub-sampled ELBOs",
    paper="Wu and Goodman, 2018",
    programs="sum_S ELBO(m|S || g|S), S = all, singles, k random",
    stages=1,
    subsets="every subset",
    needs_complete_rows=False,
    networks="M encoders",
    options={"random_subsets": 1, **PRIVATE_OPTIONS},
    build=_build,
)
