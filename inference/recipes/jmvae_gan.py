"""JMVAE-kl whose decoder of one modality is also trained against a discriminator."""

from typing import Literal

from multipyro.inference.objectives import DiscriminatorLoss, GeneratorLoss
from multipyro.inference.options import Weight
from multipyro.inference.recipes._base import Recipe, Stage, Update, Weighting, method
from multipyro.inference.recipes.jmvae import jmvae_kl
from multipyro.inference.recipes.networks import Networks

__all__ = ["jmvae_gan"]


@method(
    "jmvae-gan",
    title="JMVAE-kl with a decoder trained against a discriminator",
    paper="Suzuki et al., section 6.2",
    networks="2^M - 1 encoders, 1 discriminator",
    min_modalities=2,
    architectures=("strided",),
)
def jmvae_gan(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    alpha: Weight = 0.1,
    adversarial: str | None = None,
    reconstruction: Weight = 1.0,
    latents: Literal["model", "uniform"] = "model",
    discriminator: Literal["normalized", "leaky"] = "normalized",
) -> Recipe:
    """JMVAE-GAN.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        alpha: Weight of the terms that fit the encoders of the subsets to the joint encoder.
        adversarial: The modality with a discriminator; the first image by default, else the first continuous modality.
        reconstruction: Weight of the log-likelihood in the decoder's objective.
        latents: Prior of the samples, as in `GeneratorLoss`.
        discriminator: Kind of the discriminator, as in `Networks.discriminator`.
    """
    name = _default_modality(networks) if adversarial is None else adversarial
    if name not in networks.modalities:
        raise ValueError(f"adversarial must be one of {list(networks.modalities)}, got {name!r}")
    base = jmvae_kl(networks, latent_dim, weighting, alpha=alpha)
    model, guide, objective = base.model, base.guide, base.stages[0].objective
    network = networks.discriminator(name, discriminator)
    others = tuple(likelihood for modality, likelihood in model.likelihoods.items() if modality != name)
    updates = (
        Update(objective, (guide, *others), name="encoders"),
        Update(GeneratorLoss(network, name, latents, reconstruction), (model.likelihoods[name],), name="generator"),
        Update(DiscriminatorLoss(network, name, latents), (network,), name="discriminator"),
    )
    return Recipe(model, guide, (Stage(objective, updates=updates),), others=(network,))


def _default_modality(networks: Networks) -> str:
    """The first image, else the first modality that a gradient passes through."""
    continuous = [name for name, modality in networks.modalities.items() if modality.likelihood != "categorical"]
    if not continuous:
        raise ValueError(f"jmvae-gan needs a continuous modality, got {list(networks.modalities)}")
    return next((name for name in continuous if networks.modalities[name].kind == "image"), continuous[0])
