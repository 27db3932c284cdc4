"""Products of Gaussian experts as pure functions from distributions to a distribution."""

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.batch import Rows

__all__ = ["Experts", "product_of_experts", "subset_products"]

# log-precision of a missing expert: beside any real one its share exp(-1e4) is exactly 0 in every float type, and
# unlike -inf it leaves no NaN in a gradient
_MISSING = -1e4


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
        tensor([2, 2, 1])
    """

    def __init__(self, experts: Mapping[str, dist.Distribution], rows: Rows) -> None:
        super().__init__(experts)
        self.rows = rows

    def count(self) -> Tensor:
        """Number of experts of each row, `(batch, 1)`, and 1 in a row without any, so that it can divide."""
        return self.rows.count().clamp(min=1).unsqueeze(-1)


def product_of_experts(
    experts: Mapping[str, dist.Distribution] | Sequence[dist.Distribution],
    prior: dist.Distribution | nn.Module | None = None,
    observed: Mapping[str, Tensor] | None = None,
    powers: Mapping[str, float | Tensor] | float | Tensor | None = None,
) -> dist.Distribution:
    r"""The normalized product of diagonal Gaussian experts.

    .. math:: q(z \mid x_S) \propto p_0(z) \prod_{m \in S} q_m(z \mid x_m)^{\alpha_m}

    Precisions add up, in log space. Note what an expert is: with a prior expert, the product is the exact posterior
    when each expert is :math:`p(z \mid x_m) / p(z)`; a product of posteriors counts the prior too often.

    References:
        Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu and Goodman, 2018), section 2.1.

    Args:
        experts: Independent normals of batch shape `(batch,)` and event shape `(latent_dim,)`, by name or in a row.
        prior: The prior expert, or a module that returns it when called; None for a product without one.
        observed: Name -> rows that have this expert, bool `(batch,)`; by default the masks that `experts` carries.
        powers: Power of every expert, a number or a tensor `(batch, 1)` or `(batch, latent_dim)`; or name -> power, by
            default 1, where names of experts that are not there are ignored.

    Returns:
        An independent normal of batch shape `(batch,)`. A row without any expert, the prior's included, gets
        `N(0, I)`, a finite stand-in which guides mask out.

    Raises:
        TypeError: If an expert is not Gaussian.
        ValueError: If there is no expert at all, or a power is negative, not finite, or of one dimension.

    Example:
        >>> narrow = dist.Normal(torch.ones(1, 2), 1.0).to_event(1)
        >>> product_of_experts([narrow, narrow], prior=dist.Normal(torch.zeros(2), 1.0).to_event(1)).mean
        tensor([[0.6667, 0.6667]])
    """
    names, terms = _terms(experts, observed, powers)
    terms = _with_prior(terms, prior)
    if not terms:
        raise ValueError("a product needs at least one expert or a prior, got none")
    log_precision, loc = terms[0]
    for other in terms[1:]:
        log_precision, loc = _multiply((log_precision, loc), other)
    return _normal(log_precision, loc)


def subset_products(
    experts: Mapping[str, dist.Distribution],
    subsets: Sequence[Sequence[str]],
    prior: Sequence[bool] | bool = False,
    observed: Mapping[str, Tensor] | None = None,
    powers: Mapping[str, float | Tensor] | float | Tensor | None = None,
) -> dist.Distribution:
    r"""The products of many subsets of experts at once, each shared prefix multiplied once.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), section 3.2.

    Args:
        experts: Modality name -> independent normal of batch shape `(batch,)` and event shape `(latent_dim,)`.
        subsets: The subsets, each a sequence of names in `experts`.
        prior: Whether a standard normal prior expert belongs to each product, one for all or one a subset.
        observed: As in `product_of_experts`. A product leaves out what its row lacks; which products a row may use
            is the caller's choice.
        powers: As in `product_of_experts`.

    Returns:
        An independent normal of batch shape `(len(subsets), batch)` and event shape `(latent_dim,)`.

    Example:
        >>> one = dist.Normal(torch.ones(3, 2), 1.0).to_event(1)
        >>> subset_products({"a": one, "b": one}, [("a",), ("b",), ("a", "b")]).batch_shape
        torch.Size([3, 3])
    """
    names, terms = _terms(experts, observed, powers)
    if not subsets or any(not subset or set(subset) - set(names) for subset in subsets):
        raise ValueError(f"subsets must be non-empty and made of {names}, got {list(subsets)}")
    index = {name: position for position, name in enumerate(names)}
    wanted = [tuple(sorted(index[name] for name in subset)) for subset in subsets]
    # level by level: the products of all prefixes of the wanted subsets that end at one expert, in one operation
    products: dict[tuple[int, ...], int] = {}
    log_precisions, locs = [], []
    prefixes = {subset[:length] for subset in wanted for length in range(1, len(subset) + 1)}
    for position, (log_precision, loc) in enumerate(terms):
        ending = sorted(prefix for prefix in prefixes if prefix[-1] == position)
        alone, longer = [p for p in ending if len(p) == 1], [p for p in ending if len(p) > 1]
        if alone:
            products[alone[0]] = len(products)
            log_precisions.append(log_precision[None])
            locs.append(loc[None])
        if longer:
            rows = torch.tensor([products[prefix[:-1]] for prefix in longer], device=loc.device)
            before = torch.cat(log_precisions).index_select(0, rows), torch.cat(locs).index_select(0, rows)
            joint = _multiply(before, (log_precision[None], loc[None]))
            products.update({prefix: len(products) + offset for offset, prefix in enumerate(longer)})
            log_precisions.append(joint[0])
            locs.append(joint[1])
    rows = torch.tensor([products[subset] for subset in wanted], device=terms[0][1].device)
    log_precision, loc = torch.cat(log_precisions).index_select(0, rows), torch.cat(locs).index_select(0, rows)
    priors = [prior] * len(wanted) if isinstance(prior, bool) else list(prior)
    if any(priors):
        has_prior = torch.tensor(priors, device=loc.device).reshape(-1, 1, 1)
        prior_log_precision = torch.where(has_prior, 0.0, _MISSING).to(loc)
        log_precision, loc = _multiply((log_precision, loc), (prior_log_precision, torch.zeros_like(loc)))
    return _normal(log_precision, loc)


def _terms(experts, observed, powers) -> tuple[list[str], list[tuple[Tensor, Tensor]]]:
    """Names, and the log-precision and mean of every expert, `(batch, latent_dim)`, missing rows included."""
    if not isinstance(experts, Mapping):
        experts = {str(position): expert for position, expert in enumerate(experts)}
    if observed is None:
        observed = experts.rows.masks if isinstance(experts, Experts) else {}
    if powers is not None and not isinstance(powers, Mapping):
        powers = dict.fromkeys(experts, powers)
    terms = []
    for name, expert in experts.items():
        log_precision, loc = _log_precision_and_loc(expert, name)
        if powers is not None and name in powers:
            power = torch.as_tensor(powers[name], dtype=loc.dtype, device=loc.device)
            if not ((power >= 0) & power.isfinite()).all() or power.dim() == 1:
                raise ValueError(
                    f"the power of {name!r} must be finite and not negative, a number or (batch, latent_dim), got "
                    f"{power.detach().min().item()} to {power.detach().max().item()} of shape {tuple(power.shape)}"
                )
            # an expert of power 0 is a missing one; the logarithm's gradient there must not be taken
            present = power > 0
            log_precision = torch.where(present, log_precision + torch.where(present, power, 1.0).log(), _MISSING)
        if name in observed:
            mask = observed[name].unsqueeze(-1)
            log_precision = torch.where(mask, log_precision, _MISSING)
            loc = torch.where(mask, loc, 0.0)
        terms.append((log_precision, loc))
    shapes = torch.broadcast_shapes(*[part.shape for term in terms for part in term]) if terms else ()
    return list(experts), [_contiguous(term, shapes) for term in terms]


def _log_precision_and_loc(expert: dist.Distribution, name: str) -> tuple[Tensor, Tensor]:
    base = expert.base_dist if isinstance(expert, torch.distributions.Independent) else expert
    if not isinstance(base, torch.distributions.Normal):
        raise TypeError(f"a product needs independent normal experts, got {expert} for {name!r}")
    return -2 * base.scale.log(), base.loc


def _with_prior(terms: list[tuple[Tensor, Tensor]], prior) -> list[tuple[Tensor, Tensor]]:
    if prior is None:
        return terms
    term = _log_precision_and_loc(prior() if isinstance(prior, nn.Module) else prior, "prior")
    return [_contiguous(term, terms[0][1].shape) if terms else term, *terms]


def _contiguous(term: tuple[Tensor, Tensor], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    # torch rounds exp and log differently on broadcast operands; with all of them laid out alike, a product with a
    # missing expert is bit for bit the product without it
    shape = torch.broadcast_shapes(shape, term[1].shape)
    return term[0].expand(shape).contiguous(), term[1].expand(shape).contiguous()


def _multiply(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    # each mean has its own weight (not a + w (b - a)), so that a weight of exactly 0 leaves the other mean untouched
    weight_left, weight_right = (left[0] - right[0]).sigmoid(), (right[0] - left[0]).sigmoid()
    return torch.logaddexp(left[0], right[0]), weight_left * left[1] + weight_right * right[1]


def _normal(log_precision: Tensor, loc: Tensor) -> dist.Distribution:
    empty = log_precision < _MISSING / 2
    scale = torch.where(empty, 0.0, -0.5 * log_precision).exp()
    return dist.Normal(torch.where(empty, 0.0, loc), scale).to_event(1)
