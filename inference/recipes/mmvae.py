"""MMVAE: a mixture of experts trained on a stratified K-sample bound.

`bound` is `"stratified"` (the paper), `"tight"`, or `"linear"` with `M` decoder passes; `gradient` is one of
`StratifiedELBO`'s, for the linear bound `"reparam"` (unbiased) or `"released"`.
"""

from collections.abc import Mapping

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives.linear_mixture import LinearMixtureELBO
from multipyro.inference.objectives.stratified import StratifiedELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes._private import PRIVATE_OPTIONS, private_latents
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import LaplacePrior, MultimodalModel

__all__ = ["MMVAE"]


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    particles: int = 10,
    gradient: str = "reparam",
    bound: str = "stratified",
    family: str = "laplace",
    private: int | Mapping[str, int] | None = None,
    private_beta: float | Mapping[str, float] = 1.0,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    sites, _ = site_weights(networks, beta, warmup, weights)
    prior = LaplacePrior(latent_dim) if family == "laplace" else None
    own = private_latents(networks, latent_dim, private, private_beta, beta, warmup)
    model = MultimodalModel(latent_dim, own.likelihoods, prior, private=own.dims)
    guide = MixtureOfExperts(latent_dim, networks.encoders(latent_dim, family), private=own.encoders)
    sites = {**sites, **own.sites}
    if bound == "linear":
        elbo = LinearMixtureELBO(particles, "unbiased" if gradient == "reparam" else gradient, sites)
    else:
        elbo = StratifiedELBO(particles, gradient, bound, sites)
    return Recipe("mmvae", model, guide, (Stage(elbo),), latent_dim)


MMVAE = MethodInfo(
    name="mmvae",
    title="mixture of experts, K-sample bound",
    paper="Shi et al., 2019, eq. 3",
    programs="stratified K-sample bound of (m || g)",
    stages=1,
    subsets="every subset",
    needs_complete_rows=False,
    networks="M encoders",
    options={"particles": 10, "gradient": "reparam", "bound": "stratified", "family": "laplace", **PRIVATE_OPTIONS},
    build=_build,
    architectures=("plain", "sentence", "tapered", "shallow"),
)
