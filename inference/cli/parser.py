"""The command line: its commands and their arguments."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_args

from multipyro.inference.cli import config_file, values
from multipyro.inference.cli.commands import (
    compare,
    datasets,
    demo,
    embed,
    evaluate,
    generate,
    methods,
    predict,
    train,
)
from multipyro.inference.cli.console import complain
from multipyro.inference.recipes import METHODS, options_for
from multipyro.inference.recipes.architectures import ARCHITECTURES
from multipyro.inference.training.settings import TrainingSettings

__all__ = ["main", "parse", "parser"]

# how to continue after an interruption, by command
_CONTINUE = {
    "demo": "; continue with --resume",
    "train": "; continue with --resume",
    "compare": "; the same command continues where it stopped",
}
_MAX_SEED = 2**32 - 1
# the settings that have an argument of their own here, or none
_NOT_FLAGS = ("seed", "out", "resume", "callbacks", "config")
# defaults of the commands that differ from those of `fit`
_DEFAULTS = {"epochs": 60, "batch_size": 64}
# flags for options that many methods have
_OPTION_FLAGS = {"beta": "--beta", "warmup": "--warmup", "weights": "--weights", "particles": "--particles"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code: 0; 2 after an error, which is one line on standard error; 130 after an interrupt from the
        keyboard and 143 after SIGTERM, both of which leave a run that can be resumed.

    Example:
        >>> main(["evaluate", "no-such-run"])
        2
    """
    command = ""
    try:
        arguments = parse(argv)
        command = arguments.command
        arguments.run_command(arguments)
    except KeyboardInterrupt:
        return complain(f"interrupted{_CONTINUE.get(command, '')}", 130)
    except SystemExit as error:
        if error.code is not None:
            return error.code
        # a training run ends at SIGTERM by an exit without a code, which a shell would take for success
        return complain(f"terminated{_CONTINUE.get(command, '')}", 143)
    except (ValueError, TypeError, RuntimeError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("MULTIPYRO_DEBUG"):
            raise
        return complain(re.sub(r"^\[Errno \d+\] ", "", str(error)) or type(error).__name__, 2)
    except Exception as error:  # whatever else a user's guide may raise
        if os.environ.get("MULTIPYRO_DEBUG"):
            raise
        return complain(f"{type(error).__name__}: {error} (MULTIPYRO_DEBUG=1 shows where)", 2)
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a command, over those in its `--config` file, over the defaults.

    Raises:
        SystemExit: If an argument is unknown, missing or wrong, after one line on standard error; or after `--help`.
        ValueError: If the configuration file is wrong.
    """
    arguments = parser().parse_args(argv)
    if getattr(arguments, "config_file", None) is not None:
        arguments = parser(config_file.read(arguments.config_file)).parse_args(argv)
        arguments.options = {**arguments.default_options, **arguments.options}
    if arguments.command == "demo":
        arguments.train = parser().parse_args(demo.train_arguments(arguments))
    if arguments.command == "train" and arguments.method is None:
        raise ValueError("the following arguments are required: METHOD (see multipyro train --help)")
    return arguments


def parser(train_defaults: dict[str, Any] | None = None) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        train_defaults: Defaults of the arguments of `train` from a configuration file, as texts.
    """
    top = _Parser(
        prog="multipyro",
        description="Multimodal variational autoencoders as Pyro programs: train, evaluate, predict, compare.",
        epilog="Errors are one line, with exit code 2; MULTIPYRO_DEBUG=1 shows where they come from.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = _command(commands, demo, "train MoPoE on the embedded digits, evaluate it and draw figures")
    command.add_argument("--out", type=values.path, default=Path("runs/demo"), help="run folder (%(default)s)")
    command.add_argument("--epochs", type=values.integer(1), default=60, help="number of epochs (%(default)s)")
    _seed(command, "seed of the run")
    command.add_argument("--resume", action="store_true", help="continue the run in the folder")

    command = _command(commands, methods, "list the methods, or describe one: equation, options, paper")
    command.add_argument("method", nargs="?", choices=METHODS, metavar="METHOD", help="the method to describe")

    command = _command(commands, datasets, "list the data sets: modalities, sizes, options, where they are found")
    _data_root(command)

    command = _command(commands, train, "train a method on a data set")
    command.add_argument("method", nargs="?", metavar="METHOD", help="a method of `multipyro methods`, or FILE.py:NAME")
    command.add_argument(
        "--config", dest="config_file", type=values.path, metavar="FILE", help="arguments from a YAML or TOML file"
    )
    command.add_argument("--dry-run", action="store_true", help="print what would be trained, and stop")
    command.add_argument("--guide", metavar="FILE.py:CLASS", help="a guide class in place of the method's")
    command.add_argument("--out", type=values.path, help="run folder (runs/METHOD-DATA-SEED)")
    command.add_argument("--resume", action="store_true", help="continue the run in the folder, or start it")
    _seed(command, "seed of parameters, order of examples and every step")
    figure = command.add_argument_group("figure at the end")
    figure.add_argument("--figure", action=argparse.BooleanOptionalAction, default=True, help="draw it")
    _names(figure, "--given", "modalities to condition on")
    _names(figure, "--target", "modalities to generate")
    _training(command)
    config_file.set_defaults(command, train_defaults or {})

    command = _command(commands, compare, "train and evaluate several methods over several seeds, in one table")
    command.add_argument("method", nargs="+", metavar="METHOD", help="names of methods, or FILE.py:NAME")
    command.add_argument("--seeds", type=values.integer(1), default=3, help="number of seeds (%(default)s)")
    _num_samples(command, 1000, "importance samples per example for the likelihoods")
    command.add_argument("--out", type=values.path, default=Path("runs/compare"), help="folder of the runs")
    _training(command)

    command = _command(commands, evaluate, "compute all metrics of a run and write its metrics.json")
    _run(command)
    _num_samples(command, 1000, "importance samples per example for the likelihoods")
    command.add_argument(
        "--pixels",
        choices=("mean", "sample"),
        default="mean",
        help="what is classified for coherence: the mean of the likelihood or a sample (%(default)s)",
    )

    command = _command(commands, generate, "generate modalities from others and draw them")
    _run(command)
    _names(command, "--given", "modalities of test examples to condition on", required=True)
    _names(command, "--target", "modalities to generate", required=True)
    _num_samples(command, 8, "samples per example")
    command.add_argument("--rows", type=values.integer(1), default=10, help="number of test examples (%(default)s)")
    _file(command, "figure to write (.png, .pdf or .svg)")

    command = _command(commands, predict, "predict missing modalities with their uncertainty and write a table")
    _run(command)
    _names(command, "--given", "modalities to condition on (all observed ones but the targets)")
    _names(command, "--target", "modalities to predict (those that are missing in some examples)")
    _num_samples(command, 100, "posterior predictive samples per example")
    command.add_argument(
        "--quantiles",
        nargs="+",
        type=values.share,
        default=[0.05, 0.5, 0.95],
        metavar="SHARE",
        help="quantiles of numbers (0.05 0.5 0.95)",
    )
    command.add_argument("--keep-samples", action="store_true", help="write the samples too (.npz)")
    _part(command)
    _file(command, "table to write (.csv), or arrays (.npz)")

    command = _command(commands, embed, "write the latent means of the examples as a table")
    _run(command)
    _names(command, "--given", "modalities to condition on (all)")
    _part(command)
    _file(command, "table to write (.csv), or arrays (.npz)")
    return top


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, and accepts no abbreviations (`--seed` is not `--seeds`)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        sys.exit(complain(f"{message} (see {self.prog} --help)", 2))


def _command(commands: Any, module: Any, text: str) -> argparse.ArgumentParser:
    name = module.__name__.rpartition(".")[2]
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run_command=module.run)
    return command


def _run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", type=values.path, help="run folder")
    command.add_argument("--guide", metavar="FILE.py:CLASS", help="the guide class of the run, if it is user-defined")
    command.add_argument("--method", metavar="FILE.py:NAME", help="the method of the run, if it is user-defined")
    command.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default="best",
        help="parameters of the best validation bound, or of the last epoch (%(default)s)",
    )
    command.add_argument("--data", metavar="DATA", help="other data: a name, or FILE.toml (that of the run)")
    _data_root(command)
    _seed(command, "seed of the samples")


def _data_root(command: Any) -> None:
    command.add_argument(
        "--data-root", type=values.existing_folder, metavar="DIR", help="data folder, instead of MULTIPYRO_DATA"
    )


def _seed(command: Any, text: str) -> None:
    command.add_argument("--seed", type=values.integer(0, _MAX_SEED), default=0, help=f"{text} (%(default)s)")


def _num_samples(command: Any, default: int, text: str) -> None:
    command.add_argument("--num-samples", type=values.integer(1), default=default, help=f"{text} (%(default)s)")


def _names(command: Any, flag: str, text: str, **settings: Any) -> None:
    command.add_argument(flag, nargs="+", action=values.UniqueNames, metavar="NAME", help=text, **settings)


def _part(command: Any) -> None:
    command.add_argument(
        "--part",
        choices=("train", "validation", "test", "all"),
        help="which examples (the test data of the run; all of --data)",
    )


def _file(command: Any, text: str) -> None:
    command.add_argument("--file", "--out", dest="file", type=values.path, required=True, metavar="FILE", help=text)


def _training(command: argparse.ArgumentParser) -> None:
    """The arguments of a training: data, networks, options of the method, settings."""
    data = command.add_argument_group("data")
    data.add_argument("--data", default="digits", metavar="DATA", help="a data set, or FILE.toml (%(default)s)")
    data.add_argument(
        "--data-option",
        dest="data_options",
        action=values.NamedValues,
        convert=values.literal,
        separated=False,
        nargs=1,
        default={},
        metavar="KEY=VALUE",
        help="an option of the data set, repeatable (see multipyro datasets)",
    )
    _names(data, "--modalities", "modalities to use (all)")
    data.add_argument(
        "--missing",
        nargs="+",
        action=values.NamedValues,
        convert=values.share,
        for_all=True,
        default={},
        metavar="SHARE",
        help="share of the training examples that miss each modality: 0.3, or label=0.5",
    )
    data.add_argument(
        "--likelihood",
        nargs="+",
        action=values.NamedValues,
        convert=values.likelihood_choice,
        default={},
        metavar="NAME=LIKELIHOOD",
        help="instead of that of the data: image=beta; with a scale image=laplace:0.01, :learned or :channels",
    )
    _data_root(data)

    networks = command.add_argument_group("networks")
    networks.add_argument("--latent-dim", type=values.integer(1), default=16, help="size of the latent (%(default)s)")
    networks.add_argument(
        "--networks",
        nargs="+",
        action=values.NamedValues,
        convert=str,
        for_all=True,
        default={},
        metavar="ARCHITECTURE",
        help=f"instead of the default ones: {', '.join(ARCHITECTURES)}; image=ARCHITECTURE for one modality; or paper, "
        "for those of the method's paper",
    )
    networks.add_argument(
        "--hidden",
        type=values.integer(1),
        nargs="+",
        metavar="WIDTH",
        help="widths of the hidden layers (512 512, or 256 256 for small data)",
    )

    options = command.add_argument_group("options of the method (see multipyro methods METHOD)")
    options.set_defaults(default_options={})
    available = {name: option for info in METHODS.values() for name, option in options_for(info.name).items()}
    for name, flag in _OPTION_FLAGS.items():
        options.add_argument(
            flag,
            action=values.OptionValue,
            option=name,
            nargs="+" if name == "weights" else None,
            metavar="VALUE",
            help=_escaped(available[name].help),
        )
    options.add_argument(
        "--option", action=values.OptionValue, nargs=1, metavar="KEY=VALUE", help="any option, repeatable"
    )

    training = command.add_argument_group("training")
    for setting in fields(TrainingSettings):
        if setting.name not in _NOT_FLAGS:
            _add_setting(training, setting)
    training.add_argument(
        "--callback",
        dest="callbacks",
        action="append",
        default=[],
        metavar="FILE.py:NAME",
        help="an object called while training, repeatable",
    )


def _add_setting(group: Any, setting: Any) -> None:
    """The flag of a field of `TrainingSettings`, which checks the values itself."""
    flag, default = f"--{setting.name.replace('_', '-')}", _DEFAULTS.get(setting.name, setting.default)
    kinds, choices = get_args(setting.type) or (setting.type,), setting.metadata["choices"]
    text = _escaped(f"{setting.metadata['help']} ({'none' if default is None else default})")
    if bool in kinds:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
        return

    def convert(text: str) -> Any:
        if text == "none" and (type(None) in kinds or Any in kinds):
            return None
        if int in kinds or float in kinds:
            return values.number(text, int if int in kinds else float)
        return text.split(",") if "," in text and Any in kinds else text

    metavar = "|".join(choices) or ("N" if int in kinds else "X" if float in kinds else "NAME")
    group.add_argument(flag, type=convert, default=default, metavar=metavar, help=text)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
