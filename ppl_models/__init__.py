"""Generative programs `p(z) prod_m p(x_m | z)`: priors, likelihoods and the networks they are made of."""

from multipyro.ppl_models.conditional import ConditionalModel, IndependentPrior
from multipyro.ppl_models.hierarchical import HierarchicalModel
from multipyro.ppl_models.likelihoods.base import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    LaplaceLikelihood,
    Likelihood,
    NormalLikelihood,
    point_estimate,
)
from multipyro.ppl_models.likelihoods.pixels import BetaLikelihood, DiscretisedLogistic, DiscretisedLogisticDistribution
from multipyro.ppl_models.likelihoods.text import AutoregressiveCategorical, AutoregressiveText
from multipyro.ppl_models.multimodal import MultimodalModel
from multipyro.ppl_models.networks.instance import InstanceNormDecoder, InstanceNormEncoder, SharedLayers
from multipyro.ppl_models.networks.mlp import MLP, ConvDecoder, ConvEncoder, OneHotMLP
from multipyro.ppl_models.networks.residual import (
    ResidualDecoder,
    ResidualEncoder,
    ResidualTextDecoder,
    ResidualTextEncoder,
)
from multipyro.ppl_models.networks.strided import Discriminator, NormalisedMLP, StridedDecoder, StridedEncoder
from multipyro.ppl_models.networks.text import (
    CharacterDecoder,
    CharacterEncoder,
    SentenceDecoder,
    SentenceEncoder,
    TokenGRU,
)
from multipyro.ppl_models.priors import LaplacePrior, StandardNormalPrior

__all__ = [
    "MLP",
    "AutoregressiveCategorical",
    "AutoregressiveText",
    "BernoulliLikelihood",
    "BetaLikelihood",
    "CategoricalLikelihood",
    "CharacterDecoder",
    "CharacterEncoder",
    "ConditionalModel",
    "ContinuousBernoulliLikelihood",
    "ConvDecoder",
    "ConvEncoder",
    "DiscretisedLogistic",
    "DiscretisedLogisticDistribution",
    "Discriminator",
    "HierarchicalModel",
    "IndependentPrior",
    "InstanceNormDecoder",
    "InstanceNormEncoder",
    "LaplaceLikelihood",
    "LaplacePrior",
    "Likelihood",
    "MultimodalModel",
    "NormalLikelihood",
    "NormalisedMLP",
    "OneHotMLP",
    "ResidualDecoder",
    "ResidualEncoder",
    "ResidualTextDecoder",
    "ResidualTextEncoder",
    "SentenceDecoder",
    "SentenceEncoder",
    "SharedLayers",
    "StandardNormalPrior",
    "StridedDecoder",
    "StridedEncoder",
    "TokenGRU",
    "point_estimate",
]
