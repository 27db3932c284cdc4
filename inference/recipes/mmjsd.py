"""mmJSD: a mixture of experts whose Jensen-Shannon divergence to a dynamic prior is small."""

from collections.abc import Mapping

from multipyro.guides import MixtureOfExperts
from multipyro.inference.objectives.jensen_shannon import JensenShannonELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes._private import PRIVATE_OPTIONS, private_latents
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["MMJSD"]


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    divergence_weights: Mapping[str, float] | None = None,
    prior_samples: bool = False,
    private: int | Mapping[str, int] | None = None,
    private_beta: float | Mapping[str, float] = 1.0,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    sites, _ = site_weights(networks, beta, warmup, weights)
    own = private_latents(networks, latent_dim, private, private_beta, beta, warmup)
    model = MultimodalModel(latent_dim, own.likelihoods, private=own.dims)
    guide = MixtureOfExperts(latent_dim, networks.encoders(latent_dim), private=own.encoders)
    elbo = JensenShannonELBO(divergence_weights, prior_samples, {**sites, **own.sites})
    return Recipe("mmjsd", model, guide, (Stage(elbo),), latent_dim)


MMJSD = MethodInfo(
    name="mmjsd",
    title="mixture of experts, Jensen-Shannon divergence to a dynamic prior",
    paper="Sutter et al., 2020",
    programs="E_g log m(x|z) - JS(experts of g, prior); no bound",
    stages=1,
    subsets="every subset",
    needs_complete_rows=False,
    networks="M encoders",
    options={"divergence_weights": None, "prior_samples": False, **PRIVATE_OPTIONS},
    build=_build,
    architectures=("residual", "characters"),
)
