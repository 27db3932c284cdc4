"""Priors over the shared latent: modules that return a distribution when called."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.ppl_models.networks.flows import RealNVP

__all__ = ["FlowPrior", "LaplacePrior", "StandardNormalPrior"]


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


class FlowPrior(nn.Module):
    r"""A prior that is its base until a flow has been fitted, and the flow from then on.

    .. math:: p(z) = p_0(f^{-1}(z))\, \left| \det \frac{\partial f^{-1}(z)}{\partial z} \right|

    Until `activate` is called, the prior is the base itself, so that all stages of training before that of the flow
    have the prior, the closed-form divergences and the random numbers of a model without a flow. The stage that trains
    the flow, by way of `transformed`, activates it when it starts. Whether it is active is part of `state_dict`.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), sections 4.2 and 5.1.1.

    Args:
        latent_dim: Size of the latent; at least 2 for the default flow.
        flow: Module from a base distribution to its transformed distribution; a `RealNVP` if None.
        base: Module that returns the base distribution when called; `N(0, I)` if None.

    Attributes:
        active: Whether the prior is the flow.

    Returns (when called):
        A distribution of batch shape `()` and event shape `(latent_dim,)`.

    Example:
        >>> prior = FlowPrior(3)
        >>> type(prior().base_dist).__name__
        'Normal'
        >>> prior.activate()
        >>> type(prior()).__name__
        'FlowDistribution'
    """

    def __init__(self, latent_dim: int, flow: nn.Module | None = None, base: nn.Module | None = None) -> None:
        super().__init__()
        self.flow = RealNVP(latent_dim) if flow is None else flow
        self.base = StandardNormalPrior(latent_dim) if base is None else base
        self.active = False

    def activate(self) -> None:
        """Makes the flow the prior."""
        self.active = True

    def transformed(self) -> dist.Distribution:
        """The base transformed by the flow, active or not."""
        return self.flow(self.base())

    def forward(self) -> dist.Distribution:
        return self.transformed() if self.active else self.base()

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.active)

    def set_extra_state(self, state: Tensor) -> None:
        self.active = bool(state)
