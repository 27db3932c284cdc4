"""Estimates of log-likelihoods, with errors that tell the truth about them."""

from multipyro.inference.evaluation.likelihoods.estimates import Difference, LogLikelihood
from multipyro.inference.evaluation.likelihoods.estimators import log_likelihood, log_likelihoods
from multipyro.inference.evaluation.likelihoods.papers import (
    ConditionalBounds,
    guide_conditional_log_likelihood,
    guide_predictive_log_likelihood,
    importance_weighted_bound,
)

__all__ = [
    "ConditionalBounds",
    "Difference",
    "LogLikelihood",
    "guide_conditional_log_likelihood",
    "guide_predictive_log_likelihood",
    "importance_weighted_bound",
    "log_likelihood",
    "log_likelihoods",
]
