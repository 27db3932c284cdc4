"""Heads of encoders: from the features of a network to a distribution over the latent."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.batch import Values
from multipyro.ppl_models.networks.covariates import encoder_input
from multipyro.ppl_models.networks.mlp import MLP

__all__ = ["JointEncoder", "LaplaceEncoder", "NormalEncoder", "Scale", "chain", "feature_size", "joined", "trunk"]

Scale = Literal["softplus", "exp", "variance"]

# with scales below 1e-6, log-densities overflow in float32 long before they reflect anything in the data
_MIN_SCALE = 1e-6


def feature_size(network: nn.Module) -> int:
    """The number of features that a network returns, its attribute `out_features`."""
    features = getattr(network, "out_features", None)
    if features is None:
        raise TypeError(f"an encoder's network needs an attribute out_features, {type(network).__name__} has none")
    return features


def trunk(features: int, hidden_features: Sequence[int] = ()) -> nn.Module:
    """The network between concatenated features and the heads: an MLP, or the identity, with `out_features`."""
    if hidden_features:
        return MLP(features, hidden_features[-1], hidden_features[:-1], activate_output=True)
    identity = nn.Identity()
    identity.out_features = features
    return identity


def chain(network: nn.Module, after: nn.Module) -> nn.Module:
    """A feature network followed by another network, with the `out_features` of the latter."""
    chained = nn.Sequential(network, after)
    chained.out_features = after.out_features
    return chained


def joined(branches: nn.ModuleDict, x: Values) -> Tensor:
    """The features of several modalities, each by its branch, side by side."""
    return torch.cat([branch(encoder_input(branch, x, name)) for name, branch in branches.items()], -1)


class NormalEncoder(nn.Module):
    r"""A diagonal Gaussian `N(m(x), s(x)^2)` from a feature network.

    Args:
        network: Module from `x_m` to features `(batch, out_features)`; its attribute `out_features` is their number.
        latent_dim: Size of the latent.
        scale: The function that makes the scale positive: `"softplus"`; `"exp"`; or `"variance"`, a softplus that gives
            the variance, as in JMVAE.

    Returns (when called):
        A distribution of batch shape `(batch,)` and event shape `(latent_dim,)`.

    Example:
        >>> NormalEncoder(MLP(16, 8), latent_dim=2)(torch.zeros(5, 16)).event_shape
        torch.Size([2])
    """

    def __init__(self, network: nn.Module, latent_dim: int, scale: Scale = "softplus") -> None:
        super().__init__()
        if scale not in get_args(Scale):
            raise ValueError(f"scale must be one of {get_args(Scale)}, got {scale!r}")
        self.network, self.scale, self.latent_dim = network, scale, latent_dim
        self.heads = nn.Linear(feature_size(network), 2 * latent_dim)

    def forward(self, values: Tensor) -> dist.Distribution:
        loc, raw = self.heads(self.network(values)).chunk(2, -1)
        if self.scale == "exp":
            scale = raw.exp() + _MIN_SCALE
        elif self.scale == "softplus":
            scale = nn.functional.softplus(raw) + _MIN_SCALE
        else:  # the gradient of the square root is finite only above 0
            scale = (nn.functional.softplus(raw) + _MIN_SCALE**2).sqrt()
        return dist.Normal(loc, scale).to_event(1)


class LaplaceEncoder(nn.Module):
    r"""Independent Laplace distributions whose scales sum to the latent size.

    .. math:: b(x) = D\,\mathrm{softmax}(h(x)) + 10^{-6}

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019),
        section 4.

    Args:
        network: Module from `x_m` to features `(batch, out_features)`.
        latent_dim: Size `D` of the latent.

    Example:
        >>> LaplaceEncoder(MLP(16, 8), latent_dim=2)(torch.zeros(5, 16)).base_dist.scale.sum(-1).round()
        tensor([2., 2., 2., 2., 2.], grad_fn=<RoundBackward0>)
    """

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.network, self.latent_dim = network, latent_dim
        self.heads = nn.Linear(feature_size(network), 2 * latent_dim)

    def forward(self, values: Tensor) -> dist.Distribution:
        loc, raw = self.heads(self.network(values)).chunk(2, -1)
        return dist.Laplace(loc, raw.softmax(-1) * raw.shape[-1] + _MIN_SCALE).to_event(1)


class JointEncoder(nn.Module):
    r"""A diagonal Gaussian from several modalities: one branch each, concatenated, then an MLP and the heads.

    Called with a dict, modality name -> values `(batch, *event)`; it may contain covariates, for branches that take
    them.

    Args:
        branches: Modality name -> feature network with an attribute `out_features`.
        latent_dim: Size of the latent.
        hidden_features: Widths of the hidden layers after the branches; none in the JMVAE paper.
        scale: As in `NormalEncoder`.
        shared: Network between the concatenated features and the heads, in place of the hidden layers; it has an
            attribute `out_features`.

    Example:
        >>> encoder = JointEncoder({"a": MLP(4, 8), "b": MLP(3, 8)}, latent_dim=2)
        >>> encoder({"a": torch.zeros(5, 4), "b": torch.zeros(5, 3)}).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        branches: Mapping[str, nn.Module],
        latent_dim: int,
        hidden_features: Sequence[int] = (),
        scale: Scale = "softplus",
        shared: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.branches, self.latent_dim = nn.ModuleDict(branches), latent_dim
        size = sum(feature_size(branch) for branch in branches.values())
        network = trunk(size, hidden_features) if shared is None else shared
        self.encoder = NormalEncoder(network, latent_dim, scale)

    def forward(self, x: Values) -> dist.Distribution:
        return self.encoder(joined(self.branches, x))
