"""Estimates of log-likelihoods, with standard errors and diagnostics."""

from multipyro.inference.evaluation.likelihoods.annealing import Annealing, bidirectional_sandwich
from multipyro.inference.evaluation.likelihoods.bounds import (
    ConditionalBounds,
    guide_conditional_log_likelihood,
    guide_predictive_log_likelihood,
    importance_weighted_bound,
)
from multipyro.inference.evaluation.likelihoods.estimates import Difference, LogLikelihood, Sandwich
from multipyro.inference.evaluation.likelihoods.estimators import log_likelihood, log_likelihoods
from multipyro.inference.evaluation.likelihoods.papers import (
    BridgedLikelihoods,
    MMVAELikelihoods,
    bridged_log_likelihoods,
    jmvae_log_likelihood,
    mmvae_log_likelihoods,
    mopoe_log_likelihood,
    vlvae_log_likelihood,
)

__all__ = [
    "Annealing",
    "BridgedLikelihoods",
    "ConditionalBounds",
    "Difference",
    "LogLikelihood",
    "MMVAELikelihoods",
    "Sandwich",
    "bidirectional_sandwich",
    "bridged_log_likelihoods",
    "guide_conditional_log_likelihood",
    "guide_predictive_log_likelihood",
    "importance_weighted_bound",
    "jmvae_log_likelihood",
    "log_likelihood",
    "log_likelihoods",
    "mmvae_log_likelihoods",
    "mopoe_log_likelihood",
    "vlvae_log_likelihood",
]
