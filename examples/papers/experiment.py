"""What the scripts in this folder share: a description of what is trained, measured and published, and a command line.

A script describes an `Experiment` and calls `run`. Each row of its table is trained with each seed, as a cell of a
sweep (`multipyro.inference.sweeps`) in the folder `--out`: the same command continues after an interruption, and a
finished cell is never computed again. The results are `NAME.md`, `NAME.json` and, for a figure, `NAME.png`.

`--budget full` trains as long as the paper. `--budget MINUTES` is the processor time for training all rows with one
seed: a short trial measures the cost of an example, and all rows train for the same number of epochs, as many as fit.
If fewer than five fit, they train for five epochs on fewer examples. The plan is stored, and the same command with more
seeds follows it.
`--smoke` runs everything on noise within seconds, with tiny networks.
"""

import argparse
import json
import math
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multipyro.data import Modality, MultimodalData, Splits
from multipyro.data.scenes.composition import WORDS as SCENE_WORDS
from multipyro.data.scenes.composition import draw_scene, sentence
from multipyro.data.sets.digits import digit_modalities
from multipyro.data.storage import write_atomically
from multipyro.inference import TrainingSettings, fit_recipe, load
from multipyro.inference.evaluation.figures import (
    cross_generation_figure,
    joint_samples_figure,
    rows_of_each_class,
    save_figure,
)
from multipyro.inference.options import Option
from multipyro.inference.presets import PRESETS, Preset
from multipyro.inference.runs import versions
from multipyro.inference.sweeps import Cell, CellResult, run_cells

__all__ = ["DIGITS", "Experiment", "Run", "Trial", "format_number", "noise", "run"]

MAX_COLUMNS = 3
MIN_EPOCHS = 5
SMOKE_ROWS = 24
CHARACTERS = "*abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"\\/|_@#$%^&~`+=<>()[]{} \n"
WORDS = ("-", *(f"w{number}" for number in range(19)))
#: Fields of a preset that repeat its experiment on the embedded 8x8 digits, in minutes.
DIGITS = {
    "data": "digits",
    "data_options": {},
    "likelihoods": {},
    "scales": {},
    "architectures": {},
    "latent_dim": 16,
    "hidden_features": (128, 128),
    "options": {"weights": {"label": 10.0}},
    "modalities": ("image", "label"),
    "training": {"epochs": 40, "batch_size": 64, "lr": 3e-3},
    "departures": ("The embedded 8x8 digits, small networks and 40 epochs replace those of the paper.",),
}


@dataclass(frozen=True)
class Run:
    """One training of a row.

    Args:
        method: The method; None for the default of the preset.
        options: Options of the method that override those of the preset.
        changes: Fields of the preset that are replaced.
    """

    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """A trained run, which `measure` is called with.

    Args:
        model: The generative program.
        guide: The variational program.
        recipe: The recipe.
        splits: The data.
        run: The method and the settings that were trained.
        settings: The training settings.
        full: Whether it is measured on as many samples and examples as in the paper.
        smoke: Whether this is only a check that everything runs.
        folder: Folder of the cell; figures (.png) that the first seed writes there become part of the result.
    """

    model: Any
    guide: Any
    recipe: Any
    splits: Splits
    run: Run
    settings: TrainingSettings
    full: bool
    smoke: bool
    folder: Path

    def size(self, full: int, reduced: int) -> int:
        """A number of samples or examples: the paper's, or fewer for a limited budget."""
        return 2 if self.smoke else full if self.full else reduced

    def test(self, full: int, reduced: int, part: str = "test") -> dict[str, Tensor]:
        """The first test examples, or those of another part."""
        data = getattr(self.splits, part)
        return data.rows(torch.arange(min(len(data), SMOKE_ROWS if self.smoke else self.size(full, reduced))))[0]

    def save_samples(self, number: int = 10) -> None:
        """Figures of what is generated from each single modality, and from the prior."""
        data, number = self.splits.test, 2 if self.smoke else number
        x, _ = data.rows(rows_of_each_class(data, number))
        for name in data.modalities:
            target = [other for other in data.modalities if other != name]
            figure = cross_generation_figure(self.model, self.guide, data.modalities, {name: x[name]}, target)
            save_figure(figure, self.folder / f"given-{name}.png")
        save_figure(joint_samples_figure(self.model, data.modalities, number), self.folder / "prior.png")


@dataclass(frozen=True)
class Experiment:
    """A table or a figure of a paper.

    Args:
        name: Name of the files.
        title: The paper, the table and the data.
        preset: Name of the preset.
        rows: Label of a row -> the runs that are trained for it; the values of several runs are merged.
        changes: Fields of the preset that are replaced in all rows, for an experiment that the paper does not have.
        measure: Called with a `Trial`; returns metric -> value.
        published: Label of a row -> metric -> published value; values that are absent were not published.
        unit: What the numbers are, and their units.
        draw: Called with the results of all rows and a file name without suffix; writes figures, returns their paths.
        departures: What differs from the paper besides the departures of the preset, each a sentence.
        reduced: What `measure` reduces with a limited budget, a sentence.
        data_options: Options of the data set that override those of the preset.
    """

    name: str
    title: str
    preset: str
    rows: Mapping[str, Sequence[Run]]
    measure: Callable[[Trial], Mapping[str, float | None]]
    published: Mapping[str, Mapping[str, float]]
    unit: str
    draw: Callable[[Mapping[str, Mapping[str, Any]], Path], Sequence[Path]] | None = None
    departures: Sequence[str] = ()
    reduced: str = ""
    data_options: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)

    def preset_of(self, one: Run, data_options: Mapping[str, Any], smoke: bool = False) -> Preset:
        """The preset of a run, with other options of the data set, and tiny in a smoke test."""
        changed = replace(PRESETS[self.preset], **{**self.changes, **one.changes})
        changed = replace(changed, data_options={**changed.data_options, **self.data_options, **data_options})
        return replace(changed, latent_dim=2, hidden_features=(16, 16)) if smoke else changed


def run(experiment: Experiment) -> None:
    """The command line of an experiment."""
    parser = argparse.ArgumentParser(description=experiment.title)
    parser.add_argument("--smoke", action="store_true", help="only check that it runs, on noise")
    parser.add_argument("--budget", default="60", help="processor minutes of training per seed, or full (60)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (3)")
    parser.add_argument("--rows", nargs="+", choices=list(experiment.rows), help="only these rows")
    parser.add_argument("--workers", type=int, default=0, help="processes, one cell in each; 0 for this one (0)")
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes", help="where cells are computed")
    parser.add_argument("--data-option", action="append", default=[], metavar="KEY=VALUE", help="as in multipyro train")
    parser.add_argument("--data-root", type=Path, help="data folder, instead of MULTIPYRO_DATA")
    parser.add_argument("--out", type=Path, help="folder of the runs and of the result (runs/papers/NAME-BUDGET)")
    args = parser.parse_args()
    if args.budget != "full" and not (args.budget.replace(".", "", 1).isdecimal() and float(args.budget)):
        parser.error(f"--budget must be a number of minutes or full, got {args.budget!r}")
    if args.smoke:
        args.budget, args.seeds = "smoke", 1
    args.all_rows, args.rows = not args.rows, args.rows or list(experiment.rows)
    pairs = (text.partition("=") for text in args.data_option)
    args.data_option = {name: Option(name, None).parse(value) for name, _, value in pairs}
    args.out = args.out or Path("runs/papers") / f"{experiment.name}-{args.budget}"
    with tempfile.TemporaryDirectory() if args.smoke else nullcontext(args.out) as folder:
        _sweep(experiment, args, Path(folder))


def _sweep(experiment: Experiment, args: argparse.Namespace, out: Path) -> None:
    plan = _plan(experiment, args, out)
    cells, members = [], []
    for seed in range(args.seeds):  # a whole table of one seed comes first
        for label in args.rows:
            for number, one in enumerate(experiment.rows[label]):
                cells.append(_cell(experiment, f"{_slug(label)}-{number}-{seed}", one, seed, plan, args))
                members.append((label, seed))

    def report(cell: Cell, result: CellResult) -> None:
        failure = (result.error.splitlines() or ["not started"])[-1]
        print(f"{cell.name}: {'finished' if result.values is not None else failure}", flush=True)

    results = run_cells(cells, out, workers=args.workers, engine=args.engine, report=report)
    table = {label: {} for label in args.rows}
    per_seed: dict[tuple[str, int], dict[str, float]] = {}
    for member, result in zip(members, results.values(), strict=True):
        if result.values is not None:
            per_seed.setdefault(member, {}).update(result.values["metrics"])
    for label in args.rows:
        measured = [values for (row, _), values in per_seed.items() if row == label]
        metrics = dict.fromkeys([*experiment.published.get(label, {}), *(name for one in measured for name in one)])
        for metric in metrics:
            ours = [one[metric] for one in measured if one.get(metric) is not None]
            table[label][metric] = {
                "published": experiment.published.get(label, {}).get(metric),
                "value": statistics.fmean(ours) if ours else None,
                "std": statistics.stdev(ours) if len(ours) > 1 else None,
                "n": len(ours),
            }
    record = {
        "title": experiment.title,
        "preset": experiment.preset,
        "source": PRESETS[experiment.preset].source,
        "command": _command(args),
        "budget": args.budget,
        "plan": plan,
        "versions": versions(),
        "seconds": sum(result.seconds for result in results.values()),
        "unfinished": [name for name, result in results.items() if result.values is None],
        "unit": experiment.unit,
        "rows": table,
        "departures": _departures(experiment, plan, args.data_option),
    }
    files = [] if experiment.draw is None else list(experiment.draw(table, out / experiment.name))
    for cell, (label, seed) in zip(cells, members, strict=True):
        for figure in sorted((out / cell.name).glob("*.png")) if seed == 0 else ():
            files.append(out / f"{experiment.name}-{_slug(label)}-{figure.name}")
            write_atomically(files[-1], figure.read_bytes())
    text = _markdown(record, files)
    write_atomically(out / f"{experiment.name}.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_atomically(out / f"{experiment.name}.md", text)
    print(text)


def _cell(experiment: Experiment, name: str, one: Run, seed: int, plan: dict, args: argparse.Namespace) -> Cell:
    described = experiment.preset_of(one, args.data_option).arguments(one.method)
    key = {"preset": described, "options": one.options, "changes": list(one.changes), "seed": seed, "plan": plan}
    arguments = {"experiment": experiment, "one": one, "seed": seed, "plan": plan}
    arguments |= {"data_options": args.data_option, "data_root": args.data_root}
    return Cell(name, train_and_measure, arguments, json.loads(json.dumps(key, default=str)))


def train_and_measure(
    folder: Path,
    experiment: Experiment,
    one: Run,
    seed: int,
    plan: Mapping[str, Any],
    data_options: Mapping[str, Any],
    data_root: Path | None,
) -> dict[str, Any]:
    """Trains one run, or continues it, and measures it: what a cell computes."""
    smoke = plan["budget"] == "smoke"
    settings = experiment.preset_of(one, data_options, smoke)
    splits = _data(settings, plan, data_root)
    torch.manual_seed(seed)
    options = {**one.options, **({} if plan["warmup"] is None else {"warmup": plan["warmup"]})}
    recipe = settings.build(splits.train.modalities, one.method, **options)
    training = {"epochs": plan["epochs"], "seed": seed, "out": folder / "run", "resume": True, "progress": False}
    if smoke:
        training["batch_size"] = 12
    history = fit_recipe(recipe, splits, settings.settings(**training)).history
    trained = load(folder / "run")
    torch.manual_seed(seed)
    trial = Trial(*trained, splits, one, settings.settings(**training), plan["budget"] == "full", smoke, folder)
    metrics = {name: None if value is None else float(value) for name, value in experiment.measure(trial).items()}
    return {"metrics": metrics, "epochs": len(history), "parameters": recipe.num_parameters}


def _data(settings: Preset, plan: Mapping[str, Any], data_root: Path | None) -> Splits:
    if plan["budget"] == "smoke":
        return noise(settings)
    splits = settings.splits(data_root)
    number = plan["examples"]
    return replace(splits, train=splits.train.take(torch.arange(min(number, len(splits.train)))))


def _plan(experiment: Experiment, args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """How long each row is trained; stored, so that a continued run follows the same plan."""
    paper = experiment.preset_of(Run(), args.data_option)
    epochs, warmup = paper.training["epochs"], paper.options.get("warmup")
    if args.smoke:
        return {"budget": "smoke", "epochs": 1, "warmup": None if warmup is None else 0, "examples": SMOKE_ROWS}
    file = out / "plan.json"
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    examples = everything = len(paper.splits(args.data_root).train)
    if args.budget != "full":
        runs = [one for label in args.rows for one in experiment.rows[label]]
        presets = [experiment.preset_of(one, args.data_option) for one in runs]
        cost = sum(_seconds_per_example(*pair, args.data_root) for pair in zip(presets, runs, strict=True))
        affordable = 60 * float(args.budget) / cost
        epochs = min(epochs, max(MIN_EPOCHS, math.floor(affordable / examples)))
        examples = min(examples, max(paper.training["batch_size"], math.floor(affordable / epochs)))
        # the same share of the training as in the paper
        share = epochs / paper.training["epochs"]
        if paper.options.get("warmup_unit") == "step":
            share *= examples / everything
        warmup = warmup and round(warmup * share)
    plan = {"budget": args.budget, "epochs": epochs, "warmup": warmup, "examples": examples}
    write_atomically(file, json.dumps(plan) + "\n")
    return plan


def _seconds_per_example(settings: Preset, one: Run, data_root: Path | None) -> float:
    """Processor time of training, over all stages."""
    splits = settings.splits(data_root).head(20 * settings.training["batch_size"])
    recipe = settings.build(splits.train.modalities, one.method, **one.options)
    seconds = []
    for _ in range(2):  # the first run includes one-time setup
        started = time.process_time()
        fit_recipe(recipe, splits.train, settings.settings(epochs=1, progress=False))
        seconds.append((time.process_time() - started) / len(splits.train))
    return min(seconds)


def _departures(experiment: Experiment, plan: Mapping[str, Any], data_options: Mapping[str, Any]) -> list[str]:
    """Every setting that differs, and why."""
    paper = experiment.preset_of(Run(), data_options)
    sentences = []
    if plan["budget"] != "full":
        epochs = f"{plan['epochs']} in place of {paper.training['epochs']}"
        sentences.append(f"Epochs of each stage: {epochs}, to fit the budget.")
        sentences.append(f"Training examples: {plan['examples']:,}, to fit the budget.")
        if plan["warmup"] is not None:
            unit = paper.options.get("warmup_unit", "epoch").capitalize()
            warmup = f"{plan['warmup']} in place of {paper.options['warmup']}"
            sentences.append(f"{unit}s over which the weight of the KL grows: {warmup}.")
        sentences += [experiment.reduced] * bool(experiment.reduced)
    sentences += [f"Option of the data set: {name}={value}." for name, value in data_options.items()]
    sentences.append("The parameters are those of the epoch with the best validation bound.")
    return [*sentences, *experiment.departures, *paper.departures]


def _markdown(record: Mapping[str, Any], files: Sequence[Path]) -> str:
    """The results in Markdown: a wide table of a few metrics, or one line per metric if there are more."""
    metrics = list(dict.fromkeys(name for row in record["rows"].values() for name in row))
    lines = [f"# {record['title']}", "", f"`{record['command']}`", ""]
    lines += [f"{record['unit']}. Ours is the mean ± standard deviation over seeds (number of seeds).", ""]
    if len(metrics) <= MAX_COLUMNS:
        lines += _line(["", *(f"{name}, {whose}" for name in metrics for whose in ("published", "ours"))])
        lines += ["|" + " --- |" * (1 + 2 * len(metrics))]
    else:
        lines += [*_line(["", "metric", "published", "ours"]), "|" + " --- |" * 4]
    for label, row in record["rows"].items():
        pairs = {name: [format_number(cell["published"]), _ours(cell)] for name, cell in row.items()}
        if len(metrics) <= MAX_COLUMNS:
            lines += _line([label, *(text for name in metrics for text in pairs.get(name, ["–", "–"]))])
        else:
            lines += [line for name, pair in pairs.items() for line in _line([label, name, *pair])]
    lines += ["", *(f"![{file.stem}]({file.name})\n" for file in files), "What differs from the paper:", ""]
    lines += [f"* {sentence}" for sentence in record["departures"]]
    if record["unfinished"]:
        lines += ["", f"Not finished: {', '.join(record['unfinished'])}."]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"]


def _ours(cell: Mapping[str, Any]) -> str:
    if cell["value"] is None:
        return "–"
    spread = "" if cell["std"] is None else f" ± {format_number(cell['std'], cell['value'])}"
    return f"{format_number(cell['value'])}{spread} ({cell['n']})"


def format_number(value: float | None, like: float | None = None) -> str:
    """A number with digits that suit its size, or the size of `like`; a dash for None."""
    if value is None:
        return "–"
    size = abs(value if like is None else like)
    return f"{value:.{3 if size < 10 else 1 if size < 10_000 else 0}f}"


def _slug(label: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in label.lower()).strip("-")


def _command(args: argparse.Namespace) -> str:
    """The command, without folders of this machine."""
    words = [f"examples/papers/{Path(sys.argv[0]).name}", "--budget", args.budget, "--seeds", str(args.seeds)]
    words += [] if args.all_rows else ["--rows", *args.rows]
    words += [word for name, value in args.data_option.items() for word in ("--data-option", f"{name}={value}")]
    return shlex.join(["python", *words])


def noise(settings: Preset) -> Splits:
    """Splits of noise that look like the data of a preset, to check that everything runs."""
    modalities, generator = _modalities(settings), torch.Generator().manual_seed(0)
    parts = []
    for name in Splits.NAMES:
        x = {key: _noise(modality, generator) for key, modality in modalities.items()}
        if settings.data == "two-objects":
            texts = [sentence(draw_scene(0, row), 0, row) for row in range(SMOKE_ROWS)]
            x["text"] = torch.tensor([[SCENE_WORDS.index(word) for word in text] for text in texts])
        labels = torch.arange(SMOKE_ROWS) % 10
        if settings.data == "digits":
            x["label"] = labels  # classifiers need labels that are the classes
        parts.append(MultimodalData("noise", modalities, x, labels=labels, split=name))
    splits = Splits(*parts)
    splits = splits if settings.modalities is None else splits.select(settings.modalities)
    return splits.with_likelihoods(settings.likelihoods, settings.scales)


def _noise(modality: Modality, generator: torch.Generator) -> Tensor:
    shape = (SMOKE_ROWS, *modality.shape)
    if modality.num_classes:
        return torch.randint(modality.num_classes, shape, generator=generator)
    binary = torch.randint(2, shape, generator=generator).float()
    if modality.likelihood == "bernoulli":
        return binary
    if modality.kind == "vector" and modality.likelihood != "laplace":
        return 2 * binary - 1
    return torch.randint(1, 255, shape, generator=generator) / 255


def _modalities(settings: Preset) -> dict[str, Modality]:
    """The modalities of the data of a preset, without reading it."""
    if settings.data == "digits":
        return digit_modalities(Modality("image", (1, 8, 8), "image", "continuous_bernoulli"))
    image, form = settings.data_options, settings.data_options.get("form", "attributes")
    gray = "bernoulli" if image.get("binarize", "dynamic") != "none" else "continuous_bernoulli"
    digit, label = Modality("image", (1, 28, 28), "image", gray), Modality("label", (), "label", "categorical", 10)
    color, scene = (Modality("image", (3, 64, 64), "image", likelihood) for likelihood in ("laplace", "beta"))

    bird = Modality("image", (64,), "vector", "laplace") if "features" in settings.data_options else color

    def text(name: str, length: int, **tokens: Any) -> Modality:
        number = len(tokens.get("alphabet") or tokens["vocabulary"])
        return Modality(name, (length,), "text", "categorical", number, **tokens)

    number = {"attributes": 40, "visual": 18}.get(form)
    described = {
        "words": text("text", 9, vocabulary=WORDS),
        "text": text("text", 256, alphabet=CHARACTERS),
        **dict.fromkeys(
            ("attributes", "visual"),
            Modality("attributes", (number or 1,), "vector", settings.data_options.get("likelihood", "bernoulli")),
        ),
    }
    known = {
        "mnist": (digit, label),
        "mnist-fashion": (digit, replace(digit, name="fashion"), label),
        "polymnist": [Modality(f"m{position}", (3, 28, 28), "image", "laplace") for position in range(5)],
        "mnist-svhn": (
            Modality("mnist", (1, 28, 28), "image", "laplace"),
            Modality("svhn", (3, 32, 32), "image", "laplace"),
        ),
        "celeba": (color, described[form]),
        "cub": (bird, text("caption", 32, vocabulary=("<exc>", "<pad>", "<eos>", *WORDS[1:]))),
        "two-objects": (scene, text("text", 9, vocabulary=SCENE_WORDS)),
        "one-object": (scene, text("text", 4, vocabulary=SCENE_WORDS)),
    }
    digits = text("text", 8, alphabet=CHARACTERS, class_names=tuple("abcdefghij"))
    known["mnist-svhn-text"] = (*known["mnist-svhn"], digits)
    return {modality.name: modality for modality in known[settings.data]}
