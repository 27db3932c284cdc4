"""CVAE and CMMA: one modality given another, one model per direction.

Both predict from the model's prior given the condition; the evaluation code of the JMVAE paper samples from the
posterior instead, which depends on the target. Their CMMA also minimizes an annealed KL to N(0, I), left out here.
"""

from collections.abc import Sequence

from multipyro.guides import JointEncoder, JointGuide
from multipyro.inference.objectives import GUIDE, MODEL, elbo
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import ConditionalModel

__all__ = ["cmma", "cvae"]

Names = str | Sequence[str] | None


@method(
    "cvae",
    title="conditional VAE, decoder given the condition",
    paper="Sohn et al., 2015",
    subsets="the condition; condition and target",
    networks="1 joint encoder per direction",
    needs_complete_rows=True,
    min_modalities=2,
    takes="the first two; the second to the first",
)
def cvae(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    given: Names = None,
    target: Names = None,
    prior_network: bool = False,
) -> Recipe:
    """CVAE, `p(z) p(x | z, w)`.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        given: The conditions `w`; the second modality by default.
        target: The modalities `x`; the first one by default.
        prior_network: Whether the prior is learned as a function of the condition.
    """
    return _conditional(networks, latent_dim, weighting, given, target, prior_network, decoder_sees_condition=True)


@method(
    "cmma",
    title="learned prior given the condition",
    paper="Pandey and Dukkipati, 2016",
    subsets="the condition; condition and target",
    networks="1 joint encoder and 1 prior network per direction",
    needs_complete_rows=True,
    min_modalities=2,
    takes="the first two; the second to the first",
)
def cmma(
    networks: Networks, latent_dim: int, weighting: Weighting, *, given: Names = None, target: Names = None
) -> Recipe:
    """CMMA, `p(z | w) p(x | z)`.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        given: The conditions `w`; the second modality by default.
        target: The modalities `x`; the first one by default.
    """
    return _conditional(networks, latent_dim, weighting, given, target, True, decoder_sees_condition=False)


def _conditional(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    given: Names,
    target: Names,
    prior_network: bool,
    decoder_sees_condition: bool,
) -> Recipe:
    names = list(networks.modalities)
    target = _names(target, [m for m in names if m not in _names(given, names[1:2])][:1])
    given = _names(given, [m for m in names if m not in target][:1])
    networks, conditions = networks.select(target + given), networks.select(given)
    prior = None
    if prior_network and len(given) == 1:
        prior = conditions.encoders(latent_dim)[given[0]]
    elif prior_network:
        prior = JointEncoder(conditions.branches(), latent_dim, networks.joint_features)
    features = conditions.branches() if decoder_sees_condition else {}
    width = latent_dim + sum(network.out_features for network in features.values())
    model = ConditionalModel(
        latent_dim,
        networks.select(target).likelihoods(width),
        given,
        prior,
        features,
        covariates=networks.covariate_features(),
    )
    # given the conditions alone the guide is the model's prior itself, so that no prediction depends on a target
    encoders = {tuple(given): model.prior}
    guide = JointGuide(latent_dim, networks.branches(), networks.joint_features, encoders)
    return Recipe(model, guide, (Stage(elbo(MODEL, GUIDE, weighting.sites)),))


def _names(modalities: Names, default: Sequence[str]) -> list[str]:
    return list(default) if modalities is None else [modalities] if isinstance(modalities, str) else list(modalities)
