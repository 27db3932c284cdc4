"""JMVAE, which completes missing modalities by iteration, and JMVAE-kl, with one encoder per subset."""

from typing import Literal

from multipyro.guides import IterativeSampling, JointGuide
from multipyro.inference.handlers import without_completion
from multipyro.inference.objectives import GUIDE, MODEL, PROPER_SUBSETS, SUBSET, elbo, number, sum_over
from multipyro.inference.options import Count, Weight
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks

__all__ = ["jmvae", "jmvae_kl"]


@method(
    "jmvae",
    title="joint encoder",
    paper="Suzuki et al., eq. 2",
    subsets="every subset, by iterative sampling",
    networks="1 joint encoder",
    needs_complete_rows=True,
    architectures=("strided",),
)
def jmvae(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    rounds: Count = 10,
    start: Literal["noise", "zeros"] = "noise",
    completion: Literal["sample", "mean"] = "sample",
) -> Recipe:
    """JMVAE.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        rounds: Number of times that the missing modalities and the latents are sampled in turn.
        start: Initial values of missing modalities.
        completion: Values of missing modalities in each round: a sample of the likelihood or its mean.
    """
    model = networks.model(latent_dim)
    joint = JointGuide(latent_dim, networks.branches(), networks.joint_features)
    guide = IterativeSampling(model, joint, rounds, start, completion)
    return Recipe(model, guide, (Stage(elbo(MODEL, without_completion(GUIDE), weighting.sites)),))


@method(
    "jmvae-kl",
    title="joint encoder, subset encoders fitted to it",
    paper="Suzuki et al., eq. 4",
    networks="2^M - 1 encoders",
    min_modalities=2,
    architectures=("strided",),
)
def jmvae_kl(networks: Networks, latent_dim: int, weighting: Weighting, *, alpha: Weight = 1.0) -> Recipe:
    """JMVAE-kl.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        alpha: Weight of the divergences from the joint encoder to those of the subsets.
    """
    model = networks.model(latent_dim)
    encoders = networks.subset_encoders(latent_dim)
    guide = JointGuide(latent_dim, networks.branches(), networks.joint_features, encoders)
    m, g, a = MODEL, GUIDE, SUBSET
    # the joint guide comes first in the divergence and keeps its gradient; only the prior's KL is warmed up
    divergences = sum_over(PROPER_SUBSETS.of_each_row(), elbo(g | a, g))
    return Recipe(model, guide, (Stage(elbo(m, g, weighting.sites) + number("alpha", alpha) * divergences),))
