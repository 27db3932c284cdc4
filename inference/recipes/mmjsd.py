"""mmJSD: a mixture of experts whose Jensen-Shannon divergence to a dynamic prior is small."""

from collections.abc import Mapping

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives import JensenShannonELBO
from multipyro.inference.options import Count, Weight
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes._private import private_latents
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["mmjsd"]


@method(
    "mmjsd",
    title="mixture of experts, Jensen-Shannon divergence to a dynamic prior",
    paper="Sutter et al., 2020",
    architectures=("residual", "characters"),
)
def mmjsd(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    divergence_weights: Mapping[str, Weight] | None = None,
    prior_samples: bool = False,
    private: Count | Mapping[str, Count] | None = None,
    private_beta: Weight | Mapping[str, Weight] = 1.0,
) -> Recipe:
    """The mmJSD method.

    Args:
        networks: Builds the parts.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites.
        divergence_weights: Modality, or `"prior"`, -> weight in the divergence.
        prior_samples: Whether the prior has its share of the samples that are decoded.
        private: Size of every modality's private latent, or modality -> size; None for none.
        private_beta: Weight of the KLs of the private latents beside `beta`, or modality -> weight.
    """
    latents = private_latents(networks, latent_dim, weighting, private, private_beta)
    model = MultimodalModel(latent_dim, latents.likelihoods, private=latents.dims)
    guide = MixtureOfExperts(latent_dim, networks.encoders(latent_dim), private=latents.encoders)
    return Recipe(model, guide, (Stage(JensenShannonELBO(divergence_weights, prior_samples, latents.sites)),))
