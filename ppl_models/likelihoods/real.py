"""Likelihoods of real numbers: vectors, images, spectra, volumes, single numbers."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.ppl_models.likelihoods.base import LocationScaleLikelihood

__all__ = ["LaplaceLikelihood", "NormalLikelihood", "StudentTLikelihood"]


class NormalLikelihood(LocationScaleLikelihood):
    r"""Real values with Gaussian noise; the network outputs the mean.

    Args:
        network: Module from latents to means `(..., batch, *event)`.
        scale: Standard deviation, in the unit of the data: a number, or a tensor that broadcasts against one data
            point, such as `(3, 1, 1)` for one per channel; 1 by default.
        learn_scale: Whether the scale is learned, starting from `scale`; by default it is not.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Example:
        >>> NormalLikelihood(nn.Linear(2, 5), scale=0.5)(torch.zeros(3, 2)).base_dist.scale[0]
        tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000])
    """

    family = dist.Normal
    learns_scale = False


class LaplaceLikelihood(LocationScaleLikelihood):
    r"""Real values with Laplace noise; the network outputs the location.

    Args:
        network: Module from latents to locations `(..., batch, *event)`.
        scale: Laplace scale `b`, in the unit of the data (the standard deviation is `sqrt(2) b`): a number, or a tensor
            that broadcasts against one data point. The default of 0.75 is that of the code of the MMVAE and MoPoE
            papers.
        learn_scale: Whether the scale is learned, starting from `scale`; by default it is not.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Example:
        >>> LaplaceLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2)).base_dist.scale[0]
        tensor([0.7500, 0.7500, 0.7500, 0.7500, 0.7500])
    """

    family = dist.Laplace
    default_scale = 0.75
    learns_scale = False


class StudentTLikelihood(LocationScaleLikelihood):
    r"""Real values with heavy-tailed noise, for data with outliers; the network outputs the location.

    Args:
        network: Module from latents to locations `(..., batch, *event)`.
        scale: Scale, in the unit of the data; the standard deviation is `scale * sqrt(df / (df - 2))` if `df > 2`; 1 by
            default.
        learn_scale: Whether the scale is learned, starting from `scale`; by default it is.
        df: Degrees of freedom, above 1 so that there is a mean; the fewer, the heavier the tails.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Raises:
        ValueError: If `df` is not above 1.

    Example:
        >>> StudentTLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2)).base_dist.df[0]
        tensor([4., 4., 4., 4., 4.])
    """

    def __init__(
        self,
        network: nn.Module,
        scale: float | Tensor | None = None,
        learn_scale: bool | None = None,
        df: float = 4.0,
        missing_entries: bool = False,
    ) -> None:
        super().__init__(network, scale, learn_scale, missing_entries)
        if not 1 < df < math.inf:
            raise ValueError(f"df must be a finite number above 1, got {df}")
        self.register_buffer("df", torch.tensor(float(df)), persistent=False)

    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        return dist.StudentT(self.df, loc, scale)
