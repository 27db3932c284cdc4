r"""MVTCAE: a product of experts that every single expert must predict.

With `a` the ratio and `M` the number of modalities in the batch,

.. math::
    L = \tfrac{M - a}{M} \sum_m E_q \log p(x_m|z)
        - \beta \Big[ \tfrac aM \sum_m \mathrm{KL}(q(z|x) \| q_m(z|x_m)) + (1 - a)\, \mathrm{KL}(q(z|x) \| p(z)) \Big]

The product has no prior expert, in training as in prediction. At `a = 0` this is the plain ELBO; at `a > 0` it is no
bound on `log p(x)`. The released code uses `a = 5/6` and `beta = 2.5`. It needs every modality in training; here a
modality that is missing in a row leaves out its expert, its likelihood and its KL there, while `M` stays that of the
batch.

References:
    Multi-View Representation Learning via Total Correlation Objective (Hwang et al., 2021).
"""

from multipyro.guides import ProductOfExperts
from multipyro.inference.objectives import GUIDE, MODEL, NUM_MODALITIES, SINGLES, SUBSET, elbo, number, sum_over
from multipyro.inference.options import Share
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks

__all__ = ["mvtcae"]


@method("mvtcae", title="product of experts, each expert near the product", paper="Hwang et al., 2021")
def mvtcae(networks: Networks, latent_dim: int, weighting: Weighting, *, ratio: Share = 5 / 6) -> Recipe:
    """MVTCAE.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        ratio: The ratio `a` between the two divergences.
    """
    model = networks.model(latent_dim)
    guide = ProductOfExperts(latent_dim, networks.encoders(latent_dim), prior_expert=False)
    m, g, A, M = MODEL, GUIDE, SUBSET, NUM_MODALITIES
    a, beta = number("a", ratio), weighting.schedule
    sites = {**weighting.likelihoods, "z": beta * (1 - a)}
    objective = elbo(m, g, sites, reconstruction=(M - a) / M) + beta * a / M * sum_over(SINGLES, elbo(g | A, g))
    return Recipe(model, guide, (Stage(objective),))
