"""Objectives, training, prediction and evaluation."""

from multipyro.inference.evaluation.classifiers import Classifier, train_classifiers
from multipyro.inference.evaluation.coherence import coherence_by_number, conditional_coherence, joint_coherence
from multipyro.inference.evaluation.figures import cross_generation_figure, joint_samples_figure, reconstructions_figure
from multipyro.inference.evaluation.inference_data import to_inference_data
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
from multipyro.inference.evaluation.metrics import evaluate, latent_accuracy
from multipyro.inference.evaluation.prediction import cross_generate, embed, joint_samples, reconstruct
from multipyro.inference.handlers import conditional, frozen, generative, predictive, restrict
from multipyro.inference.objectives.adversarial import DiscriminatorLoss, GeneratorLoss
from multipyro.inference.objectives.jensen_shannon import JensenShannonELBO
from multipyro.inference.objectives.linear_mixture import LinearMixtureELBO
from multipyro.inference.objectives.schedules import LinearWarmup
from multipyro.inference.objectives.stratified import StratifiedELBO
from multipyro.inference.objectives.subset import SubsetELBO
from multipyro.inference.objectives.terms import MultimodalELBO, Term, WeightedELBO
from multipyro.inference.recipes import (
    COMMON_OPTIONS,
    METHODS,
    MethodInfo,
    Recipe,
    Stage,
    Update,
    build,
    register,
    site_weights,
)
from multipyro.inference.recipes.networks import Networks, networks_for
from multipyro.inference.training.checkpoints import load_state, save_state
from multipyro.inference.training.fitting import FitResult, NonFiniteLossError, fit, fit_recipe
from multipyro.inference.training.runs import LoadedRun, load
from multipyro.inference.training.seeds import step_seed

__all__ = [
    "COMMON_OPTIONS",
    "METHODS",
    "Classifier",
    "ConditionalBounds",
    "Difference",
    "DiscriminatorLoss",
    "FitResult",
    "GeneratorLoss",
    "JensenShannonELBO",
    "LinearMixtureELBO",
    "LinearWarmup",
    "LoadedRun",
    "LogLikelihood",
    "MethodInfo",
    "MultimodalELBO",
    "Networks",
    "NonFiniteLossError",
    "Recipe",
    "Stage",
    "StratifiedELBO",
    "SubsetELBO",
    "Term",
    "Update",
    "WeightedELBO",
    "build",
    "coherence_by_number",
    "conditional",
    "conditional_coherence",
    "cross_generate",
    "cross_generation_figure",
    "embed",
    "evaluate",
    "fit",
    "fit_recipe",
    "frozen",
    "generative",
    "guide_conditional_log_likelihood",
    "guide_predictive_log_likelihood",
    "importance_weighted_bound",
    "joint_coherence",
    "joint_samples",
    "joint_samples_figure",
    "latent_accuracy",
    "load",
    "load_state",
    "log_likelihood",
    "log_likelihoods",
    "networks_for",
    "predictive",
    "reconstruct",
    "reconstructions_figure",
    "register",
    "restrict",
    "save_state",
    "site_weights",
    "step_seed",
    "to_inference_data",
    "train_classifiers",
]
