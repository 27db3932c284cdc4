"""JMVAE, which completes missing modalities by iteration, and JMVAE-kl, with encoders of the subsets."""

from collections.abc import Mapping

from multipyro.batch import subsets_of
from multipyro.guides import IterativeSampling, JointGuide
from multipyro.inference.handlers import Program, restrict
from multipyro.inference.objectives.terms import Term, WeightedELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["JMVAE", "JMVAE_KL", "joint_program"]


def joint_program(guide: Program) -> Program:
    """What of a guide trains: without the completions of `IterativeSampling`, so that rows must be complete."""
    return guide.guide if isinstance(guide, IterativeSampling) else guide


def _jmvae(
    networks: Networks,
    latent_dim: int,
    *,
    rounds: int = 10,
    start: str = "noise",
    completion: str = "sample",
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    sites, schedules = site_weights(networks, beta, warmup, weights)
    model = MultimodalModel(latent_dim, networks.likelihoods(latent_dim))
    joint = JointGuide(latent_dim, networks.branches(), networks.joint_features)
    guide = IterativeSampling(model, joint, rounds, start, completion)
    elbo = WeightedELBO(lambda m, g, _: [Term(m, joint_program(g), sites=sites)], schedules=schedules)
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
    encoders = networks.subset_encoders(latent_dim)
    guide = JointGuide(latent_dim, networks.branches(), networks.joint_features, encoders)

    def terms(m: Program, g: Program, modalities: tuple[str, ...]) -> list[Term]:
        # the joint guide comes first in the divergence and keeps its gradient; only the prior's KL is warmed up
        parts = [(restrict(g, part, proper=True), "+".join(part)) for part in subsets_of(modalities, proper=True)]
        return [Term(m, g, sites=sites), *[Term(part, g, alpha, name=name) for part, name in parts]]

    return Recipe("jmvae-kl", model, guide, (Stage(WeightedELBO(terms, schedules=schedules)),), latent_dim)


JMVAE = MethodInfo(
    name="jmvae",
    title="joint encoder",
    paper="Suzuki et al., eq. 2",
    programs="ELBO(m || g)",
    stages=1,
    subsets="every subset, by iterative sampling",
    needs_complete_rows=True,
    networks="1 joint encoder",
    options={"rounds": 10, "start": "noise", "completion": "sample"},
    build=_jmvae,
    architectures=("strided",),
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
    architectures=("strided",),
)
