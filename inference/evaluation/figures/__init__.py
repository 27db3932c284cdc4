"""Figures of trained models, one function each."""

from multipyro.inference.evaluation.figures.grids import (
    cross_generation_figure,
    joint_samples_figure,
    reconstructions_figure,
)

__all__ = ["cross_generation_figure", "joint_samples_figure", "reconstructions_figure"]
