"""User-defined data in the formats of single-cell biology: AnnData and MuData objects."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from multipyro.data.custom.splitting import SHARES
from multipyro.data.custom.tensors import from_tensors
from multipyro.data.splits import Splits

__all__ = ["from_anndata"]


def from_anndata(
    data: Any,
    modalities: Mapping[str, str] | None = None,
    *,
    kinds: Mapping[str, str] | None = None,
    exposures: Mapping[str, Any] | None = None,
    labels: str | None = None,
    split: Sequence[float] | str = SHARES,
    groups: str | None = None,
    name: str = "cells",
    **settings: Any,
) -> Splits:
    """Training, validation and test data from an AnnData or MuData object, with a row for each observation.

    Matrices of whole numbers are counts, others real vectors; the names of the variables become the columns of the
    modality, and the names of the observations the identifiers of the rows. An observation that a modality of a MuData
    object does not have is missing there.

    Args:
        data: The object.
        modalities: Modality name -> where it is: `"X"`, `"layers/NAME"`, `"obsm/NAME"` or `"obs/NAME"`; in a MuData
            object after the name of its modality, `"rna/X"`. By default `X` of each modality of a MuData object, or
            `X` under the name `"X"`.
        kinds: Modality name -> kind, see `Modality`, in place of what is inferred.
        exposures: Counts modality -> `"sum"`, the library size of each observation; or exposures `(observations,)`.
        labels: Column of `obs` with the class of each observation, for metrics.
        split: Fractions of the rows for training, validation and test; or a column of `obs` with the name of the part.
        groups: Column of `obs` with the group of each observation, such as a donor: no group is in two parts.
        name: Name of the data set.
        **settings: Passed on to `from_tensors`: `scaling`, `seed`, `weights` and so on.

    Returns:
        The three parts.

    Raises:
        KeyError: If a location does not exist; the message names it.
        TypeError: If the object is neither an AnnData nor a MuData object.
        ValueError: See `from_tensors`.
    """
    parts = getattr(data, "mod", None)
    if not hasattr(data, "obs") or not (hasattr(data, "X") or parts is not None):
        raise TypeError(f"data must be an AnnData or MuData object, got {type(data).__name__}")
    if modalities is None:
        modalities = {"X": "X"} if parts is None else {key: f"{key}/X" for key in parts}
    x = {key: _values(data, place) for key, place in modalities.items()}
    matrices = [key for key, values in x.items() if np.ndim(values) == 2]
    inferred = {key: "counts" if _are_counts(x[key]) else "vector" for key in matrices}
    obs = data.obs
    return from_tensors(
        x,
        kinds={**inferred, **(kinds or {})},
        exposures=exposures,
        labels=None if labels is None else _column(obs, labels),
        split=[str(part) for part in _column(obs, split)] if isinstance(split, str) else split,
        groups=None if groups is None else list(_column(obs, groups)),
        ids=[str(row) for row in data.obs_names],
        name=name,
        **settings,
    )


def _values(data: Any, place: str) -> Any:
    """The values at a location, NaN in observations that a part of a MuData object does not have."""
    part, parts = data, getattr(data, "mod", None)
    first, _, rest = place.partition("/")
    if parts is not None and first in parts:
        part, place = parts[first], rest
    kind, _, name = place.partition("/")
    try:
        if place == "X" or kind == "layers":
            values = part.to_df(layer=name or None)
        else:
            values = {"obsm": part.obsm, "obs": part.obs}[kind][name]
    except (KeyError, AttributeError) as error:
        raise KeyError(f"{place!r} is not in the object: use X, layers/NAME, obsm/NAME or obs/NAME") from error
    if part is data:
        return values
    if hasattr(values, "reindex"):
        return values.reindex(data.obs_names)
    row_of = {row: number for number, row in enumerate(part.obs_names)}
    rows = np.array([row_of.get(row, -1) for row in data.obs_names])
    aligned = np.asarray(values, np.float32)[rows]
    aligned[rows < 0] = np.nan
    return aligned


def _are_counts(values: Any) -> bool:
    """Whether a matrix has whole numbers, some above 1."""
    numbers = np.asarray(values)
    numbers = numbers[~np.isnan(numbers)] if numbers.dtype.kind == "f" else numbers
    if numbers.dtype.kind not in "iuf" or not numbers.size or numbers.min() < 0:
        return False
    return numbers.max() > 1 and bool((numbers == np.round(numbers)).all())


def _column(obs: Any, name: str) -> Any:
    if name not in obs:
        raise KeyError(f"obs has no column {name!r}: it has {list(obs.columns)[:10]}")
    return obs[name]
