"""Training: settings, and the loop over stages, epochs and batches."""

from multipyro.inference.training.batches import step_seed
from multipyro.inference.training.fitting import FitResult, fit, fit_recipe
from multipyro.inference.training.reporting import FitState
from multipyro.inference.training.settings import TrainingSettings
from multipyro.inference.training.steps import NonFiniteLossError

__all__ = ["FitResult", "FitState", "NonFiniteLossError", "TrainingSettings", "fit", "fit_recipe", "step_seed"]
