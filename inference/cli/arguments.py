"""The commands and their arguments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from multipyro.inference.cli.commands import (
    catalogs,
    check,
    compare,
    demo,
    embed,
    evaluate,
    export,
    figures,
    generate,
    predict,
    report,
    train,
)
from multipyro.inference.cli.jobs import METHOD_OPTIONS
from multipyro.inference.options import Bounds, Count, Names, Option, Share
from multipyro.inference.recipes import METHODS, options_for
from multipyro.inference.recipes.architectures import ARCHITECTURES
from multipyro.inference.training.settings import TrainingSettings

__all__ = ["COMMANDS", "METAVARS", "REQUIRED", "Command"]

#: Default of an argument that must be given.
REQUIRED = ...
#: Placeholders of values in `--help`, where the type of an argument does not imply one.
METAVARS = {
    **dict.fromkeys(("guide", "method", "callbacks"), "FILE.py:NAME"),
    **{"data": "DATA", "file": "FILE", "config": "FILE", "out": "DIR", "data_root": "DIR", "init_from": "RUN"},
    **{"networks": "ARCHITECTURE", "likelihood": "NAME=LIKELIHOOD", "missing": "SHARE", "option": "KEY=VALUE"},
    **{"data_option": "KEY=VALUE", "weights": "NAME=WEIGHT", "hidden": "WIDTH", "preset": "PRESET", "device": "DEVICE"},
}
_DEFAULTS = {"epochs": 60, "batch_size": 64}
# settings of a training that are no arguments, or that a command declares itself
_OTHER_SETTINGS = ("seed", "out", "resume", "config")


@dataclass(frozen=True)
class Command:
    """A command of `multipyro`.

    Args:
        help: What it does.
        run: Called with the parsed arguments.
        positional: Name, `nargs` of `argparse` and help of the positional argument; None without one.
        options: The optional arguments.
        groups: Title of a group in `--help` -> further optional arguments.
    """

    help: str
    run: Callable[[Any], None]
    positional: tuple[str, str | None, str] | None = None
    options: tuple[Option, ...] = ()
    groups: Mapping[str, tuple[Option, ...]] = field(default_factory=dict)


def _method_option(name: str) -> Option:
    """The flag of an option of methods, whose default is that of the method."""
    option = next(options_for(method)[name] for method in METHODS if name in options_for(method))
    help = f"{option.help[0].lower()}{option.help[1:].rstrip('.')}".replace('`"', "").replace('"`', "")
    return replace(option, default=None, help=help)


def _setting(setting: Any) -> Option:
    """The argument of a field of `TrainingSettings`, which checks the value itself."""
    kind = str | Names | None if setting.type is Any else setting.type
    if Callable in Option(setting.name, None, kind).kinds:
        kind |= str  # FILE.py:NAME
    return Option(setting.name, _DEFAULTS.get(setting.name, setting.default), kind, setting.metadata["help"])


_SEED = Option("seed", 0, Annotated[int, Bounds(0, 2**32 - 1)], "seed of all random numbers")
_DATA_ROOT = Option("data_root", None, Path | None, "folder with the data sets, instead of those in MULTIPYRO_DATA")
_GIVEN = Option("given", None, Names | None, "modalities to condition on")
_TARGET = Option("target", None, Names | None, "modalities to generate")
_COVARIATES = Option(
    "covariates", {}, Mapping[str, str], "values of covariates to condition on, instead of those of the examples"
)
_RESUME = Option(
    "resume", False, bool, "continue the run in the folder; a finished one if --epochs is larger than before"
)
_CHECKPOINT = Option(
    "checkpoint", "best", Literal["best", "last"], "parameters of the best validation bound, or of the last epoch"
)
_ROWS = Option("rows", 10, Count, "number of test examples")
_NUM_SAMPLES = Option("num_samples", 1000, Count, "importance samples per example for the likelihoods")
_EVALUATION = (
    _NUM_SAMPLES,
    replace(_ROWS, default=1000, help="number of test examples whose likelihoods are estimated"),
)
_PART = Option(
    "part",
    None,
    Literal["train", "validation", "test", "all"] | None,
    "part of the data (default: test, or all of --data)",
)
_TABLE = Option("file", REQUIRED, Path, "table (.csv, .parquet) or arrays (.npz) to write")
_RUN = (
    Option("guide", None, str | None, "guide class of the run, if it is user-defined"),
    Option("method", None, str | None, "method of the run, if it is user-defined"),
    _CHECKPOINT,
    Option("data", None, str | None, "data set or file to use instead of the data of the run"),
    _DATA_ROOT,
    _SEED,
)
_TRAINING = {
    "data": (
        Option("data", "digits", str, "data set (see multipyro datasets), or .toml, .csv, .tsv, .parquet or .npz file"),
        Option("data_option", {}, Mapping[str, Any], "option of the data set or of reading the file; can be repeated"),
        Option("covariates", None, Names | None, "modalities that condition all networks, such as a batch or a site"),
        Option("modalities", None, Names | None, "modalities to use (default: all)"),
        Option(
            "missing",
            {},
            Share | Mapping[str, Share],
            "share of the training examples that lose each modality, or NAME=SHARE for some modalities",
        ),
        Option("drop_incomplete", False, bool, "leave out training examples that miss a modality of the method"),
        Option(
            "exposure", None, Names | None, "modalities of counts whose exposure is the sum of each example's counts"
        ),
        Option(
            "likelihood",
            {},
            Mapping[str, str],
            "likelihoods in place of the defaults, such as image=beta; with a scale image=laplace:0.01, "
            "image=laplace:learned or image=laplace:channels",
        ),
        _DATA_ROOT,
    ),
    "networks": (
        Option("latent_dim", 16, Count, "dimension of the latent"),
        Option(
            "networks",
            {},
            Mapping[str, str] | str,
            "architectures in place of the defaults: one for all modalities, NAME=ARCHITECTURE for some, or paper for "
            f"those of the method's paper; choose from {', '.join(ARCHITECTURES)}",
        ),
        Option(
            "hidden",
            None,
            tuple[Count, ...] | None,
            "widths of the hidden layers (default: 512 512; 256 256 for small data)",
        ),
    ),
    "method": (
        *map(_method_option, METHOD_OPTIONS),
        Option("option", {}, Mapping[str, Any], "any option (see multipyro methods METHOD); can be repeated"),
    ),
    "training": tuple(_setting(f) for f in fields(TrainingSettings) if f.name not in _OTHER_SETTINGS),
}
_RUN_FOLDER = ("run", None, "run folder")

#: The commands by name.
COMMANDS: dict[str, Command] = {
    "demo": Command(
        "train MoPoE on the embedded digits, evaluate it and draw figures",
        demo.run,
        options=(
            Option("out", Path("runs/demo"), Path, "run folder"),
            Option("epochs", 60, Count, "number of passes over the training data"),
            _SEED,
            _RESUME,
        ),
    ),
    "train": Command(
        "train a method on a data set",
        train.run,
        ("method", "?", "a method (see multipyro methods), or FILE.py:NAME"),
        (
            Option("preset", None, str | None, "settings of a published experiment (see multipyro presets)"),
            Option("config", None, Path | None, "YAML or TOML file with arguments"),
            Option("dry_run", False, bool, "print what would be trained, and stop"),
            Option("guide", None, str | None, "guide class that replaces the method's"),
            Option(
                "init_from", None, Path | None, "start from the parameters of a run; new modalities start from scratch"
            ),
            Option("out", None, Path | None, "run folder (default: runs/METHOD-DATA-SEED)"),
            _RESUME,
            _SEED,
        ),
        {"figure": (Option("figure", True, bool, "draw a figure after training"), _GIVEN, _TARGET), **_TRAINING},
    ),
    "compare": Command(
        "train and evaluate several methods with several seeds, and tabulate the results",
        compare.run,
        ("method", "+", "methods (see multipyro methods), or FILE.py:NAME"),
        (
            Option("seeds", 3, Count, "number of seeds"),
            *_EVALUATION,
            Option("out", Path("runs/compare"), Path, "folder of the runs"),
            Option("workers", 0, Annotated[int, Bounds(0)], "number of processes that train; 0 for this one alone"),
            Option("engine", "processes", Literal["processes", "ray"], "what runs these processes"),
        ),
        _TRAINING,
    ),
    "evaluate": Command(
        "compute all metrics of a run and write them to its metrics.json",
        evaluate.run,
        _RUN_FOLDER,
        (
            *_EVALUATION,
            Option("pixels", "mean", Literal["mean", "sample"], "for coherence, classify means or samples of images"),
            *_RUN,
        ),
    ),
    "check": Command(
        "find out whether the guide of a run can be trusted, and what to do if not",
        check.run,
        _RUN_FOLDER,
        (
            replace(_ROWS, default=200, help="number of complete test examples"),
            Option("num_simulated", 500, Count, "number of data points to simulate"),
            replace(_NUM_SAMPLES, help="importance samples per example"),
            *_RUN,
        ),
    ),
    "figures": Command(
        "draw all figures that the data and the method of a run allow",
        figures.run,
        _RUN_FOLDER,
        (
            Option("out", None, Path | None, "folder of the figures (default: RUN/figures)"),
            Option("format", "png", Literal["pdf", "png", "svg"], "file format; pdf and svg are vector graphics"),
            replace(_ROWS, help="number of test examples in grids"),
            *_RUN,
        ),
    ),
    "report": Command(
        "write one HTML page about runs: metrics, verdicts on their guides, figures, settings",
        report.run,
        ("run", "+", "run folders"),
        (Option("file", None, Path | None, "page to write (default: RUN/report.html; report.html for several runs)"),),
    ),
    "generate": Command(
        "generate modalities from others and draw them",
        generate.run,
        _RUN_FOLDER,
        (
            replace(_GIVEN, default=REQUIRED),
            replace(_TARGET, default=REQUIRED),
            replace(_NUM_SAMPLES, default=8, help="number of samples per example"),
            _ROWS,
            Option("file", REQUIRED, Path, "figure to write (.png, .pdf or .svg)"),
            _COVARIATES,
            *_RUN,
        ),
    ),
    "predict": Command(
        "predict missing values and modalities, with their uncertainty",
        predict.run,
        _RUN_FOLDER,
        (
            replace(_GIVEN, help="modalities to condition on (default: all that are not predicted)"),
            replace(_TARGET, help="modalities to predict (default: all that are not given)"),
            Option(
                "impute", False, bool, "predict missing values only (default if neither --given nor --target is set)"
            ),
            replace(_NUM_SAMPLES, default=100, help="posterior predictive samples per example"),
            Option("quantiles", (0.05, 0.5, 0.95), tuple[Share, ...], "quantiles of predicted numbers"),
            Option("keep_samples", False, bool, "write the samples too (.npz only)"),
            _PART,
            replace(_TABLE, help=f"{_TABLE.help}, or a folder, for images"),
            _COVARIATES,
            *_RUN,
        ),
    ),
    "embed": Command(
        "write the latent means of examples to a table",
        embed.run,
        _RUN_FOLDER,
        (replace(_GIVEN, help="modalities to condition on (default: all)"), _PART, _TABLE, *_RUN),
    ),
    "export": Command(
        "copy a run, without its data, to a folder or a zip file to share, with a model card",
        export.run,
        _RUN_FOLDER,
        (Option("out", None, Path | None, "new folder, or file ending in .zip (default: RUN.zip)"), _CHECKPOINT),
    ),
    "methods": Command(
        "list the methods, or describe one: equation, options, paper",
        catalogs.methods,
        ("method", "?", "method to describe"),
    ),
    "presets": Command(
        "list the settings of published experiments, or describe one",
        catalogs.presets,
        ("preset", "?", "preset to describe"),
    ),
    "datasets": Command(
        "list the data sets: modalities, sizes, options, where they were found",
        catalogs.datasets,
        options=(_DATA_ROOT,),
    ),
}
