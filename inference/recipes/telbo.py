"""TELBO: a joint encoder, then one encoder per subset, fitted to the true posterior of the fixed decoders."""

from collections.abc import Mapping

from multipyro.guides import JointGuide
from multipyro.inference.handlers import frozen
from multipyro.inference.objectives import GUIDE, MODEL, PROPER_SUBSETS, SUBSET, elbo, sum_over
from multipyro.inference.options import Weight
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks

__all__ = ["telbo"]


@method(
    "telbo",
    title="joint encoder, subset encoders trained by ELBOs of the subsets",
    paper="Vedantam et al., 2018",
    networks="2^M - 1 encoders",
    needs_complete_rows=True,
    min_modalities=2,
)
def telbo(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    one_stage: bool = False,
    subset_weights: Mapping[str, Weight] | None = None,
) -> Recipe:
    """TELBO.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        one_stage: Whether both objectives are maximized at once.
        subset_weights: Modality -> weight of its likelihood in the terms of the subsets; that of the joint term by
            default.
    """
    model = networks.model(latent_dim)
    encoders = networks.subset_encoders(latent_dim)
    guide = JointGuide(latent_dim, networks.branches(), networks.joint_features, encoders)
    m, g, a = MODEL, GUIDE, SUBSET
    joint = elbo(m, g, weighting.sites)
    # the unimodal terms may weight a likelihood otherwise than the joint one does, and have no warm-up
    sites = {**weighting.sites_at_peak, **Weighting(networks.modalities, weights=subset_weights).likelihoods}
    # frozen in both forms: also in one stage, the decoders learn nothing from a subset
    subsets = sum_over(PROPER_SUBSETS, elbo(frozen(m) | a, g | a, sites))
    if one_stage:
        return Recipe(model, guide, (Stage(joint + subsets),))
    stages = (
        Stage(joint, train=(model, guide.joint), name="joint"),
        Stage(subsets, train=(guide.networks,), name="subsets"),
    )
    return Recipe(model, guide, stages)
