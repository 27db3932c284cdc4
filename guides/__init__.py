"""Variational programs `q(z | x_S)`: encoders, the algebra of experts, and guides."""

from multipyro.guides._base import Guide
from multipyro.guides.aggregate import AggregateGuide
from multipyro.guides.algebra.mixtures import StratifiedMixture
from multipyro.guides.algebra.products import product_of_experts, subset_products
from multipyro.guides.algebra.unnormalized import HamiltonianSampler, ProductOfDensities
from multipyro.guides.attributes import AttributeExperts
from multipyro.guides.bridged import BridgedGuide
from multipyro.guides.experts import MixtureOfExperts, MixtureOfProducts, ProductOfExperts
from multipyro.guides.flow_experts import FlowExperts
from multipyro.guides.hierarchical import HierarchicalGuide
from multipyro.guides.iterative import IterativeSampling
from multipyro.guides.joint import JointGuide
from multipyro.ppl_models.networks.flows import ConditionalFlow, RealNVP
from multipyro.ppl_models.networks.heads import JointEncoder, LaplaceEncoder, NormalEncoder

__all__ = [
    "AggregateGuide",
    "AttributeExperts",
    "BridgedGuide",
    "ConditionalFlow",
    "FlowExperts",
    "Guide",
    "HamiltonianSampler",
    "HierarchicalGuide",
    "IterativeSampling",
    "JointEncoder",
    "JointGuide",
    "LaplaceEncoder",
    "MixtureOfExperts",
    "MixtureOfProducts",
    "NormalEncoder",
    "ProductOfDensities",
    "ProductOfExperts",
    "RealNVP",
    "StratifiedMixture",
    "product_of_experts",
    "subset_products",
]
