"""`multipyro methods`: the table of methods, or one of them in detail."""

import argparse

from multipyro.inference.cli.console import say
from multipyro.inference.cli.tables import table
from multipyro.inference.recipes import METHODS, equations, options_for

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Prints the table, or the description of a method."""
    if arguments.method is None:
        title = "methods: m the model, g the guide, g|A restricted to the modalities A"
        rows = [[info.name, info.title, ", then ".join(equations(info.name)), info.paper] for info in METHODS.values()]
        say(table(title, ["method", "what", "maximizes", "paper"], rows, numbers=False))
        say("multipyro methods METHOD describes one of them and its options.")
        return
    info, options = METHODS[arguments.method], options_for(arguments.method)
    say(f"{info.name}: {info.title} ({info.paper})")
    say("\n".join(f"stage {number + 1} maximizes {text}" for number, text in enumerate(equations(info.name))))
    say(f"modalities: {info.takes}; guide: {info.subsets}; {info.networks}")
    say("training examples: " + ("complete" if info.needs_complete_rows else "may miss modalities"))
    rows = [[option.name, str(option.default), option.expected, option.help] for option in options.values()]
    say(table("options", ["option", "default", "value", "what"], rows, numbers=False))
