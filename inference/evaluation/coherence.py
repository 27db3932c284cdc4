"""Coherence: whether what a model generates shows the class that it was generated from."""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from multipyro.data import MultimodalData
from multipyro.inference.evaluation.classifiers import Classifier
from multipyro.inference.evaluation.prediction import answers, cross_generate, joint_samples
from multipyro.inference.programs import Program

__all__ = ["coherence_by_number", "conditional_coherence", "joint_coherence"]

# rows or samples that are generated and judged at once
_AT_ONCE = 2_000


def joint_coherence(
    model: Program, classifiers: Mapping[str, Classifier], num_samples: int = 10_000, output: str = "mean"
) -> dict[str, float]:
    """Share of samples of the prior in which all modalities show the same class.

    References:
        Variational Mixture-of-Experts Autoencoders (Shi et al., 2019), section 5.1, with 10,000 samples; Generalized
        Multimodal ELBO (Sutter et al., 2021), section 4.1. Both decode means, as the default does.

    Args:
        model: The generative program.
        classifiers: Modality name -> judge; the modalities without one are left out.
        num_samples: Number of samples of the prior.
        output: `"mean"` or `"sample"` of the likelihoods.

    Returns:
        `value`, and its binomial standard error `se`.

    Raises:
        ValueError: If there are fewer than two classifiers, so that nothing can disagree.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> judges = {name: Classifier(splits.test.modalities[name]) for name in ("label", "word")}
        >>> 0 <= joint_coherence(recipe.model, judges, num_samples=50)["value"] <= 1
        True
    """
    if len(classifiers) < 2:
        raise ValueError(f"joint coherence compares at least two modalities, got classifiers of {list(classifiers)}")
    agree = []
    for number in [_AT_ONCE] * (num_samples // _AT_ONCE) + [num_samples % _AT_ONCE] * (num_samples % _AT_ONCE > 0):
        values = joint_samples(model, number, list(classifiers), output)
        classes = torch.stack([classifiers[name](values[name]).cpu() for name in classifiers])
        agree.append((classes == classes[0]).all(0) & (classes[0] >= 0))
    return share_of(torch.cat(agree))


def conditional_coherence(
    model: Program,
    guide: Program,
    data: MultimodalData,
    given: Sequence[str],
    target: str,
    classifier: Classifier,
    output: str = "mean",
) -> dict[str, float]:
    """Share of rows whose generated modality shows the class of the row it was generated from.

    The rows are those that hold all of `given`. One latent a row from the guide's `conditional` distribution, and the
    decoder's mean.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), section 4.1.

    Args:
        model: The generative program.
        guide: The variational program.
        data: Rows with labels.
        given: The modalities that are given.
        target: The modality that is generated.
        classifier: Its judge.
        output: `"mean"`, or `"sample"` to judge a sample of the likelihood (sampled pixels).

    Returns:
        `value`, and its binomial standard error `se`.

    Raises:
        ValueError: If the data has no labels, or no row holds all of `given`.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> judge = Classifier(splits.test.modalities["label"])
        >>> found = conditional_coherence(recipe.model, recipe.guide, splits.test, ["image"], "label", judge)
        >>> 0 <= found["value"] <= 1
        True
    """
    check_labels(data)
    held, right = held_rows(data.observed, given, data.x), []
    if not len(held):
        raise ValueError(f"no row of {data.name!r} holds {list(given)}: there is nothing to generate from")
    for rows in held.split(_AT_ONCE):
        x, _ = data.select(given).rows(rows)
        values = cross_generate(model, guide, x, [target], 1, output=output)[target][0]
        right.append(classifier(values).cpu() == data.labels[rows])
    return share_of(torch.cat(right))


def coherence_by_number(
    model: Program, guide: Program, data: MultimodalData, classifiers: Mapping[str, Classifier], output: str = "mean"
) -> dict[int, dict[str, float]]:
    """Conditional coherence by the number of given modalities: what more of them add.

    The mean over all subsets of that number which the guide answers, over all judged modalities outside the subset,
    and over the rows that hold the subset. All targets of a subset are decoded from one latent a row.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), Figure 3. It does not say whether given modalities count as
        targets; here they do not.

    Args:
        model: The generative program.
        guide: The variational program.
        data: Rows with labels.
        classifiers: Modality name -> judge; the modalities without one are given, and not generated.
        output: `"mean"` or `"sample"` of the likelihoods.

    Returns:
        Number of given modalities -> `value`, and its standard error `se` over rows. A number without a subset that can
        be judged is left out.

    Raises:
        ValueError: If the data has no labels.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> judges = {name: Classifier(splits.test.modalities[name]) for name in ("label", "word")}
        >>> sorted(coherence_by_number(recipe.model, recipe.guide, splits.test, judges))
        [1, 2]
    """
    check_labels(data)
    names, found = tuple(data.modalities), {}
    for number in range(1, len(names)):
        right, count = torch.zeros(len(data)), torch.zeros(len(data))
        for given in itertools.combinations(names, number):
            targets = [name for name in classifiers if name not in given]
            if not targets or not answers(guide, given):
                continue
            for rows in held_rows(data.observed, given, data.x).split(_AT_ONCE):
                x, _ = data.select(given).rows(rows)
                values = cross_generate(model, guide, x, targets, 1, output=output)
                for target in targets:
                    right[rows] += classifiers[target](values[target][0]).cpu() == data.labels[rows]
                count[rows] += len(targets)
        if count.any():
            value = (right.sum() / count.sum()).item()
            # a row's judgments hang together: its sum is one draw
            spread = (right - value * count).square().sum().sqrt()
            found[number] = {"value": value, "se": (spread / count.sum()).item()}
    return found


def check_labels(data: MultimodalData) -> None:
    """Raises unless the data has labels."""
    if data.labels is None:
        raise ValueError(f"data set {data.name!r} has no labels to judge classes by")


def held_rows(observed: Mapping[str, Tensor] | None, names: Sequence[str], x: Mapping[str, Tensor]) -> Tensor:
    """Indices of the rows that hold every one of `names`."""
    held = torch.ones(len(next(iter(x.values()))), dtype=torch.bool)
    for name in names:
        held &= (observed or {}).get(name, held)
    return held.nonzero()[:, 0]


def share_of(right: Tensor) -> dict[str, float]:
    """The share of what is true, and its binomial standard error."""
    value = right.double().mean().item()
    return {"value": value, "se": math.sqrt(value * (1 - value) / right.numel())}
