"""MMVAE: a mixture of experts trained on a stratified K-sample bound, or on one with `M` decoder passes."""

from collections.abc import Mapping
from typing import Literal

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives import LinearMixtureELBO, StratifiedELBO
from multipyro.inference.options import Count, Weight
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes._private import private_latents
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import LaplacePrior, MultimodalModel

__all__ = ["mmvae"]


@method(
    "mmvae",
    title="mixture of experts, K-sample bound",
    paper="Shi et al., 2019, eq. 3",
    architectures=("plain", "sentence", "tapered", "shallow"),
)
def mmvae(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    particles: Count = 10,
    gradient: Literal["reparam", "stl", "dreg", "released"] = "reparam",
    bound: Literal["stratified", "tight", "linear"] = "stratified",
    family: Literal["laplace", "normal"] = "laplace",
    private: Count | Mapping[str, Count] | None = None,
    private_beta: Weight | Mapping[str, Weight] = 1.0,
) -> Recipe:
    """MMVAE.

    Args:
        networks: Builds the parts.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites.
        particles: Number K of samples of each expert.
        gradient: That of `StratifiedELBO`; for the linear bound `"reparam"` (unbiased) or `"released"`.
        bound: `"stratified"` (the paper's), `"tight"`, or `"linear"` with one pass through each decoder.
        family: Family of the prior and the posteriors.
        private: Size of every modality's private latent, or modality -> size; None for none.
        private_beta: Weight of the KLs of the private latents beside `beta`, or modality -> weight.
    """
    prior = LaplacePrior(latent_dim) if family == "laplace" else None
    latents = private_latents(networks, latent_dim, weighting, private, private_beta)
    model = MultimodalModel(latent_dim, latents.likelihoods, prior, private=latents.dims)
    guide = MixtureOfExperts(latent_dim, networks.encoders(latent_dim, family), private=latents.encoders)
    if bound == "linear":
        objective = LinearMixtureELBO(particles, "unbiased" if gradient == "reparam" else gradient, latents.sites)
    else:
        objective = StratifiedELBO(particles, gradient, bound, latents.sites)
    return Recipe(model, guide, (Stage(objective),))
