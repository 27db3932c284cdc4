"""`multipyro generate`: modalities generated from others, as a figure."""

import argparse

from multipyro.inference.cli.console import say
from multipyro.inference.cli.drawing import draw_cross_generation
from multipyro.inference.cli.saved_runs import model_under, open_run

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Draws the figure."""
    saved = open_run(arguments)
    draw_cross_generation(
        saved.recipe,
        saved.splits,
        arguments.given,
        arguments.target,
        arguments.file,
        arguments.num_samples,
        arguments.rows,
        arguments.seed,
        model_under(saved.recipe, arguments.covariates),
    )
    say(f"written to {arguments.file}")
