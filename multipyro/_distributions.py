"""Distributions built from others: stacked, detached, selected by row, scattered over rows, reshaped."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import broadcast_shape
from torch import Tensor, nn

__all__ = [
    "RowwiseDistribution",
    "choose_rows",
    "common_shape",
    "detached",
    "expected_value",
    "is_rebuilt",
    "map_parameters",
    "representative_tensor",
    "sample_from",
    "scattered",
    "stacked",
    "unflattened",
]

# parameters of which a constructor takes one, the one to rebuild from first; a Cholesky factor costs no factorization
_ALTERNATIVES = (("scale_tril", "covariance_matrix", "precision_matrix"), ("logits", "probs"))
_MEAN_SAMPLES = 64


def common_shape(*shapes: Sequence[int]) -> torch.Size:
    """The shape that several shapes broadcast to; `torch.broadcast_shapes` imports sympy first, which takes seconds.

    Raises:
        ValueError: If they do not broadcast.
    """
    return torch.Size(broadcast_shape(*shapes))


def map_parameters(function: Callable[..., Tensor], *distributions: dist.Distribution) -> dist.Distribution | None:
    """A distribution of the same family whose parameters are `function` of the parameters of `distributions`.

    Args:
        function: From one parameter of each distribution, `(*batch_shape, ...)`, to the new parameter. It may change
            the batch dimensions, the leading ones, in any way that is the same for all parameters.
        *distributions: Of one family and batch shape.

    Returns:
        A Pyro distribution; None if the families differ, or cannot be rebuilt from the parameters that their
        `arg_constraints` declare, as flows cannot.
    """
    first = distributions[0]
    if isinstance(first, torch.distributions.Independent):
        reinterpreted = first.reinterpreted_batch_ndims
        if any(getattr(other, "reinterpreted_batch_ndims", None) != reinterpreted for other in distributions):
            return None
        base = map_parameters(function, *[other.base_dist for other in distributions])
        return None if base is None else base.to_event(reinterpreted)
    family = _family(first)
    if family is None or any(_family(other) is not family for other in distributions):
        return None
    names = [name for name in _arguments(family) if not _is_redundant(name, first)]
    parameters = {name: function(*[_parameter(other, name) for other in distributions]) for name in names}
    rebuilt = family(**parameters, validate_args=False)  # the parameters come from distributions that were validated
    rebuilt._validate_args = first._validate_args
    return rebuilt


def is_rebuilt(distribution: dist.Distribution) -> bool:
    """Whether `map_parameters` can rebuild a distribution."""
    return map_parameters(lambda parameter: parameter, distribution) is not None


def stacked(distributions: Sequence[dist.Distribution]) -> dist.Distribution | None:
    """One distribution whose first batch dimension runs over `distributions`; None as in `map_parameters`."""
    return map_parameters(lambda *parameters: torch.stack(torch.broadcast_tensors(*parameters)), *distributions)


def detached(distribution: dist.Distribution) -> dist.Distribution:
    """The same distribution with a density through which no gradient reaches a parameter.

    Where the distribution cannot be rebuilt, the gradient of the density with respect to the value is correct, but
    cannot be differentiated again.
    """
    if hasattr(distribution, "detach"):
        return distribution.detach()
    rebuilt = map_parameters(Tensor.detach, distribution)
    return _Detached(distribution) if rebuilt is None else rebuilt


def choose_rows(distributions: Sequence[dist.Distribution], index: Tensor) -> dist.Distribution:
    """The distribution that takes row `i` from `distributions[index[i]]`.

    Args:
        distributions: Distributions of batch shape `(batch,)` and one event shape.
        index: int64 `(batch,)`.
    """

    def choose(*parameters: Tensor) -> Tensor:
        return _where_index(parameters, index.reshape(-1, *[1] * (parameters[0].dim() - 1)))

    rebuilt = map_parameters(choose, *distributions)
    return RowwiseDistribution(distributions, index) if rebuilt is None else rebuilt


def scattered(result: dist.Distribution | Tensor, rows: Tensor, number: int) -> dist.Distribution | Tensor:
    """A distribution, or features, of `number` rows from those of some rows.

    All other rows repeat the first one, without gradient: they are finite, and callers mask them out.

    Args:
        result: A distribution of batch shape `(len(rows),)`, or features `(len(rows), ...)`.
        rows: The rows of the result that it has, int64.
        number: Number of rows of the result.
    """

    def scatter(values: Tensor, dim: int = 0) -> Tensor:
        shape = list(values.shape)
        shape[dim] = number
        return values.narrow(dim, 0, 1).detach().expand(shape).index_copy(dim, rows, values)

    if isinstance(result, Tensor):
        return scatter(result)
    rebuilt = map_parameters(scatter, result)
    if rebuilt is not None:
        return rebuilt
    return _Reindexed(result, (number,), scatter, lambda values, dim: values.index_select(dim, rows))


def unflattened(distribution: dist.Distribution, shape: Sequence[int]) -> dist.Distribution:
    """A distribution of batch shape `(n,)` as one of batch shape `shape`, which has `n` entries."""
    shape = tuple(shape)
    rebuilt = map_parameters(lambda parameter: parameter.unflatten(0, shape), distribution)
    if rebuilt is not None:
        return rebuilt

    def flatten(values: Tensor, dim: int) -> Tensor:
        return values.flatten(dim - len(shape) + 1, dim)

    return _Reindexed(distribution, shape, lambda values, dim: values.unflatten(dim, shape), flatten)


def sample_from(distribution: dist.Distribution, sample_shape: Sequence[int] = ()) -> Tensor:
    """A sample, reparametrized where the distribution allows it."""
    if isinstance(distribution, TorchDistributionMixin):  # some, such as zuko's flows in Pyro, have no method rsample
        return distribution(torch.Size(sample_shape))
    return (distribution.rsample if distribution.has_rsample else distribution.sample)(torch.Size(sample_shape))


def expected_value(distribution: dist.Distribution) -> Tensor:
    """The mean of a distribution, `(*batch_shape, *event_shape)`, estimated where it has no closed form.

    The estimate is the distribution's `approximate_mean()` where it has one, else the mean of 64 samples.
    """
    if hasattr(distribution, "approximate_mean"):
        return distribution.approximate_mean()
    try:
        return distribution.mean
    except NotImplementedError:
        return sample_from(distribution, (_MEAN_SAMPLES,)).mean(0)


def representative_tensor(distribution: dist.Distribution) -> Tensor:
    """A tensor of the type and on the device of a distribution's samples, without sampling."""
    return next(_tensors(distribution, set()), torch.empty(()))


class RowwiseDistribution(dist.TorchDistribution):
    r"""A distribution that takes each row from one of several distributions.

    Args:
        distributions: Distributions of batch shape `(..., batch)` and one event shape.
        index: Which distribution each row is from, int64 `(batch,)`.

    Example:
        >>> low, high = (dist.Normal(torch.full((3, 2), m), 1.0).to_event(1) for m in (0.0, 9.0))
        >>> RowwiseDistribution([low, high], torch.tensor([0, 1, 0])).mean[:, 0]
        tensor([0., 9., 0.])
    """

    arg_constraints: dict = {}

    def __init__(
        self, distributions: Sequence[dist.Distribution], index: Tensor, validate_args: bool | None = None
    ) -> None:
        self.distributions, self.index = list(distributions), index
        shapes = [distribution.batch_shape for distribution in distributions]
        batch_shape = common_shape(*shapes, index.shape)
        super().__init__(batch_shape, distributions[0].event_shape, validate_args=validate_args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.distributions))})"

    @property
    def has_rsample(self) -> bool:
        """Whether all of them have `rsample`."""
        return all(distribution.has_rsample for distribution in self.distributions)

    @property
    def support(self) -> dist.constraints.Constraint:
        """The support of the first distribution."""
        return self.distributions[0].support

    @property
    def mean(self) -> Tensor:
        """The mean of each row, `(..., batch, *event)`."""
        return self._chosen([expected_value(distribution) for distribution in self.distributions])

    def expand(self, batch_shape, _instance=None) -> "RowwiseDistribution":
        expanded = [distribution.expand(batch_shape) for distribution in self.distributions]
        return RowwiseDistribution(expanded, self.index, validate_args=self._validate_args)

    def with_parts(self, function: Callable[[dist.Distribution], dist.Distribution | None]):
        """The same choice among `function` of the distributions; None if it has none for one of them."""
        parts = [function(distribution) for distribution in self.distributions]
        if any(part is None for part in parts):
            return None
        return RowwiseDistribution(parts, self.index, validate_args=self._validate_args)

    def rsample(self, sample_shape=()) -> Tensor:
        return self._chosen([sample_from(distribution, sample_shape) for distribution in self.distributions])

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._chosen([distribution.log_prob(value) for distribution in self.distributions], event_dim=0)

    def _chosen(self, values: Sequence[Tensor], event_dim: int | None = None) -> Tensor:
        event_dim = self.event_dim if event_dim is None else event_dim
        return _where_index(values, self.index.reshape(-1, *[1] * event_dim))


class _Wrapper(dist.TorchDistribution):
    """A distribution around another one, with its event shape."""

    arg_constraints: dict = {}

    def __init__(self, inner: dist.Distribution, batch_shape: Sequence[int]) -> None:
        self.inner = inner
        super().__init__(torch.Size(batch_shape), inner.event_shape, validate_args=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__.removeprefix('_')}({self.inner!r})"

    @property
    def support(self) -> dist.constraints.Constraint:
        return self.inner.support

    @property
    def has_rsample(self) -> bool:
        return self.inner.has_rsample


class _Reindexed(_Wrapper):
    """A distribution with its batch dimensions rearranged.

    Args:
        inner: A distribution of batch shape `(..., n)`.
        batch_shape: What the last batch dimension becomes.
        outward: From a tensor and the position of its dimension of size `n`, counted from the end, to the
            rearranged tensor.
        inward: The inverse, where the position is that of the last of the new dimensions.
    """

    def __init__(
        self,
        inner: dist.Distribution,
        batch_shape: Sequence[int],
        outward: Callable[[Tensor, int], Tensor],
        inward: Callable[[Tensor, int], Tensor],
    ) -> None:
        self.last_shape, self.outward, self.inward = tuple(batch_shape), outward, inward
        super().__init__(inner, (*inner.batch_shape[:-1], *batch_shape))

    @property
    def mean(self) -> Tensor:
        return self.outward(expected_value(self.inner), -1 - self.event_dim)

    def expand(self, batch_shape, _instance=None) -> "_Reindexed":
        lead = tuple(batch_shape)[: len(batch_shape) - len(self.last_shape)]
        inner = self.inner.expand((*lead, self.inner.batch_shape[-1]))
        return _Reindexed(inner, self.last_shape, self.outward, self.inward)

    def with_parts(self, function: Callable[[dist.Distribution], dist.Distribution | None]):
        """The same rearrangement of `function` of the distribution; None if it has none for it."""
        inner = function(self.inner)
        return None if inner is None else _Reindexed(inner, self.last_shape, self.outward, self.inward)

    def rsample(self, sample_shape=()) -> Tensor:
        return self.outward(sample_from(self.inner, sample_shape), -1 - self.event_dim)

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        lead = common_shape(value.shape[: value.dim() - self.event_dim], self.batch_shape)
        value = value.expand(lead + self.event_shape)
        return self.outward(self.inner.log_prob(self.inward(value, -1 - self.event_dim)), -1)


class _Detached(_Wrapper):
    """A distribution whose density has a gradient with respect to the value alone."""

    def __init__(self, inner: dist.Distribution) -> None:
        super().__init__(inner, inner.batch_shape)

    def expand(self, batch_shape, _instance=None) -> "_Detached":
        return _Detached(self.inner.expand(batch_shape))

    def sample(self, sample_shape=()) -> Tensor:
        return self.rsample(sample_shape)

    @torch.no_grad()
    def rsample(self, sample_shape=()) -> Tensor:
        return sample_from(self.inner, sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        lead = common_shape(value.shape[: value.dim() - self.event_dim], self.batch_shape)
        value = value.expand(lead + self.event_shape)
        with torch.enable_grad():
            constant = value.detach().requires_grad_()
            log_prob = self.inner.log_prob(constant)
            (gradient,) = torch.autograd.grad(log_prob.sum(), constant)
        change = (value - constant.detach()) * gradient  # zero, and its gradient is that of the density
        return log_prob.detach() + change.reshape(*lead, -1).sum(-1)


def _where_index(values: Sequence[Tensor], index: Tensor) -> Tensor:
    chosen = values[0]
    for number, value in enumerate(values[1:], start=1):
        chosen = torch.where(index == number, value, chosen)
    return chosen


def _family(distribution: dist.Distribution) -> type | None:
    """The Pyro class of a distribution; None if it cannot be rebuilt from its parameters alone."""
    family = type(distribution)
    if not isinstance(distribution, TorchDistributionMixin):
        family = getattr(dist, family.__name__, None)
    return None if family is None or _arguments(family) is None else family


@functools.cache
def _arguments(family: type) -> tuple[str, ...] | None:
    """The parameters that a distribution is constructed with; None if it takes anything else."""
    constraints = getattr(family, "arg_constraints", {})
    names = [name for name in inspect.signature(family).parameters if name != "validate_args"]
    return tuple(names) if names and isinstance(constraints, dict) and set(names) <= constraints.keys() else None


def _is_redundant(name: str, distribution: dist.Distribution) -> bool:
    """Whether the distribution is constructed from an equivalent parameter instead of this one."""
    for group in _ALTERNATIVES:
        if name in group:
            given = [other for other in group if other in vars(distribution)]
            return name != ("scale_tril" if "scale_tril" in group else given[0])
    return False


def _parameter(distribution: dist.Distribution, name: str) -> Tensor:
    value, event_dim = getattr(distribution, name), distribution.arg_constraints[name].event_dim
    return value.expand(distribution.batch_shape + value.shape[value.dim() - event_dim :])


def _tensors(value: Any, visited: set[int]) -> Any:
    """The floating-point tensors in a value."""
    if id(value) in visited:
        return
    visited.add(id(value))
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, nn.Module):
        yield from (tensor for tensor in (*value.parameters(), *value.buffers()) if tensor.is_floating_point())
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part, visited)
    elif isinstance(value, torch.distributions.Distribution | torch.distributions.Transform):
        yield from _tensors(vars(value), visited)
