"""`multipyro figures`: every figure of a run that its data and its method allow."""

import argparse
import csv
from contextlib import suppress
from pathlib import Path

from multipyro.data.storage import write_atomically
from multipyro.inference.cli.console import say
from multipyro.inference.cli.drawing import file_name
from multipyro.inference.cli.saved_runs import open_run, read_json
from multipyro.inference.cli.tables import markdown_text
from multipyro.inference.evaluation.figures import figures_of, save_figure

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Draws the figures and writes a file of their captions beside them."""
    saved = open_run(arguments)
    out = arguments.out or arguments.run / "figures"
    report = read_json(arguments.run / "metrics.json") or None
    captions = []
    figures = figures_of(
        saved.recipe.model,
        saved.recipe.guide,
        saved.splits,
        _history(arguments.run),
        report,
        arguments.rows,
        arguments.seed,
    )
    for name, caption, figure in figures:
        file = out / f"{file_name(name)}.{arguments.format}"
        write_atomically(file, lambda opened, figure=figure: save_figure(figure, opened, format=arguments.format))
        captions.append(f"- `{file.name}`: {markdown_text(caption)}\n")
        say(f"{file}: {caption}")
    write_atomically(out / "captions.md", "".join(captions))


def _history(run: Path) -> list[dict[str, float]]:
    """The epochs in a run's `log.csv`, without empty cells; an empty list if there is no log."""
    with suppress(FileNotFoundError), (run / "log.csv").open(encoding="utf-8", newline="") as opened:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(opened)]
    return []
