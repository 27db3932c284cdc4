"""Bridged VAE: one joint encoder, then bridges that predict the features of what is missing."""

from collections.abc import Sequence

from multipyro.guides import BridgedGuide
from multipyro.inference.handlers import frozen
from multipyro.inference.objectives import GUIDE, MODEL, SINGLES, SUBSET, elbo, sum_over
from multipyro.inference.options import Count
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks

__all__ = ["bridged"]


@method(
    "bridged",
    title="joint encoder, bridges between the modalities' features",
    paper="Yadav et al., eq. 7-9",
    networks="M branches, 1 fusion, M (M - 1) bridges",
    needs_complete_rows=True,
    min_modalities=2,
)
def bridged(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    bridge_features: Sequence[Count] | None = None,
    fusion_features: Sequence[Count] | None = None,
) -> Recipe:
    """Bridged VAE.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        bridge_features: Widths of the hidden layers of a bridge; the last hidden width by default.
        fusion_features: Widths of the hidden layers of the fusion; none by default.
    """
    model = networks.model(latent_dim)
    widths = networks.hidden_features[-1:] if bridge_features is None else bridge_features
    guide = BridgedGuide(latent_dim, networks.branches(), widths, () if fusion_features is None else fusion_features)
    m, g, a = MODEL, GUIDE, SUBSET
    joint = elbo(m, g, weighting.sites)
    bridges = sum_over(SINGLES, elbo(frozen(m) | a, frozen(g, train=[g.part("bridges")]) | a, weighting.sites_at_peak))
    stages = (
        Stage(joint, train=(model, guide.branches, guide.fusion), name="joint"),
        Stage(bridges, train=(guide.bridges,), name="bridges"),
    )
    return Recipe(model, guide, stages)
