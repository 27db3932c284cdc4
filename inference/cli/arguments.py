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
    **dict.fromkeys(("guide", "method"), "FILE.py:NAME"),
    **{"data": "DATA", "file": "FILE", "config": "FILE", "out": "DIR", "data_root": "DIR", "init_from": "RUN"},
    "callbacks": "FILE.py:NAME",
    **{"networks": "ARCHITECTURE", "likelihood": "NAME=LIKELIHOOD", "missing": "SHARE", "option": "KEY=VALUE"},
    **{"data_option": "KEY=VALUE", "weights": "NAME=WEIGHT"},
}
_DEFAULTS = {"epochs": 60, "batch_size": 64}

_SEED = Option("seed", 0, Annotated[int, Bounds(0, 2**32 - 1)], "seed of every random number")
_DATA_ROOT = Option("data_root", None, Path | None, "data folder, instead of MULTIPYRO_DATA")
_GIVEN = Option("given", None, Names | None, "modalities to condition on")
_TARGET = Option("target", None, Names | None, "modalities to generate")
_COVARIATES = Option("covariates", {}, Mapping[str, str], "values to generate under, instead of those of the examples")
_RESUME = Option("resume", False, bool, "continue the run in the folder; with a larger --epochs a finished one too")


@dataclass(frozen=True)
class Command:
    """A command of `multipyro`.

    Args:
        help: What it does.
        run: Called with the parsed arguments.
        positional: Name -> how many there are (as `nargs` of `argparse`) and what it is.
        arguments: Title of a group -> its arguments.
    """

    help: str
    run: Callable[[Any], None]
    positional: Mapping[str, tuple[str | None, str]] = field(default_factory=dict)
    arguments: Mapping[str, tuple[Option, ...]] = field(default_factory=dict)


def _num_samples(default: int, what: str) -> Option:
    return Option("num_samples", default, Count, what)


def _method_option(name: str) -> Option:
    """The flag of an option of methods, whose default is that of the method."""
    option = next(options_for(method)[name] for method in METHODS if name in options_for(method))
    return replace(option, default=None, help=f"{option.help[0].lower()}{option.help[1:].rstrip('.')}")


def _setting(setting: Any) -> Option:
    """The argument of a field of `TrainingSettings`, which checks the value itself."""
    kind = str | Names | None if setting.type is Any else setting.type
    if Callable in Option(setting.name, None, kind).kinds:
        kind |= str  # FILE.py:NAME
    return Option(setting.name, _DEFAULTS.get(setting.name, setting.default), kind, setting.metadata["help"])


_DATA = (
    Option("data", "digits", str, "a data set, or FILE.toml, .csv, .tsv, .parquet or .npz"),
    Option("data_option", {}, Mapping[str, Any], "an option of the data set (see multipyro datasets), repeatable"),
    Option("covariates", None, Names | None, "modalities that condition all networks, such as a batch or a site"),
    Option("modalities", None, Names | None, "modalities to use"),
    Option(
        "missing", {}, Share | Mapping[str, Share], "share of the training examples that miss each modality, or one"
    ),
    Option("drop_incomplete", False, bool, "leave out training examples that miss a modality of the method"),
    Option("exposure", None, Names | None, "counts whose exposure is the sum of the row, as of a cell"),
    Option(
        "likelihood",
        {},
        Mapping[str, str],
        "instead of those of the data: image=beta; with a scale image=laplace:0.01, :learned or :channels",
    ),
    _DATA_ROOT,
)
_NETWORKS = (
    Option("latent_dim", 16, Count, "size of the latent"),
    Option(
        "networks",
        {},
        Mapping[str, str] | str,
        f"architectures instead of the default ones: {', '.join(ARCHITECTURES)}; image=ARCHITECTURE for one modality; "
        "paper for those of the method's paper",
    ),
    Option("hidden", None, tuple[Count, ...] | None, "widths of the hidden layers (512 512; 256 256 for small data)"),
)
_OPTIONS = (
    *map(_method_option, METHOD_OPTIONS),
    Option("option", {}, Mapping[str, Any], "any option, repeatable"),
)
_TRAINING = {
    "data": _DATA,
    "networks": _NETWORKS,
    "options of the method (see multipyro methods METHOD)": _OPTIONS,
    "training": (
        *map(_setting, (f for f in fields(TrainingSettings) if f.name not in ("seed", "out", "resume", "config"))),
    ),
}
_CHECKPOINT = Option(
    "checkpoint", "best", Literal["best", "last"], "of the best validation bound, or of the last epoch"
)
_RUN = (
    Option("guide", None, str | None, "the guide class of the run, if it is user-defined"),
    Option("method", None, str | None, "the method of the run, if it is user-defined"),
    _CHECKPOINT,
    Option("data", None, str | None, "other data than that of the run: a data set, or a file"),
    _DATA_ROOT,
    _SEED,
)
_LIKELIHOOD_ROWS = Option("rows", 1000, Count, "test examples, from the first, whose likelihoods are estimated")
_PART = Option(
    "part",
    None,
    Literal["train", "validation", "test", "all"] | None,
    "part of the data (the test data of the run; all of --data)",
)
_TABLE = Option("file", REQUIRED, Path, "table (.csv, .parquet) or arrays (.npz) to write")

#: The commands by name.
COMMANDS: dict[str, Command] = {
    "demo": Command(
        "train MoPoE on the embedded digits, evaluate it and draw figures",
        demo.run,
        arguments={
            "": (
                Option("out", Path("runs/demo"), Path, "run folder"),
                Option("epochs", 60, Count, "number of epochs"),
                _SEED,
                _RESUME,
            )
        },
    ),
    "train": Command(
        "train a method on a data set",
        train.run,
        {"method": ("?", "a method of `multipyro methods`, or FILE.py:NAME")},
        {
            "": (
                Option("preset", None, str | None, "arguments of a published experiment (see multipyro presets)"),
                Option("config", None, Path | None, "arguments from a YAML or TOML file"),
                Option("dry_run", False, bool, "print what would be trained, and stop"),
                Option("guide", None, str | None, "a guide class in place of the method's"),
                Option("init_from", None, Path | None, "start from the parameters of a run; new modalities start anew"),
                Option("out", None, Path | None, "run folder (runs/METHOD-DATA-SEED)"),
                _RESUME,
                _SEED,
            ),
            "figure at the end": (Option("figure", True, bool, "draw it"), _GIVEN, _TARGET),
            **_TRAINING,
        },
    ),
    "compare": Command(
        "train and evaluate several methods over several seeds, in one table",
        compare.run,
        {"method": ("+", "methods of `multipyro methods`, or FILE.py:NAME")},
        {
            "": (
                Option("seeds", 3, Count, "number of seeds"),
                _num_samples(1000, "importance samples per example for the likelihoods"),
                _LIKELIHOOD_ROWS,
                Option("out", Path("runs/compare"), Path, "folder of the runs"),
                Option("workers", 0, Annotated[int, Bounds(0)], "runs at once, in a process each; 0 for this one"),
                Option("engine", "processes", Literal["processes", "ray"], "where further processes run"),
            ),
            **_TRAINING,
        },
    ),
    "evaluate": Command(
        "compute all metrics of a run and write its metrics.json",
        evaluate.run,
        {"run": (None, "run folder")},
        {
            "": (
                _num_samples(1000, "importance samples per example for the likelihoods"),
                _LIKELIHOOD_ROWS,
                Option("pixels", "mean", Literal["mean", "sample"], "what to classify for coherence"),
                *_RUN,
            )
        },
    ),
    "check": Command(
        "check whether the guide of a run can be trusted, and what to do if not",
        check.run,
        {"run": (None, "run folder")},
        {
            "": (
                Option("rows", 200, Count, "number of complete test examples"),
                Option("num_simulated", 500, Count, "number of data points to simulate"),
                _num_samples(1000, "importance samples per example"),
                *_RUN,
            )
        },
    ),
    "figures": Command(
        "draw every figure of a run that its data and its method allow",
        figures.run,
        {"run": (None, "run folder")},
        {
            "": (
                Option("out", None, Path | None, "folder of the figures (figures in the run folder)"),
                Option("format", "png", Literal["pdf", "png", "svg"], "pdf and svg are vector graphics"),
                Option("rows", 10, Count, "number of test examples in grids"),
                *_RUN,
            )
        },
    ),
    "report": Command(
        "write one HTML page about runs: metrics, verdicts, figures, settings",
        report.run,
        {"run": ("+", "run folders")},
        {"": (Option("file", None, Path | None, "page to write (report.html in the run folder, or in this one)"),)},
    ),
    "generate": Command(
        "generate modalities from others and draw them",
        generate.run,
        {"run": (None, "run folder")},
        {
            "": (
                replace(_GIVEN, default=REQUIRED),
                replace(_TARGET, default=REQUIRED),
                _num_samples(8, "samples per example"),
                Option("rows", 10, Count, "number of test examples"),
                Option("file", REQUIRED, Path, "figure to write (.png, .pdf or .svg)"),
                _COVARIATES,
                *_RUN,
            )
        },
    ),
    "predict": Command(
        "predict missing modalities with their uncertainty",
        predict.run,
        {"run": (None, "run folder")},
        {
            "": (
                replace(_GIVEN, help="modalities to condition on (what is observed)"),
                replace(_TARGET, help="modalities to predict (the values that are missing)"),
                Option("impute", False, bool, "only missing values, from all observed ones (default without --target)"),
                _num_samples(100, "posterior predictive samples per example"),
                Option("quantiles", (0.05, 0.5, 0.95), tuple[Share, ...], "quantiles of predicted numbers"),
                Option("keep_samples", False, bool, "write the samples too (.npz)"),
                _PART,
                replace(_TABLE, help=f"{_TABLE.help}, or a folder, for images"),
                _COVARIATES,
                *_RUN,
            )
        },
    ),
    "embed": Command(
        "write the latent means of the examples",
        embed.run,
        {"run": (None, "run folder")},
        {"": (replace(_GIVEN, help="modalities to condition on (all)"), _PART, _TABLE, *_RUN)},
    ),
    "export": Command(
        "write a run without its data to a folder or a zip file, with its weights as safetensors and a model card",
        export.run,
        {"run": (None, "run folder")},
        {
            "": (
                Option("out", None, Path | None, "new folder, or a file ending in .zip (RUN.zip)"),
                _CHECKPOINT,
            )
        },
    ),
    "methods": Command(
        "list the methods, or describe one: equation, options, paper",
        catalogs.methods,
        {"method": ("?", "the method to describe")},
    ),
    "presets": Command(
        "list the settings of published experiments, or describe one",
        catalogs.presets,
        {"preset": ("?", "the preset to describe")},
    ),
    "datasets": Command(
        "list the data sets: modalities, sizes, options, where they are found",
        catalogs.datasets,
        arguments={"": (_DATA_ROOT,)},
    ),
}
