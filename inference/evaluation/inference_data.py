"""Posterior predictive checks with arviz: samples of model and guide as InferenceData."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from multipyro._optional import INSTALL, optional_imports
from multipyro.batch import Rows, batch_rows, modalities_in, selected
from multipyro.inference.evaluation._inputs import check_known, check_values, conditions_of, select_given
from multipyro.inference.evaluation._memory import chunks, elements_per_row
from multipyro.inference.evaluation.likelihoods import LogLikelihood
from multipyro.inference.evaluation.likelihoods.proposals import site_log_prob
from multipyro.inference.evaluation.likelihoods.weights import effective_sample_size, pareto_k
from multipyro.inference.evaluation.prediction import evaluating, generate
from multipyro.inference.handlers import generative, restrict
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.programs import Program

if TYPE_CHECKING:
    import arviz
    import numpy
    import xarray

__all__ = ["check_statistic", "predictive_log_weights", "to_elpd", "to_inference_data"]

_DATA_POINT = "data_point"
# names of the dimensions of an image, and of a matrix
_IMAGE, _MATRIX = ("channel", "row", "column"), ("row", "column")
_NO_LOG_LIKELIHOOD = (
    "not stored: every data point has its own latents, so leave-one-out on log p(x | z) is invalid. Compare models "
    "by to_elpd(log_likelihood(...)) of test data, check calibration by plot_loo_pit with predictive_log_weights(...)."
)


def to_inference_data(
    model: Program,
    guide: Program,
    x: Mapping[str, Tensor],
    num_samples: int = 100,
    given: Sequence[str] | None = None,
    observed: Mapping[str, Tensor] | None = None,
    max_draws: int = 1_000_000,
) -> "arviz.InferenceData":
    r"""Samples for arviz's plots and statistics, in one chain, with the same parameters and different latents.

    Groups:

    * `posterior`: the latents, from the guide's `conditional` distribution given `given`; what it leaves out, from the
      model. `prior`: the latents, from the model's prior.
    * `posterior_predictive` and `prior_predictive`: every modality of `x`, generated from these latents. Modalities
      outside `given` are predicted, so comparing them with their observed values is a cross-modal check; those in
      `given` are reconstructed, which is an easier question.
    * `observed_data`, with NaN where nothing is observed; integers, which have no NaN, keep their observed data points
      alone, along `<modality>_data_point`. `constant_data`: the conditions of a conditional model.
    * `sample_stats`, of the posterior samples as importance samples of the model's own posterior given `given`:
      `log_weight`, :math:`\log p(x_G, z) - \log q(z \mid x_G)`; `lp`, :math:`\log p(x_G, z)`; and for each data point
      `khat`, the Pareto shape of its weights (below 0.7 if the guide covers that posterior), and `ess`, their
      effective sample size. Left out where the guide has no density, with the reason in `attrs`.

    Draws have the dimensions `(chain, draw, data_point, ...)`. Those of an image are `<modality>_channel`,
    `<modality>_row` and `<modality>_column`, of a text `<modality>_position`, of other vectors, latents too,
    `<site>_entry`.

    `log_likelihood` is never stored: `arviz.loo` and `arviz.waic` would be wrong here, as every data point has its
    own latents. Models are compared by `to_elpd`, calibration is checked with `predictive_log_weights`.

    Args:
        model: The generative program.
        guide: The variational program.
        x: The observed data, modality name -> values `(batch, *event)`.
        num_samples: Number of samples per data point.
        given: The modalities that the latents are inferred from; all of `x` by default.
        observed: Modality name -> which data points are observed, bool `(batch,)`. Where nothing of `given` is
            observed, latents come from the model's prior.
        max_draws: Maximum of data points times samples.

    Returns:
        The groups.

    Raises:
        ValueError: If there are more than `max_draws` data points times samples, a modality is unknown or its values
            are invalid.
        ModuleNotFoundError: If arviz is not installed.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> data = to_inference_data(model, guide, {"image": model({"image": None}, num_rows=5)["image"]}, 7)
        >>> dict(data.posterior_predictive["image"].sizes)
        {'chain': 1, 'draw': 7, 'data_point': 5, 'image_entry': 16}
    """
    check_known(model, modalities_in(x))
    check_values(model, x, observed)
    given = modalities_in(x) if given is None else select_given(given, x, "given")
    number = batch_rows(x)
    if number * num_samples > max_draws:
        raise ValueError(
            f"{number} data points times {num_samples} samples are {number * num_samples}, more than "
            f"max_draws={max_draws}: take fewer of either, or raise max_draws"
        )
    az = _arviz()
    conditions = conditions_of(model)
    target = tuple(name for name in modalities_in(x) if name not in conditions)
    evidence = selected(x, given)
    masks = None if observed is None else {name: mask for name, mask in observed.items() if name in given}
    posterior, stats, reason = _posterior(model, guide, evidence, target, num_samples, masks)
    prior = _prior(model, selected(x, conditions), target, num_samples, number)
    latents = [name for name in posterior if name not in target]
    dims = {name: _dims(name, x[name], x[name].dim() - 1) for name in modalities_in(x)}
    dims |= {name: _dims(name, posterior[name], posterior[name].dim() - 2) for name in latents}
    data = az.from_dict(
        posterior=_draws(posterior, latents),
        posterior_predictive=_draws(posterior, target),
        prior=_draws(prior, [name for name in prior if name not in target]),
        prior_predictive=_draws(prior, target),
        sample_stats=_draws(stats, stats) or None,
        constant_data={name: _array(x[name]) for name in conditions} or None,
        dims={**dims, **dict.fromkeys(stats, [_DATA_POINT])},
    )
    if stats:
        log_weights = stats["log_weight"]
        for name, values in (("khat", pareto_k(log_weights)), ("ess", effective_sample_size(log_weights))):
            data.sample_stats[name] = ((_DATA_POINT,), _array(values))
    data.extend(_observed(az, {name: x[name] for name in target}, observed, dims))
    data.attrs.update({"given": "+".join(given), "log_likelihood": _NO_LOG_LIKELIHOOD})
    if reason:
        data.attrs["sample_stats"] = reason
    return data


def check_statistic(
    data: "arviz.InferenceData", modality: str, statistic: Callable[[Tensor], Tensor], name: str
) -> "arviz.InferenceData":
    """A user-defined statistic in place of a modality, observed and replicated, for arviz's plots and p-values.

    Args:
        data: The result of `to_inference_data`.
        modality: The modality the statistic is of.
        statistic: From values `(..., *event)` to numbers `(...)`, one per value: the brightness of an image, say, or
            the width of its strokes.
        name: Name of the statistic in the result.

    Returns:
        InferenceData with the statistic in `observed_data`, `posterior_predictive` and `prior_predictive`, and in
        `sample_stats` as `p_value`: for each data point the share of replicates that are at most the observed value.

    Raises:
        ValueError: If a group has no such modality, or the statistic does not return one number per value.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> data = to_inference_data(model, guide, {"image": model({"image": None}, num_rows=5)["image"]}, 7)
        >>> check_statistic(data, "image", lambda image: image.amax(-1), "brightest").observed_data["brightest"].shape
        (5,)
    """
    az = _arviz()
    if modality not in data.observed_data:
        raise ValueError(f"{modality!r} is not observed: there are {list(data.observed_data)}")
    event_dim = data.posterior_predictive[modality].ndim - 3
    groups = {}
    for group in ("observed_data", "posterior_predictive", "prior_predictive"):
        array = data[group][modality]
        values = torch.as_tensor(array.values)
        result = statistic(values)
        expected = values.shape[: values.dim() - event_dim]
        if tuple(result.shape) != tuple(expected):
            raise ValueError(f"the statistic must return shape {tuple(expected)}, got {tuple(result.shape)}")
        dims = array.dims[: array.ndim - event_dim]
        template = array.isel(dict.fromkeys(array.dims[array.ndim - event_dim :], 0), drop=True)
        groups[group] = template.copy(data=_array(result)).rename(name).to_dataset()
        assert groups[group][name].dims == dims
    observed, replicated = groups["observed_data"][name], groups["posterior_predictive"][name]
    if observed.dims[0] != _DATA_POINT:  # integers: the data points that are observed
        replicated = replicated.isel({_DATA_POINT: observed[observed.dims[0]].values})
        replicated = replicated.rename({_DATA_POINT: observed.dims[0]}).assign_coords(observed.coords)
        groups["posterior_predictive"] = replicated.to_dataset()
    p_values = (replicated <= observed).mean(("chain", "draw")).where(observed.notnull())
    groups["sample_stats"] = p_values.rename("p_value").to_dataset()
    return az.InferenceData(**groups)


def predictive_log_weights(data: "arviz.InferenceData", modality: str) -> "xarray.DataArray":
    """The log-weights with which arviz's `loo_pit` and `plot_loo_pit` are valid for local latents.

    For a modality outside `given`, the replicates of a data point weighted by its importance weights are samples of the
    model's own prediction `p(x_m | x_G)`, so the probability integral transform of the observed value is uniform if the
    model is right, whatever the guide is. Pass them as
    `arviz.plot_loo_pit(data, y=modality, log_weights=predictive_log_weights(data, modality))`.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024): the largest weights are smoothed, which lowers
        variance and leaves a bias where `khat` is above 0.7.

    Args:
        data: The result of `to_inference_data`.
        modality: A modality that the latents were not inferred from.

    Returns:
        Smoothed and normalized log-weights `(batch, *event, samples)`, as arviz takes them.

    Raises:
        ValueError: If the modality was given, so that its replicates depend on the observed value; or the guide has no
            density.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {name: NormalLikelihood(MLP(2, 3)) for name in "ab"})
        >>> guide = ProductOfExperts(2, {name: NormalEncoder(MLP(3, 8), 2) for name in "ab"})
        >>> x = {name: torch.randn(5, 3) for name in "ab"}
        >>> data = to_inference_data(model, guide, x, 50, given=["a"])
        >>> predictive_log_weights(data, "b").shape
        (5, 3, 50)
    """
    az = _arviz()
    if modality in data.attrs["given"].split("+"):
        raise ValueError(
            f"the latents were inferred from {modality!r} too, so its replicates depend on the observed value: leave "
            "it out of given"
        )
    if "sample_stats" not in data.groups():
        raise ValueError(f"there are no weights: {data.attrs['sample_stats']}")
    weights = data.sample_stats["log_weight"].stack(__sample__=("chain", "draw")).transpose(_DATA_POINT, "__sample__")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # khat is in sample_stats, and its check is documented
        smoothed, _ = az.psislw(weights)
    draws = data.posterior_predictive[modality].stack(__sample__=("chain", "draw"))
    return smoothed.broadcast_like(draws).transpose(*draws.dims)


def to_elpd(estimate: LogLikelihood) -> "arviz.ELPDData":
    """The log-likelihoods of test data in the form that `arviz.compare` and `arviz.plot_compare` take.

    The parameters were fitted to other data, so the expected log predictive density of a data point is its
    log-likelihood itself, latents integrated out; there is nothing to leave out. arviz calls
    such values `elpd_loo`. The standard error of a difference that `compare` prints is paired.

    Args:
        estimate: The result of `log_likelihood` on test data, which must be the same for every compared model.

    Returns:
        The values in arviz's form, with a warning where importance sampling was not reliable.

    Example:
        >>> import torch
        >>> estimate = LogLikelihood(torch.tensor([-1.0, -2.0]), torch.zeros(2), torch.zeros(2))
        >>> float(to_elpd(estimate)["elpd_loo"])
        -3.0
    """
    az = _arviz()
    from xarray import DataArray

    number = len(estimate.values)
    values = DataArray(_array(estimate.values), dims=[_DATA_POINT])
    samples = 1 if estimate.num_samples is None else int(estimate.num_samples.max())
    fields = {
        "elpd_loo": float(values.sum()),
        "se": number * estimate.se,
        "p_loo": 0.0,
        "n_samples": samples,
        "n_data_points": number,
        "warning": bool(estimate.warnings),
        "loo_i": values,
        "scale": "log",
    }
    return az.ELPDData(data=list(fields.values()), index=list(fields))


def _posterior(
    model: Program,
    guide: Program,
    x: Mapping[str, Tensor],
    target: Sequence[str],
    num_samples: int,
    observed: Mapping[str, Tensor] | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """Latents and targets given `x`, the statistics of their weights, and the reason why there are none."""
    scored = restrict(model, modalities_in(x))

    def weigh(sites: Mapping[str, dict], part: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None):
        latents = {name: site for name, site in sites.items() if name not in target}
        values = {name: site["value"] for name, site in latents.items()}
        joint = sample_sites(poutine.trace(poutine.condition(scored, data=values)).get_trace(part, masks))
        log_joint = sum(site_log_prob(site) for site in joint.values())
        log_guide = 0.0
        for name in joint:
            if name in latents:
                rows = Rows(part, masks).informing(name)
                density = site_log_prob(latents[name])
                log_guide = log_guide + (density if rows is None else torch.where(rows, density, 0.0))
        return {"lp": log_joint, "log_weight": log_joint - log_guide}

    reason = ""
    try:
        values = generate(model, guide, x, target, num_samples, observed, "sample", weigh)
    except NotImplementedError as error:  # raised by a guide without a density
        reason = f"not stored: {error}"
        values = generate(model, guide, x, target, num_samples, observed, "sample")
    stats = {name: values.pop(name) for name in ("lp", "log_weight") if name in values}
    return values, stats, reason


def _prior(
    model: Program, conditions: Mapping[str, Tensor], target: Sequence[str], num_samples: int, number: int
) -> dict[str, Tensor]:
    """Latents from the prior, and the targets decoded from them, site -> `(num_samples, number, *event)`."""
    program = generative(model, target)
    parts = []
    with evaluating(model), poutine.block():
        head = {name: values[:1] for name, values in conditions.items()}
        elements = elements_per_row(program, head, num_rows=1)
        for samples in chunks(num_samples, number * elements):
            with pyro.plate("num_samples", samples, dim=-2):
                sites = sample_sites(poutine.trace(program).get_trace(dict(conditions), num_rows=number))
            parts.append({name: site["value"] for name, site in sites.items() if not site["is_observed"]})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _observed(
    az: Any, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None, dims: Mapping[str, list[str]]
) -> "arviz.InferenceData":
    values, coordinates, dims = {}, {}, dict(dims)
    for name in modalities_in(x):
        value = x[name]
        mask = None if observed is None else observed.get(name)
        if mask is None or bool(mask.all()):
            values[name] = _array(value)
        elif value.is_floating_point():
            values[name] = _array(torch.where(mask.reshape(-1, *[1] * (value.dim() - 1)), value, torch.nan))
        else:
            values[name] = _array(value[mask])
            coordinates[f"{name}_{_DATA_POINT}"] = _array(mask.nonzero()[:, 0])
            dims[name] = [f"{name}_{_DATA_POINT}", *dims[name][1:]]
    return az.from_dict(observed_data=values, dims=dims, coords=coordinates)


def _dims(name: str, values: Tensor, event_dim: int) -> list[str]:
    """Names of the dimensions of a site after chain and draw."""
    if event_dim == len(_IMAGE):
        event = _IMAGE
    elif event_dim == len(_MATRIX):
        event = _MATRIX
    elif event_dim == 1:
        event = ("entry",) if values.is_floating_point() else ("position",)
    else:
        event = tuple(f"dim_{number}" for number in range(event_dim))
    return [_DATA_POINT, *(f"{name}_{dimension}" for dimension in event)]


def _draws(values: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, "numpy.ndarray"]:
    return {name: _array(values[name])[None] for name in names}


def _array(value: Tensor) -> "numpy.ndarray":
    return value.detach().cpu().numpy()


def _arviz() -> Any:
    with warnings.catch_warnings(), optional_imports("InferenceData"):
        # arviz 0.23 announces its next version once a day, when imported
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    if not hasattr(arviz, "InferenceData"):
        raise ImportError(f"arviz below 1 is required, got {arviz.__version__}: pip install {INSTALL['arviz']}")
    return arviz
