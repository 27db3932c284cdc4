"""Posterior predictive samples summarized with their uncertainty, and tables of such results."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multipyro._optional import optional_imports
from multipyro.data import Modality
from multipyro.data.storage import write_atomically
from multipyro.inference.cli.drawing import file_name

__all__ = [
    "check_output",
    "columns_of",
    "only_missing",
    "summarize_samples",
    "write_arrays",
    "write_predictions",
    "write_table",
]

_ENDINGS = (".csv", ".parquet", ".npz")
# an array with more elements per example belongs in a .npz file
_MAX_COLUMNS = 2_000


def check_output(file: Path, folder: bool = False) -> None:
    """Checks that results can be written to a file of this name.

    Args:
        file: The name.
        folder: Whether it may also be the name of a folder, which has no ending.

    Raises:
        FileExistsError: If it names a folder that already has files.
        ModuleNotFoundError: If a Parquet file needs a package that is not installed.
        ValueError: If the ending is not supported.
    """
    if file.suffix not in (*_ENDINGS, *([""] if folder else [])):
        raise ValueError(f"{file} must end in {', '.join(_ENDINGS)}{', or be a folder' if folder else ''}")
    if file.suffix == ".parquet":
        with optional_imports("writing Parquet files"):
            import pyarrow  # noqa: F401
    if not file.suffix and file.is_dir() and any(file.iterdir()):
        raise FileExistsError(f"{file} is a folder with files: name a new one")


def summarize_samples(samples: Tensor, modality: Modality, quantiles: Sequence[float]) -> dict[str, np.ndarray]:
    """The summaries of samples, `(num_samples, batch, *event)`, in the units of the data, each of shape `(batch, ...)`.

    Numbers have `mean`, `sd` and a quantile `qP` for each percentage `P`; of angles `mean` is the mean direction, `sd`
    circular, and quantiles are those of the angles relative to the mean direction. Classes have `value`, the most
    frequent one, and `probability`, the shares of all classes. Texts have `value`, the most frequent text, and
    `probability`, its share.
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
        mean, sd = np.angle(direction), np.sqrt(-2 * np.log(np.abs(direction).clip(1e-300, 1)))
        turned = np.quantile(_wrapped(numbers - mean), quantiles, axis=0)
        levels = zip(quantiles, _wrapped(mean + turned), strict=True)
    else:
        mean, sd = numbers.mean(0), numbers.std(0)
        levels = zip(quantiles, np.quantile(numbers, quantiles, axis=0), strict=True)
    return {"mean": mean, "sd": sd, **{f"q{100 * q:g}": values for q, values in levels}}


def only_missing(summaries: Mapping[str, np.ndarray], missing: np.ndarray, modality: Modality) -> dict[str, np.ndarray]:
    """The summaries with NaN where a value is observed, and -1 for observed classes and texts.

    Args:
        summaries: What `summarize_samples` returns.
        missing: Which values are missing, bool `(batch, *shape)`, or `(batch,)` for classes and texts.
        modality: The modality.
    """
    if not modality.is_discrete:
        return {kind: np.where(missing, values, np.nan) for kind, values in summaries.items()}
    filler = {"value": -1, "probability": np.nan}
    return {
        kind: np.where(missing.reshape(-1, *[1] * (values.ndim - 1)), values, filler[kind])
        for kind, values in summaries.items()
    }


def columns_of(summaries: Mapping[str, np.ndarray], modality: Modality) -> dict[str, np.ndarray]:
    """The columns of a table, by name; a class or text that `only_missing` has left out is empty.

    Raises:
        ValueError: If there would be too many.
    """
    name, value = modality.name, summaries.get("value")
    if modality.is_discrete and not modality.shape:
        words = modality.class_names or tuple(map(str, range(modality.num_classes)))
        columns = {f"{name} p({word})": summaries["probability"][:, c] for c, word in enumerate(words)}
        columns = {name: np.array(["" if c < 0 else words[c] for c in value]), **columns}
    elif modality.is_discrete:
        texts = modality.decode(torch.as_tensor(value).clamp_min(0))
        columns = {name: np.array(["" if row.min() < 0 else text for row, text in zip(value, texts, strict=True)])}
        columns[f"{name} probability"] = summaries["probability"]
    else:
        flat = {kind: values.reshape(len(values), -1) for kind, values in summaries.items()}
        labels = modality.columns or ()
        if len(labels) != modality.dim:  # an image comes from one column
            labels = [name if modality.dim == 1 else f"{name}[{i}]" for i in range(modality.dim)]
        columns = {f"{label} {kind}": values[:, i] for i, label in enumerate(labels) for kind, values in flat.items()}
    if len(columns) > _MAX_COLUMNS:
        raise ValueError(f"modality {name!r} needs {len(columns):,} columns: write a .npz file instead of a table")
    return columns


def write_table(file: Path, columns: Mapping[str, Sequence]) -> None:
    """Writes columns of one length as CSV or Parquet, by the ending of the file's name."""
    if file.suffix == ".parquet":
        from pyarrow import parquet, table

        write_atomically(file, lambda opened: parquet.write_table(table(dict(columns)), opened))
        return
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    write_atomically(file, text.getvalue())


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as `.npz`."""
    write_atomically(file, lambda opened: np.savez_compressed(opened, **arrays))


def write_predictions(
    file: Path,
    origin: Mapping[str, Sequence],
    summaries: Mapping[str, Mapping[str, np.ndarray]],
    modalities: Mapping[str, Modality],
) -> None:
    """Writes summaries of several modalities: a table, arrays, or a folder with an image for each predicted image.

    Args:
        file: Ends in `.csv`, `.parquet` or `.npz`; a folder otherwise, which gets `predictions.csv`, a folder of
            images `NAME/ID.png` for each image, and `NAME.npz` for what needs too many columns.
        origin: What identifies the examples, `part` and `id`.
        summaries: Modality name -> what `summarize_samples` returns.
        modalities: Their descriptions.

    Raises:
        ValueError: If a table would have too many columns.
    """
    if file.suffix == ".npz":
        arrays = {f"{name}/{kind}": values for name, kinds in summaries.items() for kind, values in kinds.items()}
        write_arrays(file, {**{name: np.array(values) for name, values in origin.items()}, **arrays})
        return
    columns = {name: np.array(values) for name, values in origin.items()}
    for name, modality in modalities.items():
        if not file.suffix and modality.kind == "image":
            _write_images(file / name, origin["id"], summaries[name]["mean"])
        elif not file.suffix and modality.dim > _MAX_COLUMNS // 10:
            write_arrays(file / f"{name}.npz", {"id": np.array(origin["id"]), **summaries[name]})
        else:
            columns |= columns_of(summaries[name], modality)
    write_table(file if file.suffix else file / "predictions.csv", columns)


def _write_images(folder: Path, ids: Sequence[object], means: np.ndarray) -> None:
    """Images `(batch, channels, height, width)` in `[0, 1]`, named by its identifier; an image with NaN is skipped."""
    with optional_imports("writing images"):
        from PIL import Image

    names = [file_name(str(one)) for one in ids]
    if len(set(names)) < len(names):
        names = [f"{row}-{name}" for row, name in enumerate(names)]
    for name, mean in zip(names, means, strict=True):
        if not np.isnan(mean).any():
            pixels = np.uint8(np.rint(255 * mean.clip(0, 1))).transpose(1, 2, 0)
            image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            write_atomically(folder / f"{name}.png", lambda opened, image=image: image.save(opened, "PNG"))


def _wrapped(angles: np.ndarray) -> np.ndarray:
    """Angles from -pi to pi."""
    return np.angle(np.exp(1j * angles))


def _cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.6g}"
    return str(value)
