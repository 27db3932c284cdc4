"""JMVAE and JMVAE-kl: a joint encoder, and encoders of the subsets that follow it."""

from collections.abc import Mapping

from multipyro.guides import JointGuide
from multipyro.inference.combinators import Program, restrict
from multipyro.inference.networks import Networks
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.terms import Term, WeightedELBO
from multipyro.ppl_models import MultimodalModel

__all__ = ["JMVAE", "JMVAE_KL"]


def _jmvae(
    networks: Networks,
    latent_dim: int,
    *,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    sites, schedules = site_weights(networks, beta, warmup, weights)
    model = MultimodalModel(latent_dim, networks.likelihoods(latent_dim))
    guide = JointGuide(latent_dim, networks.branches())
    elbo = WeightedELBO(lambda m, g, _: [Term(m, g, sites=sites)], schedules=schedules)
    return Recipe("jmvae", model, guide, (Stage(elbo),), latent_dim)


def _jmvae_kl(
    networks: Networks,
    latent_dim: int,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    sites, schedules = site_weights(networks, beta, warmup, weights)
    model = MultimodalModel(latent_dim, networks.likelihoods(latent_dim))
    guide = JointGuide(latent_dim, networks.branches(), encoders=networks.subset_encoders(latent_dim))

    def terms(m: Program, g: Program, modalities: tuple[str, ...]) -> list[Term]:
        # the joint guide comes first in the divergence and keeps its gradient; only the prior's KL is warmed up
        subsets = [subset for subset in guide.subsets if set(subset) < set(modalities)]
        return [
            Term(m, g, sites=sites),
            *[Term(restrict(g, subset), g, alpha, name="+".join(subset)) for subset in subsets],
        ]

    return Recipe("jmvae-kl", model, guide, (Stage(WeightedELBO(terms, schedules=schedules)),), latent_dim)


JMVAE = MethodInfo(
    name="jmvae",
    title="joint encoder",
    paper="Suzuki et al., eq. 2",
    programs="ELBO(m || g)",
    stages=1,
    subsets="all modalities",
    needs_complete_rows=True,
    networks="1 joint encoder",
    options={},
    build=_jmvae,
    takes="all; none from a part",
)
JMVAE_KL = MethodInfo(
    name="jmvae-kl",
    title="joint encoder, subset encoders drawn to it",
    paper="Suzuki et al., eq. 4",
    programs="ELBO(m || g) + alpha sum_A ELBO(g|A || g)",
    stages=1,
    subsets="every subset",
    needs_complete_rows=False,
    networks="2^M - 1 encoders",
    options={"alpha": 1.0},
    build=_jmvae_kl,
)
