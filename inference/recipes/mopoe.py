"""MoPoE: a mixture over the products of all subsets of experts."""

from collections.abc import Mapping
from typing import Literal

from multipyro.guides import MixtureOfProducts
from multipyro.inference.objectives import GUIDE, MODEL, elbo
from multipyro.inference.options import Count, Weight
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes._private import private_latents
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["mopoe"]


@method(
    "mopoe",
    title="mixture of products of experts",
    paper="Sutter et al., 2021, eq. 6",
    architectures=("residual", "characters"),
)
def mopoe(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    objective: Literal["mixture", "subsets"] = "mixture",
    prior_expert: Literal["full", "all", "none"] = "full",
    private: Count | Mapping[str, Count] | None = None,
    private_beta: Weight | Mapping[str, Weight] = 1.0,
) -> Recipe:
    """MoPoE.

    Args:
        networks: Builds the parts.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites.
        objective: `"mixture"` is the ELBO of the mixture; `"subsets"` the mean of the subsets' own ELBOs, estimated
            with one subset per data point.
        prior_expert: Which products have the prior as an expert.
        private: Size of every modality's private latent, or modality -> size; None for none.
        private_beta: Weight of the KLs of the private latents beside `beta`, or modality -> weight.
    """
    latents = private_latents(networks, latent_dim, weighting, private, private_beta)
    model = MultimodalModel(latent_dim, latents.likelihoods, private=latents.dims)
    encoders = networks.encoders(latent_dim)
    guide = MixtureOfProducts(latent_dim, encoders, prior_expert=prior_expert, private=latents.encoders)
    kl = "components" if objective == "subsets" else "sampled"
    return Recipe(model, guide, (Stage(elbo(MODEL, GUIDE, latents.sites, kl=kl)),))
