"""What all figures share: their style, axes in grids, and values of modalities drawn on them."""

import functools
import textwrap
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from multipyro._optional import optional_imports
from multipyro.batch import is_missing
from multipyro.data import Modality

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "MARKERS",
    "Column",
    "axes_grid",
    "colors_for",
    "draw_column",
    "draw_tiles",
    "draw_value",
    "limits_of",
    "literal",
    "new_figure",
    "range_of",
    "row_label",
    "save_figure",
    "styled",
    "value_grid",
]

#: the colors of Okabe and Ito (2008), distinguishable with any color vision
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
#: one marker for each of them
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# of every figure; sizes in points
_STYLE = {
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "errorbar.capsize": 2,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
# of a cell, in inches, and of the characters per line and the lines of a text in it
_CELL = 0.85
_LINE_LENGTH, _MOST_LINES = 15, 7
# up to so many numbers are written, more are drawn
_FEW = 4
# of pixels that are missing, and of the word that stands for a missing value
_MISSING, _GRAY = "#F3D9B1", "#777777"


class Column(NamedTuple):
    """A column of a grid: values of one modality under a header.

    Attributes:
        modality: The description of the modality.
        values: `(rows, *shape)`.
        header: What stands above them.
        observed: Which of them are observed, bool `(rows,)`; None for all.
    """

    modality: Modality
    values: Tensor
    header: str = ""
    observed: Tensor | None = None


def styled(draw: Callable[..., "Figure"]) -> Callable[..., "Figure"]:
    """The function, drawing in the style of this package."""

    @functools.wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> "Figure":
        with optional_imports("figures"):
            import matplotlib
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches, created without pyplot, so that no window shows it."""
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


def literal(name: str) -> str:
    """Escapes a name from data, so that matplotlib shows it unchanged: a dollar sign starts no formula."""
    return name.replace("$", r"\$")


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


def value_grid(columns: Sequence[Column], gaps: Collection[int] = ()) -> "Figure":
    """A figure of columns, one row per data point; a value that is missing is shown as missing.

    Numbers of one modality share their scale, which stands in the header of its first column.
    """
    figure, axes = axes_grid(len(columns[0].values), len(columns), gaps)
    limits = {}
    for number, column in enumerate(columns):
        name, header = column.modality.name, column.header
        if name not in limits:
            limits[name] = limits_of([other for other in columns if other.modality.name == name])
            header = "\n".join(filter(None, [header, range_of(column.modality, limits[name])]))
        draw_column([line[number] for line in axes], column._replace(header=header), limits[name])
    return figure


def draw_column(axes: Sequence["Axes"], column: Column, limits: tuple[float, float] = (0.0, 1.0)) -> None:
    """Draws the values of a column, one on each of the axes, under its header."""
    for row, (ax, value) in enumerate(zip(axes, column.values, strict=True)):
        present = column.observed is None or column.observed[row]
        draw_value(ax, column.modality, value if present else None, limits)
    axes[0].set_title(literal(column.header))


def row_label(ax: "Axes", label: str) -> None:
    """Writes the label of a row of a grid, at the left of its first axes."""
    ax.set_ylabel(literal(label), rotation=0, ha="right", va="center")


def limits_of(columns: Sequence[Column]) -> tuple[float, float]:
    """The smallest and the largest number of columns of one modality, as they are drawn."""
    drawn = [values if observed is None else values[observed] for _, values, _, observed in columns]
    numbers = torch.cat([_drawn(columns[0].modality, values).flatten() for values in drawn])
    numbers = numbers[numbers.isfinite()]
    if not len(numbers):
        return 0.0, 1.0
    low, high = numbers.min().item(), numbers.max().item()
    if columns[0].modality.kind != "grid":  # bars begin at 0
        low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if low < high else (low, low + 1.0)


def range_of(modality: Modality, limits: tuple[float, float]) -> str:
    """The limits in words, for a modality whose numbers are drawn; empty for others."""
    if modality.kind == "image" or modality.is_discrete or modality.dim <= _FEW:
        return ""
    scaled = modality.scaling is not None and modality.kind != "grid"
    return f"{'scaled ' * scaled}{limits[0]:.3g} to {limits[1]:.3g}"


def draw_value(ax: "Axes", modality: Modality, value: Tensor | None, limits: tuple[float, float] = (0.0, 1.0)) -> None:
    """Draws one value.

    An image is drawn as pixels; classes, texts and up to four numbers are written, numbers in the units of the data; a
    grid of two dimensions is a heat map, of more the middle of the first ones is shown; a grid of one dimension is a
    line; more numbers are bars. Missing entries are tinted pixels, crosses in place of bars, question marks in texts.

    Args:
        ax: Where it is drawn.
        modality: Its description.
        value: `(*shape)`; None if it is missing.
        limits: Ends of the scale of numbers that are drawn, from `limits_of`.
    """
    if value is None or (modality.is_discrete and not modality.shape and value < 0):
        _write(ax, "missing", 7, color=_GRAY)
    elif modality.kind == "image":
        _draw_image(ax, value.detach().cpu())
    elif modality.is_discrete:
        text = _text(modality, value.detach().cpu())
        lines = textwrap.wrap(text, _LINE_LENGTH)
        shown = lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], "..."]
        is_number = modality.kind != "text" and modality.class_names is None
        _write(ax, "\n".join(shown), 14 if is_number else 9 if len(lines) < 2 else 6)
    elif modality.dim <= _FEW:
        _write(ax, _numbers(modality, value.detach().cpu()), 9 if modality.dim == 1 else 6)
    else:
        _draw_numbers(ax, modality, _drawn(modality, value[None])[0], limits)


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


def _draw_image(ax: "Axes", image: Tensor) -> None:
    """Pixels `(channels, height, width)`; those that are missing are tinted."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    pixels = image.clamp(0, 1).permute(1, 2, 0)
    if pixels.shape[-1] == 1:
        ax.imshow(pixels[..., 0].numpy(), cmap=colormaps["gray_r"].with_extremes(bad=_MISSING), vmin=0, vmax=1)
    else:
        ax.imshow(torch.where(pixels.isnan(), pixels.new_tensor(to_rgb(_MISSING)), pixels).numpy())


def _draw_numbers(ax: "Axes", modality: Modality, value: Tensor, limits: tuple[float, float]) -> None:
    value = value.squeeze()
    while value.dim() > 2:
        value = value[len(value) // 2]
    missing = value.isnan()
    if value.dim() == 2:
        ax.imshow(value.numpy(), cmap="viridis", vmin=limits[0], vmax=limits[1], aspect="auto")
        return
    if modality.kind == "grid":
        ax.plot(value.numpy(), color=COLORS[0], lw=0.8)
    else:  # one path, however many numbers there are
        ax.stairs(value.numpy(), range(-1, len(value)), fill=True, color=COLORS[0])
        ax.plot(missing.nonzero()[:, 0] - 0.5, torch.zeros(int(missing.sum())), "x", color=_GRAY, ms=3)
    margin = 0.05 * (limits[1] - limits[0])
    ax.set_ylim(limits[0] - margin, limits[1] + margin)


def _drawn(modality: Modality, values: Tensor) -> Tensor:
    """Values as they are drawn: a grid in the units of the data, entries of a vector, whose units differ, scaled."""
    values = values.detach().cpu().float()
    return modality.to_units(values) if modality.kind == "grid" else values


def _text(modality: Modality, value: Tensor) -> str:
    """The name of a class, or a text, with a question mark for each missing token."""
    if modality.kind != "text":
        return str(value.item()) if modality.class_names is None else modality.class_names[value]
    symbols = modality.alphabet if modality.vocabulary is None else modality.vocabulary
    if symbols is not None and not is_missing(value).any():
        return modality.decode(value[None])[0]
    words = ["?" if token < 0 else str(token) if symbols is None else symbols[token] for token in value.tolist()]
    return ("" if modality.alphabet is not None else " ").join(words)


def _numbers(modality: Modality, value: Tensor) -> str:
    """A few numbers, one line each, in the units of the data."""
    numbers = ["–" if number != number else f"{number:.3g}" for number in modality.to_units(value).flatten().tolist()]
    if len(numbers) == 1:
        return numbers[0]
    labels = modality.columns or [""] * len(numbers)
    return "\n".join(
        f"{label[: _LINE_LENGTH - 6]} {number}".strip() for label, number in zip(labels, numbers, strict=True)
    )


def _write(ax: "Axes", text: str, points: float, **style: Any) -> None:
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=points, parse_math=False, **style)
    ax.set(xlim=(0, 1), ylim=(0, 1))
