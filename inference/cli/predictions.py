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
    """The summaries of samples, `(num_samples, batch, *event)`, in the units of the data, each of shape `(batch, ...)`.

    Numbers have `mean`, `sd` and a quantile `qP` for each percentage `P`; angles the mean direction and the circular
    `sd`. Classes have `value`, the most frequent one, and `probability`, the shares of all classes. Texts have
    `value`, the most frequent text, and `probability`, its share.
    """
    if modality.is_discrete and not modality.shape:
        shares = torch.stack([(samples == c).float().mean(0) for c in range(modality.num_classes)], -1)
        return {"value": shares.argmax(-1).numpy(), "probability": shares.numpy()}
    if modality.is_discrete:
        values, shares = [], []
        for texts in samples.transpose(0, 1):
            unique, counts = texts.unique(dim=0, return_counts=True)
            values.append(unique[counts.argmax()])
            shares.append(counts.max() / len(texts))
        return {"value": torch.stack(values).numpy(), "probability": torch.stack(shares).numpy()}
    numbers = modality.to_units(samples).double().numpy()
    if modality.kind == "angles":
        direction = np.exp(1j * numbers).mean(0)
        return {"mean": np.angle(direction), "sd": np.sqrt(-2 * np.log(np.abs(direction).clip(1e-300, 1)))}
    levels = zip(quantiles, np.quantile(numbers, quantiles, axis=0), strict=True)
    return {"mean": numbers.mean(0), "sd": numbers.std(0), **{f"q{100 * q:g}": values for q, values in levels}}


def columns_of(summaries: Mapping[str, np.ndarray], modality: Modality) -> dict[str, list]:
    """The columns of a table, by name.

    Raises:
        ValueError: If there would be too many.
    """
    name, value = modality.name, summaries.get("value")
    if modality.is_discrete and not modality.shape:
        words = modality.class_names or tuple(map(str, range(modality.num_classes)))
        columns = {f"{name} p({word})": list(summaries["probability"][:, c]) for c, word in enumerate(words)}
        columns = {name: [words[c] for c in value], **columns}
    elif modality.is_discrete:
        columns = {name: modality.decode(torch.as_tensor(value)), f"{name} probability": list(summaries["probability"])}
    else:
        flat = {kind: values.reshape(len(values), -1) for kind, values in summaries.items()}
        labels = modality.columns or ()
        if len(labels) != modality.dim:  # an image comes from one column
            labels = [name if modality.dim == 1 else f"{name}[{i}]" for i in range(modality.dim)]
        columns = {
            f"{label} {kind}": list(values[:, i]) for i, label in enumerate(labels) for kind, values in flat.items()
        }
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
