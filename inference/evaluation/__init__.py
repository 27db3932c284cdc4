"""Evaluation: prediction, likelihoods, metrics and figures."""

from multipyro.inference.evaluation._inputs import supports
from multipyro.inference.evaluation.attributes import (
    AttributeScores,
    attribute_scores,
    average_precision,
    word_correctness,
    words_present,
)
from multipyro.inference.evaluation.classifiers import (
    AttributeClassifier,
    Classifier,
    train_attribute_classifier,
    train_classifiers,
)
from multipyro.inference.evaluation.coherence import coherence_by_number, conditional_coherence, joint_coherence
from multipyro.inference.evaluation.correlation import CanonicalCorrelation, sentence_vectors, without_first_component
from multipyro.inference.evaluation.dimensions import LatentDimensions, latent_dimensions, symmetric_kl
from multipyro.inference.evaluation.estimates import (
    Estimate,
    PairedDifference,
    estimate_mean,
    estimate_share,
    paired_difference,
)
from multipyro.inference.evaluation.inference_data import (
    check_statistic,
    predictive_log_weights,
    to_elpd,
    to_inference_data,
)
from multipyro.inference.evaluation.likelihoods import (
    ConditionalBounds,
    Difference,
    LogLikelihood,
    guide_conditional_log_likelihood,
    guide_predictive_log_likelihood,
    importance_weighted_bound,
    log_likelihood,
    log_likelihoods,
)
from multipyro.inference.evaluation.prediction import (
    cross_generate,
    decode,
    embed,
    evaluating,
    joint_samples,
    reconstruct,
)
from multipyro.inference.evaluation.probes import latent_accuracy, latent_average_precision
from multipyro.inference.evaluation.report import Report, evaluate, paired_differences

__all__ = [
    "AttributeClassifier",
    "AttributeScores",
    "CanonicalCorrelation",
    "Classifier",
    "ConditionalBounds",
    "Difference",
    "Estimate",
    "LatentDimensions",
    "LogLikelihood",
    "PairedDifference",
    "Report",
    "attribute_scores",
    "average_precision",
    "check_statistic",
    "coherence_by_number",
    "conditional_coherence",
    "cross_generate",
    "decode",
    "embed",
    "estimate_mean",
    "estimate_share",
    "evaluate",
    "evaluating",
    "guide_conditional_log_likelihood",
    "guide_predictive_log_likelihood",
    "importance_weighted_bound",
    "joint_coherence",
    "joint_samples",
    "latent_accuracy",
    "latent_average_precision",
    "latent_dimensions",
    "log_likelihood",
    "log_likelihoods",
    "paired_difference",
    "paired_differences",
    "predictive_log_weights",
    "reconstruct",
    "sentence_vectors",
    "supports",
    "symmetric_kl",
    "to_elpd",
    "to_inference_data",
    "train_attribute_classifier",
    "train_classifiers",
    "without_first_component",
    "word_correctness",
    "words_present",
]
