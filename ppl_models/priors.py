"""Priors over the shared latent: modules that return a distribution when called."""

import pyro.distributions as dist
import torch
from torch import nn

__all__ = ["LaplacePrior", "StandardNormalPrior"]


class StandardNormalPrior(nn.Module):
    r"""The fixed prior `N(0, I)`.

    Args:
        latent_dim: Size `D` of the latent.

    Returns (when called):
        A distribution of batch shape `()` and event shape `(latent_dim,)`.

    Example:
        >>> StandardNormalPrior(2)().mean
        tensor([0., 0.])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)


class LaplacePrior(nn.Module):
    r"""A Laplace prior centered at 0 whose scales sum to the latent size, learned or all 1.

    .. math:: p(z) = \prod_d \mathrm{Laplace}(z_d; 0, s_d), \qquad s = D\,\mathrm{softmax}(\ell)

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019),
        section 4 (scales constrained to sum to the dimensionality).

    Args:
        latent_dim: Size `D` of the latent.
        learn: Whether the scales are learned; else they stay 1.

    Returns (when called):
        A distribution of batch shape `()` and event shape `(latent_dim,)`.

    Example:
        >>> round(LaplacePrior(4)().base_dist.scale.sum().item(), 5)
        4.0
    """

    def __init__(self, latent_dim: int, learn: bool = True) -> None:
        super().__init__()
        if learn:
            self.logits = nn.Parameter(torch.zeros(latent_dim))
        else:
            self.register_buffer("logits", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        scale = self.logits.softmax(-1) * len(self.logits)
        return dist.Laplace(torch.zeros_like(scale), scale).to_event(1)
