"""Grids of generated modalities: cross-generation, joint samples and reconstructions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from multipyro.batch import modalities_in
from multipyro.data import Modality
from multipyro.inference.evaluation._inputs import as_names
from multipyro.inference.evaluation.figures._drawing import (
    Column,
    axes_grid,
    draw_value,
    limits_of,
    range_of,
    row_label,
    styled,
    value_grid,
)
from multipyro.inference.evaluation.prediction import Output, cross_generate, joint_samples, reconstruct
from multipyro.inference.programs import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cross_generation_figure", "joint_samples_figure", "reconstructions_figure"]


@styled
def cross_generation_figure(
    model: Program,
    guide: Program,
    modalities: Mapping[str, Modality],
    x: Mapping[str, Tensor],
    target: Sequence[str],
    num_samples: int = 8,
    output: Output = "mean",
    observed: Mapping[str, Tensor] | None = None,
) -> "Figure":
    """Modalities generated from others: one row per data point, the given values first, then samples of the targets.

    Args:
        model: The generative program.
        guide: The variational program.
        modalities: Modality name -> its description.
        x: The given modalities of a few data points.
        target: The modalities that are generated, side by side in each sample.
        num_samples: Number of samples per data point.
        output: `"mean"` or `"sample"` of the likelihoods.
        observed: Modality name -> which data points are observed, bool `(batch,)`; the others are shown as missing.

    Returns:
        The figure, which belongs to no window.

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
    target = as_names(target)
    values = cross_generate(model, guide, x, target, num_samples, observed, output)
    given, masks = modalities_in(x), observed or {}
    columns = [Column(modalities[name], x[name], f"given\n{name}", masks.get(name)) for name in given]
    for sample in range(num_samples):
        columns += [Column(modalities[name], values[name][sample], "" if sample else name) for name in target]
    step = len(target) if len(target) > 1 else len(columns)
    return value_grid(columns, range(len(given), len(columns), step))


@styled
def joint_samples_figure(
    model: Program, modalities: Mapping[str, Modality], num_samples: int = 10, output: Output = "mean"
) -> "Figure":
    """Samples from the prior: one column per sample, one row per modality.

    Args:
        model: The generative program.
        modalities: Modality name -> its description.
        num_samples: Number of samples.
        output: `"mean"` or `"sample"` of the likelihoods.

    Returns:
        The figure, which belongs to no window.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> len(joint_samples_figure(recipe.model, splits.test.modalities, num_samples=4).axes)
        12
    """
    values = joint_samples(model, num_samples, list(modalities), output)
    figure, axes = axes_grid(len(modalities), num_samples)
    for row, (name, modality) in enumerate(modalities.items()):
        limits = limits_of([Column(modality, values[name])])
        for column in range(num_samples):
            draw_value(axes[row][column], modality, values[name][column], limits)
        row_label(axes[row][0], "\n".join(filter(None, [name, range_of(modality, limits)])))
    return figure


@styled
def reconstructions_figure(
    model: Program,
    guide: Program,
    modalities: Mapping[str, Modality],
    x: Mapping[str, Tensor],
    observed: Mapping[str, Tensor] | None = None,
) -> "Figure":
    """Values and their reconstructions from all of them: one row per data point, two columns per modality.

    Beside a missing value stands what is predicted for it from the others.

    Args:
        model: The generative program.
        guide: The variational program.
        modalities: Modality name -> its description.
        x: A few data points.
        observed: Modality name -> which data points are observed, bool `(batch,)`; the others are shown as missing.

    Returns:
        The figure, which belongs to no window.

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
    values, masks, columns = reconstruct(model, guide, x, observed=observed), observed or {}, []
    for name in modalities_in(x):
        columns.append(Column(modalities[name], x[name], name, masks.get(name)))
        columns.append(Column(modalities[name], values[name][0], "recon-\nstructed"))
    return value_grid(columns, range(2, len(columns), 2))
