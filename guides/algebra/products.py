"""Products of Gaussian experts as pure functions from distributions to a distribution."""

import math
from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from multipyro._distributions import common_shape, representative_tensor
from multipyro.batch import Masks, Rows

__all__ = ["Experts", "check_prior", "product_of_experts", "subset_products"]

# log-precision of a missing expert: beside any real one its weight exp(-1e4) is exactly 0 in every float type, and
# unlike -inf it causes no NaN in a gradient
_MISSING = -1e4
# log-precision and mean of one expert or of several products
Term = tuple[Tensor, Tensor]
Powers = Mapping[str, float | Tensor] | float | Tensor


class Experts(dict):
    """Modality name -> expert distribution, with the rows that each expert has.

    Args:
        experts: Modality name -> distribution of batch shape `(batch,)` and event shape `(latent_dim,)`.
        rows: Which rows contain which of these modalities.

    Example:
        >>> one = dist.Normal(torch.ones(3, 2), 1.0).to_event(1)
        >>> x = {"a": torch.zeros(3, 4), "b": torch.zeros(3, 5)}
        >>> experts = Experts({"a": one, "b": one}, Rows(x, {"b": torch.tensor([True, True, False])}))
        >>> product_of_experts(experts).base_dist.scale[:, 0] ** 2
        tensor([0.5000, 0.5000, 1.0000])
        >>> experts.count()[:, 0]
        tensor([2., 2., 1.])
    """

    def __init__(self, experts: Mapping[str, dist.Distribution], rows: Rows) -> None:
        super().__init__(experts)
        self.rows = rows

    def count(self) -> Tensor:
        """Number of experts of each row, `(batch, 1)`; 1 for a row without any, so that one can divide by it."""
        like = representative_tensor(next(iter(self.values())))
        return self.rows.count().clamp(min=1).unsqueeze(-1).to(like)


def product_of_experts(
    experts: Mapping[str, dist.Distribution] | Sequence[dist.Distribution],
    prior: dist.Distribution | nn.Module | None = None,
    observed: Masks = None,
    powers: Powers | None = None,
) -> dist.Distribution:
    r"""The normalized product of diagonal Gaussian experts.

    .. math:: q(z \mid x_S) \propto p_0(z) \prod_{m \in S} q_m(z \mid x_m)^{\alpha_m}

    Precisions add up, in log space. With a prior expert, the product is the exact posterior if each expert is
    :math:`p(z \mid x_m) / p(z)`; a product of posteriors counts the prior too often.

    References:
        Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu and Goodman, 2018), section 2.1.

    Args:
        experts: Independent normals of batch shape `(batch,)` and event shape `(latent_dim,)`, a dict or a sequence.
        prior: The prior expert, or a module that returns it when called; None for a product without one.
        observed: Name -> bool `(batch,)`, the rows that have this expert; by default those of `Guide.experts`.
        powers: Power of every expert, a number or a tensor `(batch, 1)` or `(batch, latent_dim)`; or name -> power, 1
            by default, where names without an expert are ignored.

    Returns:
        An independent normal of batch shape `(batch,)`. A row without any expert, prior included, gets `N(0, I)`: it
        is finite, and guides mask it out.

    Raises:
        TypeError: If an expert or the prior is not an independent normal.
        ValueError: If there is no expert at all, or a power is negative, not finite, or of one dimension.

    Example:
        >>> narrow = dist.Normal(torch.ones(1, 2), 1.0).to_event(1)
        >>> product_of_experts([narrow, narrow], prior=dist.Normal(torch.zeros(2), 1.0).to_event(1)).mean
        tensor([[0.6667, 0.6667]])
    """
    terms = list(_terms(experts, observed, powers).values())
    if prior is not None:
        term = _prior_term(prior)
        terms.insert(0, _contiguous(term, terms[0][1].shape) if terms else term)
    if not terms:
        raise ValueError("a product needs at least one expert or a prior, got none")
    product = terms[0]
    for other in terms[1:]:
        product = _multiply(product, other)
    return _normal(product)


def subset_products(
    experts: Mapping[str, dist.Distribution],
    subsets: Sequence[Sequence[str]],
    prior: dist.Distribution | nn.Module | None = None,
    with_prior: Sequence[bool] | None = None,
    observed: Masks = None,
    powers: Powers | None = None,
) -> dist.Distribution:
    r"""The products of many subsets of experts at once, where each shared prefix is multiplied once.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), section 3.2.

    Args:
        experts: Modality name -> independent normal of batch shape `(batch,)` and event shape `(latent_dim,)`.
        subsets: The subsets, each a sequence of names in `experts`.
        prior: The prior expert, or a module that returns it when called; None for products without one.
        with_prior: Which of the products contain the prior expert; all by default.
        observed: As in `product_of_experts`. A product leaves out the experts that a row does not have; which products
            a row can use is the caller's decision.
        powers: As in `product_of_experts`.

    Returns:
        An independent normal of batch shape `(len(subsets), batch)` and event shape `(latent_dim,)`.

    Raises:
        TypeError: As in `product_of_experts`.
        ValueError: If a subset is empty, or names an unknown expert.

    Example:
        >>> one = dist.Normal(torch.ones(3, 2), 1.0).to_event(1)
        >>> subset_products({"a": one, "b": one}, [("a",), ("b",), ("a", "b")]).batch_shape
        torch.Size([3, 3])
    """
    terms = _terms(experts, observed, powers)
    if not subsets or any(not subset or set(subset) - set(terms) for subset in subsets):
        raise ValueError(f"subsets must be non-empty and consist of {list(terms)}, got {list(subsets)}")
    position = {name: number for number, name in enumerate(terms)}
    wanted = [tuple(sorted(position[name] for name in subset)) for subset in subsets]
    products = _prefix_products(list(terms.values()), wanted)
    chosen = [products[subset] for subset in wanted]
    if prior is not None:
        multiplied = [number for number in range(len(wanted)) if with_prior is None or with_prior[number]]
        if multiplied:
            product = _stack([chosen[number] for number in multiplied])
            product = _multiply(product, _contiguous(_prior_term(prior), product[1].shape))
            for number, term in zip(multiplied, _unstack(product), strict=True):
                chosen[number] = term
    return _normal(_stack(chosen))


def check_prior(prior: nn.Module, alternative: str) -> None:
    """Raises a TypeError that names the `alternative` if a prior cannot be an expert of a product."""
    try:
        _prior_term(prior)
    except TypeError as error:
        raise TypeError(f"{error}: use {alternative}") from None


def _prefix_products(terms: Sequence[Term], subsets: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], Term]:
    """The product of every prefix of the subsets, all that end at one expert in one operation."""
    products: dict[tuple[int, ...], Term] = {}
    prefixes = {subset[:length] for subset in subsets for length in range(1, len(subset) + 1)}
    for position, (log_precision, loc) in enumerate(terms):
        ending = sorted(prefix for prefix in prefixes if prefix[-1] == position)
        longer = [prefix for prefix in ending if len(prefix) > 1]
        if (position,) in prefixes:
            products[position,] = log_precision, loc
        if longer:
            before = _stack([products[prefix[:-1]] for prefix in longer])
            joint = _multiply(before, (log_precision[None], loc[None]))
            products.update(zip(longer, _unstack(joint), strict=True))
    return products


def _terms(
    experts: Mapping[str, dist.Distribution] | Sequence[dist.Distribution],
    observed: Masks,
    powers: Powers | None,
) -> dict[str, Term]:
    """Name -> log-precision and mean of every expert, `(batch, latent_dim)`, missing rows included."""
    if not isinstance(experts, Mapping):
        experts = {str(position): expert for position, expert in enumerate(experts)}
    if observed is None:
        observed = experts.rows.masks if isinstance(experts, Experts) else {}
    if powers is not None and not isinstance(powers, Mapping):
        powers = dict.fromkeys(experts, powers)
    terms = {}
    for name, expert in experts.items():
        log_precision, loc = _term(expert, f"the expert {name!r}")
        if powers is not None and name in powers:
            log_precision = _raised(log_precision, powers[name], name)
        if name in observed:
            mask = observed[name].unsqueeze(-1)
            log_precision = torch.where(mask, log_precision, _MISSING)
            loc = torch.where(mask, loc, 0.0)
        terms[name] = log_precision, loc
    shape = common_shape(*[part.shape for term in terms.values() for part in term])
    return {name: _contiguous(term, shape) for name, term in terms.items()}


def _raised(log_precision: Tensor, power: float | Tensor, name: str) -> Tensor:
    """The log-precision of an expert to a power; that of a missing expert where the power is 0."""
    if not isinstance(power, Tensor):
        if not 0 <= power < math.inf:
            raise ValueError(f"the power of {name!r} must be finite and not negative, got {power}")
        return log_precision + math.log(power) if power > 0 else torch.full_like(log_precision, _MISSING)
    if power.dim() == 1:
        raise ValueError(f"the power of {name!r} must be (batch, 1) or (batch, latent_dim), got {tuple(power.shape)}")
    if is_validation_enabled() and not ((power >= 0) & power.isfinite()).all():
        raise ValueError(
            f"the power of {name!r} must be finite and not negative, got {power.min().item()} to {power.max().item()}"
        )
    power = power.to(log_precision)
    present = power > 0  # no gradient of the logarithm at 0
    return torch.where(present, log_precision + torch.where(present, power, 1.0).log(), _MISSING)


def _term(expert: dist.Distribution, role: str) -> Term:
    base = expert.base_dist if isinstance(expert, torch.distributions.Independent) else expert
    if not isinstance(base, torch.distributions.Normal):
        raise TypeError(f"{role} of a product must be an independent normal, got {expert}")
    return -2 * base.scale.log(), base.loc


def _prior_term(prior: dist.Distribution | nn.Module) -> Term:
    return _term(prior() if isinstance(prior, nn.Module) else prior, "the prior expert")


def _contiguous(term: Term, shape: Sequence[int]) -> Term:
    # torch rounds exp and log differently on broadcast operands; with one layout for all, a product with a missing
    # expert is bit for bit the product without it
    shape = common_shape(shape, term[1].shape)
    return term[0].expand(shape).contiguous(), term[1].expand(shape).contiguous()


def _stack(terms: Sequence[Term]) -> Term:
    return torch.stack([term[0] for term in terms]), torch.stack([term[1] for term in terms])


def _unstack(term: Term) -> list[Term]:
    return list(zip(term[0].unbind(0), term[1].unbind(0), strict=True))


def _multiply(left: Term, right: Term) -> Term:
    # each mean has its own weight (not a + w (b - a)), so that a weight of exactly 0 leaves the other mean untouched
    weight_left, weight_right = (left[0] - right[0]).sigmoid(), (right[0] - left[0]).sigmoid()
    return torch.logaddexp(left[0], right[0]), weight_left * left[1] + weight_right * right[1]


def _normal(term: Term) -> dist.Distribution:
    log_precision, loc = term
    empty = log_precision < _MISSING / 2
    scale = torch.where(empty, 0.0, -0.5 * log_precision).exp()
    return dist.Normal(torch.where(empty, 0.0, loc), scale).to_event(1)
