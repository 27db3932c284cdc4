"""`multipyro datasets`: the table of data sets."""

import argparse

from multipyro.data import DATASETS
from multipyro.inference.cli.console import say
from multipyro.inference.cli.tables import table

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
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
