"""The report on a trained model: every metric that exists for it, on the test split."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from multipyro.inference.evaluation.likelihoods.estimators import log_likelihoods
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
    def few(self) -> MultimodalData:
        """The test data points whose likelihoods are estimated."""
        test = self.splits.test
        return test.take(torch.arange(self.settings["likelihood_data_points"]))

    def subsets(self) -> list[tuple[str, ...]]:
        """Every subset of up to three modalities; of more the single ones and the full set."""
        names = self.names
        return [subset for subset in subsets_of(names) if len(names) <= 3 or len(subset) in (1, len(names))]

    def many_subsets(self) -> list[tuple[str, ...]]:
        """Every subset, unless there are more than 31."""
        return subsets_of(self.names) if 2 ** len(self.names) - 1 <= _MANY_SUBSETS else self.subsets()

    def directions(self) -> list[tuple[tuple[str, ...], str]]:
        """Pairs of what is given and one modality that is not."""
        return [(given, target) for given in self.subsets() for target in self.names if target not in given]

    def single_directions(self) -> list[tuple[tuple[str, ...], str]]:
        """Pairs of one given modality and another."""
        return [(given, target) for given, target in self.directions() if len(given) == 1]

    def likelihood_directions(self) -> list[tuple[tuple[str, ...], str]]:
        """Pairs of what is given, one modality or several, and one modality that is not; of many, one or all others."""
        others = [(tuple(name for name in self.names if name != target), target) for target in self.names]
        return list(dict.fromkeys([*self.directions(), *(pair for pair in others if pair[0])]))

    def is_attributes(self, name: str) -> bool:
        """Whether a modality is a vector of attributes that data points have or do not have."""
        modality = self.splits.test.modalities[name]
        return modality.kind == "vector" and modality.likelihood == "bernoulli"

    def can_infer(self, given: Sequence[str]) -> bool:
        """Whether the model has these modalities and the guide infers latents from them."""
        modeled = getattr(self.model, "modalities", self.names)
        return set(given) <= set(modeled) and supports(self.guide, given)

    def usable(self, data: MultimodalData, given: Sequence[str], target: str, scored: Sequence[str] = ()) -> Tensor:
        """Indices of the data points that contain what is given and scored; none if nothing is predicted from it."""
        predicts = self.can_predict([target], given) and self.can_infer(given)
        return indices_with(data, [*given, *scored]) if predicts else torch.arange(0)

    def can_predict(self, target: Sequence[str], given: Sequence[str]) -> bool:
        """Whether the model generates and scores the target given these modalities."""
        conditions = set(conditions_of(self.model))
        modeled = getattr(self.model, "modalities", self.names)
        return {*target, *given} <= set(modeled) and conditions <= set(given) and not conditions & set(target)


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
        modeled = [name for name in splits.test.modalities if name in getattr(model, "modalities", (name,))]
        classifiers = train_classifiers(splits.train.select(modeled), splits.test.select(modeled))
        metrics, examples = _metrics(_Task(model, guide, splits, classifiers, settings))
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
    coherence = _coherence(task)
    probes = {"+".join(given): _probe(task, given) for given in task.many_subsets()}
    likelihoods, likelihood_examples = _likelihoods(task)
    bounds = {_arrow(*pair): _bounds(task, *pair) for pair in task.single_directions()}
    attributes = {_arrow(*pair): _attributes(task, *pair) for pair in task.directions() if task.is_attributes(pair[1])}
    dimensions = {"+".join(given): _latent_dimensions(task, given) for given in task.many_subsets()}
    pairs = [pair for pair in subsets_of(task.names) if len(pair) == 2]
    metrics = {
        "coherence": coherence,
        "latent_accuracy": probes,
        **likelihoods,
        "guide_conditional_log_likelihood": bounds,
        "attributes": attributes,
        "latent_dimensions": dimensions,
        "symmetric_kl": {"|".join(pair): _symmetric_kl(task, *pair) for pair in pairs},
    }
    return metrics, {**_examples(metrics), **likelihood_examples}


def _coherence(task: _Task) -> dict[str, Any]:
    model, classifiers, test = task.model, task.classifiers, task.splits.test
    conditional_model, output = bool(conditions_of(model)), task.settings["coherence_of"]
    joint, by_number = None, {}
    if len(classifiers) > 1 and not conditional_model:
        number = task.settings["coherence_samples"]
        varied = with_covariates_of(model, test.rows(torch.arange(min(len(test), number)))[0])
        joint = joint_coherence(varied, classifiers, number, output)
    modeled = [name for name in task.names if name in getattr(model, "modalities", task.names)]
    # of two modalities it is the mean of the two directions
    if len(modeled) > 2 and classifiers and not conditional_model:
        by_number = coherence_by_number(model, task.guide, test.select(modeled), classifiers, output)
    conditional = {_arrow(*pair): _conditional_coherence(task, *pair) for pair in task.directions()}
    return {
        "joint": joint,
        "conditional": conditional,
        "by_number": {str(number): estimate for number, estimate in by_number.items()},
    }


def _conditional_coherence(task: _Task, given: Sequence[str], target: str) -> Estimate | None:
    test = task.splits.test
    if target not in task.classifiers or not len(task.usable(test, given, target)):
        return None
    classifier = task.classifiers[target]
    return conditional_coherence(task.model, task.guide, test, given, target, classifier, task.settings["coherence_of"])


def _probe(task: _Task, given: Sequence[str]) -> Estimate | None:
    train, test = task.splits.train, task.splits.test
    if train.labels is None or not task.can_infer(given) or not can_probe(train, test, given):
        return None
    return latent_accuracy(task.guide, train, test, given)


def _likelihoods(task: _Task) -> tuple[dict[str, dict[str, LogLikelihood | None]], dict[str, Tensor]]:
    """Evidences and conditionals from the same samples, so that they are consistent, and the values of data points."""
    data = task.few
    evidences = {subset: (subset, ()) for subset in task.subsets()}
    conditionals = {pair: ((pair[1],), pair[0]) for pair in task.likelihood_directions()}
    queries = {key: query for key, query in {**evidences, **conditionals}.items() if _has_likelihood(task, *query)}
    x, observed = data.rows(torch.arange(len(data)))
    arguments = [(target, given or None) for target, given in queries.values()]
    estimates = (
        log_likelihoods(task.model, task.guide, x, arguments, task.settings["num_samples"], observed) if queries else []
    )
    counted, examples = {}, {}
    for (key, (target, given)), estimate in zip(queries.items(), estimates, strict=True):
        indices = indices_with(data, [*target, *given])
        counted[key] = estimate[indices]
        name = f"conditional_log_likelihood/{_arrow(*key)}" if given else f"log_likelihood/{'+'.join(key)}"
        examples[name] = torch.full((len(data),), torch.nan, dtype=torch.float64)
        examples[name][indices] = estimate.values[indices].double().cpu()
    likelihoods = {
        "log_likelihood": {"+".join(subset): counted.get(subset) for subset in evidences},
        "conditional_log_likelihood": {_arrow(*pair): counted.get(pair) for pair in conditionals},
    }
    return likelihoods, examples


def _has_likelihood(task: _Task, target: Sequence[str], given: Sequence[str]) -> bool:
    if not task.can_predict(target, given) or not supports(task.guide, [*target, *given]):
        return False
    proposes = not set(given) - set(conditions_of(task.model)) or supports(task.guide, given)
    return proposes and len(indices_with(task.few, [*target, *given])) > 0


def _bounds(task: _Task, given: Sequence[str], target: str) -> dict[str, Estimate] | None:
    data = task.few
    indices = task.usable(data, given, target, [target])
    if not len(indices):
        return None
    x, observed = data.rows(torch.arange(len(data)))
    bounds = guide_conditional_log_likelihood(
        task.model, task.guide, x, given, [target], task.settings["guide_samples"], observed
    )
    counted = torch.zeros(len(data), dtype=torch.bool)
    counted[indices] = True
    return {name: estimate_mean(values.where(counted, torch.nan)) for name, values in bounds._asdict().items()}


def _attributes(task: _Task, given: Sequence[str], target: str) -> AttributeScores | None:
    """How well the attributes of the test data are predicted from other modalities."""
    indices = task.usable(task.splits.test, given, target, [target])
    if not len(indices):
        return None
    x, _ = task.splits.test.select([*given, target]).rows(indices)
    evidence = selected(x, given)
    predicted = cross_generate(task.model, task.guide, evidence, [target], output="mean")[target][0]
    complete = ~is_missing(x[target]).flatten(1).any(1)
    if not complete.any():
        return None
    return attribute_scores(predicted.flatten(1).cpu()[complete], x[target].flatten(1)[complete] > 0.5)


def _latent_dimensions(task: _Task, given: Sequence[str]) -> LatentDimensions | None:
    needed = (*given, *(name for name in conditions_of(task.model) if name not in given))
    if not task.can_infer(given) or not (x := _complete(task, needed)):
        return None
    try:
        return latent_dimensions(task.model, task.guide, x, given)
    except TypeError:  # a flow has no marginals
        return None


def _symmetric_kl(task: _Task, first: str, second: str) -> list[float] | None:
    if not task.can_infer([first]) or not task.can_infer([second]) or not (x := _complete(task, [first, second])):
        return None
    try:
        return symmetric_kl(task.guide, x, [first], [second]).mean(0).tolist()
    except TypeError:  # a flow has no marginals
        return None


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
