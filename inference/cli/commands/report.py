"""`multipyro report`: one HTML page about runs, with their numbers, verdicts and figures, that needs no other file."""

import argparse
import base64
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from multipyro._optional import optional_imports
from multipyro.data.modality import KINDS
from multipyro.data.storage import write_atomically
from multipyro.inference.cli.console import say
from multipyro.inference.cli.saved_runs import read_json, read_report
from multipyro.inference.cli.tables import flat_metrics, format_difference, format_value, metric_rows, metric_title
from multipyro.inference.cli.tokens import flags
from multipyro.inference.cli.transfer import arguments_of, modalities_of, naming_damage
from multipyro.inference.evaluation import paired_differences
from multipyro.inference.recipes import METHODS, options_for
from multipyro.inference.runs import read_run, versions

__all__ = ["page", "run", "train_command"]

_IMAGES = {".png": "image/png", ".svg": "image/svg+xml"}
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
        from jinja2 import Environment, FileSystemLoader
    names = [str(path) for path in runs]
    reports = [read_report(path) for path in runs]
    title = f"Report on {names[0] if len(runs) == 1 else f'{len(runs)} runs'}"
    sections = []
    for path, name, (metrics, _) in zip(runs, names, reports, strict=True):
        with naming_damage(f"run.json, check.json or metrics.json in {path}"):
            sections.append(_section(path, name, metrics))
    with naming_damage("metrics.json of one of the runs"):
        tables = [*_metrics(names, [metrics for metrics, _ in reports]), *_differences(names, reports)]
    environment = Environment(autoescape=True, loader=FileSystemLoader(Path(__file__).parent))
    template = environment.get_template("report.html")
    return template.render(title=title, runs=sections, tables=tables, version=versions()["multipyro"])


def _section(run: Path, name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    config, check = read_run(run), read_json(run / "check.json")
    modalities = {} if config["modalities"] is None else modalities_of(run)
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
        "modalities": ", ".join(f"{name} ({modality.likelihood})" for name, modality in modalities.items()),
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
        "commands": "\n".join([train_command(run), *later]),
        "settings": json.dumps({**settings, "versions": config.get("versions")}, indent=2),
    }


def _metrics(names: Sequence[str], reports: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The table of the metrics, one column for each run that was evaluated."""
    flat = {name: flat_metrics(report) for name, report in zip(names, reports, strict=True) if report}
    present = {name: {metric: v for metric, v in one.items() if v is not None} for name, one in flat.items()}
    if flat:
        yield {"title": "Metrics", "header": list(flat), "rows": metric_rows(present, format_value), "note": _NOTE}


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
    rows = metric_rows(differences, format_difference, metric_title)
    if rows:
        yield {"title": f"Difference from {first}", "header": list(differences), "rows": rows, "note": _DIFFERENCES}


def _figures(folder: Path) -> Iterator[dict[str, str]]:
    """The images of a folder, inlined, in the order of its captions; others follow by name."""
    captions = {}
    with suppress(FileNotFoundError):
        for line in (folder / "captions.md").read_text(encoding="utf-8").splitlines():
            name, _, caption = line.removeprefix("- `").partition("`: ")
            captions[name] = re.sub(r"\\(.)", r"\1", caption)  # undoes `markdown_text`
    files = sorted(file.name for file in folder.glob("*") if file.suffix in _IMAGES)
    for name in sorted(files, key=lambda name: list(captions).index(name) if name in captions else len(captions)):
        file = folder / name
        data = base64.b64encode(file.read_bytes()).decode()
        yield {"source": f"data:{_IMAGES[file.suffix]};base64,{data}", "caption": captions.get(name, file.stem)}


def train_command(run: Path) -> str:
    """The `multipyro train` command that reproduces a run; a comment if its data is not a file."""
    content = read_run(run)
    if content["data"]["options"] is None:
        return f"# trained in Python, on {content['data']['name'] or 'user-defined batches'}"
    arguments = arguments_of(run, whole=True)
    method, options = arguments.pop("method"), arguments["option"]
    known = options_for(method) if method in METHODS else {}
    arguments["option"] = {n: value for n, value in options.items() if n in known and value != known[n].default}
    modalities = content["data"]["modalities"]
    arguments["likelihood"] = {
        name: text for name, text in arguments["likelihood"].items() if text != KINDS[modalities[name]["kind"]][0]
    }
    arguments["compile"] = str(arguments["compile"])  # not a flag without a value
    arguments["guide"] = content["guide_class"] and f"FILE.py:{content['guide_class']}"
    return shlex.join(["multipyro", "train", method, *flags({**arguments, "out": run})])
