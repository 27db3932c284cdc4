"""Bridged VAE: one joint encoder, then bridges that predict the features of what is missing."""

from collections.abc import Mapping, Sequence

from multipyro.guides import BridgedGuide
from multipyro.inference.handlers import Program, frozen, restrict
from multipyro.inference.objectives.terms import Term, WeightedELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["BRIDGED"]


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    bridge_features: Sequence[int] | None = None,
    fusion_features: Sequence[int] | None = None,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    sites, schedules = site_weights(networks, beta, warmup, weights)
    alone, _ = site_weights(networks, beta, 0, weights)  # no warm-up is the bridges'
    model = MultimodalModel(latent_dim, networks.likelihoods(latent_dim))
    widths = networks.hidden_features[-1:] if bridge_features is None else bridge_features
    guide = BridgedGuide(latent_dim, networks.branches(), widths, () if fusion_features is None else fusion_features)

    def bridges(m: Program, g: Program, modalities: tuple[str, ...]) -> list[Term]:
        model_part, guide_part = frozen(m), frozen(g, (guide.bridges,))
        return [Term(restrict(model_part, a), restrict(guide_part, a), sites=alone, name=a) for a in modalities]

    joint = WeightedELBO(lambda m, g, _: [Term(m, g, sites=sites)], schedules=schedules)
    stages = (
        Stage(joint, train=(model, guide.branches, guide.fusion), name="joint"),
        Stage(WeightedELBO(bridges), train=(guide.bridges,), name="bridges"),
    )
    return Recipe("bridged", model, guide, stages, latent_dim)


BRIDGED = MethodInfo(
    name="bridged",
    title="joint encoder, bridges between the modalities' features",
    paper="Yadav et al., eq. 7-9",
    programs="ELBO(m || g), then sum_a ELBO(frozen m|a || frozen(g|a, train=bridges))",
    stages=2,
    subsets="every subset",
    needs_complete_rows=True,
    networks="M branches, 1 fusion, M (M - 1) bridges",
    options={"bridge_features": None, "fusion_features": None},
    build=_build,
)
