"""The command line: `multipyro demo`, `train`, `evaluate`, `generate`, `compare`, `methods`, `datasets`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code: 0, or 2 after an error, which is one line on standard error.

    Example:
        >>> main(["evaluate", "no-such-run"])
        2
    """
    arguments = parser().parse_args(argv)
    # torch and Lightning take seconds to import, `--help` should not
    from multipyro.inference import commands

    try:
        getattr(commands, arguments.command)(arguments)
    except KeyboardInterrupt:
        print("multipyro: interrupted; go on with --resume", file=sys.stderr)
        return 130
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if os.environ.get("MULTIPYRO_DEBUG"):
            raise
        message = str(error).replace("\n", " ")
        print(f"multipyro: {message or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="multipyro",
        description="Multimodal variational autoencoders as Pyro programs: train, compare, generate.",
        epilog="Errors are one line, exit code 2; MULTIPYRO_DEBUG=1 shows where they come from.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train MoPoE on the embedded digits, evaluate it, make pictures")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="run folder (default: %(default)s)")
    demo.add_argument("--epochs", type=int, help="number of epochs (default: those of about a minute on two cores)")
    demo.add_argument("--seed", type=int, default=0, help="seed of the run (default: %(default)s)")
    demo.add_argument("--resume", action="store_true", help="go on with the run in the folder")

    commands.add_parser("methods", help="list the methods: programs, stages, subsets, networks, options, paper")

    datasets = commands.add_parser("datasets", help="list the data sets: modalities, rows, where they are found")
    _data_root(datasets)

    train = commands.add_parser("train", help="train a method on a data set")
    train.add_argument("method", metavar="METHOD", help="name of a method; `multipyro methods` lists them")
    _training(train)
    train.add_argument("--given", nargs="+", metavar="NAME", help="given modalities of the picture made at the end")
    train.add_argument("--target", nargs="+", metavar="NAME", help="generated modalities of that picture")
    train.add_argument("--seed", type=int, default=0, help="seed of the run (default: %(default)s)")
    train.add_argument("--guide", metavar="FILE.py:CLASS", help="a guide class of your own in place of the method's")
    train.add_argument("--out", type=Path, help="run folder (default: runs/METHOD-DATA-SEED)")
    train.add_argument("--resume", action="store_true", help="go on with the run in the folder, or start it")

    evaluate = commands.add_parser("evaluate", help="compute all metrics of a run and write its metrics.json")
    _run(evaluate)
    evaluate.add_argument("--particles", type=int, default=1000, help="importance samples a row (default: %(default)s)")
    evaluate.add_argument(
        "--pixels", choices=("mean", "sample"), default="mean", help="what coherence judges (default: %(default)s)"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the draws (default: %(default)s)")

    generate = commands.add_parser("generate", help="generate modalities from others and draw them")
    _run(generate)
    generate.add_argument("--given", nargs="+", required=True, metavar="NAME", help="modalities taken from test rows")
    generate.add_argument("--target", nargs="+", required=True, metavar="NAME", help="modalities to generate")
    generate.add_argument("--num-samples", type=int, default=8, help="samples of each row (default: %(default)s)")
    generate.add_argument(
        "--rows", type=int, default=10, help="number of test rows, one a class (default: %(default)s)"
    )
    generate.add_argument("--file", "--out", dest="file", type=Path, required=True, help="picture to write (.png)")
    generate.add_argument("--seed", type=int, default=0, help="seed of the draws (default: %(default)s)")

    compare = commands.add_parser("compare", help="train and evaluate several methods over several seeds, one table")
    compare.add_argument("method", nargs="+", metavar="METHOD", help="names of methods")
    _training(compare)
    compare.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    compare.add_argument(
        "--importance-samples", type=int, default=1000, help="a row of the likelihoods (default: %(default)s)"
    )
    compare.add_argument(
        "--out", type=Path, default=Path("runs/compare"), help="folder of the runs (default: %(default)s)"
    )
    return top


def _run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", type=Path, help="run folder")
    command.add_argument("--guide", metavar="FILE.py:CLASS", help="the guide class the run was made with, if it was")
    _data_root(command)


def _data_root(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-root", type=Path, metavar="DIR", help="folder of data sets, before MULTIPYRO_DATA")


def _training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", default="digits", metavar="NAME", help="data set (default: %(default)s)")
    command.add_argument("--modalities", nargs="+", metavar="NAME", help="modalities to use (default: all)")
    command.add_argument("--epochs", type=int, default=60, help="number of epochs (default: %(default)s)")
    command.add_argument("--batch-size", type=int, default=64, help="rows of a batch (default: %(default)s)")
    command.add_argument("--lr", type=float, default=1e-3, help="learning rate of Adam (default: %(default)s)")
    command.add_argument("--latent-dim", type=int, default=16, help="size of the latent (default: %(default)s)")
    command.add_argument("--beta", type=float, default=1.0, help="weight of the KL (default: %(default)s)")
    command.add_argument("--warmup", type=int, default=0, help="epochs in which it grows from 0 (default: %(default)s)")
    command.add_argument(
        "--weights", nargs="+", metavar="NAME=W", help="likelihood weights, as label=10 word=5; or the word dimension"
    )
    command.add_argument("--particles", type=int, help="samples of each expert, for methods with a K-sample bound")
    command.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="a further option of the method; may repeat"
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    _data_root(command)
