"""MVAE: a product of experts trained on sub-sampled modalities."""

from typing import Annotated

from multipyro.guides import ProductOfExperts
from multipyro.inference.objectives import subset_elbo
from multipyro.inference.options import Bounds
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks

__all__ = ["mvae"]


@method(
    "mvae",
    title="product of experts, sub-sampled ELBOs",
    paper="Wu and Goodman, 2018, eq. 5",
    private_latents=True,
)
def mvae(
    networks: Networks, latent_dim: int, weighting: Weighting, *, random_subsets: Annotated[int, Bounds(0)] = 1
) -> Recipe:
    """MVAE.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites, and the sizes of the private latents.
        random_subsets: Number of random subsets per step, beside the full one and the single ones.
    """
    dims = weighting.private_dims
    model, private = networks.model(latent_dim, dims), networks.private_encoders(dims)
    guide = ProductOfExperts(latent_dim, networks.encoders(latent_dim), private=private)
    return Recipe(model, guide, (Stage(subset_elbo(random_subsets, weighting.sites)),))
