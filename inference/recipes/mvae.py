"""MVAE: a product of experts trained on sub-sampled modalities."""

from collections.abc import Mapping
from typing import Annotated

from multipyro.guides import ProductOfExperts
from multipyro.inference.objectives import subset_elbo
from multipyro.inference.options import Bounds, Count, Weight
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes._private import private_latents
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["mvae"]


@method("mvae", title="product of experts, sub-sampled ELBOs", paper="Wu and Goodman, 2018, eq. 5")
def mvae(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    random_subsets: Annotated[int, Bounds(0)] = 1,
    private: Count | Mapping[str, Count] | None = None,
    private_beta: Weight | Mapping[str, Weight] = 1.0,
) -> Recipe:
    """MVAE.

    Args:
        networks: Builds the parts.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites.
        random_subsets: Number of random subsets per step, beside the full one and the single ones.
        private: Size of every modality's private latent, or modality -> size; None for none.
        private_beta: Weight of the KLs of the private latents beside `beta`, or modality -> weight.
    """
    latents = private_latents(networks, latent_dim, weighting, private, private_beta)
    model = MultimodalModel(latent_dim, latents.likelihoods, private=latents.dims)
    guide = ProductOfExperts(latent_dim, networks.encoders(latent_dim), private=latents.encoders)
    return Recipe(model, guide, (Stage(subset_elbo(random_subsets, latents.sites)),))
