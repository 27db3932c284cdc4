"""Handlers: from a program to another program. Called with an expression (see `programs`), each returns one."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from multipyro._distributions import RowwiseDistribution
from multipyro.batch import (
    Masks,
    Rows,
    Values,
    batch_rows,
    covariate_entry,
    fill_missing,
    is_input,
    modality_of,
    selected,
)
from multipyro.guides import Guide
from multipyro.guides.iterative import IterativeSampling
from multipyro.inference._program_modules import modules_of
from multipyro.inference.programs import RESTRICTED, Handler, Program, handler, unwrap
from multipyro.ppl_models import Covariates
from multipyro.ppl_models._generative import GenerativeProgram

__all__ = [
    "conditional",
    "continued",
    "distribution_of",
    "frozen",
    "frozen_modules",
    "generative",
    "latents_from",
    "predictive",
    "proposal",
    "receives",
    "restrict",
    "where_proper",
    "with_covariates",
    "without_completion",
    "without_likelihoods",
]


@handler(RESTRICTED)
def restrict(program: Program, modalities: Sequence[str]) -> nn.Module:
    """The same program, given and scoring only some modalities.

    Args:
        program: A model or a guide, called as `program(x, observed=None)`.
        modalities: The modalities that it still gets; those that are absent from a batch are ignored.

    Returns:
        The program, called as before.

    Example:
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood
        >>> likelihoods = {"image": NormalLikelihood(MLP(2, 4)), "label": CategoricalLikelihood(MLP(2, 3))}
        >>> model = MultimodalModel(2, likelihoods)
        >>> sorted(restrict(model, ["label"])({"image": torch.zeros(5, 4), "label": torch.zeros(5).long()}))
        ['label', 'z']
    """
    return _Restricted(program, _names(modalities))


@handler("{program} where {modalities} is proper")
def where_proper(program: Program, modalities: Sequence[str]) -> nn.Module:
    """The same program, scoring only the rows in which `modalities` are a proper part of what is observed.

    Those are the rows in which all of them and at least one further modality are observed. In an objective that sums
    over parts, a row with a missing modality then counts as it would in a batch without that modality. Of a batch
    without masks every row counts.

    Args:
        program: A model or a guide, called as `program(x, observed=None)`.
        modalities: The part; names that are absent from a batch are ignored.

    Returns:
        The program, called as before.

    Example:
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {name: NormalLikelihood(MLP(2, 3)) for name in ("a", "b")})
        >>> x = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}
        >>> masks = {"b": torch.tensor([True, False])}
        >>> trace = poutine.trace(where_proper(restrict(model, ["a"]), ["a"])).get_trace(x, masks)
        >>> trace.nodes["z"]["mask"]
        tensor([ True, False])
    """
    return _WhereProper(program, _names(modalities))


@handler("frozen({program}[ except {train}])")
def frozen(program: Program, train: Iterable[nn.Module] = ()) -> nn.Module:
    """The same program, with no parameter or running statistic changed, except those of the modules in `train`.

    During each call, and only then, its modules are in evaluation mode, their parameters are replaced by detached
    views, `param` statements are hidden and their values detached. Gradients still pass through it to whatever it is
    applied to. Afterwards everything is bit for bit as before, batch-norm statistics included.

    Args:
        program: A model or a guide; of a plain function, the modules it refers to are frozen.
        train: Submodules of the program that keep training.

    Returns:
        The program, called as before.

    Example:
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> frozen(model)({"image": torch.zeros(5, 4)})["z"].requires_grad
        False
    """
    return _Frozen(program, tuple(train))


@handler("generative({model}, {target})")
def generative(model: Program, target: Sequence[str]) -> nn.Module:
    """The model with `target` as unobserved sample sites, whatever `x` contains.

    Its latents come from the prior: to predict from observed modalities, use `predictive`.

    Args:
        model: A model, called as `model(x, observed=None)`; it must sample a site whose value in `x` is None.
        target: Modalities to sample.

    Returns:
        The program, called as before.

    Example:
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> generative(model, ["image"])({}, num_rows=3)["image"].shape
        torch.Size([3, 4])
    """
    return _Generative(model, _names(target))


def without_likelihoods(model: Program) -> nn.Module:
    """The model with its latents alone: the modalities of `x` only decide which private latents there are.

    Args:
        model: A model, called as `model(x, observed=None)`. The likelihoods of a model of this library do not run;
            those of another model do, and their sites are hidden.

    Returns:
        The program, called as before.

    Example:
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(5, 4))}, private={"image": 3})
        >>> sorted(without_likelihoods(model)({"image": None}, num_rows=7))
        ['z', 'z_image']
    """
    return _WithoutLikelihoods(model)


def predictive(model: Program, guide: Program, target: Sequence[str]) -> nn.Module:
    r"""The program that predicts: latents from the guide given `x`, then `target` from the model.

    .. math:: z \sim q(z \mid x_G), \qquad x_m \sim p(x_m \mid z), \quad m \in T

    `G` is whatever `x` contains, and `q` the guide's `conditional` distribution. So `predictive(...)(x)` is one
    posterior predictive sample per data point, and `Predictive(predictive(model, guide, ["image"]), num_samples=S)(x)`
    a posterior predictive check. Latents that the guide leaves out are sampled by the model, as the lower layers of a
    hierarchical one are. Data points of which nothing is observed take their latents from the model's prior.

    Args:
        model: A model, called as `model(x, observed=None)`; it must sample a site whose value in `x` is None.
        guide: A guide, called as `guide(x, observed=None)`.
        target: Modalities to sample; one that `x` contains too is reconstructed.

    Returns:
        A program, called as `program(x, observed=None)`. Its sites are the latents and `target`; a latent that the
        guide infers has the guide's density.

    Example:
        >>> from pyro.infer import Predictive
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood
        >>> likelihoods = {"image": NormalLikelihood(MLP(2, 4)), "label": CategoricalLikelihood(MLP(2, 3))}
        >>> model = MultimodalModel(2, likelihoods)
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 8), 2)})
        >>> program = predictive(model, guide, ["label"])
        >>> Predictive(program, num_samples=7)({"image": torch.zeros(5, 4)})["label"].shape
        torch.Size([7, 5])
    """
    return _Predictive(model, guide, _names(target))


def with_covariates(program: Program, covariates: Mapping[str, Any]) -> nn.Module:
    """The same program with fixed values of covariates, whatever a batch contains.

    A model under `{"site": 2}` predicts as if every data point were from site 2; the guide beside it still infers the
    latents by the covariates of the batch.

    Args:
        program: A model or a guide, called as `program(x, observed=None)`.
        covariates: Name -> class id, or standardized number or numbers, the same for all data points. For samples from
            the prior also a tensor of the values of several data points, which are taken in turn.

    Returns:
        The program, called as before.

    Raises:
        ValueError: If the program has no covariate of that name, or its values have another shape; when called, if
            there are several values for data points that have their own.

    Example:
        >>> from multipyro.ppl_models import MLP, Covariates, MultimodalModel, NormalLikelihood
        >>> image = NormalLikelihood(MLP(2 + 3, 4))
        >>> model = MultimodalModel(2, {"image": image}, covariates=Covariates({"site": 3}))
        >>> with_covariates(model, {"site": 2})({"image": None}, num_rows=5)["image"].shape
        torch.Size([5, 4])
    """
    modules = modules_of(program)
    parts = [part for module in modules for part in module.modules() if isinstance(part, Covariates)]
    shapes = {name: shape or () for part in parts for name, shape in part.shapes.items()}
    unknown = [name for name in covariates if name not in shapes]
    if shapes and unknown:
        raise ValueError(f"unknown covariates {unknown}: this program has {list(shapes)}")
    parameters = (parameter for module in modules for parameter in module.parameters())
    dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.get_default_dtype())
    return _WithCovariates(program, {n: _in_rows(n, value, shapes.get(n), dtype) for n, value in covariates.items()})


def _in_rows(name: str, value: Any, shape: tuple[int, ...] | None, dtype: torch.dtype) -> Tensor:
    """The value of a covariate for each of one or several data points; None for a shape that is not known."""
    value = torch.as_tensor(value)
    if shape is None:
        shape = value.shape[-1:] or (1,) if value.is_floating_point() else ()
    if value.numel() % math.prod(shape):
        raise ValueError(f"covariate {name!r} has the shape {shape}, got values of shape {tuple(value.shape)}")
    values = value.reshape(-1, *shape)
    return values.to(dtype) if shape else values


def continued(program: Program, begin: int) -> Program:
    """The program for the data points from `begin` on, where covariates with several values continue in turn."""
    if not isinstance(program, Handler):
        return program
    inner = continued(program.program, begin)
    if not isinstance(program, _WithCovariates):
        return program.around(inner)
    return _WithCovariates(inner, {name: values.roll(-begin, 0) for name, values in program.settings[0].items()})


def latents_from(guide: Program, x: Values, observed: Masks = None) -> "_LatentsFromGuide":
    """Samples a guide's `conditional` given `x`, and returns the handler under which a model takes these latents.

    Plates around the call apply to the guide; its sites are in no trace. Under the handler, a latent of the model has
    the guide's density and value, and the model's own in the data points without evidence about it.

    Args:
        guide: A guide, called as `guide(x, observed=None)`.
        x: Modality name -> values `(batch, *event)`.
        observed: Modality name -> which data points are observed, bool `(batch,)`.

    Returns:
        A context manager, which can be entered several times with the same latents.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(4, 8), 2)})
        >>> with torch.no_grad(), latents_from(guide, {"image": torch.zeros(5, 4)}):
        ...     torch.equal(model({}, num_rows=5)["z"], model({}, num_rows=5)["z"])
        True
    """
    record = _Record()
    with record:
        conditional(guide)(x, observed)
    visible = {name: values for name, values in x.items() if receives(guide, modality_of(name))}
    return _LatentsFromGuide(record.sites, {name: Rows(visible, observed).informing(name) for name in record.sites})


def conditional(guide: Program) -> Program:
    """The program that samples from a guide's `conditional` distribution; a plain function is returned as is.

    Returns:
        A program, called as `program(x, observed=None)`.

    Example:
        >>> from multipyro.guides import MixtureOfExperts, NormalEncoder
        >>> from multipyro.ppl_models import MLP
        >>> guide = MixtureOfExperts(2, {"image": NormalEncoder(MLP(4, 8), 2)})
        >>> with torch.no_grad():
        ...     print(conditional(guide)({"image": torch.zeros(5, 4)})["z"].shape)
        torch.Size([5, 2])
    """
    return distribution_of(guide, "conditional")


def proposal(guide: Program, num_samples: int = 1) -> Program:
    """The program that samples from a guide's `proposal` for so many samples; a plain function is returned as is."""
    return distribution_of(guide, "proposal", num_samples=num_samples)


def distribution_of(guide: Program, name: str, **arguments: Any) -> Program:
    """The program that samples from what the method `name` of a guide returns; a plain function is returned as is."""
    return _innermost(guide, lambda inner: _Distribution(inner, name, arguments))


@handler("{guide}")
def without_completion(guide: Program) -> Program:
    """The guide inside `IterativeSampling`, which trains, and supports complete rows only; any other guide itself."""
    return _innermost(guide, lambda inner: inner.guide if isinstance(inner, IterativeSampling) else inner)


def _innermost(guide: Program, change: Callable[[Guide], Program]) -> Program:
    """Changes the guide itself, inside the handlers that are around it."""
    if isinstance(guide, Guide):
        return change(guide)
    if isinstance(guide, Handler) and not isinstance(guide, _Distribution):
        return guide.around(_innermost(guide.program, change))
    return guide


def receives(program: Program, modality: str) -> bool:
    """Whether no handler around a program hides a modality from it."""
    while isinstance(program, Handler):
        if isinstance(program, _Restricted) and modality not in program.settings[0]:
            return False
        program = program.program
    return True


def _names(modalities: str | Sequence[str]) -> tuple[str, ...]:
    return (modalities,) if isinstance(modalities, str) else tuple(modalities)


class _Restricted(Handler):
    def forward(self, x: Values, observed: Masks = None, **kwargs: Any) -> Any:
        (modalities,) = self.settings
        inside = selected(x, modalities)
        masks = None if observed is None else {name: mask for name, mask in observed.items() if name in inside}
        return self.program(inside, masks, **kwargs)


class _WithCovariates(Handler):
    def forward(
        self,
        x: Values,
        observed: Masks = None,
        num_rows: int | None = None,
        **kwargs: Any,
    ) -> Any:
        (covariates,) = self.settings
        parameters = (parameter for module in modules_of(self.program) for parameter in module.parameters())
        device = next((parameter.device for parameter in parameters), None)
        fixed = {}
        for name, value in covariates.items():
            if len(value) > 1 and x.get(covariate_entry(name)) is not None:
                raise ValueError(
                    f"with_covariates has {len(value)} values of {name!r}, for samples from the prior, and the data "
                    f"points have their own: give one value, or change x[{covariate_entry(name)!r}]"
                )
            rows = torch.arange(batch_rows(x, num_rows)) % len(value)
            fixed[covariate_entry(name)] = value[rows].to(device)
        return self.program({**x, **fixed}, observed, **kwargs)


class _WhereProper(Handler):
    def forward(self, x: Values, observed: Masks = None, **kwargs: Any) -> Any:
        rows, (modalities,) = Rows(x, observed), self.settings
        if not rows.masks:
            return self.program(x, observed, **kwargs)
        with poutine.mask(mask=rows.properly([name for name in modalities if name in rows.modalities])):
            return self.program(x, observed, **kwargs)


class _Distribution(Handler):
    """A guide that samples from one of its other distributions: the name of the method, and its arguments."""

    def forward(self, x: Values, observed: Masks = None) -> Any:
        name, arguments = self.settings
        return self.program.sample_from(partial(getattr(self.program, name), **arguments), x, observed)


class _Frozen(Handler):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (train,) = self.settings
        with frozen_modules(modules_of(self.program), train):
            with _DetachParams({id(p) for module in train for p in module.parameters()}):
                return self.program(*args, **kwargs)


@contextmanager
def frozen_modules(modules: Iterable[nn.Module], train: Iterable[nn.Module] = ()) -> Iterator[None]:
    """In this context nothing in `modules` changes, except the ones named in `train`, as in `frozen`."""
    kept = {id(part) for module in train for part in module.modules()}
    parts = {id(part): part for module in modules for part in module.modules() if id(part) not in kept}.values()
    before = [(part, part.training, dict(part._parameters)) for part in parts]
    flat_weights = [(part, part._flat_weights) for part in parts if isinstance(part, nn.RNNBase)]
    # cuDNN has no backward through a recurrent network in evaluation mode
    cudnn = torch.backends.cudnn.flags(enabled=False) if flat_weights else nullcontext()
    try:
        for part, _, parameters in before:
            part.training = False
            for name, parameter in parameters.items():
                # a plain tensor in place of the parameter: no operation and no distribution can reach the leaf
                part._parameters[name] = None if parameter is None else parameter.detach()
        for part, weights in flat_weights:
            part._flat_weights = [weight.detach() for weight in weights]
        with cudnn:
            yield
    finally:
        for part, training, parameters in before:
            part.training = training
            part._parameters.update(parameters)
        for part, weights in flat_weights:
            part._flat_weights = weights


class _DetachParams(Messenger):
    """Hides `param` statements from outer handlers and detaches their values, except those of kept parameters."""

    def __init__(self, kept: set[int]) -> None:
        super().__init__()
        self.kept = kept

    def _is_kept(self, msg: dict) -> bool:
        return len(msg["args"]) > 1 and id(msg["args"][1]) in self.kept

    def _pyro_param(self, msg: dict) -> None:
        if not self._is_kept(msg):
            msg["stop"] = True

    def _pyro_post_param(self, msg: dict) -> None:
        if not self._is_kept(msg):
            msg["value"] = msg["value"].detach()


class _Generative(Handler):
    def forward(self, x: Values, observed: Masks = None, num_rows: int | None = None) -> Any:
        (target,) = self.settings
        if num_rows is None:
            num_rows = next((len(values) for values in x.values() if values is not None), None)
        given = {name: values for name, values in x.items() if name not in target}
        masks = None if observed is None else {name: mask for name, mask in observed.items() if name in given}
        rows = {} if num_rows is None or given else {"num_rows": num_rows}
        return self.program({**given, **dict.fromkeys(target)}, masks, **rows)


class _WithoutLikelihoods(Handler):
    def forward(self, x: Values, observed: Masks = None, **kwargs: Any) -> Any:
        if isinstance(unwrap(self.program), GenerativeProgram):
            kwargs["only_latents"] = True
        with poutine.block(hide=list(x)):
            return self.program(x, observed, **kwargs)


class _Predictive(nn.Module):
    """The latents of a guide and the targets of a model, as one program."""

    def __init__(self, model: Program, guide: Program, target: tuple[str, ...]) -> None:
        super().__init__()
        self.decode, self.guide, self.target = generative(model, target), guide, target

    def forward(self, x: Values, observed: Masks = None) -> Any:
        model, masks = unwrap(self.decode), observed or {}
        if hasattr(model, "modalities"):  # the decoders of what is given need not run
            inputs = [name for name in x if name in getattr(model, "conditions", ()) or is_input(name)]
            given = {name: x[name] for name in inputs}
            masks = {name: mask for name, mask in masks.items() if name in given}
        else:  # a plain function may read the number of data points from them
            given, masks = {name: fill_missing(values, masks.get(name)) for name, values in x.items()}, {}
        hidden = [name for name in given if name not in self.target]  # no sites of a prediction
        with latents_from(self.guide, x, observed), poutine.block(hide=hidden):
            return self.decode(given, masks, num_rows=batch_rows(x))


class _Record(Messenger):
    """Records the latents of a program, and hides their names and values from outer handlers and traces."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, tuple[Any, Tensor]] = {}
        self.renamed: dict[str, tuple[str, dict]] = {}

    def _pyro_sample(self, msg: dict) -> None:
        if msg["is_observed"]:
            msg["stop"] = True
            return
        # outer plates must expand the site, so it cannot be blocked
        hidden = f"_guide/{msg['name']}"
        self.renamed[hidden] = msg["name"], msg["infer"]
        msg["name"] = hidden
        msg["infer"] = {**(msg["infer"] or {}), "_do_not_trace": True, "is_auxiliary": True}

    def _pyro_post_sample(self, msg: dict) -> None:
        if msg["name"] in self.renamed:
            msg["name"], msg["infer"] = self.renamed.pop(msg["name"])
            traced = not (msg["infer"] or {}).get("_do_not_trace")
            if traced and not poutine.util.site_is_subsample(msg):
                self.sites[msg["name"]] = msg["fn"], msg["value"]


class _LatentsFromGuide(Messenger):
    """Gives a model's latents a guide's density and value, and leaves the model's in `rows` that are False."""

    def __init__(self, sites: Mapping[str, tuple[Any, Tensor]], rows: Mapping[str, Tensor | None]) -> None:
        super().__init__()
        self.sites, self.rows = dict(sites), dict(rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The latents that the guide sampled."""
        return tuple(self.sites)

    def _pyro_sample(self, msg: dict) -> None:
        name = msg["name"]
        if name not in self.sites or msg["is_observed"]:
            return
        rows = self.rows.pop(name, None)
        if rows is not None and not rows.all():
            self.sites[name] = _with_prior(*self.sites[name], msg["fn"], rows)
        msg["fn"], msg["value"] = self.sites[name]


def _with_prior(fn: Any, value: Tensor, prior: Any, rows: Tensor) -> tuple[Any, Tensor]:
    """A guide's distribution and value in `rows`, those of the prior in all others."""
    lead = value.shape[: value.dim() - fn.event_dim]
    if tuple(prior.batch_shape) != tuple(lead):
        prior = prior.expand(lead)
    merged = torch.where(rows.reshape(-1, *[1] * fn.event_dim), value, prior())
    return RowwiseDistribution([prior, fn], rows.long()), merged
