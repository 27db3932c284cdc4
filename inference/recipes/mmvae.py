"""MMVAE: a mixture of experts trained on a stratified K-sample bound, or on one with `M` decoder passes."""

from collections.abc import Mapping
from typing import Literal

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives import LinearMixtureELBO, StratifiedELBO
from multipyro.inference.options import Count
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import LaplacePrior

__all__ = ["mmvae"]

_Family = Literal["laplace", "normal"]


@method(
    "mmvae",
    title="mixture of experts, K-sample bound",
    paper="Shi et al., 2019, eq. 3",
    architectures=("plain", "sentence", "tapered", "shallow"),
    private_latents=True,
)
def mmvae(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    particles: Count = 10,
    gradient: Literal["reparam", "stl", "dreg", "released"] = "reparam",
    bound: Literal["stratified", "tight", "linear"] = "stratified",
    family: _Family | Mapping[str, _Family] = "laplace",
    chunk_size: Count | None = None,
) -> Recipe:
    """MMVAE.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites, and the sizes of the private latents.
        particles: Number K of samples of each expert.
        gradient: That of `StratifiedELBO`; for the linear bound `"reparam"` (unbiased) or `"released"`.
        bound: `"stratified"` (the paper's), `"tight"`, or `"linear"` with one pass through each decoder.
        family: Family of the prior and the posteriors; or that of each modality's posterior, with a Laplace prior as in
            the released model of images and captions.
        chunk_size: Number of samples of each expert that are decoded at once, as in `StratifiedELBO`.

    Raises:
        ValueError: If `chunk_size` is given for the linear bound, which decodes one sample of each expert.
    """
    if bound == "linear" and chunk_size is not None:
        raise ValueError(f"the linear bound has nothing to decode in chunks, got chunk_size={chunk_size}")
    prior = None if family == "normal" else LaplacePrior(latent_dim)
    dims = weighting.private_dims
    model, private = networks.model(latent_dim, dims, prior), networks.private_encoders(dims)
    guide = MixtureOfExperts(latent_dim, networks.encoders(latent_dim, family), private=private)
    if bound == "linear":
        objective = LinearMixtureELBO(particles, "unbiased" if gradient == "reparam" else gradient, weighting.sites)
    else:
        objective = StratifiedELBO(particles, gradient, bound, weighting.sites, chunk_size=chunk_size)
    return Recipe(model, guide, (Stage(objective),))
