"""Figures of attributes and words: scores by attribute, faces that change with them, histograms of words."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multipyro.data import Modality
from multipyro.inference.evaluation.attributes import AttributeScores, words_present
from multipyro.inference.evaluation.dimensions import latent_distribution
from multipyro.inference.evaluation.figures._drawing import (
    MARKERS,
    Column,
    colors_for,
    literal,
    new_figure,
    styled,
    value_grid,
)
from multipyro.inference.evaluation.prediction import decode, embed, latent_site
from multipyro.inference.programs import Program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attribute_changes_figure", "attribute_edits_figure", "attribute_scores_figure", "word_histogram_figure"]


@styled
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
    for name, color, marker in zip(scores, colors_for(list(scores)), itertools.cycle(MARKERS), strict=False):
        precisions = scores[name].average_precisions[order].tolist()
        ax.plot(range(len(order)), precisions, marker, color=color, label=literal(name))
    ax.set_xticks(range(len(order)), [literal(names[place]).replace("_", " ") for place in order], rotation=90)
    ax.set(ylim=(0, 1.02), ylabel="average precision")
    ax.grid(axis="y", lw=0.4)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper")
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

    def average(values: Tensor) -> Tensor:
        return decode(model, {site: embed(guide, {attributes: values})}, [modality.name])[modality.name]

    unchanged = average(predicted)
    for title, change in changes.items():
        columns[title.replace(" ", "\n")] = images + average(_changed(predicted, change)) - unchanged
    return value_grid([Column(modality, values, title) for title, values in columns.items()], {2})


@styled
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
    ax.set_ylabel("share of texts")
    ax.legend()
    return figure


def _changed(values: Tensor, change: Mapping[int, float]) -> Tensor:
    """Attributes `(num, attributes)` with some of them set to new values."""
    changed = values.clone()
    for place, value in change.items():
        changed[:, place] = value
    return changed
