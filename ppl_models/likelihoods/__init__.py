"""Likelihoods `p(x_m | z)`: modules from latents to a distribution, and the distributions that torch does not have."""

from multipyro.ppl_models.likelihoods.angles import StableVonMises, VonMisesLikelihood
from multipyro.ppl_models.likelihoods.base import (
    ConcentrationLikelihood,
    Likelihood,
    LocationScaleLikelihood,
    point_estimate,
)
from multipyro.ppl_models.likelihoods.classes import BernoulliLikelihood, CategoricalLikelihood, OrdinalLikelihood
from multipyro.ppl_models.likelihoods.continuous_bernoulli import ExactContinuousBernoulli
from multipyro.ppl_models.likelihoods.counts import (
    CountLikelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    StableNegativeBinomial,
    ZeroInflated,
    ZeroInflatedNegativeBinomialLikelihood,
    ZeroInflatedPoissonLikelihood,
)
from multipyro.ppl_models.likelihoods.missing import MissingEntries
from multipyro.ppl_models.likelihoods.positive import GammaLikelihood, LogNormalLikelihood, StableGamma
from multipyro.ppl_models.likelihoods.real import LaplaceLikelihood, NormalLikelihood, StudentTLikelihood
from multipyro.ppl_models.likelihoods.shares import ClampedDirichlet, DirichletLikelihood
from multipyro.ppl_models.likelihoods.text import AutoregressiveCategorical, AutoregressiveTextLikelihood
from multipyro.ppl_models.likelihoods.unit_interval import (
    BetaLikelihood,
    ClampedBeta,
    ContinuousBernoulliLikelihood,
    DiscretizedLogistic,
    DiscretizedLogisticLikelihood,
)

__all__ = [
    "AutoregressiveCategorical",
    "AutoregressiveTextLikelihood",
    "BernoulliLikelihood",
    "BetaLikelihood",
    "CategoricalLikelihood",
    "ClampedBeta",
    "ClampedDirichlet",
    "ConcentrationLikelihood",
    "ContinuousBernoulliLikelihood",
    "CountLikelihood",
    "DirichletLikelihood",
    "DiscretizedLogistic",
    "DiscretizedLogisticLikelihood",
    "ExactContinuousBernoulli",
    "GammaLikelihood",
    "LaplaceLikelihood",
    "Likelihood",
    "LocationScaleLikelihood",
    "LogNormalLikelihood",
    "MissingEntries",
    "NegativeBinomialLikelihood",
    "NormalLikelihood",
    "OrdinalLikelihood",
    "PoissonLikelihood",
    "StableGamma",
    "StableNegativeBinomial",
    "StableVonMises",
    "StudentTLikelihood",
    "VonMisesLikelihood",
    "ZeroInflated",
    "ZeroInflatedNegativeBinomialLikelihood",
    "ZeroInflatedPoissonLikelihood",
    "point_estimate",
]
