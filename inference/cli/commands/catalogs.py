"""`multipyro methods`, `datasets` and `presets`: tables of all entries, or one entry in detail."""

import argparse

from multipyro.data import DATASETS
from multipyro.inference.cli.console import say
from multipyro.inference.cli.tables import table
from multipyro.inference.cli.tokens import token
from multipyro.inference.presets import PRESETS, preset
from multipyro.inference.recipes import METHODS, equations, options_for

__all__ = ["datasets", "methods", "presets"]


def methods(arguments: argparse.Namespace) -> None:
    """Prints the table, or the description of a method."""
    if arguments.method is None:
        title = "methods: m the model, g the guide, g|A restricted to the modalities A"
        rows = [[info.name, info.title, ", then ".join(equations(info.name)), info.paper] for info in METHODS.values()]
        say(table(title, ["method", "what", "maximizes", "paper"], rows, numbers=False))
        say("multipyro methods METHOD describes one of them and its options.")
        return
    if arguments.method not in METHODS:
        raise ValueError(f"unknown method {arguments.method!r}: choose from {', '.join(METHODS)}")
    info, options = METHODS[arguments.method], options_for(arguments.method)
    say(f"{info.name}: {info.title} ({info.paper})")
    say("\n".join(f"stage {number + 1} maximizes {text}" for number, text in enumerate(equations(info.name))))
    say(f"modalities: {info.takes}; guide: {info.subsets}; {info.networks}")
    say("training examples: " + ("complete" if info.needs_complete_rows else "may miss modalities"))
    rows = [[option.name, str(option.default), option.expected, option.help] for option in options.values()]
    say(table("options", ["option", "default", "value", "what"], rows, numbers=False))


def datasets(arguments: argparse.Namespace) -> None:
    """Prints the table."""
    header = ["data set", "content", "modalities", "examples", "given", "target", "options", "found"]
    rows = [
        [
            info.name,
            info.title,
            ", ".join(info.modalities),
            " + ".join(f"{number:,}" for number in info.rows),
            ", ".join(info.default_given),
            ", ".join(info.default_targets),
            ", ".join(f"{name}={value}" for name, value in info.options.items()),
            info.missing(arguments.data_root) or "yes",
        ]
        for info in DATASETS.values()
    ]
    say(table("data sets", header, rows, numbers=False))


def presets(arguments: argparse.Namespace) -> None:
    """Prints the table, or the description of a preset."""
    if arguments.preset is None:
        rows = [[one.name, ", ".join(one.methods), one.data, one.source] for one in PRESETS.values()]
        say(table("settings of published experiments", ["preset", "methods", "data", "source"], rows, numbers=False))
        say("multipyro presets PRESET describes one of them; multipyro train --preset PRESET trains its first method.")
        return
    one = preset(arguments.preset)
    say(f"{one.name}: {one.source}")
    shared = {name: value for name, value in one.arguments().items() if name not in ("method", "option")}
    rows = [[name, token(value, " ")] for name, value in {**shared, "option": one.options}.items() if value]
    say(table("arguments of multipyro train", ["argument", "value"], rows, numbers=False))
    rows = [[method, token(options, " ")] for method, options in one.methods.items()]
    say(table("methods and their additional options", ["method", "options"], rows, numbers=False))
    say("what differs from the paper:\n" + "\n".join(f"- {sentence}" for sentence in one.departures))
