"""Attributes and words: average precision, errors, and the share of words that a generated image shows."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multipyro.data import Modality
from multipyro.inference.evaluation.estimates import Estimate, estimate_share, plain

__all__ = ["AttributeScores", "attribute_scores", "average_precision", "word_correctness", "words_present"]

_REPLICATES = 200


@dataclass(frozen=True, eq=False)
class AttributeScores:
    """How well probabilities predict which attributes data points have.

    Attributes:
        average_precisions: Average precision of each attribute, `(attributes,)`; NaN for one that no data point has.
        mean_average_precision: Their mean, without those that are NaN.
        mean_average_precision_se: Its bootstrap standard error over data points.
        errors: Number of data points for which each attribute is predicted wrongly, `(attributes,)`.
        error_rate: Share of wrong predictions, with an error robust to dependence between those of a data point.

    Example:
        >>> scores = attribute_scores(torch.tensor([[0.9], [0.2], [0.6]]), torch.tensor([[True], [False], [False]]))
        >>> scores.average_precisions.tolist(), scores.errors.tolist()
        ([1.0], [1])
    """

    average_precisions: Tensor
    mean_average_precision: float
    mean_average_precision_se: float
    errors: Tensor
    error_rate: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `average_precision` (`value`, `se`, `attributes`), `errors`, `error_rate`."""
        precision = {
            "value": self.mean_average_precision,
            "se": self.mean_average_precision_se,
            "attributes": self.average_precisions,
        }
        return plain({"average_precision": precision, "errors": self.errors, "error_rate": self.error_rate})


def average_precision(scores: Tensor, positives: Tensor) -> Tensor:
    r"""Average precision of each column: the mean precision at the thresholds where recall grows.

    .. math:: \sum_n (R_n - R_{n-1}) P_n

    over the distinct scores in falling order, `P_n` and `R_n` being precision and recall among the data points that
    score at least as high. Equal scores enter together, which matters for hard predictions.

    Args:
        scores: `(num, attributes)`.
        positives: Which data points have which attributes, bool `(num, attributes)`.

    Returns:
        `(attributes,)`, float64; NaN where no data point has the attribute.

    Example:
        >>> average_precision(torch.tensor([[0.9], [0.8], [0.1]]), torch.tensor([[True], [False], [True]]))
        tensor([0.8333], dtype=torch.float64)
    """
    ranked = _Ranking(scores, positives)
    return ranked.average_precision(torch.ones(len(scores), dtype=torch.float64))


def attribute_scores(probabilities: Tensor, positives: Tensor, threshold: float = 0.5) -> AttributeScores:
    """Average precision and errors of predicted attributes.

    The probabilities of a generated attribute vector are the mean of its likelihood; those of a generated image are
    predicted by an `AttributeClassifier`.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), Table 5: average precision over 40 attributes of CelebA; its
        code averages over batches of 256 and counts an attribute that is absent from a batch as 0; here, all data
        points are taken together. Bridged Variational Autoencoders (Yadav et al.), Table 5: the number of errors for
        2,000 test images.

    Args:
        probabilities: `(num, attributes)`.
        positives: Which data points have which attributes, bool `(num, attributes)`.
        threshold: Probability above which an attribute is predicted.

    Returns:
        The scores over data points.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> probabilities, positives = torch.rand(50, 3), torch.rand(50, 3) < 0.5
        >>> attribute_scores(probabilities, positives).error_rate.num
        50
    """
    if probabilities.shape != positives.shape or probabilities.dim() != 2:
        raise ValueError(
            "probabilities and positives must both have shape (num, attributes), got "
            f"{tuple(probabilities.shape)} and {tuple(positives.shape)}"
        )
    ranking = _Ranking(probabilities, positives)
    number = len(probabilities)
    precisions = ranking.average_precision(torch.ones(number, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    replicates = []
    for _ in range(_REPLICATES):
        drawn = torch.randint(number, (number,), generator=generator)
        weights = torch.bincount(drawn, minlength=number).double()
        replicates.append(ranking.average_precision(weights).nanmean())
    wrong = (probabilities > threshold) != positives
    trials = torch.full((number,), wrong.shape[1])
    return AttributeScores(
        precisions,
        precisions.nanmean().item(),
        torch.stack(replicates).std().item(),
        wrong.sum(0),
        estimate_share(wrong.sum(1), trials),
    )


def word_correctness(probabilities: Tensor, words: Tensor, absent: bool = False) -> Estimate:
    """The share of a text's words that a classifier predicts from the image, at a probability above one half.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1. The released code also counts the words that neither the text has nor the classifier
        finds: `absent`.

    Args:
        probabilities: Predicted probabilities for the images, `(num, words)`.
        words: Which words the texts have, bool `(num, words)`, as `words_present` gives them.
        absent: Whether every word counts, present or absent.

    Returns:
        The mean over data points of their shares; a text without words does not count.

    Example:
        >>> word_correctness(torch.tensor([[0.9, 0.4, 0.1]]), torch.tensor([[True, True, False]])).value
        0.5
    """
    counted = torch.ones_like(words) if absent else words
    correct = ((probabilities > 0.5) == words) & counted
    numbers = counted.sum(1)
    shares = torch.where(numbers > 0, correct.sum(1) / numbers.clamp(min=1), 0.0)
    return estimate_share(shares, (numbers > 0).double())


def words_present(modality: Modality, texts: Tensor) -> Tensor:
    """Which words of a text modality's vocabulary occur in each text, in any order.

    Args:
        modality: A text modality with a vocabulary.
        texts: Class ids `(num, positions)`.

    Returns:
        Bool `(num, vocabulary)`; the padding word counts as absent, and so does a missing token, -1.

    Raises:
        ValueError: If the modality has no vocabulary.

    Example:
        >>> text = Modality("text", (3,), "text", "categorical", 3, vocabulary=("-", "red", "cube"))
        >>> words_present(text, torch.tensor([[2, 0, 0], [1, 2, 0]])).tolist()
        [[False, False, True], [False, True, True]]
    """
    if modality.vocabulary is None:
        raise ValueError(f"modality {modality.name!r} has no vocabulary of words")
    size = len(modality.vocabulary)
    marked = torch.zeros(len(texts), size + 1, dtype=torch.bool).scatter(1, texts.where(texts >= 0, size), True)
    present = marked[:, :size]
    if modality.pad is not None:
        present[:, modality.pad] = False
    return present


class _Ranking:
    """Data points in the order of falling scores, for each attribute, so that weights can change without sorting."""

    def __init__(self, scores: Tensor, positives: Tensor) -> None:
        self.order = scores.argsort(0, descending=True)
        ranked = scores.gather(0, self.order)
        self.positives = positives.gather(0, self.order).double()
        # data points of equal score share the precision at the end of their group
        last = torch.ones_like(ranked, dtype=torch.bool)
        last[:-1] = ranked[1:] != ranked[:-1]
        places = torch.arange(len(ranked))[:, None].expand_as(ranked)
        self.ends = torch.where(last, places, len(ranked)).flip(0).cummin(0).values.flip(0)

    def average_precision(self, weights: Tensor) -> Tensor:
        """As the function of this name, with a weight for each data point, `(num,)`."""
        ranked = weights[self.order]
        hits = ranked * self.positives
        precision = hits.cumsum(0).gather(0, self.ends) / ranked.cumsum(0).gather(0, self.ends).clamp(min=1e-12)
        return (hits * precision).sum(0) / hits.sum(0)
