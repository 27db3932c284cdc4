"""The command line: `multipyro demo`, `train`, `evaluate`, `generate`, `compare`, `methods`, `datasets`."""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from multipyro.inference.recipes.architectures import ARCHITECTURES

__all__ = ["main", "parser"]

# what to do after an interruption, by command
_GO_ON = {
    "demo": "; go on with --resume",
    "train": "; go on with --resume",
    "compare": "; the same command goes on where it stopped",
}
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_SEEDS = 2**32


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
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as error:
        return error.code
    go_on = _GO_ON.get(arguments.command, "")
    try:
        # torch and Lightning take seconds to import, `--help` should not
        from multipyro.inference.cli import commands

        getattr(commands, arguments.command)(arguments)
    except KeyboardInterrupt:
        return _say(f"interrupted{go_on}", 130)
    except SystemExit as error:
        if error.code is not None:
            raise
        # Lightning ends a run at SIGTERM by an exit without a code, which a shell would take for success
        return _say(f"terminated{go_on}", 143)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if os.environ.get("MULTIPYRO_DEBUG"):
            raise
        return _say(re.sub(r"^\[Errno \d+\] ", "", str(error)) or type(error).__name__, 2)
    except Exception as error:  # whatever else a user's guide may raise
        if os.environ.get("MULTIPYRO_DEBUG"):
            raise
        return _say(f"{type(error).__name__}: {error} (MULTIPYRO_DEBUG=1 shows where)", 2)
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = _Parser(
        prog="multipyro",
        description="Multimodal variational autoencoders as Pyro programs: train, compare, generate.",
        epilog="Errors are one line, exit code 2; MULTIPYRO_DEBUG=1 shows where they come from.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train MoPoE on the embedded digits, evaluate it, make pictures")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="run folder (default: %(default)s)")
    demo.add_argument(
        "--epochs", type=_whole(1), help="number of epochs (default: those of about a minute on two cores)"
    )
    demo.add_argument("--seed", type=_whole(0, _SEEDS - 1), default=0, help="seed of the run (default: %(default)s)")
    demo.add_argument("--resume", action="store_true", help="go on with the run in the folder")

    commands.add_parser("methods", help="list the methods: programs, stages, subsets, networks, options, paper")

    datasets = commands.add_parser("datasets", help="list the data sets: modalities, rows, where they are found")
    _data_root(datasets)

    train = commands.add_parser("train", help="train a method on a data set")
    train.add_argument("method", metavar="METHOD", help="a method of `multipyro methods`, or FILE.py:NAME for your own")
    _training(train)
    train.add_argument("--given", nargs="+", metavar="NAME", help="given modalities of the picture made at the end")
    train.add_argument("--target", nargs="+", metavar="NAME", help="generated modalities of that picture")
    train.add_argument("--seed", type=_whole(0, _SEEDS - 1), default=0, help="seed of the run (default: %(default)s)")
    train.add_argument("--guide", metavar="FILE.py:CLASS", help="a guide class of your own in place of the method's")
    train.add_argument("--out", type=Path, help="run folder (default: runs/METHOD-DATA-SEED)")
    train.add_argument("--resume", action="store_true", help="go on with the run in the folder, or start it")

    evaluate = commands.add_parser("evaluate", help="compute all metrics of a run and write its metrics.json")
    _run(evaluate)
    evaluate.add_argument(
        "--particles", type=_whole(1), default=1000, help="importance samples a row (default: %(default)s)"
    )
    evaluate.add_argument(
        "--pixels", choices=("mean", "sample"), default="mean", help="what coherence judges (default: %(default)s)"
    )
    evaluate.add_argument(
        "--seed", type=_whole(0, _SEEDS - 1), default=0, help="seed of the draws (default: %(default)s)"
    )

    generate = commands.add_parser("generate", help="generate modalities from others and draw them")
    _run(generate)
    generate.add_argument("--given", nargs="+", required=True, metavar="NAME", help="modalities taken from test rows")
    generate.add_argument("--target", nargs="+", required=True, metavar="NAME", help="modalities to generate")
    generate.add_argument("--num-samples", type=_whole(1), default=8, help="samples of each row (default: %(default)s)")
    generate.add_argument(
        "--rows", type=_whole(1), default=10, help="number of test rows, one a class (default: %(default)s)"
    )
    generate.add_argument("--file", "--out", dest="file", type=Path, required=True, help="picture to write (.png)")
    generate.add_argument(
        "--seed", type=_whole(0, _SEEDS - 1), default=0, help="seed of the draws (default: %(default)s)"
    )

    compare = commands.add_parser("compare", help="train and evaluate several methods over several seeds, one table")
    compare.add_argument("method", nargs="+", metavar="METHOD", help="names of methods, or FILE.py:NAME")
    _training(compare)
    compare.add_argument("--seeds", type=_whole(1), default=3, help="number of seeds (default: %(default)s)")
    compare.add_argument(
        "--importance-samples", type=_whole(1), default=1000, help="a row of the likelihoods (default: %(default)s)"
    )
    compare.add_argument(
        "--out", type=Path, default=Path("runs/compare"), help="folder of the runs (default: %(default)s)"
    )
    return top


def _run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", type=Path, help="run folder")
    command.add_argument("--guide", metavar="FILE.py:CLASS", help="the guide class the run was made with, if it was")
    command.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default="best",
        help="parameters of the best validation bound or of the last epoch (default: %(default)s)",
    )
    command.add_argument("--method", metavar="FILE.py:NAME", help="the method the run was made with, if it is your own")
    _data_root(command)


def _data_root(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-root", type=Path, metavar="DIR", help="folder of data sets, before MULTIPYRO_DATA")


def _training(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        default="digits",
        metavar="NAME",
        help="data set, or FILE.toml that describes one of your own (default: %(default)s)",
    )
    command.add_argument(
        "--data-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the data set; may repeat (`multipyro datasets` lists them)",
    )
    command.add_argument("--modalities", nargs="+", metavar="NAME", help="modalities to use (default: all)")
    command.add_argument(
        "--missing",
        nargs="+",
        action=_Pairs,
        metavar="SHARE",
        help="share of training rows that lose each modality, as 0.3 or label=0.5",
    )
    command.add_argument("--epochs", type=_whole(1), default=60, help="number of epochs (default: %(default)s)")
    command.add_argument("--batch-size", type=_whole(1), default=64, help="rows of a batch (default: %(default)s)")
    command.add_argument("--lr", type=_positive, default=1e-3, help="learning rate of Adam (default: %(default)s)")
    command.add_argument("--latent-dim", type=_whole(1), default=16, help="size of the latent (default: %(default)s)")
    command.add_argument(
        "--likelihood",
        nargs="+",
        action=_Pairs,
        default=[],
        metavar="NAME=FAMILY",
        help="in place of that of the data: image=beta; with a scale, image=laplace:0.01, :learned or :channels",
    )
    command.add_argument(
        "--networks",
        nargs="+",
        action=_Pairs,
        metavar="ARCHITECTURE",
        help=f"in place of the default ones: {', '.join(ARCHITECTURES)}; image=ARCHITECTURE for each; or paper for "
        "those of the method's paper",
    )
    command.add_argument(
        "--hidden",
        type=_whole(1),
        nargs="+",
        metavar="WIDTH",
        help="widths of the hidden layers (default: by the data)",
    )
    command.add_argument("--beta", type=_weight, default=1.0, help="weight of the KL (default: %(default)s)")
    command.add_argument(
        "--warmup", type=_whole(0), default=0, help="epochs in which it grows from 0 (default: %(default)s)"
    )
    command.add_argument(
        "--weights",
        nargs="+",
        action=_Pairs,
        metavar="NAME=W",
        help="likelihood weights, as image=1,label=10; or the word dimension",
    )
    command.add_argument(
        "--particles", type=_whole(1), help="samples of each expert, for methods with a K-sample bound"
    )
    command.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="a further option of the method; may repeat"
    )
    command.add_argument(
        "--device", type=_device, default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    _data_root(command)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes no abbreviations (`--seed` is not `--seeds`)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        sys.exit(_say(f"{message} (see {self.prog} --help)", 2))


class _Pairs(argparse.Action):
    """Pairs that are separated by spaces, by commas or by both."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, [pair for value in values for pair in value.split(",") if pair])


def _say(message: str, code: int) -> int:
    print("multipyro:", " ".join(message.split()), file=sys.stderr)
    return code


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    wanted = f"at least {low}" if high is None else f"from {low} to {high}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be a whole number, {wanted}, got {text!r}")
        return value

    return convert


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _positive(text: str) -> float:
    value = _number(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


def _weight(text: str) -> float:
    value = _number(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be a number from 0 on, got {text!r}")
    return value


def _device(text: str) -> str:
    if not _DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be auto, cpu, cuda, cuda:N or mps, got {text!r}")
    return text
