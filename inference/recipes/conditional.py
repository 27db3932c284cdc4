"""CVAE and CMMA: one modality given another, one model a direction.

Both predict from the model's prior given the condition; the authors' evaluation helper of the JMVAE paper draws from
the posterior instead, which has seen the target. Their CMMA also minimizes an annealed KL to N(0, I), left out here.
"""

from collections.abc import Mapping, Sequence

from multipyro.guides import JointEncoder, JointGuide
from multipyro.inference.objectives.terms import Term, WeightedELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import ConditionalModel

__all__ = ["CMMA", "CVAE"]


def _names(modalities: str | Sequence[str] | None, default: Sequence[str]) -> list[str]:
    return list(default) if modalities is None else [modalities] if isinstance(modalities, str) else list(modalities)


def _conditional(name: str, decoder_sees_condition: bool):
    def build(
        networks: Networks,
        latent_dim: int,
        *,
        given: str | Sequence[str] | None = None,
        target: str | Sequence[str] | None = None,
        prior_network: bool = not decoder_sees_condition,
        beta: float = 1.0,
        warmup: int = 0,
        weights: Mapping[str, float] | str | None = None,
    ) -> Recipe:
        names = list(networks.modalities)
        if len(names) < 2:
            raise ValueError(f"{name} needs a condition and a target, got the modalities {names}")
        target = _names(target, [m for m in names if m not in _names(given, names[1:2])][:1])
        given = _names(given, [m for m in names if m not in target][:1])
        # weights may name modalities of the data that it does not take, as in a comparison of methods
        sites, schedules = site_weights(networks, beta, warmup, weights)
        networks, conditions = networks.select(target + given), networks.select(given)
        prior = None
        if prior_network and len(given) == 1:
            prior = conditions.encoders(latent_dim)[given[0]]
        elif prior_network:
            prior = JointEncoder(conditions.branches(), latent_dim, networks.joint_features)
        features = conditions.branches() if decoder_sees_condition else {}
        width = latent_dim + sum(network.out_features for network in features.values())
        model = ConditionalModel(latent_dim, networks.select(target).likelihoods(width), given, prior, features)
        # given the conditions alone the guide is the model's prior itself, so that no prediction has seen a target
        encoders = {tuple(given): model.prior}
        guide = JointGuide(latent_dim, networks.branches(), networks.joint_features, encoders)
        elbo = WeightedELBO(lambda m, g, _: [Term(m, g, sites=sites)], schedules=schedules)
        return Recipe(name, model, guide, (Stage(elbo),), latent_dim)

    return build


CVAE = MethodInfo(
    name="cvae",
    title="conditional VAE, the decoder sees the condition",
    paper="Sohn et al., 2015",
    programs="ELBO(m || g), m = p(z) p(x|z, w)",
    stages=1,
    subsets="the condition; condition and target",
    needs_complete_rows=True,
    networks="1 joint encoder a direction",
    options={"given": None, "target": None, "prior_network": False},
    build=_conditional("cvae", decoder_sees_condition=True),
    takes="the first two; the second to the first",
)
CMMA = MethodInfo(
    name="cmma",
    title="learned prior given the condition",
    paper="Pandey and Dukkipati, 2016",
    programs="ELBO(m || g), m = p(z|w) p(x|z)",
    stages=1,
    subsets="the condition; condition and target",
    needs_complete_rows=True,
    networks="1 joint encoder and 1 prior network a direction",
    options={"given": None, "target": None},
    build=_conditional("cmma", decoder_sees_condition=False),
    takes="the first two; the second to the first",
)
