"""Prediction: the modalities that are missing, joint samples, reconstructions and embeddings."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyro
import torch
from pyro import poutine
from torch import Tensor

from multipyro._modes import evaluation_mode
from multipyro.batch import batch_rows, check_batch, filled, rows_of_latent
from multipyro.guides import Guide
from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference._program_modules import modules_of
from multipyro.inference.handlers import conditional, generative, predictive, sees
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.programs import Program, unwrap
from multipyro.ppl_models import point_estimate
from multipyro.ppl_models.conditional import check_conditions

__all__ = ["cross_generate", "embed", "evaluating", "joint_samples", "reconstruct"]

#: elements of the largest tensor at once; beyond about 32 MB one decoder call is slower than several
MAX_ELEMENTS = 8_000_000
_OUTPUTS = ("sample", "mean")


@contextmanager
def evaluating(*programs: Program) -> Iterator[None]:
    """No gradients, every module of `programs` in evaluation mode and each encoder run once; then as before."""
    roots = [root for program in programs for root in modules_of(program)]
    with evaluation_mode(*roots), torch.no_grad(), encoders_run_once():
        yield


def cross_generate(
    model: Program,
    guide: Program,
    x: Mapping[str, Tensor],
    target: Sequence[str],
    num_samples: int = 1,
    observed: Mapping[str, Tensor] | None = None,
    output: str = "sample",
) -> dict[str, Tensor]:
    r"""Generates modalities from others.

    .. math:: z \sim q(z \mid x_S), \qquad x_m \sim p(x_m \mid z)

    A latent that the guide's `conditional` leaves out is drawn by the model, as the lower layers of a hierarchical
    one are. A conditional model draws `z` from its prior given the conditions, and needs them in every row.

    Random numbers come from torch's global generator; memory is bounded whatever the number of rows and samples.

    Args:
        model: The generative program.
        guide: The variational program; its `conditional` distribution is used.
        x: What is given, modality name -> values `(batch, *event)`.
        target: Modalities to generate; one that is also given is a reconstruction.
        num_samples: Number of latents a row.
        observed: Rows of the given modalities that are observed. A row with none draws `z` from the model's prior.
        output: `"sample"` draws from the likelihood, `"mean"` takes its mean (the mode of a categorical).

    Returns:
        Target -> values `(num_samples, batch, *event)`.

    Raises:
        ValueError: If `x` is empty (see `joint_samples`) or holds bad values, a modality is unknown, or a row lacks a
            condition of a conditional model.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood
        >>> likelihoods = {"image": NormalLikelihood(MLP(2, 16)), "label": CategoricalLikelihood(MLP(2, 10))}
        >>> model = MultimodalModel(2, likelihoods)
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> cross_generate(model, guide, {"image": torch.zeros(5, 16)}, ["label"], num_samples=3)["label"].shape
        torch.Size([3, 5])
    """
    target = (target,) if isinstance(target, str) else tuple(target)
    if not x:
        raise ValueError("x holds no modality to generate from: for samples of the prior use joint_samples")
    _check_output(output)
    if not target:
        raise ValueError("target is empty: name at least one modality to generate")
    check_known(model, [*x, *target])
    check_values(model, x, observed)
    conditions = [name for name in target if name in conditions_of(model)]
    if conditions:
        raise ValueError(f"this model generates given {conditions} and cannot generate them")
    return generated(model, guide, x, target, num_samples, observed, output)[1]


def joint_samples(
    model: Program, num_samples: int, target: Sequence[str] | None = None, output: str = "sample"
) -> dict[str, Tensor]:
    """Samples of all modalities from one latent each, drawn from the model's prior.

    Args:
        model: The generative program.
        num_samples: Any number; decoded in chunks of bounded memory.
        target: The modalities; all of the model's by default.
        output: As in `cross_generate`.

    Returns:
        Modality name -> values `(num_samples, *event)`.

    Raises:
        ValueError: If a target is unknown, none is named and the model does not tell its modalities, or it is a
            conditional model, which has no joint distribution.

    Example:
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, NormalLikelihood
        >>> likelihoods = {"image": NormalLikelihood(MLP(2, 16)), "label": CategoricalLikelihood(MLP(2, 10))}
        >>> model = MultimodalModel(2, likelihoods)
        >>> joint_samples(model, 5)["image"].shape
        torch.Size([5, 16])
    """
    if conditions_of(model):
        raise ValueError(
            f"this model generates given {list(conditions_of(model))} and has no joint distribution to sample: give "
            "them to cross_generate"
        )
    if target is None and not hasattr(model, "modalities"):
        raise ValueError("this model does not tell its modalities: name the target")
    target = (target,) if isinstance(target, str) else tuple(model.modalities if target is None else target)
    _check_output(output)
    check_known(model, target)
    program = generative(model, target)
    found: dict[str, list[Tensor]] = {name: [] for name in target}
    with evaluating(model), poutine.block():
        for number in chunks(num_samples, elements_of_a_row(program, {}, num_rows=1)):
            trace = poutine.trace(program).get_trace({}, num_rows=number)
            for name in target:
                found[name].append(_output(trace.nodes[name], output))
    return {name: torch.cat(parts) for name, parts in found.items()}


def reconstruct(
    model: Program,
    guide: Program,
    x: Mapping[str, Tensor],
    num_samples: int = 1,
    observed: Mapping[str, Tensor] | None = None,
    output: str = "mean",
) -> dict[str, Tensor]:
    """Every given modality generated from all given ones; arguments and shapes as in `cross_generate`.

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
    return cross_generate(model, guide, x, tuple(x), num_samples, observed, output)


def embed(
    guide: Program,
    x: Mapping[str, Tensor],
    given: Sequence[str] | None = None,
    observed: Mapping[str, Tensor] | None = None,
    sample: bool = False,
) -> Tensor:
    """The latent representation of each row.

    Args:
        guide: The guide.
        x: Modality name -> values `(batch, *event)`.
        given: The modalities that are conditioned on; all of `x` by default.
        observed: Rows that are observed. A row with nothing observed gets the mean (or a sample) of the guide's prior,
            zeros where the guide has none.
        sample: A sample of the guide's `conditional` distribution (as MMVAE's evaluation takes) instead of its mean
            (as MoPoE's does).

    Returns:
        `(batch, latent_dim)`, the site `z`; the top layer of a hierarchical guide, its attribute `embedding`.

    Raises:
        ValueError: If `given` is empty or not in `x`, `x` holds NaN, the guide does not answer it, or the guide has no
            such site.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> embed(guide, {"image": torch.zeros(5, 16)}).shape
        torch.Size([5, 2])
    """
    if not x:
        raise ValueError("x holds no modality to embed")
    check_batch(x, observed, getattr(unwrap(guide), "modalities", tuple(x)))
    x = dict(x) if given is None else {name: x[name] for name in chosen(given, x, "given")}
    if batch_rows(x) == 0:
        raise ValueError("x holds no rows")
    for name, values in x.items():
        if values.is_floating_point() and filled(values, (observed or {}).get(name)).isnan().any():
            raise ValueError(f"modality {name!r} holds NaN in observed rows: mask those rows in observed")
    program, name = conditional(guide), getattr(unwrap(guide), "embedding", "z")
    codes = []
    with evaluating(guide), poutine.block():
        size = max(1, MAX_ELEMENTS // elements_of_a_row(program, first_row(x, observed)))
        for rows in torch.arange(batch_rows(x)).split(size):
            part, masks = take_rows(x, observed, rows)
            with encoders_run_once():
                sites = sample_sites(poutine.trace(program).get_trace(part, masks))
            if name not in sites:
                raise ValueError(f"an embedding is the site {name!r}, and this guide only has {list(sites)}")
            site = sites[name]
            visible = {modality: values for modality, values in part.items() if sees(guide, modality)}
            code, evidence = site["value"] if sample else site["fn"].mean, rows_of_latent(name, visible, masks)
            if evidence is not None:
                code = torch.where(evidence.unsqueeze(-1), code, _without_evidence(guide, code, sample))
            codes.append(code)
    return torch.cat(codes)


def generated(
    model: Program,
    guide: Program,
    x: Mapping[str, Tensor],
    target: Sequence[str],
    num_samples: int,
    observed: Mapping[str, Tensor] | None,
    output: str,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The latents given `x`, and what they decode to, site -> `(num_samples, batch, *event)`, in bounded memory."""
    program, decode = predictive(model, guide, target), generative(model, target)
    parts: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    with evaluating(model, guide), poutine.block():
        head = first_row(x, observed)
        elements = elements_of_a_row(decode, _without(head, target), num_rows=1)
        elements = max(elements, elements_of_a_row(conditional(guide), head))
        for rows in row_chunks(batch_rows(x), elements, num_samples):
            part, masks = take_rows(x, observed, rows)
            found = []
            with encoders_run_once():
                for number in chunks(num_samples, len(rows) * elements):
                    with pyro.plate("num_samples", number, dim=-2):
                        sites = sample_sites(poutine.trace(program).get_trace(part, masks))
                    latents = {name: site["value"] for name, site in sites.items() if name not in target}
                    found.append((latents, {name: _output(sites[name], output) for name in target}))
            parts.append(tuple(_joined(group, 0) for group in zip(*found, strict=True)))
    latents, values = (_joined(group, 1) for group in zip(*parts, strict=True))
    return latents, values


def conditions_of(model: Program) -> tuple[str, ...]:
    """The modalities that a conditional model is given and does not score; none for every other model."""
    return tuple(getattr(unwrap(model), "conditions", ()))


def check_known(model: Program, names: Sequence[str]) -> None:
    """Raises if the model is known not to have a modality."""
    modalities = getattr(unwrap(model), "modalities", None)
    unknown = [name for name in names if modalities is not None and name not in modalities]
    if unknown:
        raise ValueError(f"unknown modality {unknown}: this model has {list(modalities)}")


def check_values(model: Program, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None) -> None:
    """Checks given values against the model's likelihoods, missing rows excepted, and that no condition is missing."""
    check_batch(x, observed, getattr(unwrap(model), "modalities", tuple(x)))
    if batch_rows(x) == 0:
        raise ValueError("x holds no rows")
    check_conditions(conditions_of(model), x, observed)
    likelihoods = getattr(unwrap(model), "likelihoods", {})
    for name, values in x.items():
        if name in likelihoods and hasattr(likelihoods[name], "check"):
            likelihoods[name].check(filled(values, (observed or {}).get(name)), name)


def chosen(names: Sequence[str], x: Mapping[str, Tensor], argument: str) -> tuple[str, ...]:
    """`names`, the value of `argument`, as a tuple; raises unless they are some of the modalities in `x`."""
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in x]
    if unknown or not names:
        raise ValueError(f"{argument} must be some of {list(x)}, got {list(names)}")
    return names


def chunks(number: int, elements: int) -> Iterator[int]:
    """Splits `number` things of `elements` elements each into parts of bounded memory."""
    if number < 1:
        raise ValueError(f"the number of samples must be at least 1, got {number}")
    size = max(1, MAX_ELEMENTS // max(elements, 1))
    for start in range(0, number, size):
        yield min(size, number - start)


def row_chunks(rows: int, elements: int, samples: int) -> tuple[Tensor, ...]:
    """Indices of rows in parts that leave room for 64 samples a row at once, where so many are wanted."""
    return torch.arange(rows).split(max(1, MAX_ELEMENTS // (elements * min(max(samples, 1), 64))))


def elements_of_a_row(program: Program, *args: object, **kwargs: object) -> int:
    """Elements of the largest tensor that a program makes when called with one row, hidden layers included."""
    largest = [1]

    def record(module: torch.nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            largest.append(output.numel())

    hooks = [part.register_forward_hook(record) for root in modules_of(program) for part in root.modules()]
    try:
        sites = sample_sites(poutine.trace(program).get_trace(*args, **kwargs))
    finally:
        for hook in hooks:
            hook.remove()
    # the density of a mixture is that of all its components
    largest += [site["value"].numel() * getattr(site["fn"], "num_components", 1) for site in sites.values()]
    return max(largest)


def first_row(x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """One row of `x` that holds no fill value."""
    return {name: filled(values, (observed or {}).get(name))[:1] for name, values in x.items()}


def take_rows(
    x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None, rows: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Some rows of the modalities in `x` and of their masks."""
    masks = None if observed is None else {name: mask[rows] for name, mask in observed.items() if name in x}
    return {name: values[rows] for name, values in x.items()}, masks


def answers(guide: Program, subset: Sequence[str]) -> bool:
    """Whether a guide answers a subset; a plain function is taken to answer all."""
    inner = unwrap(guide)
    if not isinstance(inner, Guide):
        return True
    ordered = tuple(name for name in inner.modalities if name in subset and sees(guide, name))
    return len(ordered) == len(subset) and (inner.subsets is None or ordered in inner.subsets)


def _without(x: Mapping[str, Tensor], target: Sequence[str]) -> dict[str, Tensor]:
    return {name: values for name, values in x.items() if name not in target}


def _without_evidence(guide: Program, code: Tensor, sample: bool) -> Tensor:
    inner = unwrap(guide)
    if not isinstance(inner, Guide):
        return torch.zeros_like(code)
    prior = inner.prior()
    return prior.expand(code.shape[:1]).sample() if sample else prior.mean.expand_as(code)


def _joined(parts: Sequence[Mapping[str, Tensor]], dim: int) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}


def _check_output(output: str) -> None:
    if output not in _OUTPUTS:
        raise ValueError(f"output must be one of {_OUTPUTS}, got {output!r}")


def _output(site: dict, output: str) -> Tensor:
    return site["value"] if output == "sample" else point_estimate(site["fn"])
