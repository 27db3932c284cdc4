"""The batch contract of all programs: names of modalities, masks of missing rows, and fill values.

A batch is `(x, observed)`: `x` has the values of each modality, the batch first, and `observed` the rows in which it is
observed. Within an observed value, a missing entry is NaN, or -1 in integer data; likelihoods and encoders with
`missing_entries=True` accept it. Beside its modalities, `x` may contain inputs, which are neither scored nor inferred;
their names have a dot. `<modality>.exposure` is the exposure of a modality of counts, an input of its likelihood;
`<name>.covariate` is a covariate, such as a batch, a site or an age, an input of decoders and encoders.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Masks",
    "Rows",
    "Values",
    "batch_rows",
    "check_batch",
    "check_module_names",
    "covariate_entry",
    "covariates_in",
    "exposure_of",
    "fill_missing",
    "is_input",
    "is_missing",
    "mark_missing",
    "modalities_in",
    "modality_of",
    "private_modality",
    "selected",
    "subsets_of",
]

#: modality name -> values `(batch, *event)`; None for a modality that a model is to sample
Values = Mapping[str, Tensor | None]
#: modality name -> bool `(batch,)`, the rows in which it is observed; None or an absent key for all rows
Masks = Mapping[str, Tensor] | None

_NO_MODULES = nn.ModuleDict()


class Rows:
    """Which rows of a batch contain which modalities.

    Every method that selects rows returns a bool tensor of shape `(batch,)`, or None if these are all rows, so that no
    mask is needed. None of them reads the values of a mask, so none waits for the device.

    Args:
        x: Modality name -> values `(batch, *event)`; a modality whose value is None is not in the batch.
        observed: Modality name -> bool `(batch,)`, the rows in which the modality is observed; an absent key means all
            rows. Masks of modalities that `x` does not have are ignored.

    Attributes:
        modalities: The modalities of `x` that have values, in the order of `x`.
        masks: Modality name -> mask, for those of `modalities` that have one.

    Example:
        >>> x = {"image": torch.zeros(3, 16), "label": torch.zeros(3).long()}
        >>> rows = Rows(x, {"label": torch.tensor([True, True, False])})
        >>> rows.all_of(["image", "label"])
        tensor([ True,  True, False])
        >>> rows.exactly(["image"])
        tensor([False, False,  True])
        >>> rows.any() is None, rows.count()
        (True, tensor([2, 2, 1]))
    """

    def __init__(self, x: Values, observed: Masks = None) -> None:
        present = {name: values for name, values in x.items() if values is not None and not is_input(name)}
        self.modalities = tuple(present)
        self.masks = {name: observed[name] for name in present if name in observed} if observed else {}
        self._like = next(iter([*self.masks.values(), *present.values()]), None)

    def of(self, modality: str) -> Tensor | None:
        """Rows that contain a modality; no row for a modality that is not in the batch."""
        return self.masks.get(modality) if modality in self.modalities else self._full(False)

    def any(self) -> Tensor | None:
        """Rows that contain at least one modality; None also for a batch without any modality."""
        if len(self.masks) < len(self.modalities) or not self.masks:
            return None
        return torch.stack(list(self.masks.values())).any(0)

    def all_of(self, subset: Sequence[str]) -> Tensor | None:
        """Rows that contain every modality of `subset`, whatever else they contain."""
        masks = [mask for mask in map(self.of, subset) if mask is not None]
        return torch.stack(masks).all(0) if masks else None

    def exactly(self, subset: Sequence[str]) -> Tensor | None:
        """Rows that contain every modality of `subset` and nothing else."""
        if not self.masks and set(subset) == set(self.modalities):
            return None
        masks = dict(zip(self.modalities, self.stacked(), strict=True))
        absent = [self._full(False) for name in subset if name not in masks]
        return torch.stack([mask if name in subset else ~mask for name, mask in masks.items()] + absent).all(0)

    def properly(self, subset: Sequence[str]) -> Tensor:
        """Rows that contain every modality of `subset` and at least one more."""
        masks = dict(zip(self.modalities, self.stacked(), strict=True))
        others = [mask for name, mask in masks.items() if name not in subset]
        rows = self.all_of(subset)
        more = torch.stack(others).any(0) if others else self._full(False)
        return more if rows is None else rows & more

    def informing(self, site: str) -> Tensor | None:
        """Rows in which at least one observed modality informs a latent.

        A private latent `z_<modality>` is informed by its modality, every other latent by all of them.
        """
        modality = private_modality(site)
        return self.any() if modality is None else self.masks.get(modality)

    def count(self) -> Tensor:
        """Number of modalities in each row, int64 `(batch,)`."""
        return self.stacked().sum(0)

    def stacked(self) -> Tensor:
        """The masks of all modalities, True for those without a mask, bool `(len(modalities), batch)`."""
        return torch.stack([self._full(True) if mask is None else mask for mask in map(self.of, self.modalities)])

    def names_in(self, row: int) -> str:
        """The modalities of one row as `"image+label"`, for messages."""
        return "+".join(name for name in self.modalities if name not in self.masks or self.masks[name][row])

    def _full(self, value: bool) -> Tensor:
        return torch.full((len(self._like),), value, dtype=torch.bool, device=self._like.device)


def check_batch(x: Values, observed: Masks, modalities: Sequence[str]) -> None:
    """Raises if a batch has modalities that the program does not have, or masks that are not bool `(batch,)`."""
    if not isinstance(x, Mapping):
        raise TypeError(f"x must be a dict of modality name -> tensor, got {type(x).__name__}")
    unknown = [name for name in x if modality_of(name) not in modalities and not _is_covariate(name)]
    if unknown:
        raise ValueError(f"unknown modality {unknown}: this program has {list(modalities)}")
    for name, values in x.items():
        if values is not None and not isinstance(values, Tensor):
            raise TypeError(f"modality {name!r} must be a tensor, got {type(values).__name__}")
        if values is not None and values.dim() == 0:
            raise ValueError(f"modality {name!r} must have shape (batch, *event), got a tensor without dimensions")
    if not isinstance(observed, Mapping | None):
        raise TypeError(f"observed must be a dict of modality name -> bool tensor, got {type(observed).__name__}")
    unknown = [name for name in observed or {} if name not in modalities]
    if unknown:
        raise ValueError(f"observed names unknown modality {unknown}: this program has {list(modalities)}")
    rows = next(((name, values.shape[0]) for name, values in x.items() if values is not None), None)
    for name, mask in (observed or {}).items():
        if not isinstance(mask, Tensor):
            raise TypeError(f"observed[{name!r}] must be a bool tensor of shape (batch,), got {type(mask).__name__}")
        if mask.dtype != torch.bool or mask.dim() != 1:
            raise ValueError(
                f"observed[{name!r}] must be a bool tensor of shape (batch,), got {mask.dtype} {tuple(mask.shape)}"
            )
        if rows is not None and mask.shape[0] != rows[1]:
            raise ValueError(f"observed[{name!r}] has {mask.shape[0]} rows but x[{rows[0]!r}] has {rows[1]}")


def batch_rows(x: Values, num_rows: int | None = None) -> int:
    """The number of rows of a batch.

    Raises:
        ValueError: If the modalities differ in it, or if `x` has no values and `num_rows` is None.
    """
    sizes = {name: values.shape[0] for name, values in x.items() if values is not None}
    if num_rows is not None:
        sizes["num_rows"] = num_rows
    if not sizes:
        raise ValueError("x contains no values, so the number of rows is unknown: pass num_rows")
    first, *others = sizes.values()
    if any(size != first for size in others):
        raise ValueError(f"modalities of one batch must have the same number of rows, got {sizes}")
    return first


def private_modality(site: str) -> str | None:
    """The modality whose private latent a site is (`z_<modality>`); None for a shared latent or an observation."""
    return site.removeprefix("z_") if site.startswith("z_") else None


def fill_missing(values: Tensor, mask: Tensor | None) -> Tensor:
    """`values` with its missing rows replaced by an observed row (zeros where no row is observed).

    The values in missing rows, NaN included, affect neither a result nor a gradient. A row that was observed lies in
    the support of every likelihood.
    """
    if mask is None:
        return values
    first = values.index_select(0, mask.to(torch.uint8).argmax(0, keepdim=True))
    fill = torch.where(mask.any(), first, torch.zeros_like(first))
    return torch.where(mask.reshape(-1, *[1] * (values.dim() - 1)), values, fill)


def exposure_of(modality: str, x: Values) -> Tensor | None:
    """The exposure of a modality of counts, entry `<modality>.exposure` of a batch; None if there is none."""
    return x.get(f"{modality}.exposure")


def covariate_entry(name: str) -> str:
    """The entry of a batch that contains a covariate."""
    return f"{name}.covariate"


def covariates_in(x: Values) -> dict[str, Tensor]:
    """The entries of a batch that contain covariates."""
    return {entry: values for entry, values in x.items() if _is_covariate(entry)}


def is_input(entry: str) -> bool:
    """Whether an entry of a batch is an input of programs, an exposure or a covariate, and not a modality."""
    return "." in entry


def modalities_in(x: Values) -> tuple[str, ...]:
    """The modalities of a batch, without inputs."""
    return tuple(entry for entry in x if not is_input(entry))


def selected(x: Mapping[str, Any], modalities: Collection[str]) -> dict[str, Any]:
    """The entries of a batch that concern some modalities: their values and exposures, and all covariates.

    Example:
        >>> list(selected({"image": 0, "genes": 1, "genes.exposure": 2, "site.covariate": 3}, ["genes"]))
        ['genes', 'genes.exposure', 'site.covariate']
    """
    return {entry: v for entry, v in x.items() if modality_of(entry) in modalities or _is_covariate(entry)}


def modality_of(entry: str) -> str:
    """The modality that an entry of a batch belongs to: its values or its exposure."""
    return entry.removesuffix(".exposure")


def _is_covariate(entry: str) -> bool:
    return entry.endswith(".covariate")


def is_missing(values: Tensor) -> Tensor:
    """Which entries are missing, bool: NaN in floating-point data, negative in integer data."""
    return values.isnan() if values.is_floating_point() else values < 0


def mark_missing(values: Tensor, present: Tensor) -> Tensor:
    """Marks entries as missing for likelihoods with `missing_entries=True`, and for encoders.

    Args:
        values: Data `(batch, *event)`.
        present: Bool, broadcasts against `values`; False for a missing entry.

    Returns:
        `values` with NaN, or -1 in integer data, where `present` is False.

    Example:
        >>> mark_missing(torch.tensor([1.0, 2.0]), torch.tensor([True, False]))
        tensor([1., nan])
    """
    return torch.where(present, values, torch.nan if values.is_floating_point() else -1)


def subsets_of(modalities: Sequence[str], proper: bool = False) -> list[tuple[str, ...]]:
    """All non-empty subsets, smaller ones first; without the full one if `proper`."""
    sizes = range(1, len(modalities) + (not proper))
    return [subset for size in sizes for subset in itertools.combinations(modalities, size)]


def check_module_names(modalities: Iterable[str]) -> None:
    """Raises if the name of a modality cannot name a submodule of torch, as the networks of a modality are named."""
    invalid = [name for name in modalities if not name or "." in name or hasattr(_NO_MODULES, name)]
    if invalid:
        raise ValueError(f"modality {invalid} cannot be the name of a submodule of torch: rename it")
