"""`multipyro embed`: the latent means of the examples."""

import argparse

import numpy as np
import torch

from multipyro.inference.cli.console import say
from multipyro.inference.cli.predictions import check_output, write_arrays, write_table
from multipyro.inference.cli.saved_runs import open_run
from multipyro.inference.evaluation import embed

__all__ = ["run"]

_ROWS = 10_000


def run(arguments: argparse.Namespace) -> None:
    """Embeds and writes the table or the arrays."""
    check_output(arguments.file)
    saved = open_run(arguments)
    columns: dict[str, list] = {"part": [], "id": []}
    codes, labels = [], []
    for part in saved.parts(arguments.part):
        names = arguments.given or [name for name in saved.recipe.model.modalities if name in part.modalities]
        for rows in torch.arange(len(part)).split(_ROWS):
            x, observed = part.select(names).rows(rows)
            codes.append(embed(saved.recipe.guide, x, names, observed).cpu().numpy())
            columns["part"] += [part.split] * len(rows)
            columns["id"] += part.ids[rows.numpy()].tolist()
            labels.append(part.labels[rows].numpy() if part.labels is not None else None)
    if all(label is not None for label in labels):
        columns["class"] = np.concatenate(labels).tolist()
    code = np.concatenate(codes)
    if arguments.file.suffix != ".npz":
        write_table(arguments.file, {**columns, **{f"z{i}": list(code[:, i]) for i in range(code.shape[1])}})
    else:
        write_arrays(arguments.file, {**{name: np.array(values) for name, values in columns.items()}, "z": code})
    say(f"embedded {len(code):,} examples in {code.shape[1]} dimensions; written to {arguments.file}")
