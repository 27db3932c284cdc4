"""JMVAE-h: a hierarchy of latents; no encoder but the joint one, missing modalities are completed by iteration."""

from collections.abc import Mapping, Sequence

from multipyro.guides import HierarchicalGuide, IterativeSampling, NormalEncoder
from multipyro.inference.objectives.terms import Term, WeightedELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes.jmvae import joint_program
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MLP, HierarchicalModel

__all__ = ["JMVAE_H"]


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    layers: int = 2,
    dims: Sequence[int] | None = None,
    rounds: int = 10,
    start: str = "noise",
    completion: str = "sample",
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    dims = (latent_dim,) * layers if dims is None else tuple(dims)
    if layers < 2 or len(dims) != layers:
        raise ValueError(f"layers must be at least 2 and dims name the size of each, got {layers} and {list(dims)}")
    hidden = networks.hidden_features
    sites, schedules = site_weights(networks, beta, warmup, weights)
    sites.update({f"z{layer}": sites["z"] for layer in range(1, layers + 1)})

    def down(above: int, below: int) -> NormalEncoder:
        return NormalEncoder(MLP(above, hidden[-1], hidden[:-1], activate_output=True), below)

    transitions = [down(above, below) for below, above in zip(dims[:-1], dims[1:], strict=True)]
    model = HierarchicalModel(dims, networks.likelihoods(dims[0]), transitions)
    guide = IterativeSampling(model, HierarchicalGuide(dims, networks.branches(), hidden), rounds, start, completion)
    elbo = WeightedELBO(lambda m, g, _: [Term(m, joint_program(g), sites=sites)], schedules=schedules)
    return Recipe("jmvae-h", model, guide, (Stage(elbo),), latent_dim)


JMVAE_H = MethodInfo(
    name="jmvae-h",
    title="hierarchy of latents, missing modalities completed by iteration",
    paper="Suzuki et al., eq. 3",
    programs="ELBO(hierarchical m || g)",
    stages=1,
    subsets="every subset, by iterative sampling",
    needs_complete_rows=True,
    networks="1 joint encoder",
    options={"layers": 2, "dims": None, "rounds": 10, "start": "noise", "completion": "sample"},
    build=_build,
    architectures=("strided",),
)
