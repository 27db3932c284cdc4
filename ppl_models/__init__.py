"""Generative programs `p(z) prod_m p(x_m | z)`: models, priors, likelihoods and the networks that most scripts need."""

from multipyro.ppl_models.conditional import ConditionalModel, IndependentPrior
from multipyro.ppl_models.hierarchical import HierarchicalModel
from multipyro.ppl_models.likelihoods import (
    AutoregressiveCategorical,
    AutoregressiveText,
    BernoulliLikelihood,
    BetaLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogistic,
    DiscretizedLogisticLikelihood,
    ExactContinuousBernoulli,
    LaplaceLikelihood,
    Likelihood,
    NormalLikelihood,
    point_estimate,
)
from multipyro.ppl_models.multimodal import MultimodalModel
from multipyro.ppl_models.networks import MLP, ConvDecoder, ConvEncoder, OneHotMLP
from multipyro.ppl_models.priors import LaplacePrior, StandardNormalPrior

__all__ = [
    "MLP",
    "AutoregressiveCategorical",
    "AutoregressiveText",
    "BernoulliLikelihood",
    "BetaLikelihood",
    "CategoricalLikelihood",
    "ConditionalModel",
    "ContinuousBernoulliLikelihood",
    "ConvDecoder",
    "ConvEncoder",
    "DiscretizedLogistic",
    "DiscretizedLogisticLikelihood",
    "ExactContinuousBernoulli",
    "HierarchicalModel",
    "IndependentPrior",
    "LaplaceLikelihood",
    "LaplacePrior",
    "Likelihood",
    "MultimodalModel",
    "NormalLikelihood",
    "OneHotMLP",
    "StandardNormalPrior",
    "point_estimate",
]
