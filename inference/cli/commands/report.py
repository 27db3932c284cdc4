"""`multipyro report`: one HTML page about runs, with their numbers, verdicts and figures, that needs no other file."""

import argparse
import base64
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from multipyro._optional import optional_imports
from multipyro.data.modality import KINDS
from multipyro.data.storage import write_atomically
from multipyro.inference.cli.console import say
from multipyro.inference.cli.saved_runs import read_report
from multipyro.inference.cli.tables import flat_metrics, format_difference, format_value, metric_title
from multipyro.inference.evaluation import paired_differences
from multipyro.inference.recipes import METHODS, options_for
from multipyro.inference.runs import read_run, versions
from multipyro.inference.training.settings import TrainingSettings

__all__ = ["page", "run", "train_command"]

_IMAGES = {".png": "image/png", ".svg": "image/svg+xml"}
# the policy lets the page show its own images and style and load nothing, whatever the data may contain
_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3, dd, p, li, figcaption { overflow-wrap: anywhere; }
h2 { border-top: 2px solid #0072b2; padding-top: .5rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .4rem; border-bottom: 1px solid #ddd; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 7rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { color: #555; }
dd { margin: 0; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
figcaption, .note { color: #555; font-size: .9rem; }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; font-size: .85rem; }
.level { font-weight: bold; }
.level.good { color: #00664b; }
.level.bad { color: #a63d00; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% if runs|length > 1 %}
<nav><ul>{% for run in runs %}<li><a href="#run-{{ loop.index }}">{{ run.name }}</a></li>{% endfor %}</ul></nav>
{% endif %}
{% for run in runs %}
<section id="run-{{ loop.index }}">
<h2>{{ run.name }}</h2>
<dl>{% for name, value in run.facts.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% for text in run.missing %}<p class="note">{{ text }}</p>{% endfor %}
{% if run.verdicts %}
<h3>Can the guide be trusted?</h3>
{% for about, verdicts in run.verdicts.items() %}
<p>{{ about }}</p>
<ul>{% for verdict in verdicts %}
<li><span class="level {{ verdict.level }}">{{ verdict.level }}</span> {{ verdict.aspect }}: {{ verdict.text }}
{{ verdict.advice }}</li>{% endfor %}</ul>
{% endfor %}
{% endif %}
</section>
{% endfor %}
{% for table in tables %}
<h2>{{ table.title }}</h2>
<div class="wide"><table>
<thead><tr><th>metric</th>{% for name in table.header %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
<p class="note">{{ table.note }}</p>
{% endfor %}
{% for run in runs %}
<section>
<h2>Figures and settings of {{ run.name }}</h2>
{% for figure in run.figures %}
<figure><img src="{{ figure.source }}" alt="{{ figure.caption }}"><figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
<p>Commands that reproduce this run:</p>
<pre>{{ run.commands }}</pre>
<details><summary>Settings and versions</summary><pre>{{ run.settings }}</pre></details>
</section>
{% endfor %}
<p class="note">Created by multipyro {{ version }}.</p>
</body>
</html>
"""
_NOTE = (
    "Mean ± standard error over test examples, or the share with its 95 % interval in brackets. A star marks a "
    "likelihood whose importance weights are not reliable at some examples. Metrics that no run has are left out."
)
_DIFFERENCES = "Paired by test example, ± standard error, for the runs that were evaluated on the same test data."


def run(arguments: argparse.Namespace) -> None:
    """Writes the page."""
    file = arguments.file or (arguments.run[0] / "report.html" if len(arguments.run) == 1 else Path("report.html"))
    write_atomically(file, page(arguments.run))
    say(f"written to {file}")


def page(runs: Sequence[Path]) -> str:
    """The page about run folders: what `train`, `evaluate`, `check` and `figures` wrote there.

    Names from data and captions are escaped, images are inlined, and the page runs and loads nothing.

    Raises:
        FileNotFoundError: If a folder contains no run.
        ValueError: If a file in it is damaged.
    """
    with optional_imports("an HTML report"):
        from jinja2 import Environment
    names = [str(path) for path in runs]
    reports = [_report(path) for path in runs]
    title = f"Report on {names[0] if len(runs) == 1 else f'{len(runs)} runs'}"
    sections = [_section(path, name, metrics) for path, name, (metrics, _) in zip(runs, names, reports, strict=True)]
    tables = [*_metrics(names, [metrics for metrics, _ in reports]), *_differences(names, reports)]
    template = Environment(autoescape=True).from_string(_TEMPLATE)
    return template.render(title=title, runs=sections, tables=tables, version=versions()["multipyro"])


def _report(run: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The metrics of a run and the values of its test examples; empty before `evaluate`."""
    try:
        return read_report(run)
    except FileNotFoundError:
        return {}, {}


def _section(run: Path, name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    config, check = read_run(run), _json(run / "check.json")
    verdicts = {
        f"q(z | {given.replace('+', ', ')})": one["verdicts"] for given, one in check.get("subsets", {}).items()
    }
    if check:
        verdicts["aggregate posterior and prior"] = check["verdicts"]
    figures = [*_figures(run / "figures"), *_figures(run)]
    method = METHODS.get(config["method"])
    rows = metrics.get("data", {}).get("rows", {})
    facts = {
        "method": config["method"] if method is None else f"{method.name}: {method.title} ({method.paper})",
        "objective": "; then ".join(stage["equation"] for stage in config["stages"]),
        "data": config["data"]["name"],
        "modalities": ", ".join(f"{name} ({one['likelihood']})" for name, one in config["modalities"].items()),
        "examples": ", ".join(f"{number:,} {part}" for part, number in rows.items()),
        "parameters": f"{metrics['parameters']:,}" if metrics else "",
        "state": config["state"],
    }
    absent = {"evaluate": not metrics, "check": not check, "figures": not (run / "figures").is_dir()}
    later = [f"multipyro {command} {shlex.quote(str(run))}" for command in absent]
    settings = {key: config[key] for key in ("latent_dim", "options", "architectures", "settings") if key in config}
    return {
        "name": name,
        "facts": {key: value for key, value in facts.items() if value},
        "missing": [f"No result of multipyro {command}." for command, is_absent in absent.items() if is_absent],
        "verdicts": verdicts,
        "figures": figures,
        "commands": "\n".join([train_command(config, run), *later]),
        "settings": json.dumps({**settings, "versions": config.get("versions")}, indent=2),
    }


def _metrics(names: Sequence[str], reports: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The table of the metrics, one column for each run that was evaluated."""
    flat = {name: flat_metrics(report) for name, report in zip(names, reports, strict=True) if report}
    if flat:
        metrics = dict.fromkeys(metric for one in flat.values() for metric, value in one.items() if value is not None)
        rows = [[metric, *(format_value(one.get(metric)) for one in flat.values())] for metric in metrics]
        yield {"title": "Metrics", "header": list(flat), "rows": rows, "note": _NOTE}


def _differences(
    names: Sequence[str], reports: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """The table of differences from the first run, of those evaluated on the same test data."""
    evaluated = [(name, *report) for name, report in zip(names, reports, strict=True) if report[0]]
    if len(evaluated) < 2:
        return
    first, metrics, values = evaluated[0]
    test = metrics["data"]["content_hash"]["test"]
    others = {name: more for name, one, more in evaluated[1:] if one["data"]["content_hash"]["test"] == test}
    differences = {name: paired_differences([more], [values]) for name, more in others.items()}
    rows = [
        [metric_title(metric), *(format_difference(one.get(metric)) for one in differences.values())]
        for metric in dict.fromkeys(metric for one in differences.values() for metric in one)
    ]
    if rows:
        yield {"title": f"Difference from {first}", "header": list(differences), "rows": rows, "note": _DIFFERENCES}


def _figures(folder: Path) -> Iterator[dict[str, str]]:
    """The images of a folder, inlined, in the order of its captions; others follow by name."""
    captions = {}
    with suppress(FileNotFoundError):
        for line in (folder / "captions.md").read_text(encoding="utf-8").splitlines():
            name, _, caption = line.removeprefix("- `").partition("`: ")
            captions[name] = caption
    files = sorted(file.name for file in folder.glob("*") if file.suffix in _IMAGES)
    for name in sorted(files, key=lambda name: list(captions).index(name) if name in captions else len(captions)):
        file = folder / name
        data = base64.b64encode(file.read_bytes()).decode()
        yield {"source": f"data:{_IMAGES[file.suffix]};base64,{data}", "caption": captions.get(name, file.stem)}


def train_command(config: Mapping[str, Any], run: Path) -> str:
    """The `multipyro train` command that reproduces a run, from its `run.json`; a comment if its data is not a file."""
    data, settings = config["data"], config["settings"]
    if data["options"] is None:
        return f"# trained in Python, on {data['name'] or 'user-defined batches'}"
    file = data["options"].get("file")
    flags: dict[str, Any] = {"data": data["name"] if file is None else os.path.normpath(run / file)}
    if file is None and data["options"]:
        flags["data-option"] = _pairs(data["options"])
    flags |= {"modalities": list(config["modalities"]), "latent-dim": config["latent_dim"]}
    flags |= {"hidden": config.get("hidden_features"), "networks": _pairs(config.get("architectures") or {})}
    likelihoods = {
        name: one["likelihood"] + (f":{one['scale']}" if one.get("scale") is not None else "")
        for name, one in config["modalities"].items()
        if one["likelihood"] != KINDS[one["kind"]][0] or one.get("scale") is not None
    }
    flags |= {"likelihood": _pairs(likelihoods), "missing": _pairs((config.get("config") or {}).get("missing", {}))}
    flags["epochs"] = config["stages"][0]["epochs"]
    for setting in fields(TrainingSettings):
        if setting.name in settings and setting.name not in ("epochs", "config"):
            flags[setting.name.replace("_", "-")] = settings[setting.name]
    known = options_for(config["method"]) if config["method"] in METHODS else {}
    changed = {
        name: value for name, value in config["options"].items() if name in known and value != known[name].default
    }
    tokens = [config["method"]]
    for name, value in flags.items():
        if value is True:
            tokens.append(f"--{name}")
        elif value not in (None, False, {}, []):
            tokens += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    for pair in _pairs(changed):
        tokens += ["--option", pair]
    return f"multipyro train {' '.join(map(shlex.quote, tokens))}"


def _pairs(values: Mapping[str, Any]) -> list[str]:
    """KEY=VALUE texts as the command line takes them."""

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return ",".join(_pairs(value))
        return ",".join(map(text, value)) if isinstance(value, list | tuple) else str(value)

    return [f"{name}={text(value)}" for name, value in values.items()]


def _json(file: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is none."""
    with suppress(FileNotFoundError):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{file} is damaged: it contains no object")
        return content
    return {}
