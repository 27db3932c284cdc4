"""Tables of metrics for a terminal and for Markdown; what does not exist is a dash."""

from collections.abc import Mapping, Sequence
from typing import Any

from multipyro._optional import optional_imports
from multipyro.inference.cli.console import printable

__all__ = ["flat_metrics", "format_value", "markdown_table", "metrics_table", "table"]


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> Any:
    """A table of rich for the terminal.

    Args:
        title: Its title.
        header: The names of the columns.
        rows: The cells.
        numbers: Whether all columns but the first are numbers, which stand on the right.
    """
    with optional_imports("a table"):
        from rich.table import Table
    result = Table(title=printable(title))
    for number, name in enumerate(header):
        result.add_column(printable(name), justify="right" if numbers and number else "left")
    for row in rows:
        result.add_row(*map(printable, row))
    return result


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, float] | None]:
    """The estimates of an `evaluate` report by one name each, in its order."""
    rows = {"joint coherence": metrics["coherence"]["joint"]}
    for name, value in metrics["coherence"]["conditional"].items():
        rows[f"coherence {name}"] = value
    for number, value in metrics["coherence"].get("by_number", {}).items():
        rows[f"coherence, {number} given"] = value
    for name, value in metrics["latent_accuracy"].items():
        rows[f"latent accuracy {name}"] = value
    for name, value in metrics["log_likelihood"].items():
        rows[f"log p({name.replace('+', ', ')})"] = value
    for name, value in metrics["conditional_log_likelihood"].items():
        given, _, target = name.partition("->")
        rows[f"log p({target} | {given.replace('+', ', ')})"] = value
    for name, value in metrics["guide_conditional_log_likelihood"].items():
        rows[f"guide's {name}, mean"] = None if value is None else value["mean"]
        rows[f"guide's {name}, log-mean-exp"] = None if value is None else value["logmeanexp"]
    return rows


def format_value(value: Mapping[str, float] | None) -> str:
    """An estimate and its standard error, or a mean and its standard deviation over seeds, or a dash.

    Example:
        >>> format_value({"value": 0.97123, "se": 0.01}), format_value({"value": 493770.0})
        ('0.971 ± 0.010', '493,770')
    """
    if value is None or value["value"] is None:
        return "–"
    if abs(value["value"]) >= 1_000 and float(value["value"]).is_integer():
        return f"{int(value['value']):,}"  # a count
    digits = 3 if abs(value["value"]) < 10 else 2
    spread = value.get("se", value.get("std"))
    error = "" if spread is None else f" ± {spread:.{digits}f}"
    return f"{value['value']:.{digits}f}{error}"


def metrics_table(metrics: Mapping[str, Any], title: str) -> Any:
    """The report of one run as a table for the terminal."""
    rows = [[name, format_value(value)] for name, value in flat_metrics(metrics).items()]
    return table(title, ["metric", "value ± standard error"], rows)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
