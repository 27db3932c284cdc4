"""mmJSD: a mixture of experts whose Jensen-Shannon divergence to a dynamic prior is small."""

from collections.abc import Mapping

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives import JensenShannonELBO
from multipyro.inference.options import Weight
from multipyro.inference.recipes._base import Recipe, Stage, method
from multipyro.inference.recipes._private import PrivateWeighting
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
    weighting: PrivateWeighting,
    *,
    divergence_weights: Mapping[str, Weight] | None = None,
    prior_samples: bool = False,
) -> Recipe:
    """The mmJSD method.

    Args:
        networks: Builds the parts.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites, and the sizes of the private latents.
        divergence_weights: Modality, or `"prior"`, -> weight in the divergence.
        prior_samples: Whether the prior has its share of the samples that are decoded.
    """
    dims = weighting.private_dims
    model = MultimodalModel(
        latent_dim, networks.likelihoods(latent_dim, dims), private=dims, covariates=networks.covariate_features()
    )
    private = networks.private_encoders(dims)
    guide = MixtureOfExperts(latent_dim, networks.encoders(latent_dim), private=private)
    return Recipe(model, guide, (Stage(JensenShannonELBO(divergence_weights, prior_samples, weighting.sites)),))
