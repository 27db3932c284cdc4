"""The base of all guides: one method that returns a distribution, and everything else from it."""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
from pyro import poutine
from pyro.nn import pyro_method
from torch import Tensor, nn

from multipyro._distributions import scattered
from multipyro._modes import batch_norms, evaluation_mode
from multipyro._program import Program
from multipyro.batch import (
    Rows,
    batch_rows,
    check_batch,
    check_module_names,
    filled,
)
from multipyro.guides._encoder_cache import encode_once
from multipyro.guides.algebra.products import Experts
from multipyro.ppl_models import StandardNormalPrior

__all__ = ["Guide", "encode", "encode_joint"]


class _AbstractProgram(ABCMeta, type(Program)):
    """PyroModule has a metaclass of its own; with this one it can have abstract methods too."""


class Guide(Program, metaclass=_AbstractProgram):
    r"""A variational program `q(z | x_S)` for any subset `S` of the modalities.

    A guide of one's own defines `posterior`; training, prediction, likelihoods and metrics come with it.

    Args:
        latent_dim: Size of the shared latent.
        encoders: Modality name -> module from `x_m` to a distribution of event shape `(latent_dim,)`.
        modalities: The modalities, where they are not the keys of `encoders`.
        subsets: The subsets it answers, each a tuple of names; None for every non-empty subset.
        prior: Module returning the prior expert when called; `N(0, I)` by default.
        name: Prefix of the parameters in Pyro's parameter store.
        private: Modality name -> module from `x_m` to a distribution over its private latent.

    Sites:
        `z` (or the keys of the dict that `posterior` returns), in the plate `data`; a private latent's site is
        `z_<modality>`, which is masked in the rows that lack the modality.

    Example:
        >>> import torch
        >>> from multipyro.guides import NormalEncoder, product_of_experts
        >>> from multipyro.ppl_models import MLP
        >>> class PrecisionWeightedExperts(Guide):
        ...     def posterior(self, x, observed=None):
        ...         return product_of_experts(self.experts(x, observed), prior=self.prior)
        >>> guide = PrecisionWeightedExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> guide({"image": torch.zeros(5, 16)})["z"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        latent_dim: int,
        encoders: Mapping[str, nn.Module] | None = None,
        modalities: Sequence[str] | None = None,
        subsets: Sequence[Sequence[str]] | None = None,
        prior: nn.Module | None = None,
        name: str = "guide",
        private: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(name)
        if modalities is None and not encoders:
            raise ValueError("encoders is empty: a guide needs at least one modality")
        self.latent_dim = latent_dim
        self.modalities = tuple(encoders if modalities is None else modalities)
        check_module_names(self.modalities)
        self.subsets = None if subsets is None else tuple(self._ordered(subset) for subset in subsets)
        self.encoders = nn.ModuleDict(encoders)
        unknown = [modality for modality in private or {} if modality not in self.modalities]
        if unknown:
            raise ValueError(f"private names unknown modalities {unknown}: this guide has {list(self.modalities)}")
        self.private = nn.ModuleDict(private)
        self.prior = StandardNormalPrior(latent_dim) if prior is None else prior

    @abstractmethod
    def posterior(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        """The variational distribution given what `x` holds.

        Args:
            x: Modality name -> values `(batch, *event)`, at least one modality.
            observed: Modality name -> rows that are observed, bool `(batch,)`; an absent key means all rows.

        Returns:
            One distribution over `z`, or a dict of site -> distribution, each of batch shape `(batch,)` and finite in
            every row (rows with nothing observed are masked out).
        """

    def conditional(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        """The distribution used to predict from and embed `x`: the posterior, unless a family says otherwise."""
        return self.posterior(x, observed)

    def proposal(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None, num_samples: int = 1
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        """The distribution that importance sampling draws from: the posterior, unless a guide overrides it.

        Args:
            x: Modality name -> values `(batch, *event)`, at least one modality.
            observed: Modality name -> rows that are observed, bool `(batch,)`.
            num_samples: How many samples of each row are planned; a guide may make its proposal finer for more.
        """
        return self.posterior(x, observed)

    def forward(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Samples the latents from the posterior; returns site name -> value."""
        return self._sample(self.posterior, x, observed)

    @pyro_method
    def sample_conditional(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """As `forward`, from `conditional` in place of the posterior."""
        return self._sample(self.conditional, x, observed)

    @pyro_method
    def sample_proposal(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None, num_samples: int = 1
    ) -> dict[str, Tensor]:
        """As `forward`, from `proposal` in place of the posterior."""
        return self._sample(lambda x, observed: self.proposal(x, observed, num_samples), x, observed)

    def experts(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None) -> Experts:
        """Runs the encoder of every modality in `x`, each once per step.

        Missing rows are filled before they are encoded; an encoder with batch norm sees observed rows only.
        """
        rows, encoders = Rows(x, observed), self.encoders
        return Experts({m: encode(encoders[m], x[m], rows.of(m)) for m in rows.modalities}, rows)

    def with_private(
        self, shared: dist.Distribution, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        """The posterior over the shared latent, and beside it those over the private latents where there are any.

        Args:
            shared: The distribution of `z`.
            x: Modality name -> values `(batch, *event)`.
            observed: Modality name -> rows that are observed, bool `(batch,)`.

        Returns:
            `shared`, or a dict of site -> distribution: `z`, and `z_<modality>` for each modality of `x` with a private
            latent.
        """
        sites, private, rows = {"z": shared}, self.private, Rows(x, observed)
        for name in self.modalities:
            if name in x and name in private:
                sites[f"z_{name}"] = encode(private[name], x[name], rows.of(name))
        return sites if len(sites) > 1 else shared

    def given(self, x: Mapping[str, Tensor | None], observed: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What `x` really holds, checked.

        Raises:
            TypeError: If a value or a mask is no tensor.
            ValueError: If it holds nothing, no rows, an unknown modality, values of another floating type than the
                guide's parameters, or a subset that the guide does not answer.
        """
        check_batch(x, observed, self.modalities)
        given = {name: x[name] for name in self.modalities if x.get(name) is not None}
        if not given:
            raise ValueError(
                f"x holds no modality, so there is nothing to condition on: give some of {self.modalities}"
            )
        if batch_rows(given) == 0:
            raise ValueError("x holds no rows")
        dtype = next((p.dtype for p in self.parameters() if p.is_floating_point()), None)
        for name, values in given.items():
            if dtype is not None and values.is_floating_point() and values.dtype != dtype:
                raise ValueError(f"modality {name!r} is {values.dtype}, this guide {dtype}: convert one of them")
        if self.subsets is not None and tuple(given) not in self.subsets:
            answered = ", ".join("+".join(subset) for subset in self.subsets)
            raise ValueError(f"this guide does not answer {'+'.join(given)}: it answers {answered}")
        return given

    def _ordered(self, subset: Sequence[str]) -> tuple[str, ...]:
        subset = (subset,) if isinstance(subset, str) else tuple(subset)
        unknown = set(subset) - set(self.modalities)
        if unknown or not subset:
            raise ValueError(f"subsets must be non-empty and made of {self.modalities}, got {subset}")
        return tuple(name for name in self.modalities if name in subset)

    def _check_answered(self, rows: Rows, answered: Tensor) -> None:
        """Raises if a row holds something, but is not answered."""
        lost = rows.stacked().any(0) & ~answered
        if lost.any():
            row = int(lost.nonzero()[0])
            subsets = ", ".join("+".join(subset) for subset in self.subsets)
            raise ValueError(
                f"row {row} holds {rows.names_in(row)}, which this guide does not answer: it answers {subsets}"
            )

    def _sample(self, distribution: Callable, x, observed) -> dict[str, Tensor]:
        self._claim_parameters()
        given = self.given(x, observed)
        sites = distribution(given, observed)
        sites = sites if isinstance(sites, Mapping) else {"z": sites}
        values, rows = {}, Rows(given, observed)
        with pyro.plate("data", batch_rows(given), dim=-1):
            for name, distribution in sites.items():
                informed = rows.informing(name)
                with nullcontext() if informed is None else poutine.mask(mask=informed):
                    values[name] = pyro.sample(name, distribution)
        return values


def encode(
    encoder: nn.Module, values: Tensor | dict[str, Tensor], mask: Tensor | None = None, *key: object
) -> dist.Distribution | Tensor:
    """What an encoder gives for the rows in `mask`, and something finite without gradient for all others.

    Missing rows are filled before they are encoded. An encoder with batch norm sees the observed rows only; of fewer
    than two there are no statistics, and it takes its running ones.

    Args:
        encoder: The module; it gives a distribution, or features.
        values: What it is called with: values `(batch, *event)`, or a dict of them.
        mask: Rows to encode, bool `(batch,)`; None for all.
        *key: What the result is remembered by within a step, beside the encoder: the tensors as the caller got them.
    """
    inputs = key or ((*values.values(), mask) if isinstance(values, dict) else (values, mask))
    return encode_once(encoder, inputs, lambda: _encode(encoder, values, mask))


def encode_joint(
    encoder: nn.Module, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
) -> dist.Distribution:
    """As `encode`, of an encoder that is called with a dict, for the rows that hold all of `x`."""
    rows = Rows(x, observed)
    return encode(encoder, dict(x), rows.all_of(rows.modalities), *x.values(), *map(rows.of, rows.modalities))


def _encode(encoder: nn.Module, values: Tensor | dict[str, Tensor], mask: Tensor | None) -> dist.Distribution | Tensor:
    def each(function: Callable[[Tensor], Tensor]) -> Tensor | dict[str, Tensor]:
        return {m: function(v) for m, v in values.items()} if isinstance(values, dict) else function(values)

    if mask is None or not (encoder.training and batch_norms(encoder)):
        return encoder(each(lambda v: filled(v, mask)))
    rows = mask.nonzero()[:, 0]
    if len(rows) < 2:
        with evaluation_mode(*batch_norms(encoder)):
            return encoder(each(lambda v: filled(v, mask)))
    result = encoder(each(lambda v: v[rows]))
    if isinstance(result, Tensor):
        # missing rows get a copy of the first observed one, without gradient: finite, and left out by every caller
        return result[:1].detach().expand(len(mask), *result.shape[1:]).index_copy(0, rows, result)
    return scattered(result, rows, len(mask))
