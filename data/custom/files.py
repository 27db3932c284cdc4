"""Files of user-defined data: to train on, and new examples that are read as a trained model's data was."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from multipyro.data.custom.assembly import Extras, assemble
from multipyro.data.custom.frames import from_table, specs_of, table_of
from multipyro.data.custom.readers import Source
from multipyro.data.custom.tensors import TensorRows, from_tensors
from multipyro.data.custom.toml import load_toml, open_toml
from multipyro.data.modality import Modality
from multipyro.data.multimodal import MultimodalData
from multipyro.data.splits import Splits
from multipyro.data.storage.files import printable
from multipyro.data.storage.stored import stored_arrays

__all__ = ["TABLES", "is_data_file", "load_examples", "load_file"]

#: Endings of tables.
TABLES = (".csv", ".tsv", ".parquet")


def is_data_file(name: str | os.PathLike) -> bool:
    """Whether a name ends as that of a description, a table or arrays that `load_file` reads."""
    return Path(name).suffix.lower() in (".toml", ".npz", *TABLES)


def load_file(
    path: str | os.PathLike,
    modalities: Mapping[str, Modality] | None = None,
    label_names: Sequence[str] | None = None,
    **options: Any,
) -> Splits:
    """Training, validation and test data from a file.

    Args:
        path: A description for `load_toml`, ending in `.toml`; a table for `from_table`, in `.csv`, `.tsv` or
            `.parquet`; or arrays for `from_tensors`, in `.npz`: modality name -> values, and optionally `labels`,
            `ids`, `weights`, and of a modality `NAME.observed` and `NAME.exposure`. Real vectors are standardized
            unless an option says otherwise.
        modalities: Descriptions that modalities must follow, such as those of a trained model.
        label_names: The classes that labels must have.
        **options: Arguments of the function that reads the file, by name; a description has them itself.

    Returns:
        The three parts, with the options that load them again.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If reading a Parquet file needs a package that is not installed.
        TypeError: If a function has no such option.
        ValueError: If the file is damaged, or data and description disagree.
    """
    path = Path(path).expanduser().resolve()
    if path.suffix == ".toml":
        if options:
            raise ValueError(f"a TOML description takes no options, got {', '.join(options)}: set them in {path.name}")
        return load_toml(path, modalities, label_names)
    if path.suffix == ".npz":
        arrays = {**_arrays(path), "modalities": modalities, "label_names": label_names, "name": path.stem}
        arrays["scaling"] = "standardize"
        splits = from_tensors(**{**arrays, **options})
    else:
        splits = from_table(path, **{"known": modalities, "label_names": label_names, **options})
    kept = {"file": str(path), **options}
    return splits.map(lambda part: replace(part, options=kept))


def load_examples(
    source: Any,
    modalities: Mapping[str, Modality],
    *,
    covariates: Mapping[str, Modality] | None = None,
    labels: str | None = None,
    label_names: Sequence[str] | None = None,
    ids: str | None = None,
    name: str | None = None,
) -> MultimodalData:
    """New examples, read by the descriptions of a trained model's modalities.

    Columns and arrays are found by their names; classes, vocabularies, sizes of images and scalings are those of the
    descriptions. A modality that the source does not have is left out: it is missing in every example. Where the model
    has no missing entries, an example with a missing entry does not have the modality.

    Args:
        source: A table, see `from_table`; or the path of a description or of arrays, see `load_file`. A description
            says where the modalities are, and which columns have labels and identifiers; its other rules do not apply.
        modalities: Modality name -> its description, read from data before; `modalities` of the training data.
        covariates: Covariate -> its description, `covariates` of the training data; all must be there.
        labels: Column of a table with the class of each row, for metrics.
        label_names: The classes of the training data's labels.
        ids: See `from_table`.
        name: See `from_table`.

    Returns:
        All rows, as test data.

    Raises:
        FileNotFoundError: See `from_table`.
        ImportError: See `from_table`.
        TypeError: See `from_table`.
        ValueError: If the source has none of the modalities, only some columns of one, or a class that the model does
            not know.

    Example:
        >>> trained = from_table({"age": [31, 47, 60, 52] * 10, "sex": ["f", "m", None, "f"] * 10})
        >>> new = load_examples({"sex": ["m", "m"]}, trained.train.modalities)
        >>> new.x["sex"].tolist(), list(new.modalities)
        ([1, 1], ['sex'])
    """
    file = Path(source).expanduser() if isinstance(source, str | os.PathLike) else None
    covariates = covariates or {}
    modalities = {**modalities, **covariates}
    if file is not None and file.suffix == ".npz":
        return _conditioned(_from_arrays(file, modalities, label_names, name), covariates)
    if file is not None and file.suffix == ".toml":
        described = open_toml(file)
        rows = Source(described.place, np.arange(described.rows), 0, described.table, described.arrays, "none")
        specs = {key: spec for key, spec in described.content["modalities"].items() if key in modalities}
        _check_any(described.place, specs, modalities, described.content["modalities"])
        title, (labels, ids, _) = described.name, described.columns
    else:
        table, title = table_of(source)
        rows = Source(table.title, np.arange(len(table)), 0, table, {}, "none")
        specs = specs_of(modalities, table)
    extras = Extras.from_columns(rows, labels, ids, None, label_names)
    return _conditioned(assemble(name or title, rows, specs, modalities, extras), covariates)


def _conditioned(data: MultimodalData, covariates: Mapping[str, Modality]) -> MultimodalData:
    """The data with its covariates, all of which it must have."""
    absent = [name for name in covariates if name not in {**data.modalities, **data.covariates}]
    if absent:
        raise ValueError(f"{data.name} has no {', '.join(absent)}: the model is conditioned on it")
    return data.with_covariates(list(covariates))


def _from_arrays(
    file: Path, modalities: Mapping[str, Modality], label_names: Sequence[str] | None, name: str | None
) -> MultimodalData:
    arrays = _arrays(file)
    x = {key: values for key, values in arrays["x"].items() if key in modalities}
    _check_any(printable(file), x, modalities, arrays["x"])
    observed, exposures = (
        {n: v for n, v in (arrays[key] or {}).items() if n in x} for key in ("observed", "exposures")
    )
    rows = TensorRows(x, observed, arrays["labels"], label_names, arrays["ids"])
    source, specs, extras = rows.source(np.arange(len(rows)), 0, exposures=exposures)
    return assemble(name or file.stem, replace(source, place=printable(file)), specs, modalities, extras)


def _arrays(path: Path) -> dict[str, Any]:
    """The arguments of `from_tensors` that are in a file."""
    if not path.is_file():
        raise FileNotFoundError(f"there are no arrays {printable(path)}")
    try:
        arrays = stored_arrays(path)
    except ValueError as error:
        raise ValueError(f"{printable(path)} is not a file of arrays: {error}") from error
    found: dict[str, Any] = {key: arrays.pop(key, None) for key in ("labels", "ids", "weights")}
    for suffix, key in ((".observed", "observed"), (".exposure", "exposures")):
        named = [name for name in arrays if name.endswith(suffix)]
        found[key] = {name.removesuffix(suffix): arrays.pop(name) for name in named} or None
    return {"x": arrays, **found}


def _check_any(place: str, found: Mapping[str, Any], wanted: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    if not found:
        raise ValueError(f"{place} has none of the modalities {', '.join(wanted)}: it has {', '.join(there)}")
