"""TELBO: a joint encoder, then an encoder of each subset drawn to the true posterior of the fixed decoders."""

from collections.abc import Mapping

from multipyro.batch import subsets_of
from multipyro.guides import JointGuide
from multipyro.inference.handlers import Program, frozen, restrict
from multipyro.inference.objectives.terms import Term, WeightedELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["TELBO"]


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    one_stage: bool = False,
    subset_weights: Mapping[str, float] | None = None,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    sites, schedules = site_weights(networks, beta, warmup, weights)
    # the unimodal terms may weigh a likelihood otherwise than the joint one does, and no warm-up is theirs
    alone, _ = site_weights(networks, beta, 0, weights)
    alone.update(site_weights(networks, beta, 0, subset_weights)[0] if subset_weights else {})
    model = MultimodalModel(latent_dim, networks.likelihoods(latent_dim))
    encoders = networks.subset_encoders(latent_dim)
    guide = JointGuide(latent_dim, networks.branches(), networks.joint_features, encoders)

    def joint(m: Program, g: Program, _: tuple[str, ...]) -> list[Term]:
        return [Term(m, g, sites=sites)]

    def subsets(m: Program, g: Program, modalities: tuple[str, ...]) -> list[Term]:
        # frozen a second time in the one-stage form: the decoders learn nothing from a part
        parts = subsets_of(modalities, proper=True)
        return [Term(restrict(frozen(m), a), restrict(g, a), sites=alone, name="+".join(a)) for a in parts]

    both = WeightedELBO(lambda m, g, names: joint(m, g, names) + subsets(m, g, names), schedules=schedules)
    two = (
        Stage(WeightedELBO(joint, schedules=schedules), train=(model, guide.joint), name="joint"),
        Stage(WeightedELBO(subsets), train=(guide.networks,), name="subsets"),
    )
    return Recipe("telbo", model, guide, (Stage(both),) if one_stage else two, latent_dim)


TELBO = MethodInfo(
    name="telbo",
    title="joint encoder, subset encoders by their own ELBOs",
    paper="Vedantam et al., 2018",
    programs="ELBO(m || g), then sum_A ELBO(frozen m|A || g|A)",
    stages=2,
    subsets="every subset",
    needs_complete_rows=True,
    networks="2^M - 1 encoders",
    options={"one_stage": False, "subset_weights": None},
    build=_build,
)
