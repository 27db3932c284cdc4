"""Quality of generated images in the features of a network that the user supplies: distance, precision, recall."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from multipyro.inference.evaluation.estimates import Estimate, estimate_share

__all__ = ["SampleQuality", "sample_quality"]

# distances between features at once
_CHUNK = 1_000


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
