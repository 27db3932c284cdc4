r"""MVTCAE: a product of experts that every single expert must predict.

With `a` the ratio and `M` the number of modalities in the batch,

.. math::
    L = \tfrac{M - a}{M} \sum_m E_q \log p(x_m|z)
        - \beta \Big[ \tfrac aM \sum_m \mathrm{KL}(q(z|x) \| q_m(z|x_m)) + (1 - a)\, \mathrm{KL}(q(z|x) \| p(z)) \Big]

The product has no prior expert, in training as in prediction. At `a = 0` this is the plain ELBO; at `a > 0` it is no
bound on `log p(x)`. The released code takes `a = 5/6` and `beta = 2.5`. It needs every modality in training; here a row
that lacks one leaves out its expert, its likelihood and its KL, while `M` stays that of the batch.

References:
    Multi-View Representation Learning via Total Correlation Objective (Hwang et al., 2021).
"""

from collections.abc import Mapping

from multipyro.guides import ProductOfExperts
from multipyro.inference.handlers import Program, restrict
from multipyro.inference.objectives.terms import Term, WeightedELBO
from multipyro.inference.recipes._base import MethodInfo, Recipe, Stage, site_weights
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["MVTCAE"]


def _build(
    networks: Networks,
    latent_dim: int,
    *,
    ratio: float = 5 / 6,
    beta: float = 1.0,
    warmup: int = 0,
    weights: Mapping[str, float] | str | None = None,
) -> Recipe:
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must lie in [0, 1], got {ratio}")
    sites, schedules = site_weights(networks, beta, warmup, weights)
    model = MultimodalModel(latent_dim, networks.likelihoods(latent_dim))
    guide = ProductOfExperts(latent_dim, networks.encoders(latent_dim), prior_expert=False)

    def terms(m: Program, g: Program, modalities: tuple[str, ...]) -> list[Term]:
        number, kl = len(modalities), sites["z"].value
        share = (number - ratio) / number
        # a batch of one modality at ratio 1 would weigh nothing: its expert is the product
        prior = kl * (1 - ratio) / share if share else 0.0
        experts = [Term(restrict(g, (name,)), g, kl * ratio / number, name=name) for name in modalities]
        return [Term(m, g, share, {**sites, "z": prior}), *experts]

    return Recipe("mvtcae", model, guide, (Stage(WeightedELBO(terms, schedules=schedules)),), latent_dim)


MVTCAE = MethodInfo(
    name="mvtcae",
    title="product of experts, each expert near the product",
    paper="Hwang et al., 2021",
    programs="(1 - a/M) ELBO(m || g), its KL by beta (1-a), + beta a/M sum_a ELBO(g|a || g)",
    stages=1,
    subsets="every subset",
    needs_complete_rows=False,
    networks="M encoders",
    options={"ratio": 5 / 6},
    build=_build,
)
