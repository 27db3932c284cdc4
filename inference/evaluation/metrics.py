"""Metrics of a trained model: coherence, latent accuracy, likelihoods, and the report that holds them all."""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from multipyro.data import MultimodalData, Splits
from multipyro.inference._program_modules import modules_of
from multipyro.inference.evaluation.classifiers import train_classifiers
from multipyro.inference.evaluation.coherence import (
    check_labels,
    coherence_by_number,
    conditional_coherence,
    held_rows,
    joint_coherence,
    share_of,
)
from multipyro.inference.evaluation.likelihoods import (
    guide_conditional_log_likelihood,
    log_likelihoods,
)
from multipyro.inference.evaluation.prediction import answers, conditions_of, embed
from multipyro.inference.programs import Program
from multipyro.inference.training.runs import versions

__all__ = ["evaluate", "latent_accuracy"]

_PROBE_ROWS = 5_000


def latent_accuracy(
    guide: Program, train: MultimodalData, test: MultimodalData, given: Sequence[str], num_rows: int = _PROBE_ROWS
) -> dict[str, float]:
    """Accuracy of a linear probe on the latents that the guide gives a subset.

    A logistic regression on standardized means of the guide's `conditional` distribution, fitted on the first training
    rows and judged on all test rows, of those that hold the whole subset. (MMVAE's evaluation takes samples in place
    of means, MoPoE's 500 rows.)

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), Table 2.

    Args:
        guide: The guide.
        train: Rows the probe learns from.
        test: Rows it is judged on.
        given: The modalities that are conditioned on.
        num_rows: Number of training rows.

    Returns:
        `value`, and its binomial standard error `se`.

    Raises:
        ValueError: If the data has no labels, no test row holds the subset, or the training rows that hold it are not
            of two classes at least.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> sorted(latent_accuracy(recipe.guide, splits.train, splits.test, ["image"]))
        ['se', 'value']
    """
    check_labels(train)
    check_labels(test)
    if not _can_probe(train, test, given, num_rows):
        raise ValueError(f"a probe needs test rows and two classes of training rows that hold {list(given)}")
    codes = []
    for data, most in ((train, num_rows), (test, len(test))):
        rows = held_rows(data.observed, given, data.x)[:most]
        x, _ = data.select(given).rows(rows)
        codes.append((embed(guide, x, given).cpu().numpy(), data.labels[rows].numpy()))
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)).fit(*codes[0])
    return share_of(torch.as_tensor(probe.predict(codes[1][0]) == codes[1][1]))


def evaluate(
    model: Program,
    guide: Program,
    splits: Splits,
    *,
    num_samples: int = 100,
    guide_samples: int = 10,
    likelihood_rows: int = 1_000,
    coherence_samples: int = 10_000,
    output: str = "mean",
    seed: int = 0,
) -> dict[str, Any]:
    """All metrics on the test split, as `metrics.json` holds them.

    Keys: `coherence.joint`, `coherence.conditional["image->label"]`, `coherence.by_number["2"]` (that many
    given, see `coherence_by_number`), `latent_accuracy[subset]`, `log_likelihood[subset]`,
    `conditional_log_likelihood["label->image"]` (of the model),
    `guide_conditional_log_likelihood["label->image"].{mean,logmeanexp}` (of the guide), `classifier_accuracy`,
    `parameters`, `data`, `settings`, `versions`, `seed`, `seconds`. Every estimate is a dict of `value` and its
    standard error `se` (likelihoods also `mc_se`, the Monte Carlo part alone); what does not exist for a method is
    None: a modality without classes, a subset that the guide does not answer or that no row holds, a modality of the
    data that the model does not have, and whatever is not given its conditions for a conditional model. With more than
    three modalities, only single ones and the full set are looked at, except by `by_number`, which is empty below
    three.

    Args:
        model: The generative program.
        guide: The variational program.
        splits: The data set; classifiers and probes learn from its training rows.
        num_samples: Importance samples a row of the likelihoods.
        guide_samples: Latents a row of the guide's conditional bounds.
        likelihood_rows: Number of test rows whose likelihoods are estimated, from the first.
        coherence_samples: Number of samples of the prior for the joint coherence.
        output: `"mean"` or `"sample"`: what coherence judges.
        seed: Seed of every draw; torch's global generator is as before afterwards.

    Returns:
        The report, of plain values alone.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> report = evaluate(recipe.model, recipe.guide, splits, num_samples=2, coherence_samples=10)
        >>> sorted(report["log_likelihood"])[:3]
        ['image', 'image+label', 'image+label+word']
    """
    started = time.perf_counter()
    names = tuple(splits.test.modalities)
    modeled = [name for name in names if name in getattr(model, "modalities", names)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifiers = train_classifiers(splits.train.select(modeled), splits.test.select(modeled))
        x, observed = splits.test.rows(torch.arange(min(likelihood_rows, len(splits.test))))
        subsets = _subsets(names)
        pairs = [(given, target) for given in subsets for target in names if target not in given]

        conditions = set(conditions_of(model))
        singles = [(given, target) for given, target in pairs if len(given) == 1]

        def exists(targets: Sequence[str], given: Sequence[str] = ()) -> bool:
            directed = conditions <= set(given) and not conditions & set(targets)
            return {*targets, *given} <= set(modeled) and (directed or not targets)

        def has_likelihood(subset: Sequence[str], given: Sequence[str]) -> bool:
            both, below = [*subset, *given], set(given) - conditions
            supported = answers(guide, both) and (not below or answers(guide, given))
            return exists(subset, given) and supported and len(held_rows(observed, both, x)) > 0

        # all with the same samples, so that they are consistent: log p(a, b) <= log p(b) for a discrete a
        queries = [(subset, ()) for subset in subsets] + [((target,), given) for given, target in singles]
        queries = [query for query in queries if has_likelihood(*query)]
        asked = [(subset, given or None) for subset, given in queries]
        found = log_likelihoods(model, guide, x, asked, num_samples, observed) if queries else []
        estimates = dict(zip(queries, found, strict=True))

        def likelihood(subset: Sequence[str], given: Sequence[str] = ()) -> dict[str, Any] | None:
            if (subset, given) not in estimates:
                return None
            return estimates[subset, given][held_rows(observed, [*subset, *given], x)].to_dict()

        def guide_bounds(given: Sequence[str], target: str) -> dict[str, dict[str, float]] | None:
            rows = held_rows(observed, [*given, target], x)
            if not exists([target], given) or not answers(guide, given) or not len(rows):
                return None
            bounds = guide_conditional_log_likelihood(model, guide, x, given, [target], guide_samples, observed)
            return {name: _mean(value[rows]) for name, value in bounds._asdict().items()}

        def coherence(given: Sequence[str], target: str) -> dict[str, float] | None:
            if target not in classifiers or not exists([target], given) or not answers(guide, given):
                return None
            if not len(held_rows(splits.test.observed, given, splits.test.x)):
                return None
            return conditional_coherence(model, guide, splits.test, given, target, classifiers[target], output)

        def probe(subset: Sequence[str]) -> dict[str, float] | None:
            if splits.train.labels is None or not exists((), subset) or not answers(guide, subset):
                return None
            if not _can_probe(splits.train, splits.test, subset, _PROBE_ROWS):
                return None
            return latent_accuracy(guide, splits.train, splits.test, subset)

        has_joint = len(classifiers) > 1 and not conditions
        joint = joint_coherence(model, classifiers, coherence_samples, output) if has_joint else None
        rows = splits.test.select(modeled)
        # of two modalities it is the mean of the two directions
        counts = len(modeled) > 2 and len(classifiers) > 0 and not conditions
        by_number = coherence_by_number(model, guide, rows, classifiers, output) if counts else {}
        report = {
            "coherence": {
                "joint": joint,
                "conditional": {_arrow(g, t): coherence(g, t) for g, t in pairs},
                "by_number": {str(number): value for number, value in by_number.items()},
            },
            "latent_accuracy": {"+".join(subset): probe(subset) for subset in subsets},
            "log_likelihood": {"+".join(subset): likelihood(subset) for subset in subsets},
            "conditional_log_likelihood": {_arrow(g, t): likelihood((t,), g) for g, t in singles},
            "guide_conditional_log_likelihood": {_arrow(g, t): guide_bounds(g, t) for g, t in singles},
        }
    programs = {id(root): root for program in (model, guide) for root in modules_of(program)}
    parameters = {id(p): p.numel() for root in programs.values() for p in root.parameters()}
    return _plain(
        {
            **report,
            "classifier_accuracy": {name: classifier.accuracy for name, classifier in classifiers.items()},
            "parameters": sum(parameters.values()),
            "data": {
                "name": splits.test.name,
                "rows": {name: len(getattr(splits, name)) for name in splits.NAMES},
                "content_hash": {name: getattr(splits, name).content_hash for name in splits.NAMES},
                "labels_hash": {name: getattr(splits, name).labels_hash for name in splits.NAMES},
            },
            "settings": {
                "num_samples": num_samples,
                "guide_samples": guide_samples,
                "likelihood_rows": len(next(iter(x.values()))),
                "coherence_samples": coherence_samples,
                "coherence_of": output,
            },
            "versions": versions(),
            "seed": seed,
            "seconds": time.perf_counter() - started,
        }
    )


def _can_probe(train: MultimodalData, test: MultimodalData, subset: Sequence[str], num_rows: int) -> bool:
    """Whether some test rows, and training rows of two classes, hold a subset."""
    rows = held_rows(train.observed, subset, train.x)[:num_rows]
    return len(held_rows(test.observed, subset, test.x)) > 0 and len(train.labels[rows].unique()) > 1


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    sizes = range(1, len(names) + 1) if len(names) <= 3 else (1, len(names))
    return [subset for size in sizes for subset in itertools.combinations(names, size)]


def _arrow(given: Sequence[str], target: str) -> str:
    return f"{'+'.join(given)}->{target}"


def _mean(rows: Tensor) -> dict[str, float]:
    return {"value": rows.mean().item(), "se": rows.std().item() / math.sqrt(len(rows)) if len(rows) > 1 else math.nan}


def _plain(value: Any) -> Any:
    """The same with None for numbers that strict JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
