"""Posterior predictive samples summarized with their uncertainty, and the tables that hold such results."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multipyro.data import Modality
from multipyro.data.storage import write_atomically

__all__ = ["check_table_file", "columns_of", "summarize_samples", "write_arrays", "write_table"]

# an array of more elements per example belongs into a .npz file
_MAX_COLUMNS = 2_000


def check_table_file(file: Path) -> None:
    """Raises unless the name of a file ends in `.csv` or `.npz`.

    Raises:
        ValueError: Names the file.
    """
    if file.suffix not in (".csv", ".npz"):
        raise ValueError(f"{file} must end in .csv or .npz")


def summarize_samples(samples: Tensor, modality: Modality, quantiles: Sequence[float]) -> dict[str, np.ndarray]:
    """The summaries of samples, `(num_samples, batch, *event)`, each of shape `(batch, ...)`.

    Numbers have `mean`, `sd` and a quantile `qP` for each percentage `P`. Classes have `value`, the most frequent one,
    and `probability`, the shares of all classes. Texts have `value`, the most frequent text, and `probability`, its
    share.
    """
    if modality.likelihood != "categorical":
        levels = torch.tensor(quantiles, dtype=samples.dtype)
        summaries = {"mean": samples.mean(0), "sd": samples.std(0, correction=0)}
        # torch.quantile takes no more than 16 million elements
        found = np.quantile(samples.numpy(), levels.numpy(), axis=0)
        summaries |= {f"q{100 * q:g}": torch.as_tensor(value) for q, value in zip(quantiles, found, strict=True)}
        return {name: value.numpy() for name, value in summaries.items()}
    if not modality.shape:
        shares = torch.stack([(samples == c).float().mean(0) for c in range(modality.num_classes)], -1)
        return {"value": shares.argmax(-1).numpy(), "probability": shares.numpy()}
    values, shares = [], []
    for texts in samples.transpose(0, 1):
        unique, counts = texts.unique(dim=0, return_counts=True)
        values.append(unique[counts.argmax()])
        shares.append(counts.max() / len(texts))
    return {"value": torch.stack(values).numpy(), "probability": torch.stack(shares).numpy()}


def columns_of(summaries: Mapping[str, np.ndarray], modality: Modality) -> dict[str, list]:
    """The columns of a table, by name.

    Raises:
        ValueError: If there would be too many.
    """
    name = modality.name
    if modality.likelihood == "categorical" and not modality.shape:
        words = modality.class_names or tuple(map(str, range(modality.num_classes)))
        columns = {name: [words[c] for c in summaries["value"]]}
        if len(words) <= _MAX_COLUMNS:
            columns |= {f"{name} p({word})": list(summaries["probability"][:, c]) for c, word in enumerate(words)}
        return columns
    if modality.alphabet is not None or modality.vocabulary is not None:
        texts = modality.decode(torch.as_tensor(summaries["value"]))
        return {name: texts, f"{name} probability": list(summaries["probability"])}
    columns = {}
    for kind, values in summaries.items():
        flat = values.reshape(len(values), -1)
        labels = [name] if flat.shape[1] == 1 else [f"{name}[{i}]" for i in range(flat.shape[1])]
        columns |= {f"{label} {kind}": list(flat[:, i]) for i, label in enumerate(labels)}
    if len(columns) > _MAX_COLUMNS:
        raise ValueError(f"modality {name!r} needs {len(columns):,} columns: write a .npz file instead of a .csv file")
    return columns


def write_table(file: Path, columns: Mapping[str, Sequence]) -> None:
    """Writes columns of one length as CSV."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    write_atomically(file, text.getvalue())


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as `.npz`."""
    write_atomically(file, lambda opened: np.savez_compressed(opened, **arrays))


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
