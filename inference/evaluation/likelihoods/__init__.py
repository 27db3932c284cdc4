"""Estimates of log-likelihoods, with errors that tell the truth about them."""

from multipyro.inference.evaluation.likelihoods.annealing import Annealing, bidirectional_sandwich
from multipyro.inference.evaluation.likelihoods.estimates import Difference, LogLikelihood, Sandwich
from multipyro.inference.evaluation.likelihoods.estimators import log_likelihood, log_likelihoods
from multipyro.inference.evaluation.likelihoods.papers import (
    ConditionalBounds,
    guide_conditional_log_likelihood,
    guide_predictive_log_likelihood,
    importance_weighted_bound,
)

__all__ = [
    "Annealing",
    "ConditionalBounds",
    "Difference",
    "LogLikelihood",
    "Sandwich",
    "bidirectional_sandwich",
    "guide_conditional_log_likelihood",
    "guide_predictive_log_likelihood",
    "importance_weighted_bound",
    "log_likelihood",
    "log_likelihoods",
]
