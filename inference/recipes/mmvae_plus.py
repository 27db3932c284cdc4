"""MMVAE+: MMVAE with private latents, drawn from auxiliary priors where one modality is decoded from another.

Everything is Laplace. The model's priors are fixed, and predictions sample private latents from them; the auxiliary
priors are learned, and used in training alone. Its objective is no sum of ELBOs: which latents a decoder gets depends
on the expert that `z` came from, so the estimator is `StratifiedELBO` with `auxiliary`. The released code's gradient
for more than one particle is the plain one, and so is the default here.
"""

from dataclasses import replace
from typing import Literal

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives import GUIDE, StratifiedELBO
from multipyro.inference.options import Count
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import LaplacePrior

__all__ = ["mmvae_plus"]


@method(
    "mmvae+",
    title="mixture of experts, private latents from auxiliary priors",
    paper="Palumbo et al., 2023",
    networks="2 M encoders",
    private_latents=True,
)
def mmvae_plus(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    particles: Count = 10,
    gradient: Literal["reparam", "stl"] = "reparam",
    chunk_size: Count | None = None,
) -> Recipe:
    """MMVAE+.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites, and the sizes of the private latents.
        particles: Number K of samples of each expert.
        gradient: That of `StratifiedELBO`.
        chunk_size: Number of samples of each expert that are decoded at once, as in `StratifiedELBO`.
    """
    if weighting.private is None:
        weighting = replace(weighting, private=latent_dim)
    dims = weighting.private_dims
    priors = {name: LaplacePrior(size, learn=False) for name, size in dims.items()}
    model = networks.model(latent_dim, dims, LaplacePrior(latent_dim, learn=False), priors)
    auxiliary = {name: LaplacePrior(size) for name, size in dims.items()}
    private = networks.private_encoders(dims, "laplace")
    encoders = networks.encoders(latent_dim, "laplace")
    guide = MixtureOfExperts(latent_dim, encoders, private=private, auxiliary=auxiliary)
    objective = StratifiedELBO(
        particles, gradient, sites=weighting.sites, auxiliary=GUIDE.part("auxiliary"), chunk_size=chunk_size
    )
    return Recipe(model, guide, (Stage(objective),))
