"""Figures of trained models, one function each."""

from multipyro.inference.evaluation.figures._drawing import save_figure
from multipyro.inference.evaluation.figures.collection import NamedFigure, figures_of, rows_of_each_class
from multipyro.inference.evaluation.figures.curves import (
    attribute_scores_figure,
    by_number_figure,
    by_setting_figure,
    training_curves_figure,
    word_histogram_figure,
)
from multipyro.inference.evaluation.figures.grids import (
    attribute_changes_figure,
    attribute_edits_figure,
    cross_generation_figure,
    joint_samples_figure,
    latent_samples_figure,
    reconstructions_figure,
    traversals_figure,
)
from multipyro.inference.evaluation.figures.guide_checks import guide_check_figure
from multipyro.inference.evaluation.figures.maps import latent_map_figure, posteriors_figure

__all__ = [
    "NamedFigure",
    "attribute_changes_figure",
    "attribute_edits_figure",
    "attribute_scores_figure",
    "by_number_figure",
    "by_setting_figure",
    "cross_generation_figure",
    "figures_of",
    "guide_check_figure",
    "joint_samples_figure",
    "latent_map_figure",
    "latent_samples_figure",
    "posteriors_figure",
    "reconstructions_figure",
    "rows_of_each_class",
    "save_figure",
    "training_curves_figure",
    "traversals_figure",
    "word_histogram_figure",
]
