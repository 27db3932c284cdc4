"""Guides made of one expert a modality: their product, their mixture, and the mixture of their products."""

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.batch import Rows, subsets_of
from multipyro.guides._base import Guide
from multipyro.guides.algebra.mixtures import StratifiedMixture
from multipyro.guides.algebra.products import Experts, product_of_experts, subset_products

__all__ = ["MixtureOfExperts", "MixtureOfProducts", "ProductOfExperts"]


class ProductOfExperts(Guide):
    r"""The product of one Gaussian expert a modality, missing ones left out.

    .. math:: q(z \mid x_S) \propto p_0(z) \prod_{m \in S} q_m(z \mid x_m)

    References:
        Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu and Goodman, 2018), section 2.1.

    Args:
        latent_dim: Size of the latent.
        encoders: Modality name -> module from `x_m` to an independent normal.
        prior_expert: Whether the prior is one of the experts, as in MVAE.
        prior: The prior expert's module; `N(0, I)` by default.
        name: As in `Guide`.
        private: As in `Guide`.

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
        prior: nn.Module | None = None,
        name: str = "guide",
        private: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(latent_dim, encoders, prior=prior, name=name, private=private)
        self.prior_expert = prior_expert

    def posterior(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        shared = product_of_experts(self.experts(x, observed), prior=self.prior if self.prior_expert else None)
        return self.with_private(shared, x, observed)


class MixtureOfExperts(Guide):
    r"""The equal mixture of one expert a modality, over those a row has.

    .. math:: q(z \mid x_S) = \frac{1}{|S|} \sum_{m \in S} q_m(z \mid x_m)

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019),
        section 3.

    Args:
        latent_dim: Size of the latent.
        encoders: Modality name -> module from `x_m` to a distribution with `rsample`; families may differ.
        name: As in `Guide`.
        private: As in `Guide`.
        auxiliary: Modality name -> module that returns the auxiliary prior of its private latent when called. The
            guide only keeps them, as parameters of training that no prediction sees; `StratifiedELBO` uses them.

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
        name: str = "guide",
        private: Mapping[str, nn.Module] | None = None,
        auxiliary: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(latent_dim, encoders, name=name, private=private)
        self.auxiliary = nn.ModuleDict(auxiliary)

    def posterior(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        experts = self.experts(x, observed)
        weights = _equal_weights([(name,) for name in experts], experts.rows)
        shared = StratifiedMixture(list(experts.values()), weights, names=tuple(experts))
        return self.with_private(shared, x, observed)


class MixtureOfProducts(Guide):
    r"""The equal mixture over subsets of the modalities of the product of each subset's experts.

    .. math:: q(z \mid x_S) = \frac{1}{n_S} \sum_{A \in \mathcal{A}, A \subseteq S} q_A(z \mid x_A), \qquad
        q_A \propto \prod_{m \in A} q_m(z \mid x_m)

    With only single modalities it is a mixture of experts, with only the full set a product. What predicts and embeds
    (`conditional`) is the product of everything given, as in the paper's evaluation, not the mixture.

    Departures: the released code appends a prior expert to the product of the full set alone, which the paper does
    not mention; `prior_expert="full"` does that and is the default, `"all"` and `"none"` are the other choices.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), eq. 6 and section 3.2.

    Args:
        latent_dim: Size of the latent.
        encoders: Modality name -> module from `x_m` to an independent normal.
        mixture_subsets: The subsets in the mixture; every non-empty one by default.
        prior_expert: `"full"`, `"all"` or `"none"`: which products a standard normal expert belongs to.
        name: As in `Guide`.
        private: As in `Guide`.

    Raises:
        ValueError: If an argument is unknown or empty; when called with modalities, or with a row, within which none
            of `mixture_subsets` lies.

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
        prior_expert: str = "full",
        name: str = "guide",
        private: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(latent_dim, encoders, name=name, private=private)
        if prior_expert not in ("full", "all", "none"):
            raise ValueError(f"prior_expert must be 'full', 'all' or 'none', got {prior_expert!r}")
        if mixture_subsets is None:
            mixture_subsets = subsets_of(self.modalities)
        self.mixture_subsets = tuple(self._ordered(subset) for subset in mixture_subsets)
        if not self.mixture_subsets:
            raise ValueError("mixture_subsets is empty: a mixture needs at least one subset")
        if any((name,) not in self.mixture_subsets for name in self.modalities):
            parts = [set(part) for part in self.mixture_subsets]
            self.subsets = tuple(s for s in subsets_of(self.modalities) if any(part <= set(s) for part in parts))
        self.prior_expert = prior_expert

    def posterior(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        experts = self.experts(x, observed)
        subsets = [subset for subset in self.mixture_subsets if set(subset) <= set(experts)]
        self._check_rows(subsets, experts.rows)
        products = subset_products(experts, subsets, prior=[self._has_prior(subset) for subset in subsets])
        return self.with_private(StratifiedMixture(products, _equal_weights(subsets, experts.rows)), x, observed)

    def conditional(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        experts = self.experts(x, observed)
        self._check_rows([subset for subset in self.mixture_subsets if set(subset) <= set(experts)], experts.rows)
        return self.with_private(self._product(experts), x, observed)

    def _product(self, experts: Experts) -> dist.Distribution:
        if self.prior_expert != "full" or set(experts) != set(self.modalities):
            return product_of_experts(experts, prior=self.prior if self.prior_expert == "all" else None)
        # the prior's expert belongs to the rows that hold every modality
        whole, masks = experts.rows.all_of(self.modalities), experts.rows.masks
        return product_of_experts(
            {**experts, "prior": self.prior()}, observed=masks if whole is None else {**masks, "prior": whole}
        )

    def _check_rows(self, subsets: Sequence[tuple[str, ...]], rows: Rows) -> None:
        """Raises if a row holds something, but none of the mixture's subsets."""
        contained = [rows.all_of(subset) for subset in subsets]
        if self.subsets is None or any(mask is None for mask in contained):
            return
        lost = rows.stacked().any(0) & ~torch.stack(contained).any(0)
        if lost.any():
            row = int(lost.nonzero()[0])
            named = ", ".join(map("+".join, self.mixture_subsets))
            raise ValueError(
                f"row {row} holds {rows.names_in(row)}, and none of the mixture's subsets {named} lies within it"
            )

    def _has_prior(self, subset: tuple[str, ...]) -> bool:
        return self.prior_expert == "all" or (self.prior_expert == "full" and subset == self.modalities)


def _equal_weights(subsets: Sequence[Sequence[str]], rows: Rows) -> Tensor | None:
    """Equal weights over the subsets that each row holds, `(batch, len(subsets))`; None when all rows hold all.

    A row that holds none gets equal weights over all, so that the mixture stays a distribution; guides mask it out.
    """
    contained = [rows.all_of(subset) for subset in subsets]
    if all(mask is None for mask in contained):
        return None
    like = next(mask for mask in contained if mask is not None)
    counts = torch.stack([torch.ones_like(like) if mask is None else mask for mask in contained], -1)
    counts = torch.where(counts.any(-1, keepdim=True), counts, True)
    return counts / counts.sum(-1, keepdim=True, dtype=torch.float64)
