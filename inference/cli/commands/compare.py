"""`multipyro compare`: train and evaluate several methods over several seeds."""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from torch import Tensor

from multipyro.data import Splits
from multipyro.data.storage import write_atomically
from multipyro.inference.cli.console import say
from multipyro.inference.cli.jobs import check_options, load_data, training_job
from multipyro.inference.cli.plugins import method_name
from multipyro.inference.cli.saved_runs import read_report, training_of, write_json, write_report
from multipyro.inference.cli.tables import (
    flat_metrics,
    format_difference,
    format_value,
    markdown_table,
    metric_title,
    table,
)
from multipyro.inference.evaluation import evaluate, paired_differences
from multipyro.inference.runs import checkpoint_of, load, read_run, versions

__all__ = ["run", "summarize"]

# methods beside each other in a table; further ones come in further tables
_COLUMNS = 6


def run(arguments: argparse.Namespace) -> None:
    """Trains and evaluates every method with every seed, unless a finished run is there."""
    methods = list(dict.fromkeys(map(method_name, arguments.method)))
    check_options(arguments, methods)
    splits = load_data(arguments)
    for method in methods:  # so that an error in a method is raised before hours of training
        training_job(arguments, method, splits, 0, arguments.out)
    reports: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    examples: dict[str, list[dict[str, Tensor]]] = {method: [] for method in methods}
    for method in methods:
        for seed in range(arguments.seeds):
            out = arguments.out / f"{method}-{Path(arguments.data).stem}-{seed}"
            say(f"{method}, seed {seed}")
            job = training_job(arguments, method, splits, seed, out, resume=True)
            history = job.train().history
            seconds = sum(epoch["seconds"] for epoch in history)
            metrics, values = _report(out, splits, arguments.num_samples, seed)
            reports[method].append({**metrics, "training_seconds": seconds})
            examples[method].append(values)
    results = {method: summarize(found) for method, found in reports.items()}
    names = list(dict.fromkeys(name for row in results.values() for name in row))
    rows = [[name, *(format_value(row.get(name)) for row in results.values())] for name in names]
    _say_tables(f"{arguments.data}: mean ± standard deviation over {arguments.seeds} seeds", methods, rows)
    first, *others = methods
    differences = {method: paired_differences(examples[method], examples[first]) for method in others}
    names = list(dict.fromkeys(name for found in differences.values() for name in found))
    difference_rows = [
        [metric_title(name), *(format_difference(found.get(name)) for found in differences.values())] for name in names
    ]
    if others:
        title = f"{arguments.data}: difference from {first} on the same test examples ± its standard error"
        _say_tables(f"{title} (standard deviation over seeds)", others, difference_rows)
    plain = {name: value for name, value in vars(arguments).items() if isinstance(value, int | float | str | list)}
    record = {"seeds": arguments.seeds, "data": arguments.data, "settings": plain, "versions": versions()}
    record |= {"rows": reports[methods[0]][0]["data"], "methods": results}
    plain_differences = {m: {name: one.to_dict() for name, one in found.items()} for m, found in differences.items()}
    record["differences"] = {"from": first, "methods": plain_differences}
    write_json(arguments.out / "compare.json", record)
    text = markdown_table(["metric", *results], rows)
    if others:
        text += "\n" + markdown_table([f"difference from {first}", *others], difference_rows)
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


def _report(run: Path, splits: Splits, num_samples: int, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The report on a finished run; that in its folder if it is of the same programs, data and settings."""
    wanted = {
        "training": training_of(read_run(run)),
        "checkpoint": checkpoint_of(run, "best").stem,
        "versions": versions(),
        "seed": seed,
        "content_hash": {part: getattr(splits, part).content_hash for part in Splits.NAMES},
        "labels_hash": {part: getattr(splits, part).labels_hash for part in Splits.NAMES},
        "num_samples": num_samples,
        "coherence_of": "mean",
    }
    with suppress(FileNotFoundError, ValueError, KeyError, AttributeError, TypeError, BadZipFile):
        found, examples = read_report(run)
        if {**found, **found["data"], **found["settings"]}.items() >= wanted.items():
            return found, examples
    loaded = load(run)
    report = evaluate(loaded.model, loaded.guide, splits, num_samples=num_samples, seed=seed, progress=True)
    return write_report(run, report), dict(report.examples)
