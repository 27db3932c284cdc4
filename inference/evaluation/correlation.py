"""Canonical correlation: whether generated images and sentences belong together, where there is no classifier."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multipyro.inference.evaluation.estimates import Estimate, estimate_mean

__all__ = ["CanonicalCorrelation", "sentence_vectors", "without_first_component"]


class CanonicalCorrelation:
    r"""Directions along which two views of the same data points correlate most, found on training data.

    .. math:: \mathrm{corr}(x_1, x_2) = \frac{u^\top v}{\|u\| \|v\|}, \qquad
        u = W_1^\top (x_1 - \bar x_1), \quad v = W_2^\top (x_2 - \bar x_2)

    where the columns of the `W` are the `k` leading canonical directions, each of unit variance on the training data,
    and the means are those of the training data.

    References:
        Variational Mixture-of-Experts Autoencoders (Shi et al., 2019), Table 4: features of a ResNet-101 and vectors of
        sentences, 40 directions. Values depend on the vectors, so compare them with those of real pairs only.

    Args:
        first: Vectors of one view, `(num, size)`.
        second: Vectors of the other view of the same data points, `(num, other_size)`.
        num_directions: Number `k` of directions; at most the smaller size.
        ridge: Added to the variances, so that the covariance of linearly dependent entries is invertible.

    Raises:
        ValueError: If the numbers of data points differ, or there are more directions than entries.

    Example:
        >>> x = torch.randn(200, 3)
        >>> cca = CanonicalCorrelation(x, x @ torch.randn(3, 4), num_directions=2)
        >>> [round(value, 4) for value in cca.correlations.tolist()]
        [1.0, 1.0]
    """

    def __init__(self, first: Tensor, second: Tensor, num_directions: int = 40, ridge: float = 1e-12) -> None:
        if len(first) != len(second):
            raise ValueError(f"two views need the same data points, got {len(first)} and {len(second)}")
        if not 1 <= num_directions <= min(first.shape[1], second.shape[1]):
            raise ValueError(
                f"num_directions must be from 1 to the smaller size {min(first.shape[1], second.shape[1])}, got "
                f"{num_directions}"
            )
        first, second = first.double(), second.double()
        self.means = first.mean(0), second.mean(0)
        left, right = first - self.means[0], second - self.means[1]
        whiten = [_inverse_root(view.T @ view / len(view), ridge) for view in (left, right)]
        u, strengths, vh = torch.linalg.svd(whiten[0] @ (left.T @ right / len(left)) @ whiten[1])
        self.directions = whiten[0] @ u[:, :num_directions], whiten[1] @ vh[:num_directions].T
        #: correlation along each direction on the training data, `(num_directions,)`
        self.correlations = strengths[:num_directions]

    def project(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Both views along the directions, `(num, num_directions)` each."""
        left, right = (
            (view.double() - mean) @ matrix
            for view, mean, matrix in zip((first, second), self.means, self.directions, strict=True)
        )
        return left, right

    def cosines(self, first: Tensor, second: Tensor) -> Tensor:
        """The cosine between the two views of each data point along the directions, `(num,)`."""
        return torch.nn.functional.cosine_similarity(*self.project(first, second), dim=-1)

    def correlation(self, first: Tensor, second: Tensor) -> Estimate:
        """The mean cosine over data points, with its error."""
        return estimate_mean(self.cosines(first, second))


def sentence_vectors(
    tokens: Tensor, word_vectors: Tensor, frequencies: Tensor, end: int | None = None, smoothing: float = 1e-3
) -> Tensor:
    r"""Vectors of sentences from those of their words, frequent words counting less.

    .. math:: \frac1n \sum_{i=1}^{n} \frac{a}{a + f(w_i)}\, v(w_i)

    over the `n` tokens up to and including the end of the sentence. Subtract the first principal component of the
    training sentences by `without_first_component`.

    References:
        A Simple but Tough-to-Beat Baseline for Sentence Embeddings (Arora et al., 2017), as in the released code of
        MMVAE; its paper averages the word vectors, as `frequencies` of 0 do.

    Args:
        tokens: Class ids `(num, positions)`.
        word_vectors: `(vocabulary, size)`.
        frequencies: Share of each word among all words of the training sentences, `(vocabulary,)`.
        end: Class id that ends a sentence; None where sentences fill all positions.
        smoothing: The constant `a`.

    Returns:
        `(num, size)`.

    Example:
        >>> vectors = torch.tensor([[1.0], [3.0], [0.0]])
        >>> sentence_vectors(torch.tensor([[0, 1, 2, 2]]), vectors, torch.zeros(3), end=2)
        tensor([[1.3333]])
    """
    weighted = word_vectors * (smoothing / (smoothing + frequencies)).unsqueeze(-1)
    counted = torch.ones_like(tokens)
    if end is not None:
        ended = (tokens == end).cumsum(1)
        counted = ((ended == 0) | ((ended == 1) & (tokens == end))).to(tokens.dtype)
    total = (weighted[tokens] * counted.unsqueeze(-1)).sum(1)
    return total / counted.sum(1, keepdim=True).clamp(min=1)


def without_first_component(train: Tensor, others: Sequence[Tensor]) -> list[Tensor]:
    """Vectors without their projection on the first principal component of training vectors.

    Args:
        train: Vectors of training sentences, `(num, size)`.
        others: Vectors to change, each `(..., size)`.

    Returns:
        `others`, with the projection subtracted from each.

    Example:
        >>> train = torch.tensor([[2.0, 0.1], [-2.0, 0.1], [1.0, -0.2]])
        >>> without_first_component(train, [torch.tensor([[5.0, 1.0]])])[0].abs() < 1.5
        tensor([[True, True]])
    """
    component = torch.linalg.svd(train, full_matrices=False).Vh[0]
    return [vectors - (vectors @ component).unsqueeze(-1) * component for vectors in others]


def _inverse_root(covariance: Tensor, ridge: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * (values.clamp(min=0.0) + ridge).rsqrt() @ vectors.T
