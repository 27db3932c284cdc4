"""Evaluation: prediction, likelihoods, metrics and figures."""

from multipyro.inference.evaluation._inputs import supports
from multipyro.inference.evaluation.attributes import (
    AttributeScores,
    attribute_scores,
    average_precision,
    word_correctness,
    words_present,
)
from multipyro.inference.evaluation.checks.calibration import Calibration, calibrate
from multipyro.inference.evaluation.checks.gaps import InferenceGap, inference_gap
from multipyro.inference.evaluation.checks.guide_check import GuideCheck, SubsetCheck, check_guide
from multipyro.inference.evaluation.checks.two_sample import TwoSampleTest, two_sample_test
from multipyro.inference.evaluation.checks.uniformity import UniformityTest
from multipyro.inference.evaluation.checks.verdicts import Verdict
from multipyro.inference.evaluation.classifiers import (
    AttributeClassifier,
    Classifier,
    train_attribute_classifier,
    train_classifiers,
)
from multipyro.inference.evaluation.coherence import coherence_by_number, conditional_coherence, joint_coherence
from multipyro.inference.evaluation.dimensions import LatentDimensions, latent_dimensions, symmetric_kl
from multipyro.inference.evaluation.estimates import (
    Estimate,
    PairedDifference,
    estimate_mean,
    estimate_share,
    paired_difference,
)
from multipyro.inference.evaluation.features import (
    CanonicalCorrelation,
    SampleQuality,
    sample_quality,
    sentence_vectors,
    without_first_component,
)
from multipyro.inference.evaluation.inference_data import (
    check_predictions,
    check_statistic,
    color_histogram,
    predictive_log_weights,
    stroke_width,
    to_elpd,
    to_inference_data,
)
from multipyro.inference.evaluation.likelihoods.annealing import Annealing, bidirectional_sandwich
from multipyro.inference.evaluation.likelihoods.bounds import (
    ConditionalBounds,
    guide_conditional_log_likelihood,
    guide_predictive_log_likelihood,
    importance_weighted_bound,
)
from multipyro.inference.evaluation.likelihoods.estimates import LogLikelihood, Sandwich
from multipyro.inference.evaluation.likelihoods.importance import log_likelihood, log_likelihoods
from multipyro.inference.evaluation.likelihoods.papers import (
    BridgedLikelihoods,
    MMVAELikelihoods,
    bridged_log_likelihoods,
    jmvae_log_likelihood,
    mmvae_log_likelihoods,
    mopoe_log_likelihood,
    vlvae_log_likelihood,
)
from multipyro.inference.evaluation.likelihoods.proposals import ImportanceSampling
from multipyro.inference.evaluation.prediction import (
    Simulation,
    cross_generate,
    decode,
    embed,
    evaluating,
    joint_samples,
    reconstruct,
    simulate,
)
from multipyro.inference.evaluation.probes import latent_accuracy, latent_average_precision
from multipyro.inference.evaluation.report import Report, evaluate, paired_differences

__all__ = [
    "Annealing",
    "AttributeClassifier",
    "AttributeScores",
    "BridgedLikelihoods",
    "Calibration",
    "CanonicalCorrelation",
    "Classifier",
    "ConditionalBounds",
    "Estimate",
    "GuideCheck",
    "ImportanceSampling",
    "InferenceGap",
    "LatentDimensions",
    "LogLikelihood",
    "MMVAELikelihoods",
    "PairedDifference",
    "Report",
    "SampleQuality",
    "Sandwich",
    "Simulation",
    "SubsetCheck",
    "TwoSampleTest",
    "UniformityTest",
    "Verdict",
    "attribute_scores",
    "average_precision",
    "bidirectional_sandwich",
    "bridged_log_likelihoods",
    "calibrate",
    "check_guide",
    "check_predictions",
    "check_statistic",
    "coherence_by_number",
    "color_histogram",
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
    "inference_gap",
    "jmvae_log_likelihood",
    "joint_coherence",
    "joint_samples",
    "latent_accuracy",
    "latent_average_precision",
    "latent_dimensions",
    "log_likelihood",
    "log_likelihoods",
    "mmvae_log_likelihoods",
    "mopoe_log_likelihood",
    "paired_difference",
    "paired_differences",
    "predictive_log_weights",
    "reconstruct",
    "sample_quality",
    "sentence_vectors",
    "simulate",
    "stroke_width",
    "supports",
    "symmetric_kl",
    "to_elpd",
    "to_inference_data",
    "train_attribute_classifier",
    "train_classifiers",
    "two_sample_test",
    "vlvae_log_likelihood",
    "without_first_component",
    "word_correctness",
    "words_present",
]
