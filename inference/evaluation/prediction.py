"""Prediction: missing modalities, joint samples, reconstructions and embeddings."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from multipyro._distributions import expected_value
from multipyro._modes import evaluation_mode
from multipyro.batch import Masks, Rows, Values, batch_rows, check_batch, fill_missing, modalities_in, selected
from multipyro.guides import Guide
from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference._program_modules import modules_of
from multipyro.inference.evaluation._inputs import (
    as_names,
    check_known,
    check_values,
    conditions_of,
    first_row,
    select_given,
    take_rows,
)
from multipyro.inference.evaluation._memory import chunks, elements_per_row, in_parts, joined, row_chunks
from multipyro.inference.handlers import (
    conditional,
    continued,
    generative,
    predictive,
    receives,
    restrict,
    without_likelihoods,
)
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.programs import Program, unwrap
from multipyro.ppl_models import point_estimate

__all__ = [
    "Simulation",
    "cross_generate",
    "decode",
    "embed",
    "evaluating",
    "joint_samples",
    "latent_site",
    "prior_latents",
    "reconstruct",
    "simulate",
]

Output = Literal["sample", "mean"]
Embedding = Literal["mean", "sample", "component"]


@dataclass(frozen=True, eq=False)
class Simulation:
    """Data points simulated by a model, with their latents.

    Attributes:
        x: Modality name -> values `(num, *event)`.
        latents: Latent site -> values `(num, latent_dim)`.
    """

    x: dict[str, Tensor]
    latents: dict[str, Tensor]


@contextmanager
def evaluating(*programs: Program) -> Iterator[None]:
    """Without gradients, with every module of `programs` in evaluation mode and each encoder run once."""
    roots = [root for program in programs for root in modules_of(program)]
    with evaluation_mode(*roots), torch.no_grad(), encoders_run_once():
        yield


def cross_generate(
    model: Program,
    guide: Program,
    x: Values,
    target: Sequence[str],
    num_samples: int = 1,
    observed: Masks = None,
    output: Output = "sample",
) -> dict[str, Tensor]:
    r"""Generates modalities from others.

    .. math:: z \sim q(z \mid x_S), \qquad x_m \sim p(x_m \mid z)

    The underlying program is `predictive(model, guide, target)`. Latents that the guide's `conditional` leaves out are
    sampled by the model, as the lower layers of a hierarchical one are. A conditional model samples `z` from its prior
    given the conditions, and needs them for every data point.

    Random numbers come from torch's global generator; memory is bounded whatever the batch and the number of samples.

    Args:
        model: The generative program.
        guide: The variational program; its `conditional` distribution is used.
        x: The given modalities, modality name -> values `(batch, *event)`.
        target: Modalities to generate; one that is also given is reconstructed.
        num_samples: Number of latents per data point.
        observed: Modality name -> which data points are observed, bool `(batch,)`. A data point without any takes its
            latents from the model's prior.
        output: `"sample"` draws from the likelihood, `"mean"` takes its mean (the mode of a categorical).

    Returns:
        Target -> values `(num_samples, batch, *event)`.

    Raises:
        ValueError: If `x` is empty (see `joint_samples`) or has invalid values, a modality is unknown, or a data point
            misses a condition of a conditional model.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood
        >>> likelihoods = {"image": NormalLikelihood(MLP(2, 16)), "label": CategoricalLikelihood(MLP(2, 10))}
        >>> model = MultimodalModel(2, likelihoods)
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> cross_generate(model, guide, {"image": torch.zeros(5, 16)}, ["label"], num_samples=3)["label"].shape
        torch.Size([3, 5])
    """
    target = as_names(target)
    if not x:
        raise ValueError("x contains no modality to generate from: for samples from the prior use joint_samples")
    _check_choice("output", output, Output)
    if not target:
        raise ValueError("target is empty: name at least one modality to generate")
    check_known(model, [*modalities_in(x), *target])
    check_values(model, x, observed)
    conditions = [name for name in target if name in conditions_of(model)]
    if conditions:
        raise ValueError(f"this model generates given {conditions} and cannot generate them")
    program = predictive(model, guide, target)
    with evaluating(model, guide), poutine.block():
        head = first_row(x, observed)
        rest = {name: values for name, values in head.items() if name not in target}
        elements = elements_per_row(generative(model, target), rest, num_rows=1)
        elements = max(elements, elements_per_row(conditional(guide), head))

        def predicted(part: Values, masks: Masks) -> dict[str, Tensor]:
            trace = poutine.trace(program).get_trace(part, masks)
            return {name: _output(trace.nodes[name], output) for name in target}

        return in_parts(x, observed, num_samples, elements, predicted)


def joint_samples(
    model: Program, num_samples: int, target: Sequence[str] | None = None, output: Output = "sample"
) -> dict[str, Tensor]:
    """Samples of all modalities from one latent each, drawn from the model's prior.

    Args:
        model: The generative program.
        num_samples: Any number; they are decoded in chunks of bounded memory.
        target: The modalities; all of the model's by default.
        output: As in `cross_generate`.

    Returns:
        Modality name -> values `(num_samples, *event)`.

    Raises:
        ValueError: If a target is unknown, if none is named and the model does not list its modalities, or for a
            conditional model, which has no joint distribution.

    Example:
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood
        >>> likelihoods = {"image": NormalLikelihood(MLP(2, 16)), "label": CategoricalLikelihood(MLP(2, 10))}
        >>> model = MultimodalModel(2, likelihoods)
        >>> joint_samples(model, 5)["image"].shape
        torch.Size([5, 16])
    """
    target = _unconditional_target(model, target)
    _check_choice("output", output, Output)
    program, parts, begin = generative(model, target), [], 0
    with evaluating(model), poutine.block():
        for number in chunks(num_samples, elements_per_row(program, {}, num_rows=1)):
            trace = poutine.trace(continued(program, begin)).get_trace({}, num_rows=number)
            parts.append({name: _output(trace.nodes[name], output) for name in target})
            begin += number
    return joined(parts)


def reconstruct(
    model: Program,
    guide: Program,
    x: Values,
    num_samples: int = 1,
    observed: Masks = None,
    output: Output = "mean",
) -> dict[str, Tensor]:
    """Reconstructs every given modality from all given ones; arguments and shapes as in `cross_generate`.

    Returns:
        Modality name -> values `(num_samples, batch, *event)`.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> reconstruct(model, guide, {"image": torch.zeros(5, 16)})["image"].shape
        torch.Size([1, 5, 16])
    """
    return cross_generate(model, guide, x, modalities_in(x), num_samples, observed, output)


def embed(
    guide: Program,
    x: Values,
    given: Sequence[str] | None = None,
    observed: Masks = None,
    output: Embedding = "mean",
) -> Tensor:
    """The latent representation of each data point.

    Args:
        guide: The guide.
        x: Modality name -> values `(batch, *event)`.
        given: The modalities that are conditioned on; all of `x` by default.
        observed: Modality name -> which data points are observed, bool `(batch,)`. A data point without any gets the
            mean (or a sample) of the guide's prior, zeros where the guide has none.
        output: Of the guide's `conditional` distribution: `"mean"`, as MoPoE's evaluation takes it; `"sample"`, as
            MMVAE's does; `"component"`, the mean of one component of a mixture, drawn for each data point, as MoPoE's
            evaluation takes it for MMVAE (the mean of any distribution that is no mixture).

    Returns:
        `(batch, latent_dim)`, the site `z`, or the one that a guide names in its attribute `embedding`, as a
        hierarchical guide does its top layer.

    Raises:
        ValueError: If `given` is empty or not in `x`, an observed value is NaN and its encoder does not accept that,
            the guide does not support `given`, or the guide has no such site.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> embed(guide, {"image": torch.zeros(5, 16)}).shape
        torch.Size([5, 2])
    """
    _check_choice("output", output, Embedding)
    if not x:
        raise ValueError("x contains no modality to embed")
    check_batch(x, observed, getattr(unwrap(guide), "modalities", tuple(x)))
    x = dict(x) if given is None else selected(x, select_given(given, x, "given"))
    if batch_rows(x) == 0:
        raise ValueError("x contains no data points")
    incomplete = [m for m, values in x.items() if fill_missing(values, (observed or {}).get(m)).isnan().any()]
    try:
        embedding = _embedded(guide, x, observed, output)
    except ValueError as error:  # Pyro has validated the distribution of an encoder
        if not incomplete:
            raise
        raise ValueError(f"modality {incomplete} has NaN in observed values: {error}") from error
    if incomplete and embedding.isnan().any():
        raise ValueError(f"modality {incomplete} has NaN in observed values, which its encoder does not accept")
    return embedding


def _embedded(guide: Program, x: Values, observed: Masks, output: Embedding) -> Tensor:
    program, name = conditional(guide), latent_site(guide)
    codes = []
    with evaluating(guide), poutine.block():
        elements = elements_per_row(program, first_row(x, observed))
        for indices in row_chunks(batch_rows(x), elements, 1):
            part, masks = take_rows(x, observed, indices)
            with encoders_run_once():
                sites = sample_sites(poutine.trace(program).get_trace(part, masks))
            if name not in sites:
                raise ValueError(f"an embedding is the site {name!r}, but this guide only has {list(sites)}")
            visible = {modality: values for modality, values in part.items() if receives(guide, modality)}
            codes.append(_embedding(guide, sites[name], Rows(visible, masks).informing(name), output))
    return torch.cat(codes)


def decode(
    model: Program, latents: Mapping[str, Tensor], target: Sequence[str] | None = None, output: Output = "mean"
) -> dict[str, Tensor]:
    """Decodes given latents; latents that are not given take their mean.

    Args:
        model: The generative program.
        latents: Site -> values `(batch, latent_dim)`.
        target: The modalities; all of the model's by default.
        output: As in `cross_generate`.

    Returns:
        Modality name -> values `(batch, *event)`.

    Raises:
        ValueError: If the model has no such modality, or lists none and no target is named; or for a conditional model,
            whose decoders need the conditions.

    Example:
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
        >>> decode(model, {"z": torch.zeros(5, 2)})["image"].shape
        torch.Size([5, 16])
    """
    target = _unconditional_target(model, target)
    _check_choice("output", output, Output)
    program, parts = generative(model, target), []
    with evaluating(model), poutine.block():
        for indices in row_chunks(batch_rows(latents), elements_per_row(program, {}, num_rows=1), 1):
            part = {name: value[indices] for name, value in latents.items()}
            with poutine.condition(data=part), _MeanLatents({*target, *latents}):
                trace = poutine.trace(continued(program, int(indices[0]))).get_trace({}, num_rows=len(indices))
            parts.append({name: _output(trace.nodes[name], output) for name in target})
    return joined(parts)


def prior_latents(model: Program, num_samples: int) -> dict[str, Tensor]:
    """Samples of all latents from the model's prior, site -> `(num_samples, latent_dim)`.

    Raises:
        ValueError: For a conditional model, whose prior may depend on its conditions.

    Example:
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(5, 16))}, private={"image": 3})
        >>> {name: tuple(values.shape) for name, values in prior_latents(model, 5).items()}
        {'z': (5, 2), 'z_image': (5, 3)}
    """
    latents = generative(without_likelihoods(model), _unconditional_target(model, None))
    with evaluating(model), poutine.block():
        sites = sample_sites(poutine.trace(latents).get_trace({}, num_rows=num_samples))
    return {name: site["value"] for name, site in sites.items()}


def simulate(
    model: Program,
    num_data_points: int,
    target: Sequence[str] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> Simulation:
    """Data points of a model, with the latents that they were simulated with.

    Args:
        model: The generative program.
        num_data_points: Number of data points.
        target: The modalities to simulate; all of the model's by default.
        inputs: Conditions of a conditional model, exposures and covariates, from which as many data points as they have
            are simulated.

    Returns:
        The simulated data points, `inputs` among their values.

    Example:
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> simulation = simulate(MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))}), 5)
        >>> simulation.x["image"].shape, simulation.latents["z"].shape
        (torch.Size([5, 4]), torch.Size([5, 2]))
    """
    inputs, conditions = dict(inputs or {}), conditions_of(model)
    names = tuple(
        name for name in (unwrap(model).modalities if target is None else as_names(target)) if name not in conditions
    )
    number = batch_rows(inputs) if inputs else num_data_points
    program = restrict(generative(model, names), [*names, *conditions])
    with evaluating(model), poutine.block():
        sites = sample_sites(poutine.trace(program).get_trace(inputs, num_rows=number))
    values = {name: site["value"] for name, site in sites.items()}
    return Simulation(
        {**{name: values[name] for name in names}, **inputs},
        {name: value for name, value in values.items() if name not in names},
    )


def latent_site(guide: Program) -> str:
    """The latent that represents a data point: `z`, or the one that a guide names in its attribute `embedding`."""
    return getattr(unwrap(guide), "embedding", "z")


def _unconditional_target(model: Program, target: Sequence[str] | None) -> tuple[str, ...]:
    """The modalities to sample unconditionally, checked."""
    if conditions_of(model):
        raise ValueError(
            f"this model generates given {list(conditions_of(model))} and has no joint distribution to sample from: "
            "pass them to cross_generate"
        )
    modalities = getattr(unwrap(model), "modalities", None)
    if target is None and modalities is None:
        raise ValueError("this model does not list its modalities: name the target")
    target = as_names(modalities if target is None else target)
    check_known(model, target)
    return target


class _MeanLatents(Messenger):
    """Sets every site, except those that are fixed, to the mean of its distribution."""

    def __init__(self, decided: Collection[str]) -> None:
        super().__init__()
        self.decided = decided

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] not in self.decided and not poutine.util.site_is_subsample(msg):
            msg["value"] = expected_value(msg["fn"])


def _embedding(guide: Program, site: dict, rows: Tensor | None, output: Embedding) -> Tensor:
    """The embedding of each data point, that of the guide's prior where nothing is observed."""
    distribution = site["fn"]
    if output == "sample":
        code = site["value"]
    elif output == "component" and hasattr(distribution, "components"):
        means = torch.stack([expected_value(component) for component in distribution.components], -2)
        component = torch.distributions.Categorical(distribution.weights).sample()
        code = means.gather(-2, component[..., None, None].expand(*component.shape, 1, means.shape[-1])).squeeze(-2)
    else:
        code = expected_value(distribution)
    if rows is None:
        return code
    inner = unwrap(guide)
    if not isinstance(inner, Guide):
        prior = torch.zeros_like(code)
    elif output == "sample":
        prior = inner.prior().expand(code.shape[:1]).sample()
    else:
        prior = expected_value(inner.prior()).expand_as(code)
    return torch.where(rows.unsqueeze(-1), code, prior)


def _check_choice(argument: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{argument} must be one of {get_args(choices)}, got {value!r}")


def _output(site: dict, output: Output) -> Tensor:
    return site["value"] if output == "sample" else point_estimate(site["fn"])
