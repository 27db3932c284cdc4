"""Checks of what is given and predicted, and parts of batches."""

from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
from torch import Tensor

from multipyro.batch import (
    Masks,
    Rows,
    Values,
    batch_rows,
    check_batch,
    covariates_in,
    fill_missing,
    modality_of,
    selected,
)
from multipyro.data import MultimodalData
from multipyro.guides import Guide
from multipyro.inference.handlers import receives, with_covariates
from multipyro.inference.programs import Program, unwrap
from multipyro.ppl_models.conditional import check_conditions

__all__ = [
    "as_names",
    "check_known",
    "check_num_samples",
    "check_values",
    "checked_batch",
    "conditions_of",
    "first_row",
    "indices_with",
    "select_batch",
    "select_given",
    "supports",
    "take_rows",
    "with_covariates_of",
]


def as_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of modalities as a tuple, a single one included; raises for what cannot be names."""
    names = (names,) if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"modalities must be named by strings, got {wrong[0]!r}")
    return names


def check_num_samples(num_samples: int) -> None:
    """Raises unless a number of samples is an integer of at least 1."""
    if not isinstance(num_samples, Integral):
        raise TypeError(f"the number of samples must be an integer, got {num_samples!r}")
    if num_samples < 1:
        raise ValueError(f"the number of samples must be at least 1, got {num_samples}")


def select_given(names: Sequence[str], x: Values, argument: str) -> tuple[str, ...]:
    """The value of `argument` as a tuple; raises unless it names at least one modality, and only modalities of `x`."""
    names = as_names(names)
    unknown = [name for name in names if name not in x]
    if unknown or not names:
        raise ValueError(f"{argument} must be some of {list(x)}, got {list(names)}")
    return names


def conditions_of(model: Program) -> tuple[str, ...]:
    """The modalities that a conditional model is given and does not score; none for every other model."""
    return tuple(getattr(unwrap(model), "conditions", ()))


def check_known(model: Program, names: Sequence[str]) -> None:
    """Raises if the model is known not to have a modality."""
    modalities = getattr(unwrap(model), "modalities", None)
    unknown = [name for name in names if modalities is not None and name not in modalities]
    if unknown:
        raise ValueError(f"unknown modality {unknown}: this model has {list(modalities)}")


def check_values(model: Program, x: Values, observed: Masks) -> None:
    """Checks observed values against the model's likelihoods, and that no condition is missing."""
    check_batch(x, observed, getattr(unwrap(model), "modalities", tuple(x)))
    if batch_rows(x) == 0:
        raise ValueError("x contains no data points")
    check_conditions(conditions_of(model), x, observed)
    likelihoods = getattr(unwrap(model), "likelihoods", {})
    for name, values in x.items():
        if name in likelihoods and hasattr(likelihoods[name], "check"):
            likelihoods[name].check(fill_missing(values, (observed or {}).get(name)), name)


def checked_batch(
    model: Program, x: Values, observed: Masks, given: Sequence[str], target: Sequence[str]
) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """The entries of `x` that concern what is given, scored, or a condition, and both as tuples; raises if invalid."""
    given, target = select_given(given, x, "given"), select_given(target, x, "target")
    check_known(model, [*given, *target])
    x = selected(x, {*given, *target, *conditions_of(model)})
    check_values(model, x, observed)
    return x, given, target


def supports(guide: Program, given: Sequence[str]) -> bool:
    """Whether a guide infers latents from exactly these modalities; a plain function is taken to support all."""
    inner = unwrap(guide)
    if not isinstance(inner, Guide):
        return True
    ordered = tuple(name for name in inner.modalities if name in given and receives(guide, name))
    return len(ordered) == len(given) and (inner.subsets is None or ordered in inner.subsets)


def first_row(x: Values, observed: Masks) -> dict[str, Tensor]:
    """One row of `x` without fill values."""
    masks = observed or {}
    return {name: fill_missing(values, masks.get(modality_of(name)))[:1] for name, values in x.items()}


def select_batch(x: Values, observed: Masks, modalities: Sequence[str]) -> tuple[dict[str, Tensor], Masks]:
    """The entries of a batch that concern some modalities, and their masks."""
    x = selected(x, modalities)
    return x, None if observed is None else {name: mask for name, mask in observed.items() if name in x}


def take_rows(x: Values, observed: Masks, indices: Tensor) -> tuple[dict[str, Tensor], Masks]:
    """Some rows of the modalities in `x` and of their masks."""
    masks = None if observed is None else {name: mask[indices] for name, mask in observed.items() if name in x}
    return {name: values[indices] for name, values in x.items()}, masks


def with_covariates_of(model: Program, x: Values) -> Program:
    """A model that samples from its prior with the covariates of some data points, in turn; the model without any."""
    covariates = {entry.removesuffix(".covariate"): values for entry, values in covariates_in(x).items()}
    return with_covariates(model, covariates) if covariates else model


def indices_with(data: MultimodalData, given: Sequence[str]) -> Tensor:
    """Indices of the data points that contain every modality of `given`."""
    rows = Rows(data.x, data.observed).all_of(given)
    return torch.arange(len(data)) if rows is None else rows.nonzero()[:, 0]
