"""The report on a trained model: every metric that exists for it, on the test split."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import torch
from torch import Tensor

from multipyro.batch import is_missing, selected, subsets_of
from multipyro.data import MultimodalData, Splits
from multipyro.inference._program_modules import count_parameters
from multipyro.inference.evaluation._inputs import conditions_of, indices_with, supports, with_covariates_of
from multipyro.inference.evaluation._memory import show_progress
from multipyro.inference.evaluation.attributes import AttributeScores, attribute_scores
from multipyro.inference.evaluation.classifiers import Classifier, train_classifiers
from multipyro.inference.evaluation.coherence import (
    coherence_by_number,
    conditional_coherence,
    joint_coherence,
)
from multipyro.inference.evaluation.dimensions import LatentDimensions, latent_dimensions, symmetric_kl
from multipyro.inference.evaluation.estimates import Estimate, PairedDifference, estimate_mean, paired_difference, plain
from multipyro.inference.evaluation.likelihoods.bounds import guide_conditional_log_likelihood
from multipyro.inference.evaluation.likelihoods.estimates import LogLikelihood
from multipyro.inference.evaluation.likelihoods.importance import log_likelihoods
from multipyro.inference.evaluation.prediction import Output, cross_generate
from multipyro.inference.evaluation.probes import can_probe, latent_accuracy
from multipyro.inference.programs import Program
from multipyro.inference.runs import versions

__all__ = ["Report", "evaluate", "paired_differences"]

# probes and latents of every subset up to so many, which five modalities have; beyond, the smallest and largest ones
_MANY_SUBSETS = 31


@dataclass(frozen=True, eq=False)
class Report:
    """All metrics of one model on one test split.

    Attributes:
        metrics: Name -> estimates by subset or direction, None where one does not exist (see `evaluate`).
        details: How they were obtained: classifiers, parameters, data, settings, versions, seed, seconds.
        examples: Metric -> the value of each test data point, `(num,)`, NaN where it does not count; for comparisons
            of several models on the same data points by `paired_differences`.

    Example:
        >>> Report({"latent_accuracy": {"image": None}}, {"seed": 0}, {}).to_dict()
        {'latent_accuracy': {'image': None}, 'seed': 0}
    """

    metrics: Mapping[str, Any]
    details: Mapping[str, Any]
    examples: Mapping[str, Tensor]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in `metrics.json`; None for numbers that strict JSON does not have."""
        return plain({**self.metrics, **self.details})

    def save_examples(self, file: Path | BinaryIO) -> None:
        """Writes `examples` as an `.npz` file, which `load_examples` reads."""
        numpy.savez_compressed(file, **{name: values.numpy() for name, values in self.examples.items()})

    @staticmethod
    def load_examples(file: Path | BinaryIO) -> dict[str, Tensor]:
        """Reads the `examples` that `save_examples` wrote."""
        with numpy.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@dataclass(frozen=True)
class _Task:
    """What is evaluated: the programs, the data, and the settings of `evaluate`."""

    model: Program
    guide: Program
    splits: Splits
    classifiers: Mapping[str, Classifier]
    settings: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities of the data."""
        return tuple(self.splits.test.modalities)

    @property
    def modeled(self) -> tuple[str, ...]:
        """Those that the model has."""
        return tuple(name for name in self.names if name in getattr(self.model, "modalities", self.names))

    @property
    def few(self) -> MultimodalData:
        """The test data points whose likelihoods are estimated."""
        return self.splits.test.take(torch.arange(self.settings["likelihood_data_points"]))

    def subsets(self, most: int = 2**3 - 1) -> dict[str, tuple[str, ...]]:
        """Every subset by its name, if there are at most so many; otherwise the single modalities and the full set."""
        number = len(self.names)
        chosen = [part for part in subsets_of(self.names) if 2**number - 1 <= most or len(part) in (1, number)]
        return {"+".join(subset): subset for subset in chosen}

    def directions(self) -> dict[str, tuple[tuple[str, ...], str]]:
        """Pairs of what is given and one modality that is not, by their names."""
        pairs = [(given, target) for given in self.subsets().values() for target in self.names if target not in given]
        return {_arrow(*pair): pair for pair in pairs}

    def likelihood_directions(self) -> dict[str, tuple[tuple[str, ...], str]]:
        """The same, and each modality given all others."""
        others = [(tuple(name for name in self.names if name != target), target) for target in self.names]
        return {**self.directions(), **{_arrow(*pair): pair for pair in others if pair[0]}}

    def is_attributes(self, name: str) -> bool:
        """Whether a modality is a vector of attributes that data points have or do not have."""
        modality = self.splits.test.modalities[name]
        return modality.kind == "vector" and modality.likelihood == "bernoulli"

    def can_infer(self, given: Sequence[str]) -> bool:
        """Whether the model has these modalities and the guide infers latents from them."""
        return set(given) <= set(self.modeled) and supports(self.guide, given)

    def can_predict(self, target: Sequence[str], given: Sequence[str]) -> bool:
        """Whether the model generates and scores the target given these modalities."""
        conditions = set(conditions_of(self.model))
        return {*target, *given} <= set(self.modeled) and conditions <= set(given) and not conditions & set(target)

    def usable(self, data: MultimodalData, given: Sequence[str], target: str, scored: Sequence[str] = ()) -> Tensor:
        """Indices of the data points that contain what is given and scored; none if nothing is predicted from it."""
        predicts = self.can_predict([target], given) and self.can_infer(given)
        return indices_with(data, [*given, *scored]) if predicts else torch.arange(0)


def evaluate(
    model: Program,
    guide: Program,
    splits: Splits,
    *,
    num_samples: int = 100,
    guide_samples: int = 10,
    likelihood_data_points: int = 1_000,
    coherence_samples: int = 10_000,
    output: Output = "mean",
    seed: int = 0,
    progress: bool = False,
) -> Report:
    """Computes all metrics on the test split.

    `Report.to_dict()` has these keys: `coherence.joint`, `coherence.conditional["image->label"]`,
    `coherence.by_number["2"]` (that many given, see `coherence_by_number`), `latent_accuracy[subset]`,
    `latent_dimensions[subset]`, `symmetric_kl["image|label"]` (mean per dimension), `log_likelihood[subset]`,
    `conditional_log_likelihood["label->image"]` (of the model),
    `guide_conditional_log_likelihood["label->image"].{mean,logmeanexp}` (of the guide),
    `attributes["image->attributes"]` (average precision and errors, see `AttributeScores`), `classifier_accuracy`,
    `parameters`, `data`, `settings`, `versions`, `seed`, `seconds`. Shares have `value`, `se` and a 95 % interval `low`
    to `high`, and where classifiers counted them a `bracket`: the values possible if these err as often as on real
    data. Likelihoods have their Monte Carlo error and warnings, see `LogLikelihood`.

    What does not exist for a method is None: a modality without classes, a subset that the guide does not support or
    that no data point contains, a modality of the data that the model does not have, a conditional model without its
    conditions, KL of latents that have no marginals. Beyond three modalities, coherence is given one
    modality; likelihoods are of one and of all modalities, and given one and all others; `coherence.by_number` and, up
    to five modalities, the latents cover every subset.

    Args:
        model: The generative program.
        guide: The variational program.
        splits: The data set; classifiers and probes are trained on its training split.
        num_samples: Importance samples per data point and likelihood.
        guide_samples: Latents per data point for the guide's conditional bounds.
        likelihood_data_points: Number of test data points, from the first, for likelihoods and latent dimensions.
        coherence_samples: Number of samples from the prior for the joint coherence.
        output: `"mean"` or `"sample"` of the likelihoods, which classifiers are applied to.
        seed: Seed of every random number; torch's global generator is as before afterwards.
        progress: Whether to show how far it is, and the time left.

    Returns:
        The report.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> report = evaluate(recipe.model, recipe.guide, splits, num_samples=2, coherence_samples=10)
        >>> sorted(report.metrics["log_likelihood"])[:3]
        ['image', 'image+label', 'image+label+word']
    """
    started = time.perf_counter()
    settings = {
        "num_samples": num_samples,
        "guide_samples": guide_samples,
        "likelihood_data_points": min(likelihood_data_points, len(splits.test)),
        "coherence_samples": coherence_samples,
        "coherence_of": output,
    }
    with torch.random.fork_rng(), show_progress(progress):
        torch.manual_seed(seed)
        task = _Task(model, guide, splits, {}, settings)
        classifiers = train_classifiers(splits.train.select(task.modeled), splits.test.select(task.modeled))
        metrics, examples = _metrics(replace(task, classifiers=classifiers))
    details = {
        "classifier_accuracy": {name: classifier.accuracy for name, classifier in classifiers.items()},
        "parameters": count_parameters(model, guide),
        "data": _data(splits),
        "settings": settings,
        "versions": versions(),
        "seed": seed,
        "seconds": time.perf_counter() - started,
    }
    return Report(metrics, details, examples)


def paired_differences(
    first: Sequence[Mapping[str, Tensor]], second: Sequence[Mapping[str, Tensor]]
) -> dict[str, PairedDifference]:
    """The difference of two methods in every metric, paired by test data point and seed.

    Two methods evaluated on the same test data find the same data points hard, which cancels in the difference: its
    error is smaller than the two errors together would suggest.

    Args:
        first: For each seed `Report.examples` of one method.
        second: For each seed those of the other, on the same test data.

    Returns:
        Metric -> difference, of the metrics that all have for the same data points.

    Example:
        >>> values = {"latent_accuracy/image": torch.tensor([1.0, 0.0, 1.0])}
        >>> paired_differences([values], [values])["latent_accuracy/image"].value
        0.0
    """
    every = (*first, *second)
    common = [name for name in every[0] if all(name in examples for examples in every)]
    differences = {}
    for name in common:
        pairs = [[examples[name] for examples in examples_of] for examples_of in (first, second)]
        counted = torch.stack([values.isfinite() for values in (*pairs[0], *pairs[1])]).all(0)
        if counted.any():
            differences[name] = paired_difference(*pairs)
    return differences


def _metrics(task: _Task) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All metrics, and the values of the test data points behind them."""
    directions, subsets = task.directions(), task.subsets(_MANY_SUBSETS)
    likelihoods: dict[str, Tensor] = {}
    metrics = {
        "coherence": _coherence(task),
        "latent_accuracy": {name: _probe(task, given) for name, given in subsets.items()},
        **_likelihoods(task, likelihoods),
        "guide_conditional_log_likelihood": {
            name: _bounds(task, *pair) for name, pair in directions.items() if len(pair[0]) == 1
        },
        "attributes": {
            name: _attributes(task, *pair) for name, pair in directions.items() if task.is_attributes(pair[1])
        },
        "latent_dimensions": {name: _latent_dimensions(task, given) for name, given in subsets.items()},
        "symmetric_kl": {"|".join(pair): _symmetric_kl(task, *pair) for pair in combinations(task.names, 2)},
    }
    return metrics, {**_examples(metrics), **likelihoods}


def _coherence(task: _Task) -> dict[str, Any]:
    model, guide, classifiers, test = task.model, task.guide, task.classifiers, task.splits.test
    output, joint, by_number = task.settings["coherence_of"], None, {}
    if len(classifiers) > 1 and not conditions_of(model):
        number = task.settings["coherence_samples"]
        varied = with_covariates_of(model, test.rows(torch.arange(min(len(test), number)))[0])
        joint = joint_coherence(varied, classifiers, number, output)
    # of two modalities it is the mean of the two directions
    if len(task.modeled) > 2 and classifiers and not conditions_of(model):
        by_number = coherence_by_number(model, guide, test.select(task.modeled), classifiers, output)

    def conditional(given: Sequence[str], target: str) -> Estimate | None:
        if target not in classifiers or not len(task.usable(test, given, target)):
            return None
        return conditional_coherence(model, guide, test, given, target, classifiers[target], output)

    return {
        "joint": joint,
        "conditional": {name: conditional(*pair) for name, pair in task.directions().items()},
        "by_number": {str(number): estimate for number, estimate in by_number.items()},
    }


def _probe(task: _Task, given: Sequence[str]) -> Estimate | None:
    train, test = task.splits.train, task.splits.test
    if train.labels is None or not task.can_infer(given) or not can_probe(train, test, given):
        return None
    return latent_accuracy(task.guide, train, test, given)


def _likelihoods(task: _Task, examples: dict[str, Tensor]) -> dict[str, dict[str, LogLikelihood | None]]:
    """Evidences and conditionals from the same samples, so that they are consistent.

    Adds the values of the test data points to `examples`.
    """
    data, model, guide = task.few, task.model, task.guide
    queries = {("log_likelihood", name): (subset, ()) for name, subset in task.subsets().items()}
    for name, (given, target) in task.likelihood_directions().items():
        queries["conditional_log_likelihood", name] = (target,), given
    present = {}
    for key, (target, given) in queries.items():
        proposes = not set(given) - set(conditions_of(model)) or supports(guide, given)
        exists = task.can_predict(target, given) and supports(guide, [*target, *given]) and proposes
        if exists and len(indices := indices_with(data, [*target, *given])):
            present[key] = indices
    arguments = [(target, given or None) for target, given in map(queries.get, present)]
    x, observed = data.rows(torch.arange(len(data)))
    number = task.settings["num_samples"]
    estimates = log_likelihoods(model, guide, x, arguments, number, observed) if arguments else []
    metrics: dict[str, dict[str, LogLikelihood | None]] = {kind: {} for kind, _ in queries}
    for kind, name in queries:
        metrics[kind][name] = None
    for ((kind, name), indices), estimate in zip(present.items(), estimates, strict=True):
        metrics[kind][name] = estimate[indices]
        values = torch.full((len(data),), torch.nan, dtype=torch.float64)
        examples[f"{kind}/{name}"] = values.index_copy(0, indices, estimate.values[indices].double().cpu())
    return metrics


def _bounds(task: _Task, given: Sequence[str], target: str) -> dict[str, Estimate] | None:
    data = task.few
    indices = task.usable(data, given, target, [target])
    if not len(indices):
        return None
    x, observed = data.rows(torch.arange(len(data)))
    number = task.settings["guide_samples"]
    bounds = guide_conditional_log_likelihood(task.model, task.guide, x, given, [target], number, observed)
    counted = torch.zeros(len(data), dtype=torch.bool)
    counted[indices] = True
    return {name: estimate_mean(values.where(counted, torch.nan)) for name, values in bounds._asdict().items()}


def _attributes(task: _Task, given: Sequence[str], target: str) -> AttributeScores | None:
    """How well the attributes of the test data are predicted from other modalities."""
    indices = task.usable(task.splits.test, given, target, [target])
    if not len(indices):
        return None
    x, _ = task.splits.test.select([*given, target]).rows(indices)
    predicted = cross_generate(task.model, task.guide, selected(x, given), [target], output="mean")[target][0]
    complete = ~is_missing(x[target]).flatten(1).any(1)
    if not complete.any():
        return None
    return attribute_scores(predicted.flatten(1).cpu()[complete], x[target].flatten(1)[complete] > 0.5)


def _latent_dimensions(task: _Task, given: Sequence[str]) -> LatentDimensions | None:
    needed = (*given, *(name for name in conditions_of(task.model) if name not in given))
    if not task.can_infer(given) or not (x := _complete(task, needed)):
        return None
    with suppress(TypeError):  # a flow has no marginals
        return latent_dimensions(task.model, task.guide, x, given)


def _symmetric_kl(task: _Task, first: str, second: str) -> list[float] | None:
    if not task.can_infer([first]) or not task.can_infer([second]) or not (x := _complete(task, [first, second])):
        return None
    with suppress(TypeError):  # a flow has no marginals
        return symmetric_kl(task.guide, x, [first], [second]).mean(0).tolist()


def _complete(task: _Task, names: Sequence[str]) -> dict[str, Tensor]:
    """The values of the data points that contain all of these modalities; empty if there are none."""
    indices = indices_with(task.few, names)
    return task.few.select(names).rows(indices)[0] if len(indices) else {}


def _data(splits: Splits) -> dict[str, Any]:
    parts = {name: getattr(splits, name) for name in splits.NAMES}
    return {
        "name": splits.test.name,
        "rows": {name: len(part) for name, part in parts.items()},
        "content_hash": {name: part.content_hash for name, part in parts.items()},
        "labels_hash": {name: part.labels_hash for name, part in parts.items()},
    }


def _arrow(given: Sequence[str], target: str) -> str:
    return f"{'+'.join(given)}->{target}"


def _examples(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The values of the test data points of every estimate that is an average over them."""
    examples = {}
    for name, value in metrics.items():
        if isinstance(value, AttributeScores):
            examples[f"{prefix}{name}/error_rate"] = value.error_rate.values
        elif isinstance(value, Mapping):
            examples.update(_examples(value, f"{prefix}{name}/"))
        elif isinstance(value, Estimate) and name != "joint":
            examples[prefix + name] = value.values
    return examples
