"""JMVAE-h: a hierarchy of latents; no encoder but the joint one, missing modalities are completed by iteration."""

import itertools
from collections.abc import Sequence
from typing import Literal

from multipyro.guides import HierarchicalGuide, IterativeSampling, NormalEncoder
from multipyro.inference.handlers import without_completion
from multipyro.inference.objectives import GUIDE, MODEL, elbo
from multipyro.inference.options import Count
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import HierarchicalModel
from multipyro.ppl_models.networks.heads import trunk

__all__ = ["jmvae_h"]


@method(
    "jmvae-h",
    title="hierarchy of latents, missing modalities completed by iteration",
    paper="Suzuki et al., eq. 3",
    subsets="every subset, by iterative sampling",
    networks="1 joint encoder",
    needs_complete_rows=True,
    architectures=("strided",),
)
def jmvae_h(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    layers: Count = 2,
    dims: Sequence[Count] | None = None,
    rounds: Count = 10,
    start: Literal["noise", "zeros"] = "noise",
    completion: Literal["sample", "mean"] = "sample",
) -> Recipe:
    """JMVAE-h.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of every layer of latents, if `dims` is None.
        weighting: Weights of the sites; that of `z` is that of every layer.
        layers: Number of layers of latents.
        dims: Size of each layer, the lowest first.
        rounds: Number of times that the missing modalities and the latents are sampled in turn.
        start: Initial values of missing modalities.
        completion: Values of missing modalities in each round: a sample of the likelihood or its mean.
    """
    dims = (latent_dim,) * layers if dims is None else tuple(dims)
    if layers < 2 or len(dims) != layers:
        raise ValueError(f"layers must be at least 2 and dims name the size of each, got {layers} and {list(dims)}")
    hidden = networks.hidden_features
    transitions = [NormalEncoder(trunk(above, hidden), below) for below, above in itertools.pairwise(dims)]
    likelihoods, covariates = networks.likelihoods(dims[0]), networks.covariate_features()
    model = HierarchicalModel(dims, likelihoods, transitions, covariates=covariates)
    guide = IterativeSampling(model, HierarchicalGuide(dims, networks.branches(), hidden), rounds, start, completion)
    sites = {**weighting.likelihoods, **{f"z{layer}": weighting.schedule for layer in range(1, layers + 1)}}
    return Recipe(model, guide, (Stage(elbo(MODEL, without_completion(GUIDE), sites)),))
