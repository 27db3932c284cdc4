"""MoPoE: a mixture over the products of all subsets of experts."""

from typing import Literal

from multipyro.guides import MixtureOfProducts
from multipyro.inference.objectives import GUIDE, MODEL, elbo
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks

__all__ = ["mopoe"]


@method(
    "mopoe",
    title="mixture of products of experts",
    paper="Sutter et al., 2021, eq. 6",
    architectures=("residual", "characters"),
    private_latents=True,
)
def mopoe(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    objective: Literal["mixture", "subsets"] = "mixture",
    prior_expert: Literal["full", "all", "none"] = "full",
) -> Recipe:
    """MoPoE.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites, and the sizes of the private latents.
        objective: `"mixture"` is the ELBO of the mixture; `"subsets"` the mean of the subsets' own ELBOs, estimated
            with one subset per data point.
        prior_expert: Which products have the prior as an expert.
    """
    dims = weighting.private_dims
    model, private = networks.model(latent_dim, dims), networks.private_encoders(dims)
    guide = MixtureOfProducts(latent_dim, networks.encoders(latent_dim), prior_expert=prior_expert, private=private)
    kl = "components" if objective == "subsets" else "sampled"
    return Recipe(model, guide, (Stage(elbo(MODEL, GUIDE, weighting.sites, kl=kl)),))
