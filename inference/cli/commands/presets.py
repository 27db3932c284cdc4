"""`multipyro presets`: the table of published experiments, or one of them in detail."""

import argparse
from collections.abc import Mapping
from typing import Any

from multipyro.inference.cli.console import say
from multipyro.inference.cli.tables import table
from multipyro.inference.presets import PRESETS, preset

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Prints the table, or the description of a preset."""
    if arguments.preset is None:
        rows = [[one.name, ", ".join(one.methods), one.data, one.source] for one in PRESETS.values()]
        say(table("settings of published experiments", ["preset", "methods", "data", "source"], rows, numbers=False))
        say("multipyro presets PRESET describes one of them; multipyro train --preset PRESET trains its first method.")
        return
    one = preset(arguments.preset)
    say(f"{one.name}: {one.source}")
    shared = {name: value for name, value in one.arguments().items() if name not in ("method", "option")}
    rows = [[name, _text(value)] for name, value in {**shared, "option": one.options}.items() if value]
    say(table("arguments of multipyro train", ["argument", "value"], rows, numbers=False))
    rows = [[method, _text(options)] for method, options in one.methods.items()]
    say(table("methods and options of their own", ["method", "options"], rows, numbers=False))
    say("what differs from the paper:\n" + "\n".join(f"- {sentence}" for sentence in one.departures))


def _text(value: Any, separator: str = " ") -> str:
    """A value as the command line takes it."""
    if isinstance(value, Mapping):
        return separator.join(f"{name}={_text(inner, ',')}" for name, inner in value.items())
    return separator.join(map(str, value)) if isinstance(value, list | tuple) else str(value)
