"""`multipyro train`: train one method on one data set."""

import argparse
from pathlib import Path

from multipyro.inference.cli.console import say, warn
from multipyro.inference.cli.drawing import draw_cross_generation, figure_name
from multipyro.inference.cli.jobs import check_options, figure_modalities, load_data, training_job
from multipyro.inference.cli.plugins import guide_class, method_name
from multipyro.inference.cli.summary import summary
from multipyro.inference.evaluation import supports
from multipyro.inference.runs import load

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Trains the method, or prints what it would train."""
    method = method_name(arguments.method)
    out = arguments.out or Path("runs") / f"{method}-{Path(arguments.data).stem}-{arguments.seed}"
    guide = None if arguments.guide is None else guide_class(arguments.guide)
    check_options(arguments, [method])
    job = training_job(arguments, method, load_data(arguments), arguments.seed, out, arguments.resume, guide)
    given, target = figure_modalities(arguments, job.recipe)
    say(summary(job))
    if arguments.dry_run:
        return
    job.train()
    if arguments.figure and supports(job.recipe.guide, given):
        file = out / figure_name(given, target)
        try:
            draw_cross_generation(load(out, guide).recipe, job.splits, given, target, file, seed=arguments.seed)
        except Exception as error:  # the run is finished, even if drawing the figure fails
            warn(f"no figure was drawn: {error}")
    say(f"trained {method} on {arguments.data}; the run is in {out}")
