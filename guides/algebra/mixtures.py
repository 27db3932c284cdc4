"""The mixture of experts as a reparametrized distribution with stratified components."""

from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from multipyro._distributions import (
    common_shape,
    detached,
    expected_value,
    map_parameters,
    representative_tensor,
    sample_from,
    stacked,
)
from multipyro.guides.algebra.widening import matched_normal, widened

__all__ = ["StratifiedMixture"]

# share of the normal with the moments of all components in a widened mixture
_MATCHED = 0.25


class StratifiedMixture(dist.TorchDistribution):
    r"""A mixture with constant weights, stratified sampling and pathwise gradients.

    .. math:: q(z) = \sum_j \pi_j q_j(z)

    `log_prob` is always the density of the full mixture, whichever component a sample came from. `rsample` assigns
    components to the rows (or, with a sample shape, to the samples of each row) by systematic sampling under a random
    permutation: every sample has exactly the probability `pi_j` of component `j`, and if all rows have the same
    weights, the number of samples of a component differs from its expectation by less than one, at any batch size.

    The released code of MoPoE assigns component `j` to the `j`-th block of the batch, which over-represents the last
    one unless the number of subsets divides the batch size.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), eq. 3;
        Generalized Multimodal ELBO (Sutter et al., 2021), eq. 6.

    Args:
        components: Distributions of batch shape `batch` and one event dimension, of any families; or one distribution
            whose first batch dimension runs over the components.
        weights: `(*batch, num_components)` or `(num_components,)`, summing to 1, 0 allowed; equal by default. They
            are constants: no gradient reaches them.
        names: The modality of each component, if they are experts of one modality each; some objectives need it.

    Raises:
        ValueError: If there is no component, the components have no single event dimension, or the numbers of weights
            or names differ from that of the components.

    Example:
        >>> left, right = (dist.Normal(torch.full((4, 1), m), 0.1).to_event(1) for m in (-1.0, 1.0))
        >>> mixture = StratifiedMixture([left, right])
        >>> (mixture.sample() > 0).sum().item()
        2
    """

    arg_constraints: dict = {}
    support = dist.constraints.real_vector

    def __init__(
        self,
        components: Sequence[dist.Distribution] | dist.Distribution,
        weights: Tensor | None = None,
        validate_args: bool | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        if isinstance(components, torch.distributions.Distribution):
            stack, number = components, components.batch_shape[0]
            batch_shape, event_shape = components.batch_shape[1:], components.event_shape
            self._parts: tuple[dist.Distribution, ...] = ()
        else:
            components = tuple(components)
            if not components:
                raise ValueError("a mixture needs at least one component, got none")
            batch_shape = common_shape(*[component.batch_shape for component in components])
            stack, number, event_shape = stacked(components), len(components), components[0].event_shape
            self._parts = () if stack is not None else components
        if len(event_shape) != 1:
            raise ValueError(f"components must have one event dimension, got event shape {tuple(event_shape)}")
        weights = torch.full((number,), 1 / number, dtype=torch.float64) if weights is None else weights.detach()
        weights = weights.to(representative_tensor(components[0] if stack is None else stack))
        if weights.shape[-1] != number:
            raise ValueError(f"weights must have {number} entries, one per component, got {tuple(weights.shape)}")
        if names is not None and len(names) != number:
            raise ValueError(f"names must be {number}, one per component, got {list(names)}")
        self.names = None if names is None else tuple(names)
        batch_shape = common_shape(batch_shape, weights.shape[:-1])
        self._stack = None if stack is None else stack.expand((number, *batch_shape))
        self._parts = tuple(part.expand(batch_shape) for part in self._parts)
        self.weights = weights.expand(*batch_shape, number)
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    def __repr__(self) -> str:
        names = f"{self.num_components} components" if self.names is None else ", ".join(self.names)
        return f"{type(self).__name__}({names}: {', '.join(map(repr, self._parts or (self._stack,)))})"

    @property
    def has_rsample(self) -> bool:
        """Whether all components have `rsample`."""
        return all(part.has_rsample for part in self._parts or (self._stack,))

    @property
    def num_components(self) -> int:
        """Number of components of the mixture."""
        return self.weights.shape[-1]

    @property
    def components(self) -> tuple[dist.Distribution, ...]:
        """The components, each of batch shape `batch`."""
        if self._stack is None:
            return self._parts
        return tuple(map_parameters(lambda p, j=j: p[j], self._stack) for j in range(self.num_components))

    @property
    def mean(self) -> Tensor:
        """Mean of the mixture, `(*batch, latent_dim)`."""
        return (self._leading_weights().unsqueeze(-1) * self._of_components(expected_value)).sum(0)

    @property
    def variance(self) -> Tensor:
        """Variance of the mixture by the law of total variance, `(*batch, latent_dim)`."""
        means, variances = self._of_components(expected_value), self._of_components(lambda part: part.variance)
        second = (self._leading_weights().unsqueeze(-1) * (variances + means.square())).sum(0)
        return second - self.mean.square()

    def expand(self, batch_shape, _instance=None) -> "StratifiedMixture":
        """The same mixture over a larger batch shape."""
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        weights = self.weights.expand(*batch_shape, self.num_components)
        if self._stack is None:
            return StratifiedMixture([part.expand(batch_shape) for part in self._parts], weights, names=self.names)
        new = len(batch_shape) - len(self.batch_shape)

        def widen(parameter: Tensor) -> Tensor:
            # new batch dimensions stand between the component's dimension and the old batch
            inner = parameter.shape[1 + len(self.batch_shape) :]
            parameter = parameter.reshape(self.num_components, *[1] * new, *parameter.shape[1:])
            return parameter.expand(self.num_components, *batch_shape, *inner)

        return StratifiedMixture(map_parameters(widen, self._stack), weights, names=self.names)

    def detach(self) -> "StratifiedMixture":
        """The same mixture with a density through which no gradient reaches a component's parameters."""
        if self._stack is None:
            return StratifiedMixture([detached(part) for part in self._parts], self.weights, names=self.names)
        return StratifiedMixture(detached(self._stack), self.weights, names=self.names)

    def widened(self, scale: float) -> "StratifiedMixture | None":
        """The mixture of the widened components, and at a quarter a normal with the moments of the whole mixture.

        What the components approximate together, such as a posterior by means of completions, may be wider than each of
        them is at any scale. None if one of them has no rule, as in `widening.widened`.
        """
        parts = [widened(part, scale) for part in self.components]
        if any(part is None for part in parts):
            return None
        if self.num_components == 1:
            return StratifiedMixture(parts, self.weights)
        weights = torch.cat([(1 - _MATCHED) * self.weights, torch.full_like(self.weights[..., :1], _MATCHED)], -1)
        return StratifiedMixture([*parts, matched_normal(self, scale**0.5)], weights)

    def component_log_probs(self, value: Tensor) -> Tensor:
        """Log-density of every component, `(num_components, ...)` before the sample and batch dimensions."""
        if self._stack is None:
            return torch.stack([part.log_prob(value) for part in self._parts])
        dim = -1 - len(self.event_shape) - len(self.batch_shape)
        lead = max(value.dim() + dim + 1, 0)
        log_probs = self._stack.log_prob(value.unsqueeze(lead))
        return log_probs.movedim(lead, 0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the full mixture."""
        log_weights = self._leading_weights().log()  # -inf for an absent component: its weight and gradient are 0
        log_probs = self.component_log_probs(value)
        extra = log_probs.dim() - log_weights.dim()
        log_weights = log_weights.reshape(self.num_components, *[1] * extra, *self.batch_shape)
        return (log_weights + log_probs).logsumexp(0)

    def rsample(self, sample_shape=()) -> Tensor:
        """Reparametrized samples, `(*sample_shape, *batch, latent_dim)`, stratified over the components."""
        sample_shape = torch.Size(sample_shape)
        if self.num_components == 1:
            return sample_from(self.components[0], sample_shape)
        number = sample_shape.numel()
        index = self._assign(number)  # (number, *batch)
        if self._stack is None:
            samples = torch.stack([sample_from(part, (number,)) for part in self._parts])
            value = samples.gather(0, _per_element(index, samples[0])[None])[0]
        else:
            chosen = map_parameters(lambda p: p.gather(0, _per_element(index, p)), self._stack)
            value = sample_from(chosen)
        return value.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def rsample_strata(self, sample_shape=()) -> Tensor:
        """Samples of every component, `(*sample_shape, num_components, *batch, latent_dim)`."""
        if self._stack is not None:
            return sample_from(self._stack, sample_shape)
        return torch.stack([sample_from(part, sample_shape) for part in self._parts], dim=len(sample_shape))

    def _leading_weights(self) -> Tensor:
        return self.weights.movedim(-1, 0)

    def _of_components(self, function: Callable[[dist.Distribution], Tensor]) -> Tensor:
        return function(self._stack) if self._stack is not None else torch.stack([function(p) for p in self._parts])

    def _assign(self, number: int) -> Tensor:
        """The component of each of `number` samples of each row, `(number, *batch)`.

        Systematic sampling: `n` equally spaced points with one common random offset are located in the cumulative
        weights, in random order, so that each point alone is uniform on [0, 1). The `n` points are the samples of one
        row (particle dimensions to the left of the rows count as samples), or with one sample per row, the rows.
        """
        rows = self.batch_shape[-1] if self.batch_shape else 1
        samples = number * self.batch_shape[:-1].numel()
        strata = (samples, rows) if samples > 1 else (rows, 1)
        points = torch.rand(strata, device=self.weights.device).argsort(0)
        offset = torch.rand(1, strata[1], device=self.weights.device)
        uniform = ((points + offset) / strata[0]).clamp(max=1 - 2**-24).reshape(number, *self.batch_shape, 1)
        cumulative = self.weights.cumsum(-1)
        # dividing by the last entry makes everything after the last present component exactly 1
        return (uniform >= (cumulative / cumulative[..., -1:])[..., :-1]).sum(-1)


def _per_element(index: Tensor, values: Tensor) -> Tensor:
    """An index over the first dimension of `values`, repeated over the dimensions that it does not have."""
    inner = values.shape[index.dim() :]
    return index.reshape(*index.shape, *[1] * len(inner)).expand(*index.shape, *inner)
