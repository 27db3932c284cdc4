"""Grids of values: cross-generation, joint samples, reconstructions, traversals, and changed attributes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multipyro.batch import Masks, Values, modalities_in
from multipyro.data import Modality
from multipyro.inference.evaluation._inputs import as_names, take_rows, with_covariates_of
from multipyro.inference.evaluation.dimensions import latent_dimensions, latent_distribution
from multipyro.inference.evaluation.figures._drawing import (
    COLORS,
    Column,
    axes_grid,
    draw_column,
    draw_tiles,
    draw_value,
    limits_of,
    new_figure,
    range_of,
    row_label,
    styled,
    value_grid,
)
from multipyro.inference.evaluation.prediction import (
    Output,
    cross_generate,
    decode,
    embed,
    joint_samples,
    latent_site,
    prior_latents,
    reconstruct,
)
from multipyro.inference.programs import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "attribute_changes_figure",
    "attribute_edits_figure",
    "cross_generation_figure",
    "joint_samples_figure",
    "latent_samples_figure",
    "reconstructions_figure",
    "traversals_figure",
]


@styled
def cross_generation_figure(
    model: Program,
    guide: Program,
    modalities: Mapping[str, Modality],
    x: Values,
    target: Sequence[str],
    num_samples: int = 8,
    output: Output = "mean",
    observed: Masks = None,
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
        The figure, independent of pyplot.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
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
        The figure, independent of pyplot.

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
    x: Values,
    observed: Masks = None,
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
        The figure, independent of pyplot.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> x, _ = splits.test.rows(torch.arange(2))
        >>> len(reconstructions_figure(recipe.model, recipe.guide, splits.test.modalities, x).axes)
        12
    """
    values, masks, columns = reconstruct(model, guide, x, observed=observed), observed or {}, []
    for name in modalities_in(x):
        columns.append(Column(modalities[name], x[name], name, masks.get(name)))
        columns.append(Column(modalities[name], values[name][0], "recon-\nstructed"))
    return value_grid(columns, range(2, len(columns), 2))


@styled
def traversals_figure(
    model: Program,
    guide: Program,
    modalities: Mapping[str, Modality],
    x: Values,
    target: Sequence[str],
    given: Sequence[str] | None = None,
    num_dimensions: int = 8,
    num_steps: int = 9,
    span: float = 3.0,
    observed: Masks = None,
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
        The figure, independent of pyplot.

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
        The figure, independent of pyplot.

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


@styled
def attribute_changes_figure(
    model: Program,
    guide: Program,
    modality: Modality,
    attributes: str,
    base: Tensor,
    changes: Mapping[str, Mapping[int, float]],
    num_variations: int = 4,
) -> "Figure":
    """What is generated from changed attributes: one column per change, the average first, then variations below.

    Variations of a row share their noise, so that along a row only the attributes change.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et al.),
        Figure 7.

    Args:
        model: The generative program.
        guide: The variational program.
        modality: The image modality that is generated.
        attributes: Name of the vector modality with the attributes.
        base: The attributes that are changed, `(attributes,)`.
        changes: Title of a column -> index of an attribute -> its new value.
        num_variations: Number of rows below the averages.

    Returns:
        The figure, independent of pyplot.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, (1, 4, 4)))})
        >>> guide = ProductOfExperts(2, {"attributes": NormalEncoder(MLP(3, 8), 2)})
        >>> image = Modality("image", (1, 4, 4), "image", "normal")
        >>> changes = {"base": {}, "smiling": {0: 2.0}}
        >>> len(attribute_changes_figure(model, guide, image, "attributes", torch.zeros(3), changes, 1).axes)
        4
    """
    rows = torch.cat([_changed(base[None], change) for change in changes.values()])
    site = latent_site(guide)
    posterior = latent_distribution(guide, {attributes: rows}, [attributes])
    mean, spread = posterior.mean, posterior.variance.sqrt()
    # one noise for all columns, in units of each posterior's spread
    noise = torch.cat([torch.zeros_like(mean[:1]), torch.randn(num_variations, mean.shape[-1], dtype=mean.dtype)])
    codes = mean + noise[:, None] * spread
    images = decode(model, {site: codes.flatten(0, 1)}, [modality.name])[modality.name].unflatten(0, codes.shape[:2])
    columns = zip(changes, images.unbind(1), strict=True)
    figure = value_grid([Column(modality, values, title.replace(" ", "\n")) for title, values in columns])
    figure.axes[0].set_ylabel("average")
    return figure


@styled
def attribute_edits_figure(
    model: Program,
    guide: Program,
    modality: Modality,
    attributes: str,
    images: Tensor,
    changes: Mapping[str, Mapping[int, float]],
) -> "Figure":
    r"""Real images with attributes changed: one row per image, one column per change.

    .. math:: x + \bar x(a') - \bar x(a)

    where `a` are the attributes that the model predicts for the image, `a'` the changed ones, and :math:`\bar x(a)` the
    image decoded from the posterior mean given `a`.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et al.),
        Figure 8.

    Args:
        model: The generative program.
        guide: The variational program.
        modality: The image modality.
        attributes: Name of the vector modality with the attributes.
        images: Real images, `(num, *shape)`.
        changes: As in `attribute_changes_figure`.

    Returns:
        The figure, independent of pyplot.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> likelihoods = {"image": NormalLikelihood(MLP(2, (1, 4, 4))), "attributes": NormalLikelihood(MLP(2, 3))}
        >>> encoders = {"image": NormalEncoder(MLP((1, 4, 4), 8), 2), "attributes": NormalEncoder(MLP(3, 8), 2)}
        >>> model, guide = MultimodalModel(2, likelihoods), ProductOfExperts(2, encoders)
        >>> image = Modality("image", (1, 4, 4), "image", "normal")
        >>> changes = {"smiling": {0: 2.0}}
        >>> len(attribute_edits_figure(model, guide, image, "attributes", torch.rand(2, 1, 4, 4), changes).axes)
        6
    """
    site = latent_site(guide)
    code = embed(guide, {modality.name: images})
    predicted = decode(model, {site: code}, [attributes])[attributes]
    columns = {"image": images, "recon-\nstructed": decode(model, {site: code}, [modality.name])[modality.name]}

    def average(values: Tensor) -> Tensor:
        return decode(model, {site: embed(guide, {attributes: values})}, [modality.name])[modality.name]

    unchanged = average(predicted)
    for title, change in changes.items():
        columns[title.replace(" ", "\n")] = images + average(_changed(predicted, change)) - unchanged
    return value_grid([Column(modality, values, title) for title, values in columns.items()], {2})


def _changed(values: Tensor, change: Mapping[int, float]) -> Tensor:
    """Attributes `(num, attributes)` with some of them set to new values."""
    changed = values.clone()
    for place, value in change.items():
        changed[:, place] = value
    return changed
