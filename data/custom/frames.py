"""User-defined data in tables: data frames, CSV and Parquet files, with a row for each example."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multipyro.data.custom.assembly import Extras, assemble_splits
from multipyro.data.custom.readers import Source
from multipyro.data.custom.schema import check_modalities
from multipyro.data.custom.splitting import SHARES, parts_by_name, split_rows
from multipyro.data.custom.tables import Table, as_table, cells_of, read_table
from multipyro.data.modality import Modality
from multipyro.data.splits import Splits
from multipyro.data.storage.files import printable

__all__ = ["from_table", "row_parts", "specs_of", "table_of"]


def from_table(
    table: Any,
    modalities: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    columns: Sequence[str] | None = None,
    covariates: Sequence[str] = (),
    labels: str | None = None,
    split: Sequence[float] | str = SHARES,
    groups: str | None = None,
    seed: int = 0,
    ids: str | None = None,
    weights: str | None = None,
    known: Mapping[str, Modality] | None = None,
    label_names: Sequence[str] | None = None,
    name: str | None = None,
) -> Splits:
    """Training, validation and test data from a table with a row for each example.

    Args:
        table: A pandas or polars DataFrame, a pyarrow Table, a Hugging Face Dataset, a dict of columns, or the path of
            a `.csv`, `.tsv` or `.parquet` file. Empty cells and NaN are missing.
        modalities: Modality name -> what it is, with the keys that a TOML description has, see `load_toml`; by default
            every column that no other argument names is a modality.
        columns: The only columns that are modalities, where `modalities` is not given.
        covariates: Modalities, or columns, that are none but condition the networks, such as a batch, a site or an age,
            see `MultimodalData`; real ones are standardized.
        labels: Column with the class of each row, for metrics.
        split: Fractions of the rows for training, validation and test, drawn at random once; or a column with the name
            of the part of each row, one of `Splits.NAMES`.
        groups: Column with the group of each row, such as a patient: no group is in two parts.
        seed: Seed of the split.
        ids: Column with the identifier of each row; by default the index of a DataFrame, else the number of the row.
        weights: Column with the sampling weight of each row, see `MultimodalData`.
        known: Descriptions that modalities must follow, such as those of a trained model.
        label_names: Classes that `labels` must have.
        name: Name of the data set; by default that of the file.

    Returns:
        The three parts.

    Raises:
        FileNotFoundError: If the file, or an image that it names, does not exist.
        ImportError: If reading a Parquet file needs a package that is not installed.
        TypeError: If the table is of an unknown type.
        ValueError: If data and description disagree; the message names the modality, the key and the row.

    Example:
        >>> table = {"age": [31, 47, 60, 52] * 10, "sex": ["f", "m", None, "f"] * 10}
        >>> splits = from_table(table)
        >>> {name: modality.kind for name, modality in splits.train.modalities.items()}
        {'age': 'vector', 'sex': 'label'}
        >>> splits.train.modalities["sex"].class_names
        ('f', 'm')
    """
    read, title = table_of(table)
    used = {labels, groups, ids, weights, split if isinstance(split, str) else None}
    if modalities is None and known is not None:
        modalities = specs_of(known, read)
    if modalities is None:
        chosen = [column for column in read.columns if column not in used] if columns is None else columns
        modalities = {column: {"column": column} for column in chosen}
    if not modalities:
        raise ValueError(f"{read.title} describes no modality")
    flagged = {name: {**modalities.get(name, {"column": name}), "covariate": True} for name in covariates}
    modalities = {**modalities, **flagged}
    check_modalities(read.title, modalities, True)
    parts = row_parts(read.title, read, len(read), split, groups, seed)
    source = Source(read.title, np.concatenate(parts), len(parts[0]), read, {}, "standardize")
    extras = Extras.from_columns(source, labels, ids, weights, label_names)
    return assemble_splits(name or title, source, parts, modalities, known or {}, extras)


def specs_of(modalities: Mapping[str, Modality], table: Table) -> dict[str, dict[str, Any]]:
    """Where the modalities are in a table, by the names of the columns that they were read from before.

    A modality none of whose columns is there is left out.

    Raises:
        ValueError: If only some columns of a modality are in the table, or no modality is.
    """
    specs: dict[str, dict[str, Any]] = {}
    for key, modality in modalities.items():
        columns = modality.columns or ()
        missing = [column for column in columns if column not in table.columns]
        if columns and missing and len(missing) < len(columns):
            raise ValueError(
                f"{table.title} has only some columns of modality {key!r}: {len(missing)} are missing (first: "
                f"{missing[0]!r})"
            )
        if columns and not missing:
            single = modality.kind in ("image", "label", "ordinal", "text") or len(columns) == 1
            specs[key] = {"column": columns[0]} if single else {"columns": list(columns)}
    if not specs:
        known = [column for modality in modalities.values() for column in modality.columns or ()]
        raise ValueError(f"{table.title} has none of the columns {known[:10]}: it has {list(table.columns)[:10]}")
    return specs


def table_of(table: Any) -> tuple[Table, str]:
    """A table from a file or a data frame, and a name for its data set.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: See `as_table`.
        ValueError: See `read_table` and `as_table`.
    """
    if not isinstance(table, str | os.PathLike):
        return as_table(table), "table"
    file = Path(table).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no table {printable(file)}")
    return read_table(file), printable(file.stem)


def row_parts(
    place: str, table: Table | None, number: int, split: Sequence[float] | str, groups: str | None, seed: int
) -> list[np.ndarray]:
    """Row numbers of the three parts, from fractions or from a column of a table.

    Raises:
        ValueError: See `split_rows` and `parts_by_name`; also if there is no such column. The message begins with
            `place`.
    """
    source = Source(place, np.arange(number), 0, table, {}, "none")
    members = None
    if groups is not None:
        members = cells_of(source.column(groups, "groups"))
        if "" in members:
            raise ValueError(f"{place}: every row needs a group, {members.count('')} cells of {groups!r} are empty")
    if isinstance(split, str):
        parts = parts_by_name(cells_of(source.column(split, "split")), f"{place}: the column {split!r}")
        if members is not None:
            sets = [{members[row] for row in part} for part in parts]
            shared = (sets[0] & sets[1]) | (sets[0] & sets[2]) | (sets[1] & sets[2])
            if shared:
                raise ValueError(f"{place}: the group {sorted(shared)[0]!r} is in more than one part of {split!r}")
        return parts
    try:
        return split_rows(number, split, seed, members)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place}: {error}") from error
