"""Coherence: whether generated modalities show the class that they were generated from."""

from collections.abc import Mapping, Sequence

import torch

from multipyro.batch import subsets_of
from multipyro.data import MultimodalData
from multipyro.inference.evaluation._inputs import indices_with, supports
from multipyro.inference.evaluation.classifiers import Classifier
from multipyro.inference.evaluation.estimates import Estimate, estimate_share
from multipyro.inference.evaluation.prediction import cross_generate, joint_samples
from multipyro.inference.programs import Program

__all__ = ["check_labels", "coherence_by_number", "conditional_coherence", "joint_coherence"]

# data points or samples that are generated and classified at once
_CHUNK = 2_000


def joint_coherence(
    model: Program, classifiers: Mapping[str, Classifier], num_samples: int = 10_000, output: str = "mean"
) -> Estimate:
    """Share of samples from the prior in which all modalities show the same class.

    References:
        Variational Mixture-of-Experts Autoencoders (Shi et al., 2019), section 5.1, with 10,000 samples; Generalized
        Multimodal ELBO (Sutter et al., 2021), section 4.1. Both decode means, as the default does.

    Args:
        model: The generative program.
        classifiers: Modality name -> classifier; modalities without one are left out.
        num_samples: Number of samples from the prior.
        output: `"mean"` or `"sample"` of the likelihoods.

    Returns:
        The share, over samples.

    Raises:
        ValueError: If there are fewer than two classifiers, so that nothing can disagree.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> classifiers = {name: Classifier(splits.test.modalities[name]) for name in ("label", "word")}
        >>> joint_coherence(recipe.model, classifiers, num_samples=50).num
        50
    """
    if len(classifiers) < 2:
        raise ValueError(f"joint coherence compares at least two modalities, got classifiers for {list(classifiers)}")
    agree = []
    for chunk in torch.arange(num_samples).split(_CHUNK):
        values = joint_samples(model, len(chunk), list(classifiers), output)
        classes = torch.stack([classifiers[name](values[name]).cpu() for name in classifiers])
        agree.append((classes == classes[0]).all(0) & (classes[0] >= 0))
    return estimate_share(torch.cat(agree), None, [classifier.largest_error for classifier in classifiers.values()])


def conditional_coherence(
    model: Program,
    guide: Program,
    data: MultimodalData,
    given: Sequence[str],
    target: str,
    classifier: Classifier,
    output: str = "mean",
) -> Estimate:
    """Share of data points whose generated modality shows the class of the data point it was generated from.

    Data points in which a modality of `given` is missing do not count. Each of the others gets one latent from the
    guide's `conditional` distribution, and by default the decoder's mean.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), section 4.1.

    Args:
        model: The generative program.
        guide: The variational program.
        data: Labeled data.
        given: The modalities that are given.
        target: The modality that is generated.
        classifier: The classifier of `target`.
        output: `"mean"` or `"sample"` of the likelihood (sampled pixels, for instance).

    Returns:
        The share, over all data points of `data`.

    Raises:
        ValueError: If the data has no labels, or no data point contains all of `given`.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> classifier = Classifier(splits.test.modalities["label"])
        >>> conditional_coherence(recipe.model, recipe.guide, splits.test, ["image"], "label", classifier).num
        100
    """
    check_labels(data)
    indices = indices_with(data, given)
    if not len(indices):
        raise ValueError(f"no data point of {data.name!r} contains {list(given)}: there is nothing to generate from")
    correct, trials = torch.zeros(len(data)), torch.zeros(len(data))
    for chunk in indices.split(_CHUNK):
        x, _ = data.select(given).rows(chunk)
        values = cross_generate(model, guide, x, [target], 1, output=output)[target][0]
        correct[chunk] += classifier(values).cpu() == data.labels[chunk]
    trials[indices] = 1
    return estimate_share(correct, trials, [classifier.largest_error])


def coherence_by_number(
    model: Program, guide: Program, data: MultimodalData, classifiers: Mapping[str, Classifier], output: str = "mean"
) -> dict[int, Estimate]:
    """Conditional coherence by the number of given modalities: how much each further one adds.

    The mean over all subsets of that size which the guide supports, over all classified modalities outside the subset,
    and over the data points that contain the subset. All targets of a subset are decoded from one latent per data
    point.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), Figure 3. It does not say whether given modalities count as
        targets; here they do not.

    Args:
        model: The generative program.
        guide: The variational program.
        data: Labeled data.
        classifiers: Modality name -> classifier; modalities without one are given, and not generated.
        output: `"mean"` or `"sample"` of the likelihoods.

    Returns:
        Number of given modalities -> the share, with an error robust to dependence between the generated values of a
        data point. A number without a supported subset and a classified target is left out.

    Raises:
        ValueError: If the data has no labels.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> classifiers = {name: Classifier(splits.test.modalities[name]) for name in ("label", "word")}
        >>> sorted(coherence_by_number(recipe.model, recipe.guide, splits.test, classifiers))
        [1, 2]
    """
    check_labels(data)
    estimates = {}
    for number in range(1, len(data.modalities)):
        correct, trials = torch.zeros(len(data)), torch.zeros(len(data))
        errors: list[float] = []
        for given in subsets_of(tuple(data.modalities)):
            target = [name for name in classifiers if name not in given]
            if len(given) != number or not target or not supports(guide, given):
                continue
            errors += [classifiers[name].largest_error for name in target]
            for chunk in indices_with(data, given).split(_CHUNK):
                x, _ = data.select(given).rows(chunk)
                values = cross_generate(model, guide, x, target, 1, output=output)
                for name in target:
                    correct[chunk] += classifiers[name](values[name][0]).cpu() == data.labels[chunk]
                trials[chunk] += len(target)
        if trials.any():
            estimates[number] = estimate_share(correct, trials, [sum(errors) / len(errors)])
    return estimates


def check_labels(data: MultimodalData) -> None:
    """Raises unless the data has labels."""
    if data.labels is None:
        raise ValueError(f"data set {data.name!r} has no labels, so no class can be right or wrong")
