"""The command line."""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from multipyro import __version__
from multipyro.inference.cli.arguments import COMMANDS, METAVARS, REQUIRED
from multipyro.inference.cli.commands.demo import demo_commands
from multipyro.inference.cli.config_file import read_config
from multipyro.inference.cli.console import complain
from multipyro.inference.cli.jobs import METHOD_OPTIONS
from multipyro.inference.cli.tokens import token
from multipyro.inference.cli.transfer import arguments_of
from multipyro.inference.options import Option
from multipyro.inference.presets import preset

__all__ = ["main", "parse", "parser"]

# how to continue after an interruption, by command
_CONTINUE = {
    "demo": "; continue with --resume",
    "train": "; continue with --resume",
    "compare": "; the same command continues where it stopped",
}

_ALIASES = {"file": ("out",)}


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
        COMMANDS[command].run(arguments)
    except KeyboardInterrupt:
        return complain(f"interrupted{_CONTINUE.get(command, '')}", 130)
    except SystemExit as error:
        if error.code is not None:
            return error.code
        # at SIGTERM a training run exits without a code, which a shell would take as success
        return complain(f"terminated{_CONTINUE.get(command, '')}", 143)
    except (ValueError, TypeError, RuntimeError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("MULTIPYRO_DEBUG"):
            raise
        return complain(re.sub(r"^\[Errno \d+\] ", "", str(error)) or type(error).__name__, 2)
    except Exception as error:  # user-defined code may raise any exception
        if os.environ.get("MULTIPYRO_DEBUG"):
            raise
        return complain(f"{type(error).__name__}: {error} (MULTIPYRO_DEBUG=1 shows where)", 2)
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a command, over those in its `--config` file, over those of its `--preset`, over the defaults.

    Raises:
        SystemExit: If an argument is unknown, missing or wrong, after one line on standard error; or after `--help`.
        ValueError: If the configuration file is wrong, a preset is unknown, or there is no method to train.
    """
    arguments = parser().parse_args(argv)
    arguments.config_options = {}
    if arguments.command == "demo":
        arguments.steps = [(COMMANDS[tokens[0]].run, parse(tokens), tokens) for tokens in demo_commands(arguments)]
    if arguments.command == "train":
        config = {} if arguments.config is None else read_config(arguments.config, COMMANDS["train"])
        config = {**_defaults_from_runs(arguments), **config}
        options = {**config.pop("option", {}), **{n: config.pop(n) for n in METHOD_OPTIONS if n in config}}
        name = arguments.preset or config.get("preset")
        if name is not None:
            published = preset(name).arguments(arguments.method or config.get("method"))
            options = {**published.pop("option"), **options}
            config = {**published, **config}
        arguments = parser(config).parse_args(argv)
        arguments.config_options = options
        if arguments.method is None:
            raise ValueError("train needs a METHOD (see multipyro train --help)")
    return arguments


def _defaults_from_runs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the run that is continued, or whose parameters are taken over, in place of the defaults."""
    if arguments.resume and arguments.method is None and arguments.config is None and arguments.out is not None:
        return arguments_of(arguments.out, whole=True)
    if arguments.init_from is not None:
        known = arguments_of(arguments.init_from, whole=False)
        # options belong to the method
        return known if arguments.method in (None, known["method"]) else {**known, "option": {}}
    return {}


def parser(train_defaults: Mapping[str, Any] | None = None) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        train_defaults: Values of the arguments of `train`, in place of their defaults.
    """
    top = _Parser(
        prog="multipyro",
        description="Multimodal variational autoencoders as Pyro programs: train, evaluate, predict, compare.",
        epilog="Errors are one line, with exit code 2; MULTIPYRO_DEBUG=1 shows where they come from.",
    )
    top.add_argument("--version", action="version", version=f"multipyro {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        defaults = (train_defaults or {}) if name == "train" else {}
        description = f"{command.help[0].upper()}{command.help[1:]}."
        group = commands.add_parser(name, help=command.help, description=description)
        if command.positional is not None:
            positional, number, text = command.positional
            default, kind = defaults.get(positional), Path if positional == "run" else str
            group.add_argument(
                positional, nargs=number, type=kind, default=default, metavar=positional.upper(), help=text
            )
        for option in command.options:
            _add(group, option, defaults.get(option.name, option.default))
        for title, options in command.groups.items():
            target = group.add_argument_group(title)
            for option in options:
                _add(target, option, defaults.get(option.name, option.default))
    return top


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, and accepts no abbreviations (`--seed` is not `--seeds`)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        sys.exit(complain(f"{message} (see {self.prog} --help)", 2))


class _KeyValue(argparse.Action):
    """Collects KEY=VALUE texts in a dict."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        key, separator, text = values.partition("=")
        if not (key and separator):
            raise argparse.ArgumentError(self, f"must be KEY=VALUE, got {values!r}")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), key: text})


class _ParseOption(argparse.Action):
    """Parses the texts of one argument; a mapping that is given several times is joined.

    Args:
        option: The argument.
        **settings: As of `argparse.Action`.
    """

    def __init__(self, *, option: Option, **settings: Any) -> None:
        super().__init__(**settings)
        self.option = option

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        text = values if isinstance(values, str) else ",".join(values)
        try:
            value = self.option.parse(text)
        except ValueError:
            raise argparse.ArgumentError(self, f"must be {self.option.expected}, got {text!r}") from None
        before = getattr(namespace, self.dest)
        if isinstance(value, dict) and isinstance(before, dict):
            value = {**before, **value}
        setattr(namespace, self.dest, value)


def _add(group: Any, option: Option, default: Any) -> None:
    """Adds the flag of an argument."""
    flags = [f"--{name.replace('_', '-')}" for name in (option.name, *_ALIASES.get(option.name, ()))]
    shown = (
        "" if default in (REQUIRED, None, {}, ()) or isinstance(default, bool) else f" (default: {token(default, ' ')})"
    )
    settings = {"dest": option.name, "default": default, "help": option.help.replace("%", "%%") + shown}
    if option.type is bool:
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, **settings)
        return
    if METAVARS.get(option.name) == "KEY=VALUE":
        group.add_argument(*flags, action=_KeyValue, metavar="KEY=VALUE", **settings)
        return
    several = any(kind in option.kinds for kind in (Mapping, Sequence, tuple))
    metavar = METAVARS.get(option.name) or "|".join(map(str, option.choices)) or _metavar(option.kinds)
    settings |= {"required": default is REQUIRED, "nargs": "+" if several else None, "metavar": metavar}
    group.add_argument(*flags, action=_ParseOption, option=option, **settings)


def _metavar(kinds: Sequence[Any]) -> str:
    names = {Mapping: "NAME=VALUE", Sequence: "NAME", tuple: "NUMBER", int: "INTEGER", float: "NUMBER"}
    return next((name for kind, name in names.items() if kind in kinds), "TEXT")
