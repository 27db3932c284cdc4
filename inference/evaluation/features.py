"""Generated images in the features of networks: canonical correlation with sentences, Fréchet distance, recall."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from multipyro.inference.evaluation.estimates import Estimate, estimate_mean, estimate_share

__all__ = [
    "CanonicalCorrelation",
    "SampleQuality",
    "sample_quality",
    "sentence_vectors",
    "without_first_component",
]

# distances between features at once
_CHUNK = 1_000


class CanonicalCorrelation:
    r"""Directions along which two views of the same data points correlate most, fitted to training data.

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


@dataclass(frozen=True, eq=False)
class SampleQuality:
    """How generated images compare with real ones, in the features of one network.

    Attributes:
        frechet_distance: Squared Fréchet distance between normal distributions fitted to the features. It is the FID
            of papers only with the features of their Inception network, their image size and their number of images.
        precision: Share of generated images that lie among the real ones.
        recall: Share of real images that lie among the generated ones.
        num_features: Number of features.

    Example:
        >>> real, generated = torch.randn(300, 2), torch.randn(300, 2) + torch.tensor([3.0, 0.0])
        >>> 7 < sample_quality(lambda images: images, real, generated).frechet_distance < 12
        True
    """

    frechet_distance: float
    precision: Estimate
    recall: Estimate
    num_features: int


def sample_quality(
    extractor: Callable[[Tensor], Tensor],
    real: Tensor,
    generated: Tensor,
    num_neighbors: int = 3,
    batch_size: int = 100,
) -> SampleQuality:
    r"""Fréchet distance, precision and recall of generated images, in the features of a network.

    .. math:: d^2 = \|\mu_r - \mu_g\|^2 + \mathrm{tr}\big(\Sigma_r + \Sigma_g - 2 (\Sigma_r \Sigma_g)^{1/2}\big)

    An image lies among others if its features are no further from those of one of them than the `num_neighbors`-th
    nearest of the others is. All three depend on the network and on the numbers of images: the distance of two samples
    of one distribution is above 0, by about the number of features over that of images. Compare methods with the same
    extractor and numbers, and with the distance of one half of the real images from the other.

    References:
        GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et al., 2017), for the
        distance; Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019).

    Args:
        extractor: From images `(batch, channels, height, width)` to features `(batch, ...)`, such as a pretrained
            network without its last layer, in evaluation mode.
        real: Real images `(num, channels, height, width)`.
        generated: Generated images `(num_generated, channels, height, width)`.
        num_neighbors: Number of neighbors; the paper takes 3.
        batch_size: Images that the network sees at once.

    Returns:
        The three numbers; precision and recall with 95 % intervals that take the other images as given.

    Raises:
        ValueError: If there are not more images of each than neighbors, or features are not finite.
    """
    features = []
    for name, images in (("real", real), ("generated", generated)):
        if len(images) <= max(num_neighbors, 1):
            raise ValueError(f"{len(images)} {name} images are too few for {num_neighbors} neighbors")
        with torch.no_grad():
            parts = [extractor(batch).flatten(1).double().cpu() for batch in images.split(batch_size)]
        features.append(torch.cat(parts))
        if not features[-1].isfinite().all():
            raise ValueError(f"features of {name} images must be finite")
    first, second = features
    return SampleQuality(
        _frechet_distance(first, second),
        estimate_share(_among(second, first, num_neighbors)),
        estimate_share(_among(first, second, num_neighbors)),
        first.shape[1],
    )


def _inverse_root(covariance: Tensor, ridge: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * (values.clamp(min=0.0) + ridge).rsqrt() @ vectors.T


def _frechet_distance(first: Tensor, second: Tensor) -> float:
    left, right = first.T.cov().reshape(first.shape[1], -1), second.T.cov().reshape(second.shape[1], -1)
    values, vectors = torch.linalg.eigh(left)
    root = vectors * values.clamp(min=0.0).sqrt() @ vectors.T
    # the eigenvalues of the product, from a symmetric matrix that has the same
    shared = torch.linalg.eigvalsh(root @ right @ root).clamp(min=0.0).sqrt().sum()
    return ((first.mean(0) - second.mean(0)).square().sum() + left.trace() + right.trace() - 2 * shared).item()


def _among(features: Tensor, others: Tensor, num_neighbors: int) -> Tensor:
    """Which features lie within the ball of one of the others, whose radius reaches its nearest neighbors."""
    # the nearest one of all is itself
    radii = [torch.cdist(part, others).kthvalue(num_neighbors + 1).values for part in others.split(_CHUNK)]
    balls = torch.cat(radii)
    return torch.cat([(torch.cdist(part, others) <= balls).any(1) for part in features.split(_CHUNK)])
