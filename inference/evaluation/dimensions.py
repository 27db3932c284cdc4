"""The dimensions of a latent: how much each says about the data, and which are used at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from multipyro.batch import Masks, Rows, Values, batch_rows, modalities_in, selected
from multipyro.inference.evaluation._inputs import (
    check_known,
    check_values,
    conditions_of,
    select_given,
    take_rows,
)
from multipyro.inference.evaluation.estimates import plain
from multipyro.inference.evaluation.prediction import evaluating, latent_site
from multipyro.inference.handlers import conditional, generative, restrict
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.programs import Program

__all__ = ["LatentDimensions", "latent_dimensions", "latent_distribution", "symmetric_kl"]


@dataclass(frozen=True, eq=False)
class LatentDimensions:
    """What each dimension of a latent says about the data.

    Attributes:
        kl: KL divergence of each data point's posterior from the prior, in nats, `(batch, latent_dim)`.
        mean_variance: Variance over data points of the posterior mean, `(latent_dim,)`.

    Example:
        >>> LatentDimensions(torch.tensor([[0.1, 2.0], [0.3, 1.0]]), torch.tensor([0.001, 0.8])).active
        tensor([False,  True])
    """

    kl: Tensor
    mean_variance: Tensor

    @property
    def active(self) -> Tensor:
        """Which dimensions are active units: their posterior mean varies by more than 0.01, bool `(latent_dim,)`."""
        return self.mean_variance > 0.01

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `kl` (mean over data points), `mean_variance`, both per dimension, `active_units`."""
        active_units = int(self.active.sum())
        return plain({"kl": self.kl.mean(0), "mean_variance": self.mean_variance, "active_units": active_units})


def latent_dimensions(
    model: Program,
    guide: Program,
    x: Values,
    given: Sequence[str] | None = None,
    num_samples: int = 256,
    observed: Masks = None,
) -> LatentDimensions:
    r"""The KL divergence of each latent dimension from its prior, and the active units.

    .. math:: \mathrm{KL}(q(z_d \mid x_G) \,\|\, p(z_d)), \qquad
        A_d = \mathrm{Var}_x\, E_q[z_d \mid x_G] > 0.01

    where `q` is the marginal of the guide's `conditional` distribution. In closed form where there is one; by Monte
    Carlo where a marginal is a mixture. Dimensions of one posterior are not independent in a mixture, so their KLs need
    not sum to that of the whole.

    References:
        Variational Mixture-of-Experts Autoencoders (Shi et al., 2019), Figure 5; Importance Weighted Autoencoders
        (Burda et al., 2016), section 5.1, for active units.

    Args:
        model: The generative program, for its prior.
        guide: The variational program.
        x: Modality name -> values `(batch, *event)`.
        given: The modalities that are conditioned on; all of `x` by default.
        num_samples: Monte Carlo samples per data point, where there is no closed form.
        observed: Modality name -> which data points are observed, bool `(batch,)`. Data points without any of `given`
            do not count.

    Returns:
        The KL per data point and dimension, and the variances of the means, of the site `z` (of a hierarchical guide
        its top layer).

    Raises:
        ValueError: If a modality is unknown, its values are invalid, or no data point counts.
        TypeError: If posterior or prior has no marginals in closed form, as is the case for a flow.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> latent_dimensions(model, guide, {"image": torch.randn(5, 16)}).kl.shape
        torch.Size([5, 2])
    """
    check_known(model, modalities_in(x))
    check_values(model, x, observed)
    given = modalities_in(x) if given is None else select_given(given, x, "given")
    informed = Rows({name: x[name] for name in given}, observed).any()
    if informed is not None:
        x, observed = take_rows(x, observed, informed.nonzero()[:, 0])
        if not batch_rows(x):
            raise ValueError(f"no data point has any of {list(given)}")
    conditions = selected(x, conditions_of(model))
    name = latent_site(guide)
    with evaluating(model, guide), poutine.block():
        posterior = latent_distribution(guide, x, given, observed)
        prior_trace = poutine.trace(generative(model, ())).get_trace(conditions, num_rows=batch_rows(x))
        prior = sample_sites(prior_trace)[name]["fn"]
        return LatentDimensions(_kl(posterior, prior, num_samples), posterior.mean.var(0))


def symmetric_kl(
    guide: Program, x: Values, first: Sequence[str], second: Sequence[str], num_samples: int = 256
) -> Tensor:
    r"""How much the posteriors of two subsets of the modalities disagree, per dimension.

    .. math:: \tfrac12 \big( \mathrm{KL}(q_1 \,\|\, q_2) + \mathrm{KL}(q_2 \,\|\, q_1) \big)

    References:
        Variational Mixture-of-Experts Autoencoders (Shi et al., 2019), Figure 5.

    Args:
        guide: The variational program.
        x: Modality name -> values `(batch, *event)`, every data point complete.
        first: One subset of the modalities.
        second: The other.
        num_samples: As in `latent_dimensions`.

    Returns:
        Nats, `(batch, latent_dim)`.

    Raises:
        ValueError: If a subset is empty or not in `x`.
        TypeError: As in `latent_dimensions`.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP
        >>> guide = ProductOfExperts(2, {name: NormalEncoder(MLP(4, 8), 2) for name in ("a", "b")})
        >>> symmetric_kl(guide, {"a": torch.zeros(5, 4), "b": torch.zeros(5, 4)}, ["a"], ["b"]).shape
        torch.Size([5, 2])
    """
    with evaluating(guide), poutine.block():
        left, right = (latent_distribution(guide, x, select_given(names, x, "a subset")) for names in (first, second))
        return 0.5 * (_kl(left, right, num_samples) + _kl(right, left, num_samples))


def latent_distribution(guide: Program, x: Values, given: Sequence[str], observed: Masks = None) -> dist.Distribution:
    """The guide's `conditional` distribution of that latent given some modalities, of batch shape `(batch,)`."""
    with evaluating(guide), poutine.block():
        trace = poutine.trace(restrict(conditional(guide), given)).get_trace(dict(x), observed)
    return sample_sites(trace)[latent_site(guide)]["fn"]


def _kl(first: dist.Distribution, second: dist.Distribution, num_samples: int) -> Tensor:
    """KL divergence of each dimension's marginal, `(batch, latent_dim)`."""
    components, others = _marginals(first), _marginals(second)
    if len(components) == 1 and len(others) == 1:
        return kl_divergence(components[0][1], others[0][1])
    values = first.sample((num_samples,))
    return (_log_density(components, values) - _log_density(others, values)).mean(0)


def _log_density(components: Sequence[tuple[Tensor, dist.Distribution]], values: Tensor) -> Tensor:
    terms = [weights.log().unsqueeze(-1) + marginal.log_prob(values) for weights, marginal in components]
    return torch.stack(torch.broadcast_tensors(*terms)).logsumexp(0)


def _marginals(distribution: Any) -> list[tuple[Tensor, dist.Distribution]]:
    """The marginals of each dimension: weights `(batch,)`, and distributions of batch shape `(batch, latent_dim)`."""
    if hasattr(distribution, "components"):
        parts = zip(distribution.weights.unbind(-1), distribution.components, strict=True)
        return [(weights * inner, marginal) for weights, part in parts for inner, marginal in _marginals(part)]
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    if isinstance(distribution, torch.distributions.MultivariateNormal | torch.distributions.LowRankMultivariateNormal):
        distribution = dist.Normal(distribution.mean, distribution.variance.sqrt())
    if distribution.event_shape:
        raise TypeError(f"{type(distribution).__name__} has no marginals of single dimensions in closed form")
    return [(torch.ones(distribution.batch_shape[:-1], dtype=distribution.mean.dtype), distribution)]
