"""Generative programs `p(z) prod_m p(x_m | z)`: priors, likelihoods and the networks they are made of."""

from multipyro.ppl_models.conditional import ConditionalModel, IndependentPrior
from multipyro.ppl_models.hierarchical import HierarchicalModel
from multipyro.ppl_models.instance import InstanceNormDecoder, InstanceNormEncoder, SharedLayers
from multipyro.ppl_models.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Laplace,
    Likelihood,
    Normal,
    point_estimate,
)
from multipyro.ppl_models.multimodal import MultimodalModel
from multipyro.ppl_models.networks import MLP, ConvDecoder, ConvEncoder, OneHotMLP
from multipyro.ppl_models.pixels import Beta, DiscretisedLogistic, DiscretisedLogisticDistribution
from multipyro.ppl_models.priors import LaplacePrior, StandardNormalPrior
from multipyro.ppl_models.residual import ResidualDecoder, ResidualEncoder, ResidualTextDecoder, ResidualTextEncoder
from multipyro.ppl_models.strided import Discriminator, NormalisedMLP, StridedDecoder, StridedEncoder
from multipyro.ppl_models.text import AutoregressiveCategorical, AutoregressiveText
from multipyro.ppl_models.text_networks import (
    CharacterDecoder,
    CharacterEncoder,
    SentenceDecoder,
    SentenceEncoder,
    TokenGRU,
)

__all__ = [
    "MLP",
    "AutoregressiveCategorical",
    "AutoregressiveText",
    "Bernoulli",
    "Beta",
    "Categorical",
    "CharacterDecoder",
    "CharacterEncoder",
    "ConditionalModel",
    "ContinuousBernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "DiscretisedLogistic",
    "DiscretisedLogisticDistribution",
    "Discriminator",
    "HierarchicalModel",
    "IndependentPrior",
    "InstanceNormDecoder",
    "InstanceNormEncoder",
    "Laplace",
    "LaplacePrior",
    "Likelihood",
    "MultimodalModel",
    "Normal",
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
