"""Likelihoods `p(x_m | z)`: modules from latents to a distribution, and the distributions that torch does not have."""

from multipyro.ppl_models.likelihoods.base import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    LaplaceLikelihood,
    Likelihood,
    LocationScale,
    NormalLikelihood,
    point_estimate,
)
from multipyro.ppl_models.likelihoods.continuous_bernoulli import ExactContinuousBernoulli
from multipyro.ppl_models.likelihoods.pixels import (
    BetaLikelihood,
    ClampedBeta,
    DiscretizedLogistic,
    DiscretizedLogisticLikelihood,
)
from multipyro.ppl_models.likelihoods.text import AutoregressiveCategorical, AutoregressiveText

__all__ = [
    "AutoregressiveCategorical",
    "AutoregressiveText",
    "BernoulliLikelihood",
    "BetaLikelihood",
    "CategoricalLikelihood",
    "ClampedBeta",
    "ContinuousBernoulliLikelihood",
    "DiscretizedLogistic",
    "DiscretizedLogisticLikelihood",
    "ExactContinuousBernoulli",
    "LaplaceLikelihood",
    "Likelihood",
    "LocationScale",
    "NormalLikelihood",
    "point_estimate",
]
