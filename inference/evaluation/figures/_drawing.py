"""What all figures share: their style, axes in grids, and values of modalities drawn on them."""

import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from torch import Tensor

from multipyro._optional import optional_imports
from multipyro.data import Modality

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "LABEL_SIZE",
    "axes_grid",
    "colors_for",
    "draw_tiles",
    "draw_value",
    "new_figure",
    "plain_axes",
    "save_figure",
    "value_grid",
]

#: the colors of Okabe and Ito (2008), distinguishable with any color vision
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
#: font size of labels, in points
LABEL_SIZE = 9
# of a cell, in inches, and of the characters per line and the lines of a text in it
_CELL = 0.85
_LINE_LENGTH, _MOST_LINES = 15, 7


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches, made without pyplot, so that it belongs to no window."""
    with optional_imports("figures"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", file: str | Path | BinaryIO, **settings: Any) -> None:
    """Saves a figure with its text as text: in a PDF or SVG, letters are not converted to outlines.

    Args:
        figure: The figure.
        file: The file; `.pdf` and `.svg` are vector graphics.
        **settings: To matplotlib's `savefig`.
    """
    import matplotlib

    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
        figure.savefig(file, **{"dpi": 150, **settings})


def plain_axes(ax: "Axes") -> None:
    """Axes without the frame above and to the right, and with small labels."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=LABEL_SIZE - 1)


def colors_for(names: Sequence[Any]) -> list[Any]:
    """As many colors as names: those of Okabe and Ito, beyond eight evenly spaced ones of matplotlib's `turbo`."""
    if len(names) <= len(COLORS):
        return list(COLORS[: len(names)])
    import matplotlib

    return [matplotlib.colormaps["turbo"](index / (len(names) - 1)) for index in range(len(names))]


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
            _empty(ax)
    return figure, axes


def value_grid(
    columns: list[tuple[Modality, Tensor]], rows: int, headers: list[str], gaps: Collection[int] = ()
) -> "Figure":
    """A figure whose columns show the first values of modalities, each under its header."""
    figure, axes = axes_grid(rows, len(columns), gaps)
    for column, (modality, values) in enumerate(columns):
        for row in range(rows):
            draw_value(axes[row][column], modality, values[row])
        axes[0][column].set_title(headers[column], fontsize=LABEL_SIZE)
    return figure


def draw_value(ax: "Axes", modality: Modality, value: Tensor, size: float = 1.0) -> None:
    """Draws one value: an image as pixels, a label or a text in letters, anything else as bars.

    Args:
        ax: Where it is drawn.
        modality: Its description.
        value: `(*shape)`.
        size: Scale of letters, for axes that are smaller than a cell of a grid.
    """
    value = value.detach().cpu()
    if modality.kind == "image":
        pixels = value.clamp(0, 1).permute(1, 2, 0).numpy()
        ax.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray_r", vmin=0, vmax=1)
    elif modality.kind != "text" and modality.shape:
        ax.bar(range(value.numel()), value.flatten().tolist(), width=1)
    else:
        text = modality.decode(value[None])[0] if modality.kind == "text" else _class_name(modality, value)
        lines = textwrap.wrap(text, _LINE_LENGTH)
        shown = "\n".join(lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], "..."])
        is_number = modality.kind != "text" and modality.class_names is None
        points = 14 if is_number else 9 if len(lines) < 2 else 6
        ax.text(0.5, 0.5, shown, ha="center", va="center", fontsize=size * points)
        ax.set(xlim=(0, 1), ylim=(0, 1))


def draw_tiles(ax: "Axes", images: Tensor, columns: int, gap: int = 1) -> None:
    """Draws images `(num, channels, height, width)` in rows of `columns`, with white lines between them."""
    number, channels, height, width = images.shape
    rows = -(-number // columns)
    # in the colors of a single image, where 0 is white for gray ones
    paper = 0.0 if channels == 1 else 1.0
    canvas = images.new_full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), paper)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    pixels = canvas.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    ax.imshow(pixels[..., 0] if channels == 1 else pixels, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    _empty(ax)


def _empty(ax: "Axes") -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _class_name(modality: Modality, value: Tensor) -> str:
    return f"{value.item():.3g}" if modality.class_names is None else modality.class_names[value]
