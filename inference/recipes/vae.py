"""The variational autoencoder of one modality, the baseline of every table."""

from multipyro.guides import ProductOfExperts
from multipyro.inference.objectives import GUIDE, MODEL, elbo
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks

__all__ = ["vae"]


@method(
    "vae",
    title="VAE of one modality",
    paper="Kingma and Welling, 2014",
    subsets="the modality",
    networks="1 encoder",
    takes="the first; itself",
)
def vae(networks: Networks, latent_dim: int, weighting: Weighting, *, modality: str | None = None) -> Recipe:
    """The VAE of one modality.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        modality: The modality; the first one by default.
    """
    networks = networks.select([next(iter(networks.modalities)) if modality is None else modality])
    model = networks.model(latent_dim)
    guide = ProductOfExperts(latent_dim, networks.encoders(latent_dim), prior_expert=False)
    return Recipe(model, guide, (Stage(elbo(MODEL, GUIDE, weighting.sites)),))
