"""mmJSD: a mixture of experts whose Jensen-Shannon divergence to a dynamic prior is small."""

from collections.abc import Mapping

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives import JensenShannonELBO
from multipyro.inference.options import Weight
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks

__all__ = ["mmjsd"]


@method(
    "mmjsd",
    title="mixture of experts, Jensen-Shannon divergence to a dynamic prior",
    paper="Sutter et al., 2020",
    architectures=("residual", "characters"),
    private_latents=True,
)
def mmjsd(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    divergence_weights: Mapping[str, Weight] | None = None,
    prior_samples: bool = False,
) -> Recipe:
    """The mmJSD method.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites, and the sizes of the private latents.
        divergence_weights: Modality, or `"prior"`, -> weight in the divergence.
        prior_samples: Whether the prior has its share of the samples that are decoded.
    """
    dims = weighting.private_dims
    model, private = networks.model(latent_dim, dims), networks.private_encoders(dims)
    guide = MixtureOfExperts(latent_dim, networks.encoders(latent_dim), private=private)
    return Recipe(model, guide, (Stage(JensenShannonELBO(divergence_weights, prior_samples, weighting.sites)),))
