"""MMVAE+: MMVAE with private latents, drawn from auxiliary priors where one modality is decoded from another.

Everything is Laplace. The model's priors are fixed, and they are what predictions draw private latents from; the
auxiliary priors are learned, and belong to training alone. A method of the algebra it is not: which latents a decoder
sees depends on the expert that `z` came from, so the estimator is `StratifiedELBO` with `auxiliary`. The released
code's gradient for more than one particle is the plain one, and so is the default here.
"""

from collections.abc import Mapping

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives.stratified import StratifiedELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes._private import PRIVATE_OPTIONS, private_latents
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import LaplacePrior, MultimodalModel

__all__ = ["MMVAE_PLUS"]


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    particles: int = 10,
    gradient: str = "reparam",
    private: int | Mapping[str, int] | None = None,
    private_beta: float | Mapping[str, float] = 1.0,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    sites, _ = site_weights(networks, beta, warmup, weights)
    private = latent_dim if private is None else private  # as large as the shared one, as in the paper
    own = private_latents(networks, latent_dim, private, private_beta, beta, warmup, "laplace")
    priors = {name: LaplacePrior(size, learn=False) for name, size in own.dims.items()}
    model = MultimodalModel(latent_dim, own.likelihoods, LaplacePrior(latent_dim, learn=False), private=priors)
    auxiliary = {name: LaplacePrior(size) for name, size in own.dims.items()}
    encoders = networks.encoders(latent_dim, "laplace")
    guide = MixtureOfExperts(latent_dim, encoders, private=own.encoders, auxiliary=auxiliary)
    elbo = StratifiedELBO(particles, gradient, sites={**sites, **own.sites}, auxiliary=guide.auxiliary)
    return Recipe("mmvae+", model, guide, (Stage(elbo),), latent_dim)


MMVAE_PLUS = MethodInfo(
    name="mmvae+",
    title="mixture of experts, private latents from auxiliary priors",
    paper="Palumbo et al., 2023",
    programs="stratified K-sample bound of (m || g), private latents of other experts' modalities from r",
    stages=1,
    subsets="every subset",
    needs_complete_rows=False,
    networks="2 M encoders",
    options={"particles": 10, "gradient": "reparam", **PRIVATE_OPTIONS},
    build=_build,
)
