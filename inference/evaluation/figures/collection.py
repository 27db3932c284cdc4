"""All figures of a trained model that its data, its latents and its method allow."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from multipyro.data import MultimodalData, Splits
from multipyro.inference.evaluation._inputs import conditions_of, supports
from multipyro.inference.evaluation.figures.attributes import word_histogram_figure
from multipyro.inference.evaluation.figures.curves import by_number_figure, training_curves_figure
from multipyro.inference.evaluation.figures.grids import (
    cross_generation_figure,
    joint_samples_figure,
    reconstructions_figure,
)
from multipyro.inference.evaluation.figures.maps import latent_map_figure, posteriors_figure
from multipyro.inference.evaluation.figures.traversals import latent_samples_figure, traversals_figure
from multipyro.inference.evaluation.prediction import cross_generate
from multipyro.inference.programs import Program, unwrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NamedFigure", "figures_of", "rows_of_each_class"]

# data points whose posteriors a traversal's KL is averaged over
_KL_POINTS = 500


class NamedFigure(NamedTuple):
    """A figure, the name of its file, and what to write below it.

    Attributes:
        name: Name of its file, without the suffix.
        caption: What it shows, one or two sentences.
        figure: The figure.
    """

    name: str
    caption: str
    figure: "Figure"


def figures_of(
    model: Program,
    guide: Program,
    splits: Splits,
    history: Sequence[Mapping[str, float]] = (),
    report: Mapping[str, Any] | None = None,
    num_rows: int = 10,
    seed: int = 0,
) -> Iterator[NamedFigure]:
    """Draws every figure that applies, one after the other.

    These are cross-generation from each single modality and from all but one, reconstructions, joint samples, several
    samples of each latent, traversals, maps of the latents, posteriors of a two-dimensional latent, histograms of
    words, training curves, and coherence by the number of given modalities. What does not exist is left out: a
    conditional model has no joint samples, a flow no KL per dimension.

    Args:
        model: The generative program.
        guide: The variational program.
        splits: The data set; figures show its test split.
        history: `FitResult.history`, for the training curves.
        report: `Report.to_dict()` or the content of `metrics.json`, for coherence by the number of given modalities.
        num_rows: Number of data points in grids.
        seed: Seed of every figure; torch's global generator is as before afterwards.

    Yields:
        The figures with their names and captions.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=3)
        >>> figures = figures_of(recipe.model, recipe.guide, splits, num_rows=2)
        >>> next(figures).name
        'image-to-label+word'
    """
    makers = (_generation, _prior, _latents, _words)
    for make in makers:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield from list(make(model, guide, splits.test, num_rows))
    if history:
        caption = "The bound in training and validation, and its parts, by epoch."
        yield NamedFigure("training", caption, training_curves_figure(history))
    if report is not None and len(report["coherence"].get("by_number", {})) > 1:
        caption = "Coherence and accuracy of latents by the number of given modalities, with 95 % intervals."
        yield NamedFigure("by-number", caption, by_number_figure({report.get("method", "model"): report}))


def rows_of_each_class(data: MultimodalData, num_rows: int) -> Tensor:
    """Indices of the first data points of each class in turn, among the first 1,000."""
    if data.labels is None:
        return torch.arange(min(num_rows, len(data)))
    labels = data.labels[:1000]
    position = torch.stack([(labels[:row] == label).sum() for row, label in enumerate(labels)])
    return (position * (labels.max() + 1) + labels).argsort()[:num_rows]


def _generation(model: Program, guide: Program, data: MultimodalData, num_rows: int) -> Iterator[NamedFigure]:
    names, conditions = _names(model, data), conditions_of(model)
    generated = [name for name in names if name not in conditions]
    rows = rows_of_each_class(data, num_rows)
    modalities = data.modalities
    singles = [(name,) for name in names]
    rest = [tuple(name for name in names if name != left) for left in names] if len(names) > 2 else []
    for given in dict.fromkeys([*singles, *rest]):
        target = [name for name in generated if name not in given]
        if not target or not supports(guide, given) or not set(conditions) <= set(given):
            continue
        x, observed = data.select(given).rows(rows)
        if observed is not None and not all(mask.all() for mask in observed.values()):
            continue
        samples = 8 if len(target) == 1 else 3
        yield NamedFigure(
            f"{'+'.join(given)}-to-{'+'.join(target)}",
            f"{_list(target)} generated from {_list(given)}: the given values at the left, then {samples} samples.",
            cross_generation_figure(model, guide, modalities, x, target, samples),
        )
    x, observed = data.select(names).rows(rows)
    complete = observed is None or all(mask.all() for mask in observed.values())
    if not conditions and supports(guide, names) and complete:
        caption = "Test data, each value beside its reconstruction from all modalities."
        yield NamedFigure("reconstructions", caption, reconstructions_figure(model, guide, modalities, x))


def _prior(model: Program, guide: Program, data: MultimodalData, num_rows: int) -> Iterator[NamedFigure]:
    if conditions_of(model) or not hasattr(unwrap(model), "modalities"):
        return
    modalities = {name: data.modalities[name] for name in _names(model, data)}
    caption = "Samples of all modalities, one column for each latent from the prior."
    yield NamedFigure("joint-samples", caption, joint_samples_figure(model, modalities, num_rows))
    for name, modality in modalities.items():
        if modality.kind == "image":
            caption = f"Nine samples of {name} for each of 64 latents from the prior: variation within a tile is noise."
            yield NamedFigure(f"latent-samples-{name}", caption, latent_samples_figure(model, modality))


def _latents(model: Program, guide: Program, data: MultimodalData, num_rows: int) -> Iterator[NamedFigure]:
    names = _names(model, data)
    subsets = [given for given in dict.fromkeys([*[(name,) for name in names], names]) if supports(guide, given)]
    if subsets and (data.observed is None or len(subsets) > 0):
        caption = "Latents of test data given each of several subsets, in one projection and the colors of classes."
        yield NamedFigure("latent-map", caption, latent_map_figure(guide, data, subsets))
    if conditions_of(model) or data.observed is not None:
        return
    x, _ = data.select(names).rows(torch.arange(min(_KL_POINTS, len(data))))
    if supports(guide, names):
        target = [name for name in names if data.modalities[name].kind == "image"] or list(names[:1])
        caption = "The dimensions of the latent with the largest KL divergence, varied by three standard deviations."
        try:
            yield NamedFigure("traversals", caption, traversals_figure(model, guide, data.modalities, x, target))
        except TypeError:  # a flow has no marginals
            pass
    if getattr(unwrap(model), "latent_dim", 0) == 2 and not getattr(unwrap(model), "private", ()):
        for given in subsets:
            if len(given) == 1 and data.modalities[given[0]].kind in ("label", "text"):
                caption = f"The latent given one {given[0]}: the model's posterior, the aggregate and the guide."
                yield NamedFigure(f"posteriors-{given[0]}", caption, posteriors_figure(model, guide, data, 0, given))


def _words(model: Program, guide: Program, data: MultimodalData, num_rows: int) -> Iterator[NamedFigure]:
    names = _names(model, data)
    for name in names:
        modality = data.modalities[name]
        given = [other for other in names if data.modalities[other].kind == "image" and supports(guide, [other])]
        if modality.vocabulary is None or not given or conditions_of(model):
            continue
        x, observed = data.select([given[0], name]).rows(torch.arange(min(1_000, len(data))))
        if observed is not None:
            continue
        generated = cross_generate(model, guide, {given[0]: x[given[0]]}, [name])[name][0]
        caption = f"How often each word of {name} occurs in test data, and when generated from {given[0]}."
        texts = {"test data": x[name], f"generated from {given[0]}": generated}
        yield NamedFigure(f"words-{name}", caption, word_histogram_figure(modality, texts))


def _names(model: Program, data: MultimodalData) -> tuple[str, ...]:
    """The modalities that both model and data have."""
    modeled = getattr(unwrap(model), "modalities", tuple(data.modalities))
    return tuple(name for name in data.modalities if name in modeled)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
