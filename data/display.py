"""Data sets as short tables of text and HTML, with hints where values allow another reading."""

import html
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multipyro.data.storage.files import printable

if TYPE_CHECKING:
    from multipyro.data.modality import Modality
    from multipyro.data.multimodal import MultimodalData

__all__ = ["describe", "describe_html"]

_COLUMNS = ("modality", "kind", "shape", "likelihood", "values", "missing")
# rows that are read: the data may be on disk
_ROWS = 500
# at most so many classes are listed
_CLASSES = 3
# columns of numbers whose standard deviation or mean lies beyond this are worth scaling
_SPREAD = 10.0


def describe(data: "MultimodalData") -> str:
    """A table of the modalities and, below it, hints on how to declare what they are otherwise."""
    table = [_COLUMNS, *_rows(data)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    hints = [f"{printable(name)}: {hint}" for name in data.modalities for hint in _hints(data, name)]
    return "\n".join([_title(data), *lines, *hints])


def describe_html(data: "MultimodalData") -> str:
    """The table of `describe` in HTML."""
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in _rows(data))
    return f"<div>{html.escape(_title(data))}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _title(data: "MultimodalData") -> str:
    return printable(f"{data.name}, {data.split}: {len(data):,} examples")


def _rows(data: "MultimodalData") -> list[tuple[str, ...]]:
    rows = [
        (name, m.kind, m.shape, m.likelihood, _values(data, m), _missing(data, name))
        for name, m in data.modalities.items()
    ]
    covariates = [] if data.covariate_data is None else _rows(data.covariate_data)
    rows += [(name, f"{kind}, covariate", shape, "", *rest) for name, kind, shape, _, *rest in covariates]
    return [tuple(map(printable, row)) for row in rows]


def _observed(data: "MultimodalData", name: str) -> Tensor:
    """The first examples that have a modality, in the units of the data."""
    mask = (data.observed or {}).get(name)
    rows = torch.arange(min(len(data), _ROWS)) if mask is None else mask.nonzero()[:_ROWS, 0]
    values = data.x[name].index_select(0, rows)
    modality = data.modalities[name]
    return values / 255 if values.dtype == torch.uint8 and modality.kind == "image" else modality.to_units(values)


def _values(data: "MultimodalData", modality: "Modality") -> str:
    if modality.kind == "text":
        return f"{modality.num_classes} {'characters' if modality.alphabet is not None else 'tokens'}"
    if modality.is_discrete:
        names = modality.class_names or ()
        shown = f": {', '.join(names[:_CLASSES])}{', ...' if len(names) > _CLASSES else ''}" if names else ""
        return f"{modality.num_classes} classes{shown}"
    values = _observed(data, modality.name)
    values = values[~values.isnan()] if values.is_floating_point() else values
    spread = f"{values.min().item():.4g} to {values.max().item():.4g}" if values.numel() else "none"
    return spread if modality.scaling is None else f"{spread}, scaled"


def _missing(data: "MultimodalData", name: str) -> str:
    mask = (data.observed or {}).get(name)
    parts = [] if mask is None else [f"{_percent(1 - mask.float().mean().item())} of the examples"]
    if data.modalities[name].missing_entries:
        parts.append(f"{_percent(_observed(data, name).isnan().float().mean().item())} of the entries")
    return ", ".join(parts) or "none"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _hints(data: "MultimodalData", name: str) -> list[str]:
    modality = data.modalities[name]
    names = modality.class_names or ()
    if modality.kind == "label" and names and all(name.isdecimal() for name in names):
        return ['whole numbers; declare kind "ordinal" if they are in order, "vector" or "counts" if they are amounts']
    if modality.kind != "vector" or modality.likelihood == "bernoulli":
        return []
    values = _observed(data, name).flatten(1).double()
    known = values[~values.isnan()]
    if not known.numel():
        return []
    hints = []
    if (known >= 0).all() and (known == known.round()).all() and known.max() > 1:
        hints.append('whole numbers; declare kind "counts" if they are counts')
    elif (known > 0).all() and values.shape[1] > 1 and ((values.sum(1) - 1).abs() < 1e-4).all():
        hints.append('each example sums to 1; declare kind "proportions" if the values are parts of a whole')
    mean = values.nanmean(0)
    spread = (values - mean).square().nanmean(0).sqrt()
    spread = spread[spread > 0]
    wide = spread.numel() and (spread.max() > _SPREAD or spread.min() < 1 / _SPREAD or mean.abs().max() > _SPREAD)
    if modality.scaling is None and wide:
        hints.append(
            f"columns with standard deviations from {spread.min().item():.2g} to {spread.max().item():.2g} are not "
            'scaled; declare scaling "standardize"'
        )
    return hints
