"""`multipyro compare`: train and evaluate several methods over several seeds."""

import argparse
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from multipyro.data import Splits
from multipyro.data.custom import is_data_file
from multipyro.data.storage import write_atomically
from multipyro.inference.cli.console import say, warn
from multipyro.inference.cli.jobs import TrainingJob, check_options, load_data, training_job
from multipyro.inference.cli.plugins import method_name
from multipyro.inference.cli.saved_runs import read_report, write_json, write_report
from multipyro.inference.cli.tables import (
    flat_metrics,
    format_difference,
    format_value,
    markdown_table,
    metric_rows,
    metric_title,
    table,
)
from multipyro.inference.evaluation import evaluate, paired_differences
from multipyro.inference.runs import load, versions
from multipyro.inference.runs.description import describe_recipe, describe_settings
from multipyro.inference.sweeps import Cell, CellResult, run_cells
from multipyro.inference.training.settings import RESUMABLE

__all__ = ["run", "summarize"]

# most methods in one table; the others follow in further tables
_COLUMNS = 6


def run(arguments: argparse.Namespace) -> None:
    """Trains and evaluates every method with every seed, each once, and compares what is finished.

    Raises:
        RuntimeError: If a training or an evaluation failed, after the others are compared; names the first failure.
    """
    places = {method_name(place): place for place in arguments.method}
    check_options(arguments, list(places))
    splits = load_data(arguments)
    shared = {"arguments": arguments, "splits": None if arguments.workers else splits}
    cells: dict[tuple[str, int], Cell] = {}
    for method, place in places.items():
        key = _key(training_job(arguments, method, splits, 0, arguments.out), arguments)
        for seed in range(arguments.seeds):
            name = f"{method}-{Path(arguments.data).stem}-{seed}"
            training = {**shared, "place": place, "seed": seed}
            cells[method, seed] = Cell(name, _train_and_evaluate, training, {**key, "seed": seed})
    outcomes = run_cells(
        list(cells.values()), arguments.out, workers=arguments.workers, engine=arguments.engine, report=_report_failure
    )
    failed = {name: outcome.error for name, outcome in outcomes.items() if outcome.values is None}
    reports: dict[str, dict[int, dict[str, Any]]] = {}
    examples: dict[str, dict[int, dict[str, Tensor]]] = {}
    for (method, seed), cell in cells.items():
        if cell.name not in failed:
            metrics, values = read_report(arguments.out / cell.name)
            reports.setdefault(method, {})[seed] = {**metrics, **outcomes[cell.name].values}
            examples.setdefault(method, {})[seed] = values
    if reports:
        _write_tables(arguments, reports, examples)
    if failed:
        first, error = next(iter(failed.items()))
        raise RuntimeError(
            f"{len(failed)} of {len(cells)} runs failed; {first}: {error.splitlines()[-1]} (the same command starts "
            "them again)"
        )


def _key(job: TrainingJob, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the result of a cell depends on, besides its seed."""
    irrelevant = ("seed", *(name for name in RESUMABLE if name != "epochs"))
    parts = {part: getattr(job.splits, part) for part in Splits.NAMES}
    return {
        "recipe": describe_recipe(job.recipe, job.settings.epochs),
        "settings": describe_settings(job.settings, irrelevant),
        "config": job.settings.config,
        "num_samples": arguments.num_samples,
        "likelihood_data_points": arguments.rows,
        "content_hash": {name: part.content_hash for name, part in parts.items()},
        "labels_hash": {name: part.labels_hash for name, part in parts.items()},
        "versions": versions(),
    }


def _train_and_evaluate(
    folder: Path, arguments: argparse.Namespace, splits: Splits | None, place: str, seed: int
) -> dict[str, Any]:
    """Trains one method with one seed, or continues it, and writes its report to the folder."""
    method = method_name(place)
    say(f"{method}, seed {seed}")
    splits = load_data(arguments) if splits is None else splits
    history = training_job(arguments, method, splits, seed, folder, resume=True).train().history
    loaded = load(folder)
    report = evaluate(
        loaded.model,
        loaded.guide,
        splits,
        num_samples=arguments.num_samples,
        likelihood_data_points=arguments.rows,
        seed=seed,
        progress=arguments.progress,
    )
    write_report(folder, report)
    return {"training_seconds": sum(epoch["seconds"] for epoch in history)}


def _report_failure(cell: Cell, result: CellResult) -> None:
    if result.error:
        warn(f"{cell.name} failed: {result.error.splitlines()[-1]}")


def _write_tables(
    arguments: argparse.Namespace,
    reports: Mapping[str, Mapping[int, Mapping[str, Any]]],
    examples: Mapping[str, Mapping[int, Mapping[str, Tensor]]],
) -> None:
    """Prints and writes the metrics of all methods and their differences from the first method."""
    methods = list(reports)
    results = {method: summarize(list(by_seed.values())) for method, by_seed in reports.items()}
    rows = metric_rows(results, format_value)
    number = f"{arguments.seeds} seed{'s' * (arguments.seeds != 1)}"
    _say_tables(f"{arguments.data}: mean ± standard deviation over {number}", methods, rows)
    first, *others = methods
    differences = {}
    for method in others:
        seeds = [seed for seed in examples[method] if seed in examples[first]]
        if seeds:
            pairs = ([examples[name][seed] for seed in seeds] for name in (method, first))
            differences[method] = paired_differences(*pairs)
    difference_rows = metric_rows(differences, format_difference, metric_title)
    if differences:
        title = f"{arguments.data}: difference from {first} on the same test examples ± its standard error"
        _say_tables(f"{title} (standard deviation over seeds)", list(differences), difference_rows)
    plain = {name: value for name, value in vars(arguments).items() if isinstance(value, int | float | str | list)}
    if is_data_file(arguments.data):  # runs and their tables can be moved
        plain["data"] = os.path.relpath(arguments.data, arguments.out)
    record = {"seeds": arguments.seeds, "data": plain["data"], "settings": plain, "versions": versions()}
    record |= {"rows": next(iter(reports[first].values()))["data"], "methods": results}
    plain_differences = {m: {name: one.to_dict() for name, one in each.items()} for m, each in differences.items()}
    record["differences"] = {"from": first, "methods": plain_differences}
    write_json(arguments.out / "compare.json", record)
    text = markdown_table(["metric", *results], rows)
    if differences:
        text += "\n" + markdown_table([f"difference from {first}", *differences], difference_rows)
    write_atomically(arguments.out / "compare.md", text)
    say(f"written to {arguments.out / 'compare.json'} and compare.md")


def _say_tables(title: str, methods: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for begin in range(0, len(methods), _COLUMNS):
        columns = slice(1 + begin, 1 + begin + _COLUMNS)
        header = ["metric", *methods[begin : begin + _COLUMNS]]
        say(table(title, header, [[row[0], *row[columns]] for row in rows]))


def summarize(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float] | None]:
    """Mean and standard deviation over seeds of every metric; None where a method does not have it.

    Args:
        reports: The results of `evaluate`, one per seed.

    Returns:
        Metric -> `value`, `std` (None for a single seed) and `seeds`, the number of seeds that have the metric.
    """
    flat = [flat_metrics(report) for report in reports]
    metrics = {name: [one[name]["value"] for one in flat if one.get(name) is not None] for one in flat for name in one}
    metrics["parameters"] = [float(report["parameters"]) for report in reports]
    metrics["training, seconds"] = [report["training_seconds"] for report in reports if "training_seconds" in report]
    return {name: _spread([value for value in values if value is not None]) for name, values in metrics.items()}


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"value": statistics.fmean(values), "std": std, "seeds": len(values)}
