"""Likelihoods: modules from the latents to a distribution over one modality, event dimensions declared."""

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.ppl_models.likelihoods.continuous_bernoulli import ExactContinuousBernoulli
from multipyro.ppl_models.likelihoods.text import AutoregressiveCategorical

__all__ = [
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "ContinuousBernoulliLikelihood",
    "LaplaceLikelihood",
    "Likelihood",
    "LocationScale",
    "NormalLikelihood",
    "check_real",
    "check_unit_interval",
    "point_estimate",
]


def point_estimate(distribution: dist.Distribution) -> Tensor:
    """The value that stands for a likelihood in a picture or a metric: its mean; of a categorical or a text, its mode.

    Returns:
        A tensor of shape `(..., batch, *event)`; int64 class ids for a categorical and token ids for a text.

    Example:
        >>> point_estimate(dist.Categorical(logits=torch.tensor([[0.0, 2.0, 1.0]])))
        tensor([1])
    """
    base = distribution
    while hasattr(base, "base_dist"):
        base = base.base_dist
    discrete = isinstance(base, torch.distributions.Categorical | AutoregressiveCategorical)
    return distribution.mode if discrete else distribution.mean


class Likelihood(nn.Module, ABC):
    r"""Base of all likelihoods `p(x_m | z)`: a decoder network and the family its outputs parametrize.

    A subclass defines `distribution` (network outputs to a distribution) and `check_values` (what data it takes).

    Args:
        network: Module from latents `(..., batch, latent_dim)` to outputs `(..., batch, *event)`.

    Example:
        >>> class Poisson(Likelihood):
        ...     def distribution(self, outputs, event_dims):
        ...         return dist.Poisson(outputs.exp()).to_event(event_dims)
        ...
        ...     def value_shape(self, out_shape):
        ...         return out_shape
        ...
        ...     def check_values(self, values, name):
        ...         if (values < 0).any():
        ...             raise ValueError(f"modality {name!r} holds negative counts")
        >>> Poisson(nn.Linear(2, 5))(torch.zeros(3, 2)).event_shape
        torch.Size([5])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def distribution(self, outputs: Tensor, event_dims: int) -> dist.Distribution:
        """The distribution that `outputs` parametrize; their last `event_dims` dimensions belong to one row."""

    @abstractmethod
    def check_values(self, values: Tensor, name: str) -> None:
        """Raises if `values` cannot have come from this likelihood, whatever its parameters."""

    @abstractmethod
    def value_shape(self, out_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one row of data for outputs of shape `out_shape`."""

    def forward(self, latents: Tensor) -> dist.Distribution:
        """`p(x_m | z)` of batch shape `(..., batch)`."""
        outputs = self.network(latents)
        return self.distribution(outputs, outputs.dim() - latents.dim() + 1)

    def check(self, values: Tensor, name: str) -> None:
        """Checks observed data of this modality, `(batch, *event)`.

        Raises:
            TypeError: If the dtype is not one this likelihood takes.
            ValueError: If the shape is wrong or values lie outside the support; the message names what was seen.
        """
        if not isinstance(values, Tensor):
            raise TypeError(f"modality {name!r} must be a tensor, got {type(values).__name__}")
        out_shape = getattr(self.network, "out_shape", None)
        if out_shape is not None and tuple(values.shape[1:]) != self.value_shape(tuple(out_shape)):
            raise ValueError(
                f"modality {name!r} must have shape (batch, *{self.value_shape(tuple(out_shape))}), "
                f"got {tuple(values.shape)}"
            )
        self.check_values(values, name)


def check_real(values: Tensor, name: str, family: str) -> None:
    """Raises unless values are finite floats."""
    if not values.is_floating_point():
        raise TypeError(f"modality {name!r} has a {family} likelihood and must be floating point, got {values.dtype}")
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(f"modality {name!r} holds {bad} NaN or infinite values: mark missing rows in `observed`")


def check_unit_interval(values: Tensor, name: str, family: str) -> None:
    """Raises unless values are floats in `[0, 1]`."""
    check_real(values, name, family)
    if values.numel() and (values.min() < 0 or values.max() > 1):
        raise ValueError(
            f"modality {name!r} has a {family} likelihood and must lie in [0, 1], "
            f"got [{values.min().item():.4g}, {values.max().item():.4g}]"
        )


class BernoulliLikelihood(Likelihood):
    r"""Binary pixels or attributes, the network giving logits.

    Args:
        network: Module from latents to logits `(..., batch, *event)`.
        gray: Accept values between 0 and 1 as soft targets. This is no density of gray values (its normalizer is
            not 1); `ContinuousBernoulli` is.
        missing_entries: Accept NaN for an entry that is not known; it contributes nothing. A whole row is better
            marked in `observed`.

    Example:
        >>> BernoulliLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2)).event_shape
        torch.Size([5])
    """

    def __init__(self, network: nn.Module, gray: bool = False, missing_entries: bool = False) -> None:
        super().__init__(network)
        self.gray, self.missing_entries = gray, missing_entries

    def distribution(self, outputs: Tensor, event_dims: int) -> dist.Distribution:
        if self.missing_entries:
            return _BernoulliWithMissing(logits=outputs, validate_args=False).to_event(event_dims)
        # gray targets lie outside the support that torch would check
        validate = False if self.gray else None
        return dist.Bernoulli(logits=outputs, validate_args=validate).to_event(event_dims)

    def value_shape(self, out_shape: tuple[int, ...]) -> tuple[int, ...]:
        return out_shape

    def check_values(self, values: Tensor, name: str) -> None:
        if self.missing_entries and values.is_floating_point():
            values = values[~values.isnan()]
        check_unit_interval(values, name, "BernoulliLikelihood")
        if not self.gray and not ((values == 0) | (values == 1)).all():
            raise ValueError(
                f"modality {name!r} holds gray values but its Bernoulli likelihood takes 0 and 1 only: binarize the "
                "data, use ContinuousBernoulli or Normal, or accept soft targets with Bernoulli(network, gray=True)"
            )


class _BernoulliWithMissing(dist.Bernoulli):
    """A Bernoulli that gives a value NaN the log-probability 0."""

    def log_prob(self, value: Tensor) -> Tensor:
        there = ~value.isnan()
        return torch.where(there, super().log_prob(torch.where(there, value, 0.0)), 0.0)


class ContinuousBernoulliLikelihood(Likelihood):
    r"""Values in `[0, 1]` with the normalized continuous Bernoulli density, the network giving logits.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem and
        Cunningham, 2019).

    Args:
        network: Module from latents to logits `(..., batch, *event)`.

    Example:
        >>> pixels = ContinuousBernoulliLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2))
        >>> pixels.log_prob(torch.full((3, 5), 0.25)).shape
        torch.Size([3])
    """

    def distribution(self, outputs: Tensor, event_dims: int) -> dist.Distribution:
        return ExactContinuousBernoulli(outputs).to_event(event_dims)

    def value_shape(self, out_shape: tuple[int, ...]) -> tuple[int, ...]:
        return out_shape

    def check_values(self, values: Tensor, name: str) -> None:
        check_unit_interval(values, name, "continuous Bernoulli")


class CategoricalLikelihood(Likelihood):
    r"""Class ids: one for a label, one a position for a word; the network gives logits.

    Args:
        network: Module from latents to logits `(..., batch, *event, num_classes)`.

    Example:
        >>> label = CategoricalLikelihood(nn.Linear(2, 10))(torch.zeros(3, 2))
        >>> label.batch_shape, label.event_shape
        (torch.Size([3]), torch.Size([]))
    """

    def distribution(self, outputs: Tensor, event_dims: int) -> dist.Distribution:
        return dist.Categorical(logits=outputs).to_event(event_dims - 1)

    def value_shape(self, out_shape: tuple[int, ...]) -> tuple[int, ...]:
        return out_shape[:-1]

    def check_values(self, values: Tensor, name: str) -> None:
        if values.dtype != torch.int64:
            raise TypeError(f"modality {name!r} is categorical and must hold int64 class ids, got {values.dtype}")
        out_shape = getattr(self.network, "out_shape", None)
        if out_shape is not None and values.numel() and (values.min() < 0 or values.max() >= out_shape[-1]):
            raise ValueError(
                f"modality {name!r} must hold class ids 0 to {out_shape[-1] - 1}, "
                f"got {values.min().item()} to {values.max().item()}"
            )


class LocationScale(Likelihood):
    """Base of likelihoods with a location from the network and a scale beside it, fixed or learned.

    Args:
        network: Module from latents to locations `(..., batch, *event)`.
        scale: The scale of every element, or a tensor that broadcasts against one row, such as `(channels, 1, 1)`.
        learn_scale: Whether the scale is learned, starting from `scale`.
    """

    def __init__(self, network: nn.Module, scale: float | Tensor, learn_scale: bool) -> None:
        super().__init__(network)
        scale = torch.as_tensor(scale, dtype=torch.get_default_dtype())
        if not (scale > 0).all():
            raise ValueError(f"scale must be positive, got {scale.tolist()}")
        log_scale = scale.log()
        if learn_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @abstractmethod
    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """The distribution of one element."""

    def distribution(self, outputs: Tensor, event_dims: int) -> dist.Distribution:
        return self.family(outputs, self.log_scale.exp()).to_event(event_dims)

    def value_shape(self, out_shape: tuple[int, ...]) -> tuple[int, ...]:
        return out_shape

    def check_values(self, values: Tensor, name: str) -> None:
        check_real(values, name, type(self).__name__)


class NormalLikelihood(LocationScale):
    r"""Real values with Gaussian noise, the network giving the mean.

    Args:
        network: Module from latents to means `(..., batch, *event)`.
        scale: Standard deviation, in the unit of the data: a number, or a tensor that broadcasts against one row, such
            as `(3, 1, 1)` for one a channel.
        learn_scale: Whether the scale is learned, starting from `scale`.

    Example:
        >>> NormalLikelihood(nn.Linear(2, 5), scale=0.5)(torch.zeros(3, 2)).base_dist.scale[0]
        tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000])
    """

    def __init__(self, network: nn.Module, scale: float | Tensor = 1.0, learn_scale: bool = False) -> None:
        super().__init__(network, scale, learn_scale)

    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        return dist.Normal(loc, scale)


class LaplaceLikelihood(LocationScale):
    r"""Real values with Laplace noise, the network giving the location.

    The default scale 0.75 is that of the MMVAE and MoPoE papers' code.

    Args:
        network: Module from latents to locations `(..., batch, *event)`.
        scale: Laplace scale `b`, in the unit of the data (the standard deviation is `sqrt(2) b`): a number, or a tensor
            that broadcasts against one row.
        learn_scale: Whether the scale is learned, starting from `scale`.

    Example:
        >>> LaplaceLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2)).base_dist.scale[0]
        tensor([0.7500, 0.7500, 0.7500, 0.7500, 0.7500])
    """

    def __init__(self, network: nn.Module, scale: float | Tensor = 0.75, learn_scale: bool = False) -> None:
        super().__init__(network, scale, learn_scale)

    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        return dist.Laplace(loc, scale)
