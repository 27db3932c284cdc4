"""MMVAE+: MMVAE with private latents, drawn from auxiliary priors where one modality is decoded from another.

Everything is Laplace. The model's priors are fixed, and they are what predictions draw private latents from; the
auxiliary priors are learned, and belong to training alone. Its objective is no sum of ELBOs: which latents a decoder
gets depends on the expert that `z` came from, so the estimator is `StratifiedELBO` with `auxiliary`. The released
code's gradient for more than one particle is the plain one, and so is the default here.
"""

from collections.abc import Mapping
from typing import Literal

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives import GUIDE, StratifiedELBO
from multipyro.inference.options import Count, Weight
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes._private import private_latents
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import LaplacePrior, MultimodalModel

__all__ = ["mmvae_plus"]


@method(
    "mmvae+",
    title="mixture of experts, private latents from auxiliary priors",
    paper="Palumbo et al., 2023",
    networks="2 M encoders",
)
def mmvae_plus(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    particles: Count = 10,
    gradient: Literal["reparam", "stl"] = "reparam",
    private: Count | Mapping[str, Count] | None = None,
    private_beta: Weight | Mapping[str, Weight] = 1.0,
) -> Recipe:
    """MMVAE+.

    Args:
        networks: Builds the parts.
        latent_dim: Size of the shared latent.
        weighting: Weights of the sites.
        particles: Number K of samples of each expert.
        gradient: That of `StratifiedELBO`.
        private: Size of every modality's private latent, or modality -> size; None for that of the shared latent, as
            in the paper.
        private_beta: Weight of the KLs of the private latents beside `beta`, or modality -> weight.
    """
    private = latent_dim if private is None else private
    latents = private_latents(networks, latent_dim, weighting, private, private_beta, "laplace")
    priors = {name: LaplacePrior(size, learn=False) for name, size in latents.dims.items()}
    model = MultimodalModel(latent_dim, latents.likelihoods, LaplacePrior(latent_dim, learn=False), private=priors)
    auxiliary = {name: LaplacePrior(size) for name, size in latents.dims.items()}
    encoders = networks.encoders(latent_dim, "laplace")
    guide = MixtureOfExperts(latent_dim, encoders, private=latents.encoders, auxiliary=auxiliary)
    objective = StratifiedELBO(particles, gradient, sites=latents.sites, auxiliary=GUIDE.part("auxiliary"))
    return Recipe(model, guide, (Stage(objective),))
