"""Figures of numbers: training curves, metrics against a setting or by attribute, and histograms of words."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from multipyro.data import Modality
from multipyro.inference.evaluation.attributes import AttributeScores, words_present
from multipyro.inference.evaluation.figures._drawing import COLORS, MARKERS, colors_for, literal, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "attribute_scores_figure",
    "by_number_figure",
    "by_setting_figure",
    "training_curves_figure",
    "word_histogram_figure",
]


@styled
def training_curves_figure(history: Sequence[Mapping[str, float]]) -> "Figure":
    """The bound of every epoch in training and validation, one row per stage; beside it, the parts of the bound.

    Args:
        history: `FitResult.history`: one dict per epoch, with `stage`, `epoch`, `train/bound`, `validation/bound` and
            the parts `validation/reconstruction/...` and `validation/kl/...`.

    Returns:
        The figure, independent of pyplot.

    Raises:
        ValueError: If the history is empty.

    Example:
        >>> history = [{"stage": 0, "epoch": n, "train/bound": -1.0 / (n + 1)} for n in range(3)]
        >>> len(training_curves_figure(history).axes)
        1
    """
    if not history:
        raise ValueError("the history is empty: there is nothing to draw")
    stages = sorted({int(epoch["stage"]) for epoch in history})
    parts = {stage: _parts([epoch for epoch in history if epoch["stage"] == stage]) for stage in stages}
    columns = 1 + any(parts.values())
    figure = new_figure(3.6 * columns, 2.4 * len(stages))
    axes = figure.subplots(len(stages), columns, squeeze=False)
    for row, stage in enumerate(stages):
        epochs = [epoch for epoch in history if epoch["stage"] == stage]
        bound = axes[row][0]
        for color, name in zip(COLORS, ("train/bound", "validation/bound"), strict=False):
            if any(name in epoch for epoch in epochs):
                _line(bound, epochs, name, name.partition("/")[0].replace("train", "training"), color)
        bound.set_ylabel("bound, nats per example")
        if len(stages) > 1:
            bound.set_title(f"stage {stage + 1}")
        if columns > 1:
            names = parts[stage]
            for color, marker, name in zip(colors_for(names), itertools.cycle(MARKERS), names, strict=False):
                _line(axes[row][1], epochs, name, name.split("/", 1)[1].replace("/", " "), color, marker)
            axes[row][1].set_ylabel("parts in validation, nats")
            axes[row][1].set_visible(bool(names))
        for ax in axes[row]:
            ax.set_xlabel("epoch")
            ax.xaxis.get_major_locator().set_params(integer=True)
            if ax.lines:
                ax.legend()
    return figure


@styled
def by_number_figure(reports: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> "Figure":
    """Coherence, latent accuracy and likelihood against the number of given modalities, one line per method.

    With one report per method, error bars are 95 % intervals; with several seeds, the standard deviation over seeds.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), Figure 3.

    Args:
        reports: Method -> `Report.to_dict()`, the content of `metrics.json`, or a list of them, one per seed.

    Returns:
        The figure, independent of pyplot.

    Raises:
        ValueError: If no report has a metric for several numbers of modalities.

    Example:
        >>> share = {"value": 0.5, "low": 0.4, "high": 0.6}
        >>> by_number = {"1": share, "2": {**share, "value": 0.55}}
        >>> report = {"coherence": {"by_number": by_number}, "latent_accuracy": {}, "log_likelihood": {}}
        >>> len(by_number_figure({"mopoe": report}).axes)
        1
    """
    seeds = {name: [report] if isinstance(report, Mapping) else list(report) for name, report in reports.items()}
    panels = {
        "coherence of generated modalities": lambda report: report.get("coherence", {}).get("by_number", {}),
        "latent accuracy": lambda report: _mean_by_size(report.get("latent_accuracy", {})),
        "log p(target | given), nats": lambda report: _targets_by_size(report.get("conditional_log_likelihood", {})),
    }
    drawn = {}
    for title, extract in panels.items():
        lines = {name: _over_seeds([extract(report) for report in several]) for name, several in seeds.items()}
        if any(len(line) > 1 for line in lines.values()):
            drawn[title] = lines
    if not drawn:
        raise ValueError("no report has coherence, accuracies or likelihoods for several numbers of given modalities")
    figure = new_figure(3.4 * len(drawn), 2.8)
    for ax, (title, lines) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        _errorbars(ax, lines)
        ax.set(xlabel="number of given modalities", ylabel=title)
        ax.xaxis.get_major_locator().set_params(integer=True)
    return figure


@styled
def by_setting_figure(
    estimates: Mapping[str, Mapping[float, Mapping[str, float]]], setting: str, metric: str, log: bool = False
) -> "Figure":
    """A metric against a setting, such as `beta` or the number of rounds, one line per method or direction.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), Figures 1, 5 and 6, against `beta`; Improving Bi-directional
        Generation between Different Modalities with Variational Autoencoders (Suzuki et al.), Figures 4 to 6, against
        the number of rounds.

    Args:
        estimates: Name of a line -> value of the setting -> an estimate: its `value`, and for its error bar `low` and
            `high`, or `se`, or `std`.
        setting: Label of the axis.
        metric: Name of the metric.
        log: Whether the axis of the setting is logarithmic.

    Returns:
        The figure, independent of pyplot.

    Example:
        >>> line = {0.5: {"value": 0.9, "se": 0.01}, 1.0: {"value": 0.8, "se": 0.01}}
        >>> by_setting_figure({"mopoe": line}, "beta", "joint coherence", log=True).axes[0].get_xscale()
        'log'
    """
    figure = new_figure(3.6, 2.8)
    ax = figure.subplots()
    _errorbars(ax, estimates)
    ax.set(xlabel=literal(setting), ylabel=literal(metric))
    if log:
        places = sorted({place for line in estimates.values() for place in line})
        ax.set_xscale("log")
        ax.set_xticks(places, [f"{place:g}" for place in places])
        ax.minorticks_off()
    return figure


@styled
def attribute_scores_figure(scores: Mapping[str, AttributeScores], names: Sequence[str]) -> "Figure":
    """Average precision of each attribute, one point per method, the easiest attribute first.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), Figures 12 and 13.

    Args:
        scores: Name of a method, or of what was given -> its scores.
        names: Names of the attributes.

    Returns:
        The figure, independent of pyplot.

    Example:
        >>> import torch
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
def word_histogram_figure(modality: Modality, texts: Mapping[str, Tensor], num_words: int = 20) -> "Figure":
    """How often each word occurs in several sets of texts, such as real ones and generated ones.

    Args:
        modality: A text modality with a vocabulary.
        texts: Title -> class ids `(num, positions)`.
        num_words: Number of words, the most frequent ones of the first set.

    Returns:
        The figure, independent of pyplot.

    Example:
        >>> import torch
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


def _parts(epochs: Sequence[Mapping[str, float]]) -> list[str]:
    """The parts of the validation bound that a stage reports."""
    prefixes = ("validation/reconstruction/", "validation/kl/", "validation/prior/")
    return list(dict.fromkeys(n for epoch in epochs for n in epoch if n.startswith(prefixes) and epoch[n] == epoch[n]))


def _line(
    ax: "Axes", epochs: Sequence[Mapping[str, float]], name: str, label: str, color: Any, marker: str = ""
) -> None:
    points = [(epoch["epoch"] + 1, epoch[name]) for epoch in epochs if name in epoch]
    every = max(1, len(points) // 8)
    ax.plot(*zip(*points, strict=True), color=color, label=literal(label), marker=marker, markevery=every)


def _errorbars(ax: "Axes", lines: Mapping[str, Mapping[float, Mapping[str, float]]]) -> None:
    names = list(lines)
    for name, color, marker in zip(names, colors_for(names), itertools.cycle(MARKERS), strict=False):
        points = {float(place): lines[name][place] for place in sorted(lines[name], key=float)}
        values = [estimate["value"] for estimate in points.values()]
        errors = list(zip(*map(_error, points.values()), strict=True))
        ax.errorbar(list(points), values, errors, color=color, marker=marker, label=literal(name))
    ax.legend()


def _error(estimate: Mapping[str, float]) -> tuple[float, float]:
    """How far the error bar reaches below and above the value."""
    if "low" in estimate:
        return max(estimate["value"] - estimate["low"], 0.0), max(estimate["high"] - estimate["value"], 0.0)
    spread = estimate.get("std", estimate.get("se")) or 0.0
    return spread, spread


def _mean_by_size(subsets: Mapping[str, Mapping[str, float] | None]) -> dict[str, dict[str, float]]:
    """The mean over the subsets of each size; its error takes them as fully dependent, which is on the safe side."""
    sizes: dict[str, list[Mapping[str, float]]] = {}
    for subset, estimate in subsets.items():
        if estimate is not None and estimate["value"] is not None:
            sizes.setdefault(str(subset.count("+") + 1), []).append(estimate)
    return {size: _mean(same) for size, same in sizes.items()}


def _targets_by_size(directions: Mapping[str, Mapping[str, float] | None]) -> dict[str, dict[str, float]]:
    """The mean over targets, of those that have an estimate for every size, of the mean over subsets of each size."""
    targets: dict[str, dict[str, Mapping[str, float] | None]] = {}
    for direction, estimate in directions.items():
        given, _, target = direction.rpartition("->")
        targets.setdefault(target, {})[given] = estimate
    lines = [_mean_by_size(subsets) for subsets in targets.values()]
    sizes = dict.fromkeys(size for line in lines for size in line)
    complete = [line for line in lines if len(line) == len(sizes)]
    return {size: _mean([line[size] for line in complete]) for size in sizes if complete}


def _mean(estimates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    keys = [key for key in ("value", "low", "high", "se") if all(key in estimate for estimate in estimates)]
    return {key: statistics.fmean(estimate[key] for estimate in estimates) for key in keys}


def _over_seeds(reports: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[float, dict[str, float]]:
    if len(reports) == 1:
        return {float(number): dict(estimate) for number, estimate in reports[0].items()}
    lines = {}
    for number in dict.fromkeys(number for report in reports for number in report):
        values = [report[number]["value"] for report in reports if number in report]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        lines[float(number)] = {"value": statistics.fmean(values), "std": spread}
    return lines
