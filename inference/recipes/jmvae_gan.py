"""JMVAE-kl whose decoder of one modality is trained against a discriminator as well."""

from collections.abc import Mapping

from multipyro.inference.objectives.adversarial import DiscriminatorLoss, GeneratorLoss
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, Update
from multipyro.inference.recipes.jmvae import JMVAE_KL
from multipyro.inference.recipes.networks import Networks

__all__ = ["JMVAE_GAN"]


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    alpha: float = 0.1,
    adversarial: str | None = None,
    reconstruction: float = 1.0,
    latents: str = "model",
    discriminator: str = "normalized",
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    name = _generated(networks) if adversarial is None else adversarial
    if name not in networks.modalities:
        raise ValueError(f"adversarial must be one of {list(networks.modalities)}, got {name!r}")
    base = JMVAE_KL.build(networks, latent_dim, alpha=alpha, beta=beta, warmup=warmup, weights=weights)
    model, guide, loss = base.model, base.guide, base.stages[0].loss
    judge = networks.discriminator(name, discriminator)
    others = tuple(likelihood for modality, likelihood in model.likelihoods.items() if modality != name)
    updates = (
        Update(loss, (guide, *others), name="encoders"),
        Update(GeneratorLoss(judge, name, latents, reconstruction), (model.likelihoods[name],), name="generator"),
        Update(DiscriminatorLoss(judge, name, latents), (judge,), name="discriminator"),
    )
    return Recipe("jmvae-gan", model, guide, (Stage(loss, updates=updates),), latent_dim, others=(judge,))


def _generated(networks: Networks) -> str:
    """The first image, else the first modality that a gradient passes through."""
    smooth = [name for name, modality in networks.modalities.items() if modality.likelihood != "categorical"]
    if not smooth:
        raise ValueError(f"jmvae-gan needs a modality that is not discrete, got {list(networks.modalities)}")
    return next((name for name in smooth if networks.modalities[name].kind == "image"), smooth[0])


JMVAE_GAN = MethodInfo(
    name="jmvae-gan",
    title="JMVAE-kl with a decoder trained against a discriminator",
    paper="Suzuki et al., section 6.2",
    programs="encoders: JMVAE-kl; decoder: reconstruction + log D; D: log D(real) + log(1 - D(made))",
    stages=1,
    subsets="every subset",
    needs_complete_rows=False,
    networks="2^M - 1 encoders, 1 discriminator",
    options={
        **{"alpha": 0.1, "adversarial": None, "reconstruction": 1.0},
        **{"latents": "model", "discriminator": "normalized"},
    },
    build=_build,
    architectures=("strided",),
)
