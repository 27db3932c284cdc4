"""Encoders: modules from one modality to a distribution over the latent."""

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.ppl_models.networks.mlp import MLP

__all__ = ["JointEncoder", "LaplaceEncoder", "NormalEncoder", "chain", "trunk"]

# scales below 1e-6 make log-densities overflow in float32 long before they say anything about data
_MIN_SCALE = 1e-6


def _features(network: nn.Module) -> int:
    features = getattr(network, "out_features", None)
    if features is None:
        raise TypeError(f"an encoder's network needs an attribute out_features, {type(network).__name__} has none")
    return features


def trunk(features: int, hidden_features: Sequence[int] = ()) -> nn.Module:
    """What stands between joined features and the heads: an MLP, or nothing, with its attribute `out_features`."""
    if hidden_features:
        return MLP(features, hidden_features[-1], hidden_features[:-1], activate_output=True)
    same = nn.Identity()
    same.out_features = features
    return same


def chain(network: nn.Module, after: nn.Module) -> nn.Module:
    """A feature network and what comes after it, with the latter's `out_features`."""
    both = nn.Sequential(network, after)
    both.out_features = after.out_features
    return both


class NormalEncoder(nn.Module):
    r"""A diagonal Gaussian `N(m(x), s(x)^2)` from a feature network.

    Args:
        network: Module from `x_m` to features `(batch, out_features)`; its attribute `out_features` gives their size.
        latent_dim: Size of the latent.
        scale: `"softplus"` or `"exp"`: how the scale is made positive.

    Returns (when called):
        A distribution of batch shape `(batch,)` and event shape `(latent_dim,)`.

    Example:
        >>> NormalEncoder(MLP(16, 8), latent_dim=2)(torch.zeros(5, 16)).event_shape
        torch.Size([2])
    """

    def __init__(self, network: nn.Module, latent_dim: int, scale: str = "softplus") -> None:
        super().__init__()
        if scale not in ("softplus", "exp"):
            raise ValueError(f"scale must be 'softplus' or 'exp', got {scale!r}")
        self.network, self.scale = network, scale
        self.heads = nn.Linear(_features(network), 2 * latent_dim)

    def forward(self, values: Tensor) -> dist.Distribution:
        loc, raw = self.heads(self.network(values)).chunk(2, -1)
        scale = nn.functional.softplus(raw) if self.scale == "softplus" else raw.exp()
        return dist.Normal(loc, scale + _MIN_SCALE).to_event(1)


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
        self.network = network
        self.heads = nn.Linear(_features(network), 2 * latent_dim)

    def forward(self, values: Tensor) -> dist.Distribution:
        loc, raw = self.heads(self.network(values)).chunk(2, -1)
        return dist.Laplace(loc, raw.softmax(-1) * raw.shape[-1] + _MIN_SCALE).to_event(1)


class JointEncoder(nn.Module):
    r"""A diagonal Gaussian from several modalities: one branch each, concatenated, then an MLP and the heads.

    Args:
        branches: Modality name -> feature network with an attribute `out_features`.
        latent_dim: Size of the latent.
        hidden_features: Widths of the hidden layers after the branches; none in the JMVAE paper.
        scale: As in `NormalEncoder`.
        shared: Network from the joined features to the heads, in place of hidden layers; its attribute `out_features`
            gives the number of its own.

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
        scale: str = "softplus",
        shared: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        joined = sum(_features(branch) for branch in branches.values())
        between = trunk(joined, hidden_features) if shared is None else shared
        self.encoder = NormalEncoder(between, latent_dim, scale)

    def forward(self, x: Mapping[str, Tensor]) -> dist.Distribution:
        return self.encoder(torch.cat([branch(x[name]) for name, branch in self.branches.items()], -1))
