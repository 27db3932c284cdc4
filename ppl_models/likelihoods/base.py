"""The base of all likelihoods: modules from latents to a distribution over one modality, event dimensions declared."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.batch import is_missing
from multipyro.ppl_models.likelihoods.missing import MissingEntries
from multipyro.ppl_models.networks._layers import run_layers

__all__ = [
    "ConcentrationLikelihood",
    "Likelihood",
    "LocationScaleLikelihood",
    "batch_shape_text",
    "check_class_ids",
    "check_finite",
    "point_estimate",
    "register_positive",
]


class Likelihood(nn.Module, ABC):
    r"""Base of all likelihoods `p(x_m | z)`: a decoder network and the distribution that its outputs parametrize.

    A subclass defines `distribution`, from outputs to a distribution whose batch shape is `(..., batch, *event)`, and
    which data it accepts: an `interval`, or `check_values` for anything else.

    Args:
        network: Module from latents `(n, latent_dim)` to outputs `(n, *event, *parameters)`; the leading dimensions of
            latents are flattened for it. While it trains, its batch norms take their running statistics for `n = 1`.
        missing_entries: Whether entries of a data point may be missing: NaN in floating-point data, -1 in integer data
            (`mark_missing` puts them where a mask says so). They contribute nothing to densities and gradients. A
            modality that is missing altogether is better marked in `observed`.

    Attributes:
        interval: The smallest and the largest value of real data.
        is_open: Whether the smallest value itself is excluded.
        parameter_dims: Number of trailing dimensions of the outputs that are the parameters of one entry.
        takes_exposure: Whether `distribution` has a second argument, the exposure.
        independent_entries: Whether the entries of one data point are independent given the latents.

    Example:
        >>> class ExponentialLikelihood(Likelihood):
        ...     interval = (0, torch.inf)
        ...
        ...     def distribution(self, outputs):
        ...         return dist.Exponential(outputs.exp())
        >>> ExponentialLikelihood(nn.Linear(2, 5))(torch.zeros(3, 2)).event_shape
        torch.Size([5])
    """

    interval: tuple[float, float] = (-math.inf, math.inf)
    is_open = False
    parameter_dims = 0
    takes_exposure = False
    independent_entries = True

    def __init__(self, network: nn.Module, missing_entries: bool = False) -> None:
        super().__init__()
        self.network, self.missing_entries = network, missing_entries

    @abstractmethod
    def distribution(self, outputs: Tensor) -> dist.Distribution:
        """The distribution that `outputs` parametrize, batch shape `(..., batch, *event)`."""

    def check_values(self, values: Tensor, name: str) -> None:
        """Raises if `values` are impossible under this likelihood, whatever its parameters."""
        likelihood, (low, high) = type(self).__name__, self.interval
        if not values.is_floating_point():
            raise TypeError(f"modality {name!r} has a {likelihood} and must be floating point, got {values.dtype}")
        check_finite(values, name)
        if not values.numel():
            return
        smallest, largest = values.min().item(), values.max().item()
        if smallest < low or largest > high or (self.is_open and smallest <= low):
            bound = f"be {'above' if self.is_open else 'at least'} {low:g}"
            bound = bound if math.isinf(high) else f"lie in {'(' if self.is_open else '['}{low:g}, {high:g}]"
            raise ValueError(
                f"modality {name!r} has a {likelihood} and must {bound}, got [{smallest:.4g}, {largest:.4g}]"
            )

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Shape of one data point; None if the network has no attribute `out_shape`."""
        out_shape = getattr(self.network, "out_shape", None)
        return None if out_shape is None else tuple(out_shape[: len(out_shape) - self.parameter_dims])

    def forward(self, latents: Tensor, exposure: Tensor | None = None) -> dist.Distribution:
        """`p(x_m | z)`.

        Args:
            latents: `(..., batch, latent_dim)`.
            exposure: Factor of the means of counts, such as the library size of a cell or the length of an
                observation; positive, `(batch,)` or `(batch, *event)`; 1 if None.

        Returns:
            A distribution of batch shape `(..., batch)` and the event shape of the data.

        Raises:
            TypeError: If there is an exposure but the likelihood does not accept one.
        """
        outputs = run_layers(self.network, latents, tuple(latents.shape[-1:]))
        if exposure is None:
            distribution = self.distribution(outputs)
        elif self.takes_exposure:
            event_dims = outputs.dim() - self.parameter_dims - latents.dim() + 1
            aligned = exposure.reshape(*exposure.shape, *[1] * (1 + event_dims - exposure.dim()))
            distribution = self.distribution(outputs, aligned)
        else:
            raise TypeError(f"{type(self).__name__} does not accept an exposure: only likelihoods of counts do")
        if self.missing_entries and self.independent_entries:
            distribution = MissingEntries(distribution)
        return distribution.to_event(len(distribution.batch_shape) - latents.dim() + 1)

    def check(self, values: Tensor, name: str) -> None:
        """Checks observed data of this modality, `(batch, *event)`.

        Raises:
            TypeError: If the data type is wrong.
            ValueError: If the shape is wrong or a value is outside the support.
        """
        if not isinstance(values, Tensor):
            raise TypeError(f"modality {name!r} must be a tensor, got {type(values).__name__}")
        if self.event_shape is not None and tuple(values.shape[1:]) != self.event_shape:
            raise ValueError(
                f"modality {name!r} must have shape {batch_shape_text(self.event_shape)}, got {tuple(values.shape)}"
            )
        if self.missing_entries and self.independent_entries:
            values = values[~is_missing(values)]
        self.check_values(values, name)


class LocationScaleLikelihood(Likelihood):
    """Base of likelihoods with a location from the network and a scale that is fixed or learned.

    A subclass defines `family`, from location and scale to the distribution of one entry.

    Args:
        network: Module from latents to locations `(..., batch, *event)`.
        scale: The scale of every entry, or a tensor that broadcasts against one data point, such as `(channels, 1, 1)`;
            None for the `default_scale` of the class.
        learn_scale: Whether the scale is learned, starting from `scale`; None for `learns_scale` of the class.
        missing_entries: Whether entries may be missing; see `Likelihood`.
    """

    default_scale = 1.0
    learns_scale = True

    def __init__(
        self,
        network: nn.Module,
        scale: float | Tensor | None = None,
        learn_scale: bool | None = None,
        missing_entries: bool = False,
    ) -> None:
        super().__init__(network, missing_entries)
        scale = self.default_scale if scale is None else scale
        register_positive(self, "scale", scale, self.learns_scale if learn_scale is None else learn_scale)

    @abstractmethod
    def family(self, loc: Tensor, scale: Tensor) -> dist.Distribution:
        """The distribution of one entry."""

    def distribution(self, outputs: Tensor) -> dist.Distribution:
        return self.family(outputs, self.log_scale.exp())


class ConcentrationLikelihood(Likelihood):
    """Base of likelihoods with a concentration beside what the network outputs, fixed or learned.

    Args:
        network: Module from latents to outputs `(..., batch, *event, *parameters)`.
        concentration: A number, or a tensor that broadcasts against one data point; None for the
            `default_concentration` of the class.
        learn_concentration: Whether it is learned, one per entry if the network has an attribute `out_shape`.
        missing_entries: Whether entries may be missing; see `Likelihood`.

    Attributes:
        log_concentration: Its logarithm, a parameter if it is learned and a buffer otherwise.
    """

    default_concentration = 1.0

    def __init__(
        self,
        network: nn.Module,
        concentration: float | Tensor | None = None,
        learn_concentration: bool = True,
        missing_entries: bool = False,
    ) -> None:
        super().__init__(network, missing_entries)
        concentration = self.default_concentration if concentration is None else concentration
        register_positive(self, "concentration", concentration, learn_concentration, self.event_shape)


def register_positive(
    module: nn.Module, name: str, value: float | Tensor, learn: bool, shape: Sequence[int] | None = None
) -> None:
    """Gives a module the attribute `log_<name>`, a parameter if it is learned and a buffer otherwise.

    Args:
        module: The module.
        name: Name of the positive quantity.
        value: Its value, or where learning starts.
        learn: Whether it is learned.
        shape: Shape to which `value` is expanded; None to keep its shape.

    Raises:
        ValueError: If a value is not positive.
    """
    value = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if not ((value > 0) & value.isfinite()).all():
        raise ValueError(f"{name} must be positive, got {value.tolist()}")
    log_value = value.log() if shape is None else value.log().expand(tuple(shape)).clone()
    if learn:
        module.register_parameter(f"log_{name}", nn.Parameter(log_value))
    else:
        module.register_buffer(f"log_{name}", log_value)


def batch_shape_text(event_shape: Sequence[int]) -> str:
    """The shape of a batch for messages, such as `(batch, 3, 28, 28)`."""
    return str(("batch", *event_shape)).replace("'", "")


def check_finite(values: Tensor, name: str) -> None:
    """Raises if a value is NaN or infinite."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ValueError(
            f"modality {name!r} contains {bad} NaN or infinite values: mark missing data points in `observed`, or "
            "missing entries by NaN for a likelihood with missing_entries=True"
        )


def check_class_ids(values: Tensor, name: str, num_classes: int | None) -> None:
    """Raises unless values are int64 and, where the number of classes is known, from 0 to `num_classes - 1`."""
    if values.dtype != torch.int64:
        raise TypeError(f"modality {name!r} must contain int64 class ids, got {values.dtype}")
    if num_classes is not None and values.numel() and (values.min() < 0 or values.max() >= num_classes):
        raise ValueError(
            f"modality {name!r} must contain class ids 0 to {num_classes - 1}, "
            f"got {values.min().item()} to {values.max().item()}"
        )


def point_estimate(distribution: dist.Distribution) -> Tensor:
    """The value that represents a likelihood in an image or a metric: its mean, or of class ids and texts the mode.

    Returns:
        A tensor of shape `(..., batch, *event)`; int64 for class ids and token ids.

    Example:
        >>> point_estimate(dist.Categorical(logits=torch.tensor([[0.0, 2.0, 1.0]])))
        tensor([1])
    """
    entry = distribution
    while hasattr(entry, "base_dist"):
        entry = entry.base_dist
    if isinstance(entry, torch.distributions.Categorical):
        return distribution.mode
    try:
        return distribution.mean
    except NotImplementedError:  # a text has no mean
        return distribution.mode
