"""What the commands of the command line do, one function each."""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyro.optim import ClippedAdam
from rich.console import Console
from rich.table import Table

from multipyro.data import DATASETS, Splits, drop_modalities, load_dataset
from multipyro.data.storage import write_atomically
from multipyro.inference.cli.arguments import (
    check_methods,
    likelihoods_from,
    likelihoods_of,
    missing_from,
    networks_from,
    options_from,
    picture,
    weights_from,
)
from multipyro.inference.cli.plugins import guide_class, method_name
from multipyro.inference.cli.tables import flat_metrics, format_value, markdown_table, metrics_table
from multipyro.inference.evaluation import supports
from multipyro.inference.evaluation.figures import cross_generation_figure, joint_samples_figure, reconstructions_figure
from multipyro.inference.evaluation.report import evaluate as evaluate_programs
from multipyro.inference.recipes import COMMON_OPTIONS, METHODS, Recipe, build, equations
from multipyro.inference.recipes.networks import networks_for
from multipyro.inference.training._plan import check_complete
from multipyro.inference.training.batches import parts_of
from multipyro.inference.training.fitting import FitResult, fit_recipe
from multipyro.inference.training.runs import checkpoint_of, described, load, read_run, versions

__all__ = ["DEMO", "compare", "datasets", "demo", "evaluate", "generate", "methods", "train"]

#: What `multipyro demo` trains with: measured to reach its figures in about a minute on two cores.
DEMO: dict[str, Any] = {
    "latent_dim": 6,
    "hidden_features": (256, 256),
    "epochs": 60,
    "batch_size": 64,
    "lr": 3e-3,
    "lr_decay": 0.03,  # over MoPoE's epochs, in equal factors a step; the flow's few begin again
    "options": {"beta": 3.0, "weights": {"label": 20.0, "word": 10.0}, "aggregate_prior": True, "aggregate_epochs": 10},
}

# methods beside each other in a comparison; further ones come in further tables
_COLUMNS = 6
# a table in a file or a pipe needs no line breaks for a narrow terminal
_CONSOLE = Console() if sys.stdout.isatty() else Console(width=160)


def demo(arguments: argparse.Namespace) -> None:
    """Trains MoPoE on the embedded digits, a flow in place of its prior, evaluates it, draws it."""
    splits = load_dataset("digits")
    torch.manual_seed(arguments.seed)
    networks = networks_for(splits.train.modalities, DEMO["hidden_features"])
    epochs = DEMO["epochs"] if arguments.epochs is None else arguments.epochs
    options = {**DEMO["options"], "aggregate_epochs": min(DEMO["options"]["aggregate_epochs"], epochs)}
    recipe = build("mopoe", networks, DEMO["latent_dim"], **options)
    steps = epochs * math.ceil(len(splits.train) / DEMO["batch_size"])
    # Adam with a falling rate; gradients are those of sums over the batch, and not meant to be clipped
    optimizer = ClippedAdam({"lr": DEMO["lr"], "lrd": DEMO["lr_decay"] ** (1 / steps), "clip_norm": 1e9})
    settings = {name: DEMO[name] for name in ("batch_size", "lr")}
    settings |= {"epochs": epochs, "seed": arguments.seed, "optimizer": optimizer}
    stages = f"{epochs} epochs, then {options['aggregate_epochs']} of its aggregate prior"
    _CONSOLE.print(f"training mopoe on digits for {stages}")
    fit_recipe(recipe, splits, out=arguments.out, resume=arguments.resume, progress=_CONSOLE.is_terminal, **settings)
    loaded = load(arguments.out)
    _CONSOLE.print("evaluating on the 300 test rows")
    metrics = evaluate_programs(loaded.model, loaded.guide, splits, seed=arguments.seed).to_dict()
    _write_metrics(arguments.out, metrics)
    _CONSOLE.print(metrics_table(metrics, "MoPoE with an aggregate prior on digits"))
    torch.manual_seed(arguments.seed)
    _draw_all(loaded.recipe, splits, arguments.out)
    _CONSOLE.print(f"pictures, checkpoints and metrics.json are in {arguments.out}")


def methods(arguments: argparse.Namespace) -> None:
    """Prints the table of methods."""
    table = Table(title="methods: m the model, g the guide, |A restricted to the modalities A")
    for column in ("method", "objective", "supports", "takes", "rows", "encoders", "options", "paper"):
        table.add_column(column, overflow="fold")
    for info in METHODS.values():
        rows = "complete" if info.needs_complete_rows else "may miss some"
        options = ", ".join(f"{name}={option.default}" for name, option in info.options.items()) or "–"
        objective = ", then ".join(equations(info.name))
        fields = (info.name, objective, info.subsets, info.takes, rows, info.networks, options, info.paper)
        table.add_row(*fields)
    _CONSOLE.print(table)
    common = ", ".join(f"{name}={option.default}" for name, option in COMMON_OPTIONS.items())
    _CONSOLE.print(
        f"Options of all methods: {common}. Modalities, given and target default to those of the data set "
        "(`multipyro datasets`)."
    )


def datasets(arguments: argparse.Namespace) -> None:
    """Prints the table of data sets."""
    table = Table(title="data sets")
    for column in ("data set", "what", "modalities", "rows", "given", "target", "options", "found"):
        table.add_column(column, overflow="fold")
    for info in DATASETS.values():
        table.add_row(
            info.name,
            info.title,
            ", ".join(info.modalities),
            " + ".join(f"{rows:,}" for rows in info.rows),
            ", ".join(info.default_given),
            ", ".join(info.default_targets),
            ", ".join(f"{name}={value}" for name, value in info.options.items()),
            info.missing(arguments.data_root) or "yes",
        )
    _CONSOLE.print(table)


def train(arguments: argparse.Namespace) -> None:
    """Trains one method on one data set."""
    method = method_name(arguments.method)
    out = arguments.out or Path("runs") / f"{method}-{Path(arguments.data).stem}-{arguments.seed}"
    guide = None if arguments.guide is None else guide_class(arguments.guide)
    check_methods(arguments, [method])
    splits = _asked(arguments)
    work = _work(arguments, method, splits, arguments.seed, guide)
    given, target = picture(arguments, work.recipe)
    _fit(arguments, work, out, arguments.resume)
    if supports(work.recipe.guide, given):
        torch.manual_seed(arguments.seed)
        _draw_cross(
            load(out, guide).recipe, splits, given, target, out / f"{'+'.join(given)}-to-{'+'.join(target)}.png"
        )
    _CONSOLE.print(f"trained {method} on {arguments.data}; the run is in {out}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Computes the metrics of a run."""
    loaded, splits, config = _loaded(arguments)
    metrics = evaluate_programs(
        loaded.model,
        loaded.guide,
        splits,
        num_samples=arguments.particles,
        output=arguments.pixels,
        seed=arguments.seed,
    ).to_dict()
    _write_metrics(arguments.run, metrics, arguments.checkpoint)
    _CONSOLE.print(metrics_table(metrics, f"{config['method']} on {config['data']['name']}"))
    _CONSOLE.print(f"written to {arguments.run / 'metrics.json'}")


def generate(arguments: argparse.Namespace) -> None:
    """Draws generated modalities."""
    loaded, splits, _ = _loaded(arguments)
    torch.manual_seed(arguments.seed)
    _draw_cross(
        loaded.recipe, splits, arguments.given, arguments.target, arguments.file, arguments.num_samples, arguments.rows
    )
    _CONSOLE.print(f"written to {arguments.file}")


def compare(arguments: argparse.Namespace) -> None:
    """Trains and evaluates several methods over several seeds."""
    if arguments.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {arguments.seeds}")
    names = list(dict.fromkeys(map(method_name, arguments.method)))
    check_methods(arguments, names)
    splits = _asked(arguments)
    for method in names:  # what cannot be built shows before hours of training
        _work(arguments, method, splits, 0)
    reports: dict[str, list[dict[str, Any]]] = {}
    for method in names:
        for seed in range(arguments.seeds):
            out = arguments.out / f"{method}-{Path(arguments.data).stem}-{seed}"
            _CONSOLE.print(f"{method}, seed {seed}")
            work = _work(arguments, method, splits, seed)
            history = _fit(arguments, work, out, resume=True).history
            seconds = sum(len(work.splits.train) / epoch["rows_per_second"] for epoch in history)
            metrics = _judged(out, splits, arguments.importance_samples, seed)
            reports.setdefault(method, []).append({**metrics, "training_seconds": seconds})
    summary = {method: summarize(found) for method, found in reports.items()}
    names = list(dict.fromkeys(name for row in summary.values() for name in row))
    rows = [[name, *(format_value(row.get(name)) for row in summary.values())] for name in names]
    for begin in range(0, len(summary), _COLUMNS):
        table = Table(title=f"{arguments.data}: mean ± standard deviation over {arguments.seeds} seeds")
        table.add_column("metric")
        for method in list(summary)[begin : begin + _COLUMNS]:
            table.add_column(method, justify="right")
        for name, *cells in rows:
            table.add_row(name, *cells[begin : begin + _COLUMNS])
        _CONSOLE.print(table)
    plain = {name: value for name, value in vars(arguments).items() if isinstance(value, int | float | str | list)}
    told = {"seeds": arguments.seeds, "data": arguments.data, "settings": plain, "versions": versions()}
    data = reports[next(iter(reports))][0]["data"]
    _write_json(arguments.out / "compare.json", {**told, "rows": data, "methods": summary})
    write_atomically(arguments.out / "compare.md", markdown_table(["metric", *summary], rows))
    _CONSOLE.print(f"written to {arguments.out / 'compare.json'} and compare.md")


def summarize(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float] | None]:
    """Mean and standard deviation over seeds of every metric; None where a method does not have it.

    Args:
        reports: What `evaluate` returned, one a seed.

    Returns:
        Metric -> `value`, `std` (None for a single seed) and `seeds`, the number of seeds that have the metric.
    """
    flat = [flat_metrics(report) for report in reports]
    found = {name: [one[name]["value"] for one in flat if one.get(name) is not None] for one in flat for name in one}
    found["parameters"] = [float(report["parameters"]) for report in reports]
    found["training, seconds"] = [report["training_seconds"] for report in reports if "training_seconds" in report]
    return {name: _spread([value for value in values if value is not None]) for name, values in found.items()}


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"value": statistics.fmean(values), "std": std, "seeds": len(values)}


class _Work(NamedTuple):
    """What a command trains: a method, the rows, the seed, and plain values for whoever reads the run."""

    recipe: Recipe
    splits: Splits
    seed: int
    config: dict[str, Any] | None


def _work(arguments: argparse.Namespace, method: str, splits: Splits, seed: int, guide: type | None = None) -> _Work:
    """Builds a method and its data, so that every mistake in the arguments shows before anything trains."""
    options = {"beta": arguments.beta, "warmup": arguments.warmup, "weights": weights_from(arguments.weights)}
    if arguments.particles is not None and "particles" in METHODS[method].options:
        options["particles"] = arguments.particles
    options.update(options_from(arguments.option))
    torch.manual_seed(seed)
    modalities = splits.train.modalities
    networks = networks_for(modalities, arguments.hidden, networks_from(arguments.networks, method, modalities))
    recipe = build(method, networks, arguments.latent_dim, guide, **options)
    config = {"likelihood": arguments.likelihood} if arguments.likelihood else None
    if arguments.missing:
        # every modality by name: what a row keeps that would lose all depends on those there were
        missing = dict.fromkeys(splits.train.modalities, 0.0)
        missing |= missing_from(arguments.missing, list(splits.train.modalities))
        splits = _drop_modalities(splits, missing, seed)
        config = {**(config or {}), "missing": missing}
    check_complete(recipe, parts_of(recipe.model, splits, None)[0])
    return _Work(recipe, splits, seed, config)


def _fit(arguments: argparse.Namespace, work: _Work, out: Path, resume: bool) -> FitResult:
    names = ("epochs", "batch_size", "lr", "device")
    settings = {name: getattr(arguments, name) for name in names}
    settings |= {"seed": work.seed, "config": work.config, "progress": _CONSOLE.is_terminal}
    return fit_recipe(work.recipe, work.splits, out=out, resume=resume, **settings)


def _judged(run: Path, splits: Splits, samples: int, seed: int) -> dict[str, Any]:
    """The metrics of a finished run; those in its folder if they are of the same programs, data and settings."""
    wanted = {
        "plan": read_run(run)["plan"],
        "checkpoint": checkpoint_of(run, "best").stem,
        "versions": versions(),
        "seed": seed,
        "content_hash": {part: getattr(splits, part).content_hash for part in Splits.NAMES},
        "labels_hash": {part: getattr(splits, part).labels_hash for part in Splits.NAMES},
        "num_samples": samples,
        "coherence_of": "mean",
    }
    with suppress(FileNotFoundError):
        found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        if {**found, **found.get("data", {}), **found.get("settings", {})}.items() >= wanted.items():
            return found
    loaded = load(run)
    metrics = evaluate_programs(loaded.model, loaded.guide, splits, num_samples=samples, seed=seed).to_dict()
    _write_metrics(run, metrics)
    return metrics


def _drop_modalities(splits: Splits, missing: Mapping[str, float], seed: int) -> Splits:
    """Incomplete rows to train on and to choose by; the test rows stay whole."""
    parts = (drop_modalities(part, missing, seed) for part in (splits.train, splits.validation))
    return Splits(*parts, splits.test)


def _load(name: str, data_root: Path | None, modalities: Sequence[str] | None, pairs: Sequence[str] = ()) -> Splits:
    options = {"word": True} if name == "mnist" and modalities and "word" in modalities else {}
    splits = load_dataset(name, data_root, **options, **options_from(pairs, "--data-option"))
    return splits if modalities is None else splits.select(modalities)


def _asked(arguments: argparse.Namespace) -> Splits:
    """The data that a command asks for."""
    splits = _load(arguments.data, arguments.data_root, arguments.modalities, arguments.data_option)
    return splits.with_likelihoods(*likelihoods_from(arguments.likelihood))


def _loaded(arguments: argparse.Namespace) -> tuple[Any, Splits, dict[str, Any]]:
    """A run, and the very data it was trained on."""
    config = read_run(arguments.run)
    if arguments.method is not None:
        method_name(arguments.method)
    guide = None if arguments.guide is None else guide_class(arguments.guide)
    loaded = load(arguments.run, guide, arguments.checkpoint)
    data = config["data"]
    file = ((data or {}).get("options") or {}).get("file")
    if data is None or (data["name"] not in DATASETS and file is None):
        what = "batches of one's own" if data is None else f"a data set {data['name']!r} of one's own"
        raise ValueError(
            f"{arguments.run} was trained on {what}: use multipyro.inference.load and evaluate on them in Python"
        )
    names = list(data["modalities"])
    if file is not None:
        splits = load_dataset(file)
    elif data.get("options") is None:
        splits = _load(data["name"], arguments.data_root, names)
    else:
        splits = load_dataset(data["name"], arguments.data_root, **data["options"])
    missing = (config["config"] or {}).get("missing", {})
    before = splits.select([name for name in splits.train.modalities if name in {*missing, *names}])
    trained = (_drop_modalities(before, missing, config["plan"]["seed"]) if missing else before).select(names)
    splits = splits.select(names)
    hashes = {"content_hash": trained.train, "validation_hash": trained.validation, "test_hash": trained.test}
    other = [name for name, part in hashes.items() if data.get(name, part.content_hash) != part.content_hash]
    what = f"other rows ({', '.join(other)})" if other else "rows of another description"
    if not other:
        splits = splits.with_likelihoods(*likelihoods_of(config, file is None))
        told = {name: {k: v for k, v in fields.items() if v is not None} for name, fields in data["modalities"].items()}
    if other or json.loads(json.dumps(described(splits.train.modalities))) != told:
        raise ValueError(f"{arguments.run} was trained and chosen on {what} of {data['name']} than are found now")
    return loaded, splits, config


def _one_of_each_class(splits: Splits, rows: int) -> torch.Tensor:
    """The first test rows of each class in turn."""
    labels = splits.test.labels
    if labels is None:
        return torch.arange(min(rows, len(splits.test)))
    position = torch.stack([(labels[:row] == label).sum() for row, label in enumerate(labels[:1000])])
    return (position * (labels.max() + 1) + labels[:1000]).argsort()[:rows]


def _draw_cross(
    recipe: Recipe,
    splits: Splits,
    given: Sequence[str],
    target: Sequence[str],
    file: Path,
    num_samples: int = 8,
    rows: int = 10,
) -> None:
    x, _ = splits.test.select(given).rows(_one_of_each_class(splits, rows))
    modalities = splits.test.modalities
    unknown = [name for name in target if name not in recipe.model.modalities]
    if unknown:
        raise ValueError(f"unknown modality {unknown}: this model has {list(recipe.model.modalities)}")
    _save(cross_generation_figure(recipe.model, recipe.guide, modalities, x, target, num_samples), file)


def _draw_all(recipe: Recipe, splits: Splits, out: Path) -> None:
    for given, target in ((["label"], ["image"]), (["word"], ["image"]), (["image"], ["label", "word"])):
        file = out / f"{'+'.join(given)}-to-{'+'.join(target)}.png"
        _draw_cross(recipe, splits, given, target, file, num_samples=8 if target == ["image"] else 3)
    x, _ = splits.test.rows(_one_of_each_class(splits, 10))
    _save(joint_samples_figure(recipe.model, splits.test.modalities, 12), out / "joint-samples.png")
    _save(reconstructions_figure(recipe.model, recipe.guide, splits.test.modalities, x), out / "reconstructions.png")


def _save(figure: Any, file: Path) -> None:
    kind = file.suffix.lstrip(".") or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{file} must end in .png, .pdf or .svg")
    write_atomically(file, lambda opened: figure.savefig(opened, format=kind, dpi=100))


def _write_metrics(run: Path, metrics: Mapping[str, Any], which: str = "best") -> None:
    """Writes `metrics.json`, with what the run is and which of its checkpoints was judged."""
    config = read_run(run)
    told = {name: config[name] for name in ("method", "options", "plan", "config")}
    _write_json(run / "metrics.json", {**told, "checkpoint": checkpoint_of(run, which).stem, **metrics})


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    write_atomically(file, json.dumps(content, indent=2, allow_nan=False) + "\n")
