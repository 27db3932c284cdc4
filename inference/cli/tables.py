"""Tables of metrics for a terminal and for Markdown; a metric that does not exist is a dash."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from multipyro._optional import optional_imports
from multipyro.data.storage import printable as single_line
from multipyro.inference.cli.console import printable
from multipyro.inference.evaluation import PairedDifference

__all__ = [
    "flat_metrics",
    "format_difference",
    "format_value",
    "markdown_code",
    "markdown_table",
    "markdown_text",
    "metric_rows",
    "metric_title",
    "metrics_table",
    "table",
]

# the metrics of a report that are one number each
_TABULATED = (
    "coherence",
    "latent_accuracy",
    "log_likelihood",
    "conditional_log_likelihood",
    "guide_conditional_log_likelihood",
    "attributes",
)

# the numbers of the metrics that have several
_PARTS = {
    "guide_conditional_log_likelihood": ("mean", "logmeanexp"),
    "attributes": ("average_precision", "error_rate"),
}


# most rows of a table for each kind of metric
_MAX_PER_KIND = 8


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> Any:
    """A `rich` table for the terminal.

    Args:
        title: Its title.
        header: The names of the columns.
        rows: The cells.
        numbers: Whether all columns but the first are numbers, which are aligned to the right.
    """
    with optional_imports("a table"):
        from rich.table import Table
    result = Table(title=printable(title))
    for number, name in enumerate(header):
        result.add_column(printable(name), justify="right" if numbers and number else "left", no_wrap=not number)
    for row in rows:
        result.add_row(*map(printable, row))
    return result


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, float] | None]:
    """The estimates of an `evaluate` report, by name and in its order."""
    return {metric_title(path): value for path, value in _estimates(metrics) if _has_title(path)}


def metric_title(path: str) -> str:
    """The name of a metric of `Report.metrics` in a table, from the keys that lead to it.

    Example:
        >>> metric_title("conditional_log_likelihood/label->image"), metric_title("coherence/by_number/2")
        ('log p(image | label)', 'coherence, 2 given')
    """
    kind, _, rest = path.partition("/")
    if kind == "coherence":
        kind, _, rest = rest.partition("/")
        return {"joint": "joint coherence", "by_number": f"coherence, {rest} given"}.get(kind, f"coherence {rest}")
    given, _, target = rest.partition("->")
    if kind == "log_likelihood":
        return f"log p({rest.replace('+', ', ')})"
    if kind == "conditional_log_likelihood":
        return f"log p({target} | {given.replace('+', ', ')})"
    if kind == "attributes":
        direction, _, metric = rest.rpartition("/")
        return f"{metric.replace('_', ' ')} {direction}"
    if kind == "guide_conditional_log_likelihood":
        direction, _, bound = rest.rpartition("/")
        return f"guide's {direction}, {bound.replace('logmeanexp', 'log-mean-exp')}"
    return f"{kind.replace('_', ' ')} {rest}"


def format_value(value: Mapping[str, float] | None) -> str:
    """An estimate with its 95 % interval or its standard error, or a mean with its deviation over seeds, or a dash.

    A star marks a likelihood whose importance weights are not reliable at some test examples.

    Example:
        >>> format_value({"value": 0.97123, "se": 0.01, "low": 0.95, "high": 0.984})
        '0.971 [0.950, 0.984]'
        >>> format_value({"value": -1.5, "se": 0.01, "unreliable": 0.2}), format_value({"value": 493770.0})
        ('-1.500 ± 0.010 *', '493,770')
    """
    if value is None or value["value"] is None:
        return "–"
    if abs(value["value"]) >= 1_000 and float(value["value"]).is_integer():
        return f"{int(value['value']):,}"  # a count
    digits = 3 if abs(value["value"]) < 10 else 2
    spread = value.get("se", value.get("std"))
    error = "" if spread is None else f" ± {spread:.{digits}f}"
    if "low" in value:
        error = f" [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
    return f"{value['value']:.{digits}f}{error}{' *' if value.get('unreliable') else ''}"


def format_difference(difference: PairedDifference | None) -> str:
    """A paired difference with its error over test examples, and its deviation over seeds in parentheses."""
    if difference is None:
        return "–"
    digits = 3 if abs(difference.value) < 10 else 2
    spread = "" if difference.seed_std is None else f" ({difference.seed_std:.{digits}f})"
    return f"{difference.value:+.{digits}f} ± {difference.se:.{digits}f}{spread}"


def metrics_table(metrics: Mapping[str, Any], title: str) -> Any:
    """The report of one run as a table for the terminal.

    At most eight metrics of each kind are shown, and only those that the run has. A share that classifiers counted
    comes with the range that their accuracy on real data allows.
    """
    rows, notes, shown, left_out = [], [], Counter(), 0
    estimates = {path: value for path, value in _estimates(metrics) if _has_title(path)}
    for path, value in estimates.items():
        if value is None or value["value"] is None:
            continue
        kind = "/".join(path.split("/")[: 2 if path.startswith("coherence/") else 1])
        shown[kind] += 1
        left_out += shown[kind] > _MAX_PER_KIND
        if shown[kind] <= _MAX_PER_KIND:
            bracket = value.get("bracket")
            allowed = "" if bracket is None else f"{bracket[0]:.3f} to {bracket[1]:.3f}"
            rows.append([metric_title(path), format_value(value), allowed])
    for name, accuracy in metrics["classifier_accuracy"].items():
        if accuracy is not None:
            rows.append([f"accuracy of the classifier of {name}", f"{accuracy:.3f}", ""])
    if any((value or {}).get("unreliable") for value in estimates.values()):
        notes.append("* importance weights unreliable at some test examples: see the warnings in metrics.json")
    if left_out:
        notes.append(f"{left_out} further metrics are in metrics.json")
    result = table(title, ["metric", "value ± standard error, or [95 % interval]", "with classifier errors"], rows)
    result.caption = "\n".join(notes) or None
    return result


def metric_rows(
    columns: Mapping[str, Mapping[str, Any]], cell: Callable[[Any], str], title: Callable[[str], str] = str
) -> list[list[str]]:
    """The rows of a table of metrics: the title of each metric, and a cell for each of the columns.

    Args:
        columns: Name of a column -> its values by metric; a column may miss some.
        cell: The text of a value, or of None.
        title: The title of a metric.
    """
    metrics = dict.fromkeys(metric for values in columns.values() for metric in values)
    return [[title(metric), *(cell(values.get(metric)) for values in columns.values())] for metric in metrics]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, whose cells are texts: nothing in them is markup."""
    cells = [header, *rows]
    first, *others = ("| " + " | ".join(map(markdown_text, row)) + " |" for row in cells)
    return "\n".join([first, "|" + " --- |" * len(header), *others]) + "\n"


def markdown_text(text: object) -> str:
    r"""A text in Markdown, on one line, in which no character is markup or HTML.

    Example:
        >>> print(markdown_text("a|b <i>"))
        a\|b \<i\>
    """
    return re.sub(r"([\\`*_{}\[\]<>#|~&!$])", r"\\\1", single_line(text))


def markdown_code(text: object) -> str:
    """A text as code in Markdown, on one line, whatever backticks it contains."""
    text = single_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _has_title(path: str) -> bool:
    return path.partition("/")[0] in _TABULATED


def _estimates(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, float] | None]]:
    """The keys that lead to each estimate of a report, and the estimate."""
    for name, value in metrics.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and "value" not in value:
            yield from _estimates(value, f"{path}/")
        elif value is None or isinstance(value, Mapping):
            parts = _PARTS.get(path.partition("/")[0]) if value is None else None
            if parts is not None:
                yield from ((f"{path}/{part}", None) for part in parts)
            else:
                yield path, value
