"""Generative programs `p(z) prod_m p(x_m | z)`: models, priors, likelihoods and the networks that most scripts need."""

from multipyro.ppl_models import likelihoods
from multipyro.ppl_models.conditional import ConditionalModel, IndependentPrior
from multipyro.ppl_models.hierarchical import HierarchicalModel
from multipyro.ppl_models.likelihoods import *  # noqa: F403
from multipyro.ppl_models.multimodal import MultimodalModel
from multipyro.ppl_models.networks import MLP, ConvDecoder, ConvEncoder, Covariates, OneHotMLP, WithCovariates
from multipyro.ppl_models.priors import FlowPrior, LaplacePrior, StandardNormalPrior

__all__ = [
    "MLP",
    "ConditionalModel",
    "ConvDecoder",
    "ConvEncoder",
    "Covariates",
    "FlowPrior",
    "HierarchicalModel",
    "IndependentPrior",
    "LaplacePrior",
    "MultimodalModel",
    "OneHotMLP",
    "StandardNormalPrior",
    "WithCovariates",
    *likelihoods.__all__,
]
