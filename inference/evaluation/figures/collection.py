"""All figures of a trained model that its data, its latents and its method support."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from multipyro.batch import Rows, selected
from multipyro.data import MultimodalData, Splits
from multipyro.inference.evaluation._inputs import conditions_of, indices_with, supports, with_covariates_of
from multipyro.inference.evaluation.figures.curves import (
    by_number_figure,
    training_curves_figure,
    word_histogram_figure,
)
from multipyro.inference.evaluation.figures.grids import (
    cross_generation_figure,
    joint_samples_figure,
    latent_samples_figure,
    reconstructions_figure,
    traversals_figure,
)
from multipyro.inference.evaluation.figures.maps import latent_map_figure, posteriors_figure
from multipyro.inference.evaluation.prediction import cross_generate
from multipyro.inference.programs import Program, unwrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NamedFigure", "figures_of", "rows_of_each_class"]

# data points whose posteriors a traversal's KL is averaged over, and whose texts are counted
_KL_POINTS, _TEXTS = 500, 1_000
# beyond so many modalities, grids are given single ones only, and maps show the first ones
_MANY = 5


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
    conditional model has no joint samples, a flow no KL per dimension. Values that are missing in the data are shown as
    missing, and nothing is conditioned on them.

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
    figures = _Figures(model, guide, splits.test, num_rows)
    for make in (figures.grids, figures.prior_samples, figures.latents, figures.words):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield from list(make())
    if history:
        caption = "The bound in training and validation, and its parts, by epoch."
        yield NamedFigure("training", caption, training_curves_figure(history))
    with suppress(ValueError):  # with two modalities nothing is given but one
        figure = by_number_figure({(report or {}).get("method", "model"): report or {}})
        caption = "Coherence, accuracy of latents and log-likelihood by the number of given modalities."
        yield NamedFigure("by-number", caption, figure)


def rows_of_each_class(data: MultimodalData, num_rows: int, given: Sequence[str] = ()) -> Tensor:
    """Indices of data points of each class in turn, from the first 1,000 that have some of the given modalities.

    Args:
        data: The data; without labels the first data points are taken.
        num_rows: Most indices.
        given: The modalities; with none every data point counts.
    """
    some = Rows({name: data.x[name] for name in given}, data.observed).any()
    rows = torch.arange(len(data)) if some is None else some.nonzero()[:, 0]
    if data.labels is None:
        return rows[:num_rows]
    rows = rows[:1_000]
    labels = data.labels[rows]
    position = torch.stack([(labels[:row] == label).sum() for row, label in enumerate(labels)]) if len(rows) else labels
    return rows[(position * (data.labels.max() + 1) + labels).argsort()[:num_rows]]


class _Figures:
    """The figures that apply to a model, a guide and data, each with its name and caption."""

    def __init__(self, model: Program, guide: Program, data: MultimodalData, num_rows: int) -> None:
        modeled = getattr(unwrap(model), "modalities", tuple(data.modalities))
        self.model, self.guide, self.num_rows = model, guide, num_rows
        self.names = tuple(name for name in data.modalities if name in modeled)
        self.data = data.select(self.names)
        self.modalities, self.conditions = self.data.modalities, conditions_of(model)

    def grids(self) -> Iterator[NamedFigure]:
        """Cross-generation from each modality and from all but one, and reconstructions."""
        programs, generated = (self.model, self.guide), [name for name in self.names if name not in self.conditions]
        subsets = [(name,) for name in self.names]
        if 2 < len(self.names) <= _MANY:
            subsets += [tuple(name for name in self.names if name != left) for left in self.names]
        for given in dict.fromkeys(subsets):
            target = [name for name in generated if name not in given]
            if not target or not supports(self.guide, given) or not set(self.conditions) <= set(given):
                continue
            if not len(rows := self._rows(given)):
                continue
            x, observed = self.data.select(given).rows(rows)
            samples = 8 if len(target) == 1 else 3 if len(target) <= _MANY else 1
            yield NamedFigure(
                f"{'+'.join(given)}-to-{'+'.join(target)}",
                f"{_list(target)} generated from {_list(given)}: what is given at the left, then {samples} samples.",
                cross_generation_figure(*programs, self.modalities, x, target, samples, observed=observed),
            )
        if not self.conditions and supports(self.guide, self.names):
            x, observed = self.data.rows(self._rows(self.names))
            caption = "Test data, and beside each value its reconstruction from all that is observed."
            yield NamedFigure(
                "reconstructions", caption, reconstructions_figure(*programs, self.modalities, x, observed)
            )

    def prior_samples(self) -> Iterator[NamedFigure]:
        """What the prior generates."""
        if self.conditions or not hasattr(unwrap(self.model), "modalities"):
            return
        model = with_covariates_of(self.model, self.data.rows(torch.arange(len(self.data)))[0])
        caption = "Samples of all modalities, one column for each latent from the prior."
        yield NamedFigure("joint-samples", caption, joint_samples_figure(model, self.modalities, self.num_rows))
        for name, modality in self.modalities.items():
            if modality.kind == "image":
                caption = f"Nine samples of {name} for each of 64 latents from the prior: a tile varies in noise alone."
                yield NamedFigure(f"latent-samples-{name}", caption, latent_samples_figure(model, modality))

    def latents(self) -> Iterator[NamedFigure]:
        """Maps of the latents, traversals, and posteriors of a latent of two dimensions."""
        subsets = list(dict.fromkeys([*[(name,) for name in self.names[:_MANY]], self.names]))
        subsets = [
            subset for subset in subsets if supports(self.guide, subset) and len(indices_with(self.data, subset))
        ]
        if subsets:
            caption = "Latents of test data given each of several subsets, in one projection and the colors of classes."
            yield NamedFigure("latent-map", caption, latent_map_figure(self.guide, self.data, subsets))
        if self.conditions:
            return
        if supports(self.guide, self.names):
            x, observed = self.data.rows(self._rows(self.names, _KL_POINTS))
            target = [name for name in self.names if self.modalities[name].kind == "image"] or list(self.names[:1])
            caption = "The dimensions of the latent with the largest KL divergence, moved by three standard deviations."
            programs = self.model, self.guide, self.modalities
            with suppress(TypeError):  # a flow has no marginals
                yield NamedFigure("traversals", caption, traversals_figure(*programs, x, target, observed=observed))
        if getattr(unwrap(self.model), "latent_dim", 0) == 2 and not getattr(unwrap(self.model), "private", ()):
            for name, *others in subsets:
                if not others and self.modalities[name].kind in ("label", "text"):
                    caption = f"The latent given one {name}: of the model, the aggregate over its data, of the guide."
                    row = int(indices_with(self.data, [name])[0])
                    figure = posteriors_figure(self.model, self.guide, self.data, row, [name])
                    yield NamedFigure(f"posteriors-{name}", caption, figure)

    def words(self) -> Iterator[NamedFigure]:
        """Histograms of the words of each text, real and generated from the first image that the guide supports."""
        images = [name for name in self.names if self.modalities[name].kind == "image"]
        given = [name for name in images if supports(self.guide, [name])][:1]
        texts = [name for name in self.names if self.modalities[name].vocabulary is not None]
        for name in texts if given and not self.conditions else ():
            rows = indices_with(self.data, [*given, name])[:_TEXTS]
            if not len(rows):
                continue
            x, _ = self.data.select([*given, name]).rows(rows)
            generated = cross_generate(self.model, self.guide, selected(x, given), [name])[name][0]
            caption = f"How often each word occurs in {name}: in test data, and generated from {given[0]}."
            both = {"test data": x[name], f"generated from {given[0]}": generated}
            yield NamedFigure(f"words-{name}", caption, word_histogram_figure(self.modalities[name], both))

    def _rows(self, given: Sequence[str], number: int | None = None) -> Tensor:
        """Data points that have some of the given modalities, and every condition."""
        usable = indices_with(self.data, self.conditions)
        return usable[rows_of_each_class(self.data.take(usable), number or self.num_rows, given)]


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
