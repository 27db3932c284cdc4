"""Pictures: cross-generation grids, joint samples and reconstructions, as matplotlib figures."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from multipyro._optional import optional_imports
from multipyro.data import Modality
from multipyro.inference.evaluation.prediction import cross_generate, joint_samples, reconstruct
from multipyro.inference.programs import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cross_generation_figure", "joint_samples_figure", "reconstructions_figure"]

_INCHES = 0.85
# of a text in a cell of so many inches: characters a line, and lines
_LINE, _LINES = 15, 7


def cross_generation_figure(
    model: Program,
    guide: Program,
    modalities: Mapping[str, Modality],
    x: Mapping[str, Tensor],
    target: Sequence[str],
    num_samples: int = 8,
    output: str = "mean",
) -> "Figure":
    """A grid: each row one given instance (left of the first gap), each column one sample of the target modalities.

    Args:
        model: The generative program.
        guide: The variational program.
        modalities: What the modalities are.
        x: The given modalities, a few rows.
        target: The modalities that are generated, side by side in each column.
        num_samples: Number of columns.
        output: `"mean"` or `"sample"` of the likelihoods.

    Returns:
        The figure, on a canvas of its own.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> import torch
        >>> x, _ = splits.test.select(["label"]).rows(torch.arange(2))
        >>> modalities = splits.test.modalities
        >>> len(cross_generation_figure(recipe.model, recipe.guide, modalities, x, ["image"], num_samples=3).axes)
        8
    """
    target = (target,) if isinstance(target, str) else tuple(target)
    values = cross_generate(model, guide, x, target, num_samples, output=output)
    rows = len(next(iter(x.values())))
    columns = [(name, x[name]) for name in x]
    columns += [(name, values[name][sample]) for sample in range(num_samples) for name in target]
    headers = [f"given\n{name}" for name in x] + [*target] + [""] * (len(target) * (num_samples - 1))
    step = len(target) if len(target) > 1 else len(columns)
    return _grid(modalities, columns, rows, headers, gaps=set(range(len(x), len(columns), step)))


def joint_samples_figure(
    model: Program, modalities: Mapping[str, Modality], num_samples: int = 10, output: str = "mean"
) -> "Figure":
    """One column a sample of the prior, one row a modality.

    Returns:
        The figure, on a canvas of its own.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> len(joint_samples_figure(recipe.model, splits.test.modalities, num_samples=4).axes)
        12
    """
    values = joint_samples(model, num_samples, list(modalities), output)
    figure, axes = _axes(len(modalities), num_samples, ())
    for row, (name, modality) in enumerate(modalities.items()):
        for column in range(num_samples):
            _draw(axes[row][column], modality, values[name][column])
        axes[row][0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def reconstructions_figure(
    model: Program, guide: Program, modalities: Mapping[str, Modality], x: Mapping[str, Tensor]
) -> "Figure":
    """Each row one instance: every modality, and beside it its reconstruction from all of them.

    Returns:
        The figure, on a canvas of its own.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> import torch
        >>> x, _ = splits.test.rows(torch.arange(2))
        >>> len(reconstructions_figure(recipe.model, recipe.guide, splits.test.modalities, x).axes)
        12
    """
    values = reconstruct(model, guide, x)
    columns, headers = [], []
    for name in x:
        columns += [(name, x[name]), (name, values[name][0])]
        headers += [name, "again"]
    return _grid(modalities, columns, len(next(iter(x.values()))), headers, gaps=set(range(2, len(columns), 2)))


def _grid(modalities, columns: list[tuple[str, Tensor]], rows: int, headers: list[str], gaps: set[int]) -> "Figure":
    figure, axes = _axes(rows, len(columns), gaps)
    for column, (name, values) in enumerate(columns):
        for row in range(rows):
            _draw(axes[row][column], modalities[name], values[row])
        axes[0][column].set_title(headers[column], fontsize=9)
    return figure


def _axes(rows: int, columns: int, gaps: Sequence[int] | set[int]) -> tuple["Figure", list[list]]:
    """Axes without ticks; before each column in `gaps` stands a narrow empty one."""
    with optional_imports("Figures"):
        from matplotlib.figure import Figure
    widths, places = [], []
    for column in range(columns):
        if column in gaps:
            widths.append(0.3)
        places.append(len(widths))
        widths.append(1.0)
    figure = Figure(figsize=(_INCHES * sum(widths) + 0.6, _INCHES * rows + 0.5), layout="constrained")
    grid = figure.add_gridspec(rows, len(widths), width_ratios=widths)
    axes = [[figure.add_subplot(grid[row, place]) for place in places] for row in range(rows)]
    for line in axes:
        for ax in line:
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set_visible(False)
    return figure, axes


def _draw(ax, modality: Modality, value: Tensor) -> None:
    """One value: an image as pixels, a label or a text in letters, a vector as bars."""
    value = value.detach().cpu()
    if modality.kind == "image":
        pixels = value.clamp(0, 1).permute(1, 2, 0).numpy()
        ax.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray_r", vmin=0, vmax=1)
    elif modality.kind == "vector":
        ax.bar(range(value.numel()), value.flatten().tolist(), width=1)
    else:
        text = modality.decode(value[None])[0] if modality.kind == "text" else str(value.item())
        lines = textwrap.wrap(text, _LINE)
        shown = "\n".join(lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "..."])
        size = 14 if modality.kind != "text" else 9 if len(lines) < 2 else 6
        ax.text(0.5, 0.5, shown, ha="center", va="center", fontsize=size)
        ax.set(xlim=(0, 1), ylim=(0, 1))
