"""Guides made of one expert per modality: their product, their mixture, and the mixture of their products."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.batch import Masks, Rows, Values, subsets_of
from multipyro.guides._base import Guide
from multipyro.guides.algebra.mixtures import StratifiedMixture
from multipyro.guides.algebra.products import Experts, check_prior, product_of_experts, subset_products

__all__ = ["MixtureOfExperts", "MixtureOfProducts", "ProductOfExperts"]

PriorExpert = Literal["full", "all", "none"]


class ProductOfExperts(Guide):
    r"""The product of one Gaussian expert per modality; missing modalities are left out.

    .. math:: q(z \mid x_S) \propto p_0(z) \prod_{m \in S} q_m(z \mid x_m)

    References:
        Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu and Goodman, 2018), section 2.1.

    Args:
        latent_dim: Size of the latent.
        encoders: Modality name -> module from `x_m` to an independent normal.
        prior_expert: Whether the prior is one of the experts, as in MVAE.
        **settings: `prior`, `private` and `name`, as in `Guide`.

    Raises:
        TypeError: If the prior expert is not an independent normal.

    Example:
        >>> from multipyro.guides import NormalEncoder
        >>> from multipyro.ppl_models import MLP
        >>> guide = ProductOfExperts(2, {"a": NormalEncoder(MLP(4, 8), 2), "b": NormalEncoder(MLP(3, 8), 2)})
        >>> guide.posterior({"a": torch.zeros(5, 4)}).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        latent_dim: int,
        encoders: Mapping[str, nn.Module],
        prior_expert: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(latent_dim, encoders, **settings)
        self.prior_expert = prior_expert
        if prior_expert:
            check_prior(self.prior, "prior_expert=False")

    def posterior(self, x: Values, observed: Masks = None) -> dist.Distribution:
        return product_of_experts(self.experts(x, observed), prior=self.prior if self.prior_expert else None)


class MixtureOfExperts(Guide):
    r"""The equal mixture of one expert per modality, over the modalities of each data point.

    .. math:: q(z \mid x_S) = \frac{1}{|S|} \sum_{m \in S} q_m(z \mid x_m)

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019),
        section 3.

    Args:
        latent_dim: Size of the latent.
        encoders: Modality name -> module from `x_m` to a distribution with `rsample`; the families may differ.
        auxiliary: Modality name -> module that returns the auxiliary prior of its private latent when called. The
            guide only contains them, as parameters that are trained but not used for prediction; `StratifiedELBO`
            uses them.
        **settings: `prior`, which is not an expert, `private` and `name`, as in `Guide`.

    Example:
        >>> from multipyro.guides import NormalEncoder
        >>> from multipyro.ppl_models import MLP
        >>> guide = MixtureOfExperts(2, {"a": NormalEncoder(MLP(4, 8), 2), "b": NormalEncoder(MLP(3, 8), 2)})
        >>> guide.posterior({"a": torch.zeros(5, 4)}).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        latent_dim: int,
        encoders: Mapping[str, nn.Module],
        auxiliary: Mapping[str, nn.Module] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(latent_dim, encoders, **settings)
        self.auxiliary = nn.ModuleDict(auxiliary)

    def posterior(self, x: Values, observed: Masks = None) -> dist.Distribution:
        experts = self.experts(x, observed)
        weights = _equal_weights([(name,) for name in experts], experts.rows)
        return StratifiedMixture(list(experts.values()), weights, names=tuple(experts))


class MixtureOfProducts(Guide):
    r"""The equal mixture, over subsets of the modalities, of the product of each subset's experts.

    .. math:: q(z \mid x_S) = \frac{1}{n_S} \sum_{A \in \mathcal{A}, A \subseteq S} q_A(z \mid x_A), \qquad
        q_A \propto \prod_{m \in A} q_m(z \mid x_m)

    With the single modalities alone it is a mixture of experts, with the full set alone a product. Predictions and
    embeddings (`conditional`) use the product of all given modalities, as the paper's evaluation does, not the mixture.

    Departures: the released code appends a prior expert to the product of the full set alone, which the paper does
    not mention; `prior_expert="full"` does that and is the default, `"all"` and `"none"` are the alternatives.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), eq. 6 and section 3.2.

    Args:
        latent_dim: Size of the latent.
        encoders: Modality name -> module from `x_m` to an independent normal.
        mixture_subsets: The subsets in the mixture; every non-empty one by default.
        prior_expert: Which products contain the prior expert: `"full"`, `"all"` or `"none"`.
        **settings: `prior`, `private` and `name`, as in `Guide`.

    Raises:
        ValueError: If an argument is unknown or empty; when called with modalities, or with a row, that contain none of
            `mixture_subsets`.
        TypeError: If the prior expert is not an independent normal.

    Example:
        >>> from multipyro.guides import NormalEncoder
        >>> from multipyro.ppl_models import MLP
        >>> guide = MixtureOfProducts(2, {"a": NormalEncoder(MLP(4, 8), 2), "b": NormalEncoder(MLP(3, 8), 2)})
        >>> guide.posterior({"a": torch.zeros(5, 4)}).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        latent_dim: int,
        encoders: Mapping[str, nn.Module],
        mixture_subsets: Sequence[Sequence[str]] | None = None,
        prior_expert: PriorExpert = "full",
        **settings: Any,
    ) -> None:
        super().__init__(latent_dim, encoders, **settings)
        if prior_expert not in get_args(PriorExpert):
            raise ValueError(f"prior_expert must be one of {get_args(PriorExpert)}, got {prior_expert!r}")
        if mixture_subsets is None:
            mixture_subsets = subsets_of(self.modalities)
        self.mixture_subsets = tuple(self._in_order(subset) for subset in mixture_subsets)
        if not self.mixture_subsets:
            raise ValueError("mixture_subsets is empty: a mixture needs at least one subset")
        if any((name,) not in self.mixture_subsets for name in self.modalities):
            parts = [set(part) for part in self.mixture_subsets]
            self.subsets = tuple(s for s in subsets_of(self.modalities) if any(part <= set(s) for part in parts))
        self.prior_expert = prior_expert
        if prior_expert != "none":
            check_prior(self.prior, 'prior_expert="none"')

    def posterior(self, x: Values, observed: Masks = None) -> dist.Distribution:
        experts, subsets = self._experts_and_subsets(x, observed)
        with_prior = [
            self.prior_expert == "all" or (self.prior_expert == "full" and subset == self.modalities)
            for subset in subsets
        ]
        products = subset_products(experts, subsets, self.prior, with_prior)
        return StratifiedMixture(products, _equal_weights(subsets, experts.rows))

    def conditional(self, x: Values, observed: Masks = None) -> dist.Distribution:
        experts, _ = self._experts_and_subsets(x, observed)
        if self.prior_expert != "full" or set(experts) != set(self.modalities):
            return product_of_experts(experts, prior=self.prior if self.prior_expert == "all" else None)
        # the prior is an expert in the rows that contain every modality
        masks, complete = experts.rows.masks, experts.rows.all_of(self.modalities)
        observed = masks if complete is None else {**masks, "prior": complete}
        return product_of_experts({**experts, "prior": self.prior()}, observed=observed)

    def _experts_and_subsets(self, x: Values, observed: Masks) -> tuple[Experts, list[tuple[str, ...]]]:
        """The experts, and the subsets of the mixture that the batch contains."""
        experts = self.experts(x, observed)
        subsets = [subset for subset in self.mixture_subsets if set(subset) <= set(experts)]
        contained = [experts.rows.all_of(subset) for subset in subsets]
        if self.subsets is not None and all(mask is not None for mask in contained):
            named = ", ".join(map("+".join, self.mixture_subsets))
            requirement = f"none of the mixture's subsets {named}"
            self._check_rows(experts.rows, torch.stack(contained).any(0), requirement)
        return experts, subsets


def _equal_weights(subsets: Sequence[Sequence[str]], rows: Rows) -> Tensor | None:
    """Equal weights over the subsets that each row contains, `(batch, len(subsets))`; None if all rows contain all.

    A row that contains none gets equal weights over all, so that the mixture stays a distribution; guides mask it out.
    """
    contained = [rows.all_of(subset) for subset in subsets]
    if all(mask is None for mask in contained):
        return None
    like = next(mask for mask in contained if mask is not None)
    counts = torch.stack([torch.ones_like(like) if mask is None else mask for mask in contained], -1)
    counts = torch.where(counts.any(-1, keepdim=True), counts, True)
    return counts / counts.sum(-1, keepdim=True, dtype=torch.float64)
