"""Figures of attributes and words: scores by attribute, faces that change with them, histograms of words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multipyro.data import Modality
from multipyro.inference.evaluation.attributes import AttributeScores, words_present
from multipyro.inference.evaluation.dimensions import latent_distribution
from multipyro.inference.evaluation.figures._drawing import (
    LABEL_SIZE,
    axes_grid,
    colors_for,
    draw_value,
    literal,
    new_figure,
    plain_axes,
)
from multipyro.inference.evaluation.prediction import decode, embed, latent_site
from multipyro.inference.programs import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attribute_changes_figure", "attribute_edits_figure", "attribute_scores_figure", "word_histogram_figure"]


def attribute_scores_figure(scores: Mapping[str, AttributeScores], names: Sequence[str]) -> "Figure":
    """Average precision of each attribute, one point per method, the easiest attribute first.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), Figures 12 and 13.

    Args:
        scores: Name of a method, or of what was given -> its scores.
        names: Names of the attributes.

    Returns:
        The figure, which belongs to no window.

    Example:
        >>> from multipyro.inference.evaluation import attribute_scores
        >>> scores = attribute_scores(torch.rand(50, 3), torch.rand(50, 3) < 0.5)
        >>> len(attribute_scores_figure({"mopoe": scores}, ["bald", "male", "smiling"]).axes)
        1
    """
    first = next(iter(scores.values())).average_precisions
    order = first.nan_to_num(-1.0).argsort(descending=True).tolist()
    figure = new_figure(max(3.0, 0.22 * len(names) + 1.2), 3.0)
    ax = figure.subplots()
    markers = ("o", "s", "^", "D", "v", "P", "X", "*")
    for index, (name, color) in enumerate(zip(scores, colors_for(list(scores)), strict=True)):
        precisions = scores[name].average_precisions[order].tolist()
        ax.plot(range(len(order)), precisions, markers[index % len(markers)], color=color, ms=4, label=literal(name))
    ax.set_xticks(range(len(order)), [literal(names[place]).replace("_", " ") for place in order], rotation=90)
    ax.set(ylim=(0, 1.02))
    ax.set_ylabel("average precision", fontsize=LABEL_SIZE)
    plain_axes(ax)
    ax.grid(axis="y", lw=0.4)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=LABEL_SIZE - 1, frameon=False)
    return figure


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
        The figure, which belongs to no window.

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
    rows = base.repeat(len(changes), 1)
    for row, change in zip(rows, changes.values(), strict=True):
        for place, value in change.items():
            row[place] = value
    site = latent_site(guide)
    posterior = latent_distribution(guide, {attributes: rows}, [attributes])
    mean, spread = posterior.mean, posterior.variance.sqrt()
    # one noise for all columns, in units of each posterior's spread
    codes = [mean]
    for _ in range(num_variations):
        codes.append(mean + spread * torch.randn(mean.shape[-1], dtype=mean.dtype))
    figure, axes = axes_grid(1 + num_variations, len(changes))
    for row, code in enumerate(codes):
        images = decode(model, {site: code}, [modality.name])[modality.name]
        for column, image in enumerate(images):
            draw_value(axes[row][column], modality, image)
    for column, title in enumerate(changes):
        axes[0][column].set_title(literal(title).replace(" ", "\n"), fontsize=LABEL_SIZE)
    axes[0][0].set_ylabel("average", fontsize=LABEL_SIZE)
    return figure


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
        The figure, which belongs to no window.

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
    average = _average(model, guide, modality, attributes, predicted, site)
    for title, change in changes.items():
        changed = predicted.clone()
        for place, value in change.items():
            changed[:, place] = value
        edited = images + _average(model, guide, modality, attributes, changed, site) - average
        columns[title.replace(" ", "\n")] = edited
    figure, axes = axes_grid(len(images), len(columns), {2})
    for column, (title, values) in enumerate(columns.items()):
        for row, value in enumerate(values):
            draw_value(axes[row][column], modality, value)
        axes[0][column].set_title(literal(title), fontsize=LABEL_SIZE)
    return figure


def word_histogram_figure(modality: Modality, texts: Mapping[str, Tensor], num_words: int = 20) -> "Figure":
    """How often each word occurs in several sets of texts, such as real ones and generated ones.

    Args:
        modality: A text modality with a vocabulary.
        texts: Title -> class ids `(num, positions)`.
        num_words: Number of words, the most frequent ones of the first set.

    Returns:
        The figure, which belongs to no window.

    Example:
        >>> text = Modality("text", (3,), "text", "categorical", 3, vocabulary=("-", "red", "cube"))
        >>> len(word_histogram_figure(text, {"real": torch.tensor([[1, 2, 0], [2, 0, 0]])}).axes)
        1
    """
    shares = {title: words_present(modality, ids).double().mean(0) for title, ids in texts.items()}
    order = next(iter(shares.values())).argsort(descending=True)[:num_words].tolist()
    order = [word for word in order if word != modality.pad]
    figure = new_figure(max(3.0, 0.3 * len(order) + 1.0), 2.6)
    ax = figure.subplots()
    width = 0.8 / len(shares)
    for index, (title, color) in enumerate(zip(shares, colors_for(list(shares)), strict=True)):
        places = [place + (index - (len(shares) - 1) / 2) * width for place in range(len(order))]
        ax.bar(places, shares[title][order].tolist(), width, color=color, label=literal(title))
    ax.set_xticks(range(len(order)), [literal(modality.vocabulary[word]) for word in order], rotation=90)
    ax.set_ylabel("share of texts", fontsize=LABEL_SIZE)
    plain_axes(ax)
    ax.legend(fontsize=LABEL_SIZE - 1, frameon=False)
    return figure


def _average(model: Program, guide: Program, modality: Modality, attributes: str, values: Tensor, site: str) -> Tensor:
    return decode(model, {site: embed(guide, {attributes: values})}, [modality.name])[modality.name]
