"""Axes in grids, and values of modalities drawn on them."""

import textwrap
from collections.abc import Collection
from typing import TYPE_CHECKING

from torch import Tensor

from multipyro._optional import optional_imports
from multipyro.data import Modality

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["axes_grid", "draw_value", "new_figure", "value_grid"]

# of a cell, in inches, and of the characters per line and the lines of a text in it
_CELL = 0.85
_LINE_LENGTH, _MOST_LINES = 15, 7


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches, made without pyplot, so that it belongs to no window."""
    with optional_imports("Figures"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def axes_grid(rows: int, columns: int, gaps: Collection[int] = ()) -> tuple["Figure", list[list["Axes"]]]:
    """A figure of `rows` times `columns` axes without ticks, a narrow gap before each column in `gaps`."""
    widths, places = [], []
    for column in range(columns):
        if column in gaps:
            widths.append(0.3)
        places.append(len(widths))
        widths.append(1.0)
    figure = new_figure(_CELL * sum(widths) + 0.6, _CELL * rows + 0.5)
    grid = figure.add_gridspec(rows, len(widths), width_ratios=widths)
    axes = [[figure.add_subplot(grid[row, place]) for place in places] for row in range(rows)]
    for line in axes:
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    return figure, axes


def value_grid(
    columns: list[tuple[Modality, Tensor]], rows: int, headers: list[str], gaps: Collection[int] = ()
) -> "Figure":
    """A figure whose columns show the first values of modalities, each under its header."""
    figure, axes = axes_grid(rows, len(columns), gaps)
    for column, (modality, values) in enumerate(columns):
        for row in range(rows):
            draw_value(axes[row][column], modality, values[row])
        axes[0][column].set_title(headers[column], fontsize=9)
    return figure


def draw_value(ax: "Axes", modality: Modality, value: Tensor) -> None:
    """Draws one value: an image as pixels, a label or a text in letters, a vector as bars."""
    value = value.detach().cpu()
    if modality.kind == "image":
        pixels = value.clamp(0, 1).permute(1, 2, 0).numpy()
        ax.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray_r", vmin=0, vmax=1)
    elif modality.kind == "vector":
        ax.bar(range(value.numel()), value.flatten().tolist(), width=1)
    else:
        text = modality.decode(value[None])[0] if modality.kind == "text" else str(value.item())
        lines = textwrap.wrap(text, _LINE_LENGTH)
        shown = "\n".join(lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], "..."])
        size = 14 if modality.kind != "text" else 9 if len(lines) < 2 else 6
        ax.text(0.5, 0.5, shown, ha="center", va="center", fontsize=size)
        ax.set(xlim=(0, 1), ylim=(0, 1))
