"""Figures of the latent space through the decoders: traversals of dimensions, and several samples of one latent."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multipyro.batch import modalities_in
from multipyro.data import Modality
from multipyro.inference.evaluation._inputs import as_names, take_rows, with_covariates_of
from multipyro.inference.evaluation.dimensions import latent_dimensions
from multipyro.inference.evaluation.figures._drawing import (
    COLORS,
    Column,
    axes_grid,
    draw_column,
    draw_tiles,
    limits_of,
    new_figure,
    row_label,
    styled,
)
from multipyro.inference.evaluation.prediction import decode, embed, latent_site, prior_latents
from multipyro.inference.programs import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["latent_samples_figure", "traversals_figure"]


@styled
def traversals_figure(
    model: Program,
    guide: Program,
    modalities: Mapping[str, Modality],
    x: Mapping[str, Tensor],
    target: Sequence[str],
    given: Sequence[str] | None = None,
    num_dimensions: int = 8,
    num_steps: int = 9,
    span: float = 3.0,
    observed: Mapping[str, Tensor] | None = None,
) -> "Figure":
    """What each latent dimension changes: one row per dimension, moved away from a posterior mean in steps.

    At the left is the given data point. The label of each row is the KL divergence of the dimension from its prior,
    averaged over the data points of `x`, which measures how informative the dimension is; the largest come first.

    References:
        Variational Mixture-of-Experts Autoencoders (Shi et al., 2019), Figure 5, which moves by five standard
        deviations of the prior.

    Args:
        model: The generative program.
        guide: The variational program.
        modalities: Modality name -> its description.
        x: Data points: the first is the one that is varied, all count for the KL divergence.
        target: The modalities that are decoded, one block of columns each.
        given: The modalities that the posterior is conditioned on; all of `x` by default.
        num_dimensions: Maximum number of dimensions shown.
        num_steps: Steps from one end to the other.
        span: Distance of the ends from the posterior mean, in standard deviations of the prior.
        observed: Modality name -> which data points are observed, bool `(batch,)`; what the first one misses is shown
            as missing.

    Returns:
        The figure, which belongs to no window.

    Raises:
        TypeError: If the latents have no marginals in closed form, as is the case for flows.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> x, _ = splits.test.rows(torch.arange(20))
        >>> programs = recipe.model, recipe.guide, splits.test.modalities
        >>> len(traversals_figure(*programs, x, ["image"], num_steps=5).axes)
        21
    """
    target, given = as_names(target), modalities_in(x) if given is None else as_names(given)
    kl = latent_dimensions(model, guide, x, given, observed=observed).kl.mean(0)
    order = kl.argsort(descending=True)[:num_dimensions]
    name = latent_site(guide)
    first, masks = take_rows(x, observed, torch.arange(1))
    mean = embed(guide, first, given, masks)
    model = with_covariates_of(model, first)
    scale = prior_latents(model, 1_000)[name].std(0)
    offsets = torch.linspace(-span, span, num_steps, dtype=mean.dtype)
    codes = mean.repeat(len(order), num_steps, 1)
    index = torch.arange(len(order))[:, None]
    codes[index, torch.arange(num_steps), order[:, None]] += offsets * scale[order][:, None]
    values = decode(model, {name: codes.flatten(0, 1)}, target)
    rows = max(len(order), len(given))
    figure, axes = axes_grid(rows, 2 + num_steps * len(target), {1, *range(2, 2 + num_steps * len(target), num_steps)})
    for row, modality in enumerate(given):
        column = Column(modalities[modality], first[modality], observed=(masks or {}).get(modality))
        draw_column([axes[row][0]], column, limits_of([column]))
        row_label(axes[row][0], f"given\n{modality}")
    largest = max(kl[order].max().item(), 1e-6)
    for row, dimension in enumerate(order.tolist()):
        bar = axes[row][1]
        bar.barh([0], [kl[dimension].item()], color=COLORS[0], height=0.5)
        bar.set(xlim=(0, largest), ylim=(-0.6, 0.6))
        bar.text(0, 0.35, f"{kl[dimension].item():.2f}", fontsize=7, va="bottom")
        bar.set_ylabel(f"$z_{{{dimension + 1}}}$", rotation=0, ha="right", va="center")
    axes[0][1].set_title("KL, nats")
    for block, modality in enumerate(target):
        titles = {0: f"−{span:g} sd", num_steps // 2: modality, num_steps - 1: f"+{span:g} sd"}
        limits = limits_of([Column(modalities[modality], values[modality])])
        for step, moved in enumerate(values[modality].unflatten(0, (len(order), num_steps)).unbind(1)):
            cells = [line[2 + block * num_steps + step] for line in axes[: len(order)]]
            draw_column(cells, Column(modalities[modality], moved, titles.get(step, "")), limits)
    return figure


@styled
def latent_samples_figure(model: Program, modality: Modality, num_latents: int = 64, num_samples: int = 9) -> "Figure":
    """Several samples of the likelihood for each of several latents from the prior: what the latent leaves to noise.

    References:
        Variational Mixture-of-Experts Autoencoders (Shi et al., 2019), Figure 4: 64 latents, 9 samples of each.

    Args:
        model: The generative program.
        modality: The image modality.
        num_latents: Number of latents, one tile each.
        num_samples: Number of samples in a tile.

    Returns:
        The figure, which belongs to no window.

    Raises:
        ValueError: If the modality is not an image.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> len(latent_samples_figure(recipe.model, splits.test.modalities["image"], 4).axes)
        4
    """
    if modality.kind != "image":
        raise ValueError(f"tiles show images, got {modality.name!r} of kind {modality.kind!r}")
    latents = prior_latents(model, num_latents)
    repeated = {name: values.repeat_interleave(num_samples, 0) for name, values in latents.items()}
    images = decode(model, repeated, [modality.name], "sample")[modality.name].unflatten(0, (num_latents, num_samples))
    columns = round(num_latents**0.5)
    rows, within = -(-num_latents // columns), round(num_samples**0.5)
    figure = new_figure(0.9 * columns, 0.9 * rows)
    for index, tile in enumerate(images):
        draw_tiles(figure.add_subplot(rows, columns, index + 1), tile, within)
    return figure
