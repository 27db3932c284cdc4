"""Linear probes: how well a linear classifier predicts classes and attributes from the latents."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from multipyro._optional import optional_imports
from multipyro.data import MultimodalData
from multipyro.inference.evaluation._inputs import indices_with
from multipyro.inference.evaluation.attributes import average_precision
from multipyro.inference.evaluation.coherence import check_labels
from multipyro.inference.evaluation.estimates import Estimate, estimate_share
from multipyro.inference.evaluation.prediction import Embedding, embed
from multipyro.inference.programs import Program

__all__ = ["can_probe", "latent_accuracy", "latent_average_precision"]

#: training data points of a probe
NUM_TRAIN = 5_000


def latent_accuracy(
    guide: Program,
    train: MultimodalData,
    test: MultimodalData,
    given: Sequence[str],
    num_train: int = NUM_TRAIN,
    output: Embedding = "mean",
) -> Estimate:
    """Test accuracy of a linear probe on the latents that the guide infers from some modalities.

    A logistic regression on standardized latents, fitted to the first training data points and tested on all test data
    points, of those that contain all of `given`.

    References:
        Variational Mixture-of-Experts Autoencoders (Shi et al., 2019), Table 1: samples of the posterior as latents.
        Generalized Multimodal ELBO (Sutter et al., 2021), Table 2: means of the posterior (of MMVAE, of one expert
        drawn for each data point: `output="component"`) for 500 training data points.

    Args:
        guide: The guide.
        train: Labeled data that the probe is fitted to.
        test: Labeled data that it is tested on.
        given: The modalities that are conditioned on.
        num_train: Number of training data points.
        output: As in `embed`.

    Returns:
        The accuracy, over all data points of `test`.

    Raises:
        ValueError: If the data has no labels, no test data point contains `given`, or the training data points that do
            are of one class.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> latent_accuracy(recipe.guide, splits.train, splits.test, ["image"]).num
        100
    """
    check_labels(train)
    check_labels(test)
    if not can_probe(train, test, given, num_train):
        raise ValueError(
            f"a probe needs test data points and two classes of training data points that contain {list(given)}"
        )
    indices = indices_with(train, given)[:num_train]
    probe = _fitted(_codes(guide, train, given, indices, output), train.labels[indices])
    indices = indices_with(test, given)
    predicted = torch.as_tensor(probe.predict(_codes(guide, test, given, indices, output).numpy()))
    correct, trials = torch.zeros(len(test)), torch.zeros(len(test))
    correct[indices], trials[indices] = (predicted == test.labels[indices]).float(), 1.0
    return estimate_share(correct, trials)


def latent_average_precision(
    guide: Program,
    train: MultimodalData,
    test: MultimodalData,
    given: Sequence[str],
    positives: tuple[Tensor, Tensor],
    num_train: int = NUM_TRAIN,
    hard: bool = False,
) -> Tensor:
    """Average precision of a linear probe for each of several attributes.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), Table 5. Its code ranks by the predicted attribute, 0 or 1,
        instead of its probability, which gives low values: `hard=True`.

    Args:
        guide: The guide.
        train: Data that the probes are fitted to.
        test: Data that they are tested on.
        given: The modalities that are conditioned on.
        positives: Which data points of `train`, and of `test`, have which attributes, each bool `(num, attributes)`.
        num_train: Number of training data points.
        hard: Whether to rank by predictions instead of probabilities.

    Returns:
        `(attributes,)`; NaN for an attribute that all training data points have or none has, or no test data point.

    Example:
        >>> from multipyro.data import load_dataset
        >>> from multipyro.inference import build, networks_for
        >>> splits = load_dataset("digits").head(100)
        >>> recipe = build("mvae", networks_for(splits.train.modalities, (8,)), latent_dim=2)
        >>> odd = tuple((part.labels % 2 > 0)[:, None] for part in (splits.train, splits.test))
        >>> latent_average_precision(recipe.guide, splits.train, splits.test, ["image"], odd).shape
        torch.Size([1])
    """
    fit_to, test_on = indices_with(train, given)[:num_train], indices_with(test, given)
    codes = _codes(guide, train, given, fit_to, "mean")
    queries = _codes(guide, test, given, test_on, "mean").numpy()
    scores = torch.full((len(test_on), positives[0].shape[1]), torch.nan, dtype=torch.float64)
    for number, wanted in enumerate(positives[0][fit_to].unbind(1)):
        if len(wanted.unique()) == 2:
            probe = _fitted(codes, wanted.long())
            column = probe.predict(queries) if hard else probe.predict_proba(queries)[:, 1]
            scores[:, number] = torch.as_tensor(column, dtype=torch.float64)
    precisions = average_precision(scores, positives[1][test_on])
    return torch.where(scores.isnan().any(0), torch.nan, precisions)


def can_probe(train: MultimodalData, test: MultimodalData, given: Sequence[str], num_train: int = NUM_TRAIN) -> bool:
    """Whether some test data points, and training data points of two classes, contain all of `given`."""
    labels = train.labels[indices_with(train, given)[:num_train]]
    return len(indices_with(test, given)) > 0 and len(labels.unique()) > 1


def _codes(guide: Program, data: MultimodalData, given: Sequence[str], indices: Tensor, output: Embedding) -> Tensor:
    x, _ = data.select(given).rows(indices)
    return embed(guide, x, given, output=output).cpu()


def _fitted(codes: Tensor, labels: Tensor) -> Any:
    with optional_imports("probes of latents"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)).fit(codes.numpy(), labels.numpy())
