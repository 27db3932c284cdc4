"""`multipyro evaluate`: all metrics of a run."""

import argparse
from dataclasses import replace

from multipyro.inference.cli.console import say
from multipyro.inference.cli.saved_runs import check_writable, open_run, training_part, write_report
from multipyro.inference.cli.tables import metrics_table
from multipyro.inference.evaluation import evaluate

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Computes the metrics, prints them and writes `metrics.json`."""
    saved = open_run(arguments)
    check_writable(arguments.run)
    report = evaluate(
        saved.recipe.model,
        saved.recipe.guide,
        replace(saved.splits, train=training_part(arguments, saved)),
        num_samples=arguments.num_samples,
        likelihood_data_points=arguments.rows,
        output=arguments.pixels,
        seed=arguments.seed,
        progress=True,
    )
    metrics = write_report(arguments.run, report, arguments.checkpoint)
    say(metrics_table(metrics, f"{saved.config['method']} on {saved.splits.test.name}"))
    say(f"written to {arguments.run / 'metrics.json'}")
