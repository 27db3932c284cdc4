"""The base of all guides: a guide defines one method that returns a distribution; the base provides the rest."""

import inspect
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from pyro.nn import pyro_method
from torch import Tensor, nn

from multipyro._distributions import scattered
from multipyro._modes import batch_norms, evaluation_mode, masked
from multipyro._program import Program
from multipyro.batch import (
    Masks,
    Rows,
    Values,
    batch_rows,
    check_batch,
    check_module_names,
    covariates_in,
    fill_missing,
)
from multipyro.guides._encoder_cache import encode_once
from multipyro.guides.algebra.products import Experts
from multipyro.ppl_models.conditional import IndependentPrior
from multipyro.ppl_models.networks.covariates import encoder_input
from multipyro.ppl_models.priors import StandardNormalPrior

__all__ = ["Guide", "Posterior", "by_site", "check_fit", "check_latent_dims", "encode_joint", "encode_modality"]

#: a distribution over `z`, or site -> distribution
Posterior = dist.Distribution | dict[str, dist.Distribution]


class _AbstractProgram(ABCMeta, type(Program)):
    """The metaclass of `PyroModule`, with abstract methods."""


class Guide(Program, metaclass=_AbstractProgram):
    r"""A variational program `q(z | x_S)` for any subset `S` of the modalities.

    A user-defined guide defines `posterior`; training, prediction, likelihoods and metrics work with it as they are.
    It needs no masks: the result of `experts` contains them, and products and mixtures of experts leave out missing
    modalities.

    Args:
        latent_dim: Size of the shared latent.
        encoders: Modality name -> module from `x_m` to a distribution of event shape `(latent_dim,)`.
        modalities: The modalities, if they are not the keys of `encoders`.
        subsets: The subsets that the guide supports, each a tuple of names; None for every non-empty subset.
        prior: Module that returns the prior expert when called; `N(0, I)` by default.
        name: Prefix of the parameters in Pyro's parameter store.
        private: Modality name -> module from `x_m` to a distribution over its private latent.

    Raises:
        ValueError: If there are no modalities, an argument names an unknown one, or an encoder has another latent size.

    Attributes:
        num_data: Number of all data points, for the objectives of Pyro: the plate `data` of the guide is then a part
            of them, as that of a model with `pyro.plate("data", num_data, subsample_size=len(batch))`. Objectives of
            this library do not need it: they scale both sides as the model is scaled.

    Sites:
        `z` (or the keys of the dict that `posterior` returns), in the plate `data`. The site of a private latent is
        `z_<modality>`; it is masked in the rows in which the modality is missing.

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

    num_data: int | None = None
    # the attribute of a model that has the first argument of a guide for it
    _model_size = "latent_dim"

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
        check_latent_dims(encoders or {}, latent_dim)
        self.subsets = None if subsets is None else tuple(self._in_order(subset) for subset in subsets)
        self.encoders = nn.ModuleDict(encoders)
        unknown = [modality for modality in private or {} if modality not in self.modalities]
        if unknown:
            raise ValueError(f"private names unknown modalities {unknown}: this guide has {list(self.modalities)}")
        self.private = nn.ModuleDict(private)
        self.prior = StandardNormalPrior(latent_dim) if prior is None else prior

    @classmethod
    def for_model(cls, model: Any, *args: Any, **kwargs: Any) -> Self:
        """Makes a guide for a model, with the latent size and the prior of the model.

        The prior expert is the model's prior, whose parameters are not registered by the guide.

        Args:
            model: The generative program, with attributes `latent_dim`, `modalities` and `prior`.
            *args: Arguments of the class after the latent size. If there is no argument `prior`, the attribute `prior`
                is set.
            **kwargs: Keyword arguments of the class.

        Raises:
            ValueError: If the modalities, the sizes or the private latents of guide and model differ, or if the prior
                of the model depends on conditions, so that it cannot be an expert.
            TypeError: If the model does not have these attributes, or its prior cannot be an expert of this guide.

        Example:
            >>> from multipyro.guides import MixtureOfProducts, NormalEncoder
            >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
            >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
            >>> guide = MixtureOfProducts.for_model(model, {"image": NormalEncoder(MLP(16, 8), 2)})
            >>> guide.latent_dim
            2
        """
        absent = [name for name in ("latent_dim", "modalities", "prior") if not hasattr(model, name)]
        if absent:
            raise TypeError(f"for_model needs a model with latent_dim, modalities and prior, got one without {absent}")
        size = getattr(model, cls._model_size)
        prior = None if isinstance(model.prior, IndependentPrior) else _ModelPrior(model)
        parameters = inspect.signature(cls).parameters.values()
        if any(parameter.name == "prior" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            guide = cls(size, *args, **{"prior": prior, **kwargs})
        else:
            guide = cls(size, *args, **kwargs)
            guide.prior = guide.prior if prior is None else prior
        check_fit(guide, model)
        return guide

    @abstractmethod
    def posterior(self, x: Values, observed: Masks = None) -> Posterior:
        """The variational distribution given the modalities in `x`.

        Args:
            x: Modality name -> values `(batch, *event)`, at least one modality.
            observed: Modality name -> bool `(batch,)`, the rows in which it is observed; an absent key means all rows.

        Returns:
            One distribution over `z`, or a dict of site -> distribution, each of batch shape `(batch,)` and finite in
            every row (rows in which nothing is observed are masked out). Private latents are added by the base.
        """

    def conditional(self, x: Values, observed: Masks = None) -> Posterior:
        """The distribution for predictions from `x` and for embeddings: the posterior, unless a guide overrides it."""
        return self.posterior(x, observed)

    def proposal(self, x: Values, observed: Masks = None, num_samples: int = 1) -> Posterior:
        """The proposal distribution of importance sampling: the posterior, unless a guide overrides it.

        Args:
            x: Modality name -> values `(batch, *event)`, at least one modality.
            observed: Modality name -> bool `(batch,)`, the rows in which it is observed.
            num_samples: Number of samples per data point that will be drawn; a guide may refine its proposal for more.
        """
        return self.posterior(x, observed)

    def forward(self, x: Values, observed: Masks = None) -> dict[str, Tensor]:
        """Samples the latents from the posterior; returns site name -> value."""
        return self.sample_from(self.posterior, x, observed)

    @pyro_method
    def sample_from(
        self, distribution: Callable[[Values, Masks], Posterior], x: Values, observed: Masks = None
    ) -> dict[str, Tensor]:
        """As `forward`, but samples from another distribution than the posterior, such as `self.conditional`."""
        self._claim_parameters()
        present = self.validate_inputs(x, observed)
        sites, rows = by_site(distribution(present, observed)), Rows(present, observed)
        self._check_result(sites)
        sites = {**sites, **self.private_posteriors(present, observed)}
        values, number = {}, batch_rows(present)
        subsample = None if self.num_data is None else torch.arange(number)
        with pyro.plate("data", self.num_data or number, subsample=subsample, dim=-1):
            for name, posterior in sites.items():
                with masked(rows.informing(name)):
                    values[name] = pyro.sample(name, posterior)
        return values

    def supports(self, subset: Sequence[str]) -> bool:
        """Whether the guide has a posterior given these modalities alone."""
        return self.subsets is None or self._in_order(subset) in self.subsets

    def experts(self, x: Values, observed: Masks = None) -> Experts:
        """Runs the encoder of every modality in `x`, once per step.

        Missing rows are filled before they are encoded; batch norms normalize over the observed rows only.

        Raises:
            TypeError: If an encoder does not return a distribution.
            ValueError: If an encoder returns a distribution of another latent size.
        """
        rows, encoders = Rows(x, observed), self.encoders
        experts = {name: encode_modality(encoders[name], x, name, rows) for name in rows.modalities}
        for name, expert in experts.items():
            if not hasattr(expert, "event_shape"):
                raise TypeError(
                    f"the encoder of {name!r} must return a distribution, got {type(expert).__name__}: make it one, "
                    "such as dist.Normal(loc, scale).to_event(1), or give its features to NormalEncoder"
                )
            if tuple(expert.event_shape) != (self.latent_dim,):
                raise ValueError(
                    f"the encoder of {name!r} must return a distribution of event shape ({self.latent_dim},), got "
                    f"{tuple(expert.event_shape)}"
                )
        return Experts(experts, rows)

    def private_posteriors(self, x: Values, observed: Masks = None) -> dict[str, dist.Distribution]:
        """The posteriors over the private latents of the modalities in `x`, site `z_<modality>` -> distribution."""
        private, rows = self.private, Rows(x, observed)
        names = [name for name in self.modalities if name in x and name in private]
        return {f"z_{name}": encode_modality(private[name], x, name, rows) for name in names}

    def validate_inputs(self, x: Values, observed: Masks = None) -> dict[str, Tensor]:
        """Validates a batch and returns the modalities that it contains, in the order of the guide, and its covariates.

        Raises:
            TypeError: If a value or a mask is not a tensor.
            ValueError: If there are no modalities or no rows, a modality is unknown, values have another
                floating-point type than the parameters, or the guide does not support the subset.
        """
        check_batch(x, observed, self.modalities)
        present = {name: x[name] for name in self.modalities if x.get(name) is not None}
        if not present:
            raise ValueError(f"x contains no modality to condition on: pass some of {self.modalities}")
        if batch_rows(present) == 0:
            raise ValueError("x contains no data points")
        dtype = next((p.dtype for p in self.parameters() if p.is_floating_point()), None)
        covariates = covariates_in(x)
        for name, values in (present | covariates).items():
            if dtype is not None and values.is_floating_point() and values.dtype != dtype:
                raise ValueError(f"modality {name!r} is {values.dtype}, but this guide is {dtype}: convert one of them")
        if not self.supports(tuple(present)):
            raise ValueError(f"{self._supported()}, got {'+'.join(present)}")
        return present | covariates

    def _supported(self) -> str:
        """The supported subsets, for messages."""
        return f"this guide supports {', '.join('+'.join(subset) for subset in self.subsets)}"

    def _in_order(self, subset: Sequence[str]) -> tuple[str, ...]:
        subset = (subset,) if isinstance(subset, str) else tuple(subset)
        unknown = set(subset) - set(self.modalities)
        if unknown or not subset:
            raise ValueError(f"subsets must be non-empty and consist of {self.modalities}, got {subset}")
        return tuple(name for name in self.modalities if name in subset)

    def _check_rows(self, rows: Rows, supported: Tensor, requirement: str | None = None) -> None:
        """Raises if a row contains some modalities but is not `supported`, bool `(batch,)`; only with validation."""
        if not is_validation_enabled():
            return
        unsupported = rows.stacked().any(0) & ~supported
        if unsupported.any():
            row = int(unsupported.nonzero()[0])
            requirement = self._supported() if requirement is None else requirement
            raise ValueError(f"row {row} contains {rows.names_in(row)}, but {requirement}")

    def _check_result(self, sites: Mapping[str, Any]) -> None:
        """Raises if a site of a posterior has no distribution, or `z` one of another event shape."""
        for name, distribution in sites.items():
            if not isinstance(distribution, dist.Distribution | torch.distributions.Distribution):
                raise TypeError(
                    "the posterior of a guide must be a distribution, or a dict of site -> distribution; that of "
                    f"{type(self).__name__} has {type(distribution).__name__} for {name!r}"
                )
        shape = tuple(sites["z"].event_shape) if "z" in sites else (self.latent_dim,)
        if shape != (self.latent_dim,):
            raise ValueError(
                f"the posterior over 'z' must have event shape ({self.latent_dim},), got {shape} and batch shape "
                f"{tuple(sites['z'].batch_shape)}: make the last dimension one of the event by `.to_event(1)`"
            )


class _ModelPrior(nn.Module):
    """The prior of a model as an expert of a guide, which does not register its parameters."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.source = (model.prior,)  # in a tuple, so that it is not registered as a submodule
        self.conditions = getattr(model, "conditions", ())

    def forward(self) -> dist.Distribution:
        if self.conditions:
            raise ValueError(
                f"the prior of this model depends on {list(self.conditions)}, so it cannot be an expert of a guide"
            )
        return self.source[0]()


def by_site(posterior: Posterior) -> Mapping[str, dist.Distribution]:
    """A posterior as site -> distribution; a single distribution is that of `z`."""
    return posterior if isinstance(posterior, Mapping) else {"z": posterior}


def check_latent_dims(encoders: Mapping[Any, nn.Module], latent_dim: int) -> None:
    """Raises if an encoder is known to have another latent size."""
    sizes = {name: getattr(encoder, "latent_dim", latent_dim) for name, encoder in encoders.items()}
    wrong = {name: size for name, size in sizes.items() if size != latent_dim}
    if wrong:
        raise ValueError(f"encoders must have the latent size {latent_dim} of the guide, got {wrong}")


def check_fit(guide: Guide, model: Any) -> None:
    """Raises if the modalities, latent sizes or private latents of a guide and a model differ."""
    unknown = [name for name in guide.modalities if name not in model.modalities]
    if unknown:
        raise ValueError(
            f"the guide has modalities {unknown}, which the model does not have: it has {list(model.modalities)}"
        )
    sizes = [getattr(part, "latent_dims", part.latent_dim) for part in (guide, model)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"guide and model must have the same latent size, got {sizes[0]} and {sizes[1]}")
    private = getattr(model, "private", {})
    if {name for name in private if name in guide.modalities} != set(guide.private):
        raise ValueError(
            f"the model has private latents for {list(private)}, but the guide has encoders for {list(guide.private)}"
        )
    for name, encoder in guide.private.items():
        (size,) = private[name]().event_shape
        check_latent_dims({f"private {name}": encoder}, size)


def encode_modality(encoder: nn.Module, x: Values, modality: str, rows: Rows) -> dist.Distribution | Tensor:
    """The result of the encoder of one modality, a distribution or features, in the rows that contain the modality.

    All other rows have finite values without gradient. Within a step an encoder runs once for the same values. In
    training, batch norms normalize over the observed rows only; fewer than two have no statistics, and the running
    statistics are used. Gathering the observed rows is the one place in a guide's forward pass that waits for the
    device.
    """
    inputs, mask = encoder_input(encoder, x, modality), rows.of(modality)
    tensors = inputs.values() if isinstance(inputs, dict) else (inputs,)
    return encode_once(encoder, (*tensors, mask), lambda: _encode(encoder, inputs, mask))


def encode_joint(encoder: nn.Module, x: Values, observed: Masks = None) -> dist.Distribution:
    """As `encode_modality`, for an encoder that is called with a dict, in the rows that contain all of `x`."""
    rows = Rows(x, observed)
    inputs = {name: x[name] for name in rows.modalities} | covariates_in(x)
    tensors = (*inputs.values(), *map(rows.of, rows.modalities))
    return encode_once(encoder, tensors, lambda: _encode(encoder, inputs, rows.all_of(rows.modalities)))


def _encode(encoder: nn.Module, inputs: Tensor | dict[str, Tensor], mask: Tensor | None) -> dist.Distribution | Tensor:
    def encoded(function: Callable[[Tensor], Tensor]) -> dist.Distribution | Tensor:
        each = {n: function(v) for n, v in inputs.items()} if isinstance(inputs, dict) else function(inputs)
        return encoder(each)

    if not (encoder.training and batch_norms(encoder)):
        return encoded(lambda values: fill_missing(values, mask))
    rows = None if mask is None else mask.nonzero()[:, 0]
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    if len(first if rows is None else rows) < 2:
        with evaluation_mode(*batch_norms(encoder)):
            return encoded(lambda values: fill_missing(values, mask))
    return encoder(inputs) if rows is None else scattered(encoded(lambda values: values[rows]), rows, len(mask))
