"""Posterior predictive checks with arviz: samples of model and guide as InferenceData."""

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from multipyro._optional import INSTALL, optional_imports
from multipyro.batch import Masks, Rows, Values, batch_rows, is_input, is_missing, modalities_in, subsets_of
from multipyro.inference.evaluation._inputs import (
    check_known,
    check_values,
    conditions_of,
    first_row,
    select_batch,
    select_given,
    supports,
    take_rows,
)
from multipyro.inference.evaluation._memory import chunks, elements_per_row, in_parts, row_chunks
from multipyro.inference.evaluation.estimates import Estimate, estimate_share
from multipyro.inference.evaluation.likelihoods.densities import site_log_prob
from multipyro.inference.evaluation.likelihoods.estimates import LogLikelihood
from multipyro.inference.evaluation.likelihoods.weights import effective_sample_size, pareto_k
from multipyro.inference.evaluation.prediction import evaluating
from multipyro.inference.handlers import conditional, generative, predictive, restrict, without_likelihoods
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.programs import Program

if TYPE_CHECKING:
    import arviz
    import numpy
    import xarray

__all__ = [
    "check_predictions",
    "check_statistic",
    "color_histogram",
    "predictive_log_weights",
    "stroke_width",
    "to_elpd",
    "to_inference_data",
]

_DATA_POINT = "data_point"
# names of the dimensions of an image, and of a matrix
_IMAGE, _MATRIX = ("channel", "row", "column"), ("row", "column")
# Pyro's stack of handlers is one for all threads, and dask computes in several
_LOCK = threading.Lock()
_NO_LOG_LIKELIHOOD = (
    "not stored: each data point has separate latents, so leave-one-out on log p(x | z) is invalid. Compare models "
    "by to_elpd(log_likelihood(...)) of test data, check calibration by plot_loo_pit with predictive_log_weights(...)."
)


def to_inference_data(
    model: Program,
    guide: Program,
    x: Values,
    num_samples: int = 100,
    given: Sequence[str] | None = None,
    observed: Masks = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    max_bytes: int = 2**31,
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
    * `sample_stats`, of the posterior samples as importance samples of the model's exact posterior given `given`:
      `log_weight`, :math:`\log p(x_G, z) - \log q(z \mid x_G)`; `lp`, :math:`\log p(x_G, z)`; and for each data point
      `khat`, the Pareto shape of its weights (below 0.7 if the guide covers that posterior), and `ess`, their
      effective sample size. Left out where the guide has no density, with the reason in `attrs`.

    Where the predictive groups need more than `max_bytes`, they are arrays of dask, if it is installed: each block is
    generated when it is read, from the stored latents and a fixed seed, so it is the same every time as long as the
    parameters of the model do not change: read the blocks (`compute()`) before training continues.

    Draws have the dimensions `(chain, draw, data_point, ...)`. Those of an image are `<modality>_channel`,
    `<modality>_row` and `<modality>_column`, of a text `<modality>_position`, of other vectors, latents too,
    `<site>_entry`.

    `log_likelihood` is never stored: `arviz.loo` and `arviz.waic` would be wrong here, as each data point has
    separate latents. Models are compared by `to_elpd`, calibration is checked with `predictive_log_weights`.

    Args:
        model: The generative program.
        guide: The variational program.
        x: The observed data, modality name -> values `(batch, *event)`.
        num_samples: Number of samples per data point.
        given: The modalities that the latents are inferred from; all of `x` by default.
        observed: Modality name -> which data points are observed, bool `(batch,)`. Where nothing of `given` is
            observed, latents come from the model's prior.
        coords: Dimension -> names along it, such as `{"data_point": ids, "labs_entry": ["age", "crp"]}`.
        max_bytes: Most memory for the predictive groups.

    Returns:
        The groups.

    Raises:
        ValueError: If the predictive groups need more than `max_bytes` and dask is not installed, a modality is unknown
            or its values are invalid.
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
    az = _arviz()
    conditions = conditions_of(model)
    target = {name: x[name] for name in modalities_in(x) if name not in conditions}
    lazy = _exceeds(target, num_samples, max_bytes)
    posterior, stats, reason = _posterior(model, guide, *select_batch(x, observed, given), list(target), num_samples)
    inputs = {name: values for name, values in x.items() if name in conditions or is_input(name)}
    prior = _prior(model, inputs, list(target), num_samples, batch_rows(x))
    dims = {name: _dims(name, x[name], x[name].dim() - 1) for name in modalities_in(x)}
    dims |= {name: _dims(name, values, values.dim() - 2) for name, values in posterior.items()}
    data = az.from_dict(
        posterior=_draws(posterior),
        posterior_predictive=_Replicates(model, posterior, inputs).arrays(target, lazy),
        prior=_draws(prior),
        prior_predictive=_Replicates(model, prior, inputs).arrays(target, lazy),
        sample_stats=_draws(stats) or None,
        constant_data={name: _array(x[name]) for name in conditions} or None,
        dims={**dims, **dict.fromkeys(stats, [_DATA_POINT])},
        coords=coords,
    )
    if stats:
        for name, diagnostic in (("khat", pareto_k), ("ess", effective_sample_size)):
            data.sample_stats[name] = ((_DATA_POINT,), _array(diagnostic(stats["log_weight"])))
    measured, places = _observed(az, target, observed or {}, dims, coords or {})
    data.extend(measured)
    data.attrs.update({**places, **reason, "given": "+".join(given), "log_likelihood": _NO_LOG_LIKELIHOOD})
    return data


def check_statistic(
    data: "arviz.InferenceData", modality: str, statistic: Callable[[Tensor], Tensor], name: str
) -> "arviz.InferenceData":
    """A user-defined statistic in place of a modality, observed and replicated, for arviz's plots and p-values.

    Args:
        data: The result of `to_inference_data`.
        modality: The modality the statistic is of.
        statistic: From values `(..., *event)` to one number per value, `(...)`, or to several, `(..., k)`: the ink of
            an image, say, `stroke_width` or `color_histogram`.
        name: Name of the statistic in the result.

    Returns:
        InferenceData with the statistic in `observed_data`, `posterior_predictive` and `prior_predictive`, and in
        `sample_stats` as `p_value`: for each data point the share of replicates that are at most the observed value.

    Raises:
        ValueError: If a group has no such modality, or the statistic does not return numbers of such a shape.

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
    groups = {
        group: _applied(statistic, data[group][modality], modality, name)
        for group in ("observed_data", "posterior_predictive", "prior_predictive")
    }
    observed, replicated = groups["observed_data"], groups["posterior_predictive"]
    if observed.dims[0] != _DATA_POINT:  # integers: the data points that are observed
        replicated = replicated.isel({_DATA_POINT: data.attrs[f"{modality}_observed"]})
        replicated = replicated.rename({_DATA_POINT: observed.dims[0]}).assign_coords(observed.coords)
        groups["posterior_predictive"] = replicated
    p_values = (replicated <= observed).mean(("chain", "draw")).where(observed.notnull())
    datasets = {group: values.rename(name).to_dataset() for group, values in groups.items()}
    return az.InferenceData(**datasets, sample_stats=p_values.rename("p_value").to_dataset())


def check_predictions(
    model: Program,
    guide: Program,
    x: Values,
    target: str,
    statistic: Callable[[Tensor], Tensor],
    num_samples: int = 200,
    observed: Masks = None,
    level: float = 0.9,
) -> dict[tuple[str, ...], Estimate]:
    """Cross-modal checks: a modality is held out, predicted from each subset of the others, and compared.

    Args:
        model: The generative program.
        guide: The variational program.
        x: The observed data, modality name -> values `(batch, *event)`.
        target: The modality that is held out.
        statistic: What is compared, one number per value of the target, as in `check_statistic`.
        num_samples: Number of predictions per data point.
        observed: Modality name -> which data points are observed, bool `(batch,)`. Only data points that contain the
            target and the whole subset count.
        level: Probability of the central interval of the predictions.

    Returns:
        Subset -> the share of data points whose observed statistic lies outside that interval of its predictions; about
        `1 - level` if model and guide are right, less for a discrete statistic. Subsets that the guide does not
        support, or no data point contains, are left out.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {name: NormalLikelihood(MLP(2, 3)) for name in "abc"})
        >>> guide = ProductOfExperts(2, {name: NormalEncoder(MLP(3, 8), 2) for name in "abc"})
        >>> x = {name: torch.randn(5, 3) for name in "abc"}
        >>> list(check_predictions(model, guide, x, "b", lambda values: values.mean(-1), num_samples=20))
        [('a',), ('c',), ('a', 'c')]
    """
    conditions, shares = set(conditions_of(model)), {}
    rows = Rows(x, observed)
    for given in subsets_of([name for name in modalities_in(x) if name != target]):
        counted = rows.all_of([*given, target])
        if not supports(guide, given) or not conditions <= set(given) or not (counted is None or counted.any()):
            continue
        part, _ = select_batch(x, None, [*given, target])
        if counted is not None:
            part, _ = take_rows(part, None, counted)
        data = to_inference_data(model, guide, part, num_samples, given)
        checked = check_statistic(data, target, statistic, "statistic")
        predicted, value = (group["statistic"] for group in (checked.posterior_predictive, checked.observed_data))
        # of discrete statistics, many predictions equal the observed value, and count on both sides
        tails = [side.mean(("chain", "draw")).values for side in (predicted <= value, predicted >= value)]
        outside = [tail < (1 - level) / 2 for tail in tails]
        shares[given] = estimate_share(torch.as_tensor(outside[0] | outside[1]))
    return shares


def stroke_width(images: Tensor) -> Tensor:
    r"""The mean width of the strokes of an image, in pixels: twice their area over their perimeter.

    .. math:: T(x) = \frac{2 \sum_{ij} x_{ij}}{\sum_{ij} |\nabla x_{ij}|}

    The perimeter is the total variation, which soft edges do not change. Averaged over channels.

    Args:
        images: `(..., channels, height, width)`, strokes at 1 on a ground at 0.

    Returns:
        `(...)`; 0 for an empty image, NaN for one with missing pixels.

    Example:
        >>> image = torch.zeros(1, 20, 20)
        >>> image[:, :, 8:11] = 1.0  # a line of three pixels
        >>> round(stroke_width(image).item(), 2)
        3.0
    """
    # the border is repeated: where a stroke leaves the image it has no edge
    padded = torch.nn.functional.pad(
        images.flatten(0, -4) if images.dim() > 3 else images[None], (0, 1, 0, 1), "replicate"
    )
    across, down = padded.diff(dim=-1)[..., :-1, :], padded.diff(dim=-2)[..., :, :-1]
    perimeter = (across.square() + down.square()).sqrt().sum((-2, -1)).reshape(images.shape[:-2])
    area = images.sum((-2, -1))
    return torch.where(perimeter > 0, 2 * area / perimeter.clamp(min=1e-12), area * 0).mean(-1)


def color_histogram(images: Tensor, num_bins: int = 8) -> Tensor:
    """The share of pixels in each of several equal bins of brightness, channel by channel.

    Args:
        images: `(..., channels, height, width)` in `[0, 1]`.
        num_bins: Number of bins of a channel.

    Returns:
        `(..., channels * num_bins)`, the bins of the first channel first; NaN for an image with missing pixels.

    Example:
        >>> color_histogram(torch.tensor([[[0.1, 0.2], [0.9, 1.0]]]), num_bins=4)
        tensor([0.5000, 0.0000, 0.0000, 0.5000])
    """
    bins = (images * num_bins).floor().clamp(0, num_bins - 1)
    shares = torch.stack([(bins == number).to(images.dtype).mean((-2, -1)) for number in range(num_bins)], -1)
    missing = images.isnan().flatten(-3).any(-1)
    return shares.flatten(-2).masked_fill(missing.unsqueeze(-1), torch.nan)


def predictive_log_weights(data: "arviz.InferenceData", modality: str) -> "xarray.DataArray":
    """The log-weights with which arviz's `loo_pit` and `plot_loo_pit` are valid for local latents.

    For a modality outside `given`, the replicates of a data point weighted by its importance weights are samples of the
    model's exact prediction `p(x_m | x_G)`, so the probability integral transform of the observed value is uniform if
    the model is right, whatever the guide is. Pass them as
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
    model: Program, guide: Program, x: Values, observed: Masks, target: Sequence[str], num_samples: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """Latents of `target` given `x`, the statistics of their weights, and the reason if there are none."""
    sampled, scored = predictive(without_likelihoods(model), guide, target), restrict(model, modalities_in(x))
    reason: dict[str, str] = {}

    def compute(part: Values, masks: Masks) -> dict[str, Tensor]:
        sites = sample_sites(poutine.trace(sampled).get_trace(part, masks))
        values = {name: site["value"] for name, site in sites.items()}
        joint = sample_sites(poutine.trace(poutine.condition(scored, data=values)).get_trace(part, masks))
        log_joint, log_guide = sum(site_log_prob(site) for site in joint.values()), 0.0
        try:
            for name in [name for name in joint if name in values]:
                rows, density = Rows(part, masks).informing(name), site_log_prob(sites[name])
                log_guide = log_guide + (density if rows is None else torch.where(rows, density, 0.0))
        except NotImplementedError as error:  # what a guide without a density raises
            reason["sample_stats"] = f"not stored: {error}"
            return values
        return {**values, "lp": log_joint, "log_weight": log_joint - log_guide}

    with evaluating(model, guide), poutine.block():
        head = first_row(x, observed)
        elements = max(elements_per_row(program, head) for program in (scored, conditional(guide)))
        values = in_parts(x, observed, num_samples, elements, compute)
    stats = {name: values.pop(name) for name in ("lp", "log_weight") if name in values}
    return values, stats, reason


def _prior(model: Program, inputs: Values, target: Sequence[str], num_samples: int, number: int) -> dict[str, Tensor]:
    """Latents of `target` from the prior, site -> `(num_samples, number, latent_dim)`."""
    program = generative(without_likelihoods(model), target)
    with evaluating(model), poutine.block(), pyro.plate("num_samples", num_samples, dim=-2):
        sites = sample_sites(poutine.trace(program).get_trace(dict(inputs), num_rows=number))
    return {name: site["value"] for name, site in sites.items()}


@dataclass(frozen=True)
class _Replicates:
    """Modalities generated from latents, in blocks of bounded memory.

    Attributes:
        model: The generative program.
        latents: Site -> `(num_samples, batch, latent_dim)`.
        inputs: Conditions, exposures and covariates of the data points.
    """

    model: Program
    latents: Values
    inputs: Values

    def arrays(self, like: Values, lazy: bool) -> dict[str, Any]:
        """Name -> `(1, num_samples, batch, *event)` for modalities like these; arrays of dask if `lazy`."""
        import numpy

        num_samples, number = next(iter(self.latents.values())).shape[:2]
        with evaluating(self.model), poutine.block():
            head = {name: values[:1] for name, values in self.inputs.items()}
            elements = elements_per_row(generative(self.model, tuple(like)), head, num_rows=1)
        places = []
        for rows in row_chunks(number, elements, num_samples):
            sizes = [*chunks(num_samples, len(rows) * elements)]
            places.append([(samples, rows) for samples in torch.arange(num_samples).split(sizes)])
        if not lazy:
            blocks = [[self.block(tuple(like), *place) for place in line] for line in places]
            return {name: _joined(numpy, [[part[name] for part in line] for line in blocks]) for name in like}
        import dask.array

        seeds = iter(torch.randint(2**31, (len(like) * sum(map(len, places)),)).tolist())
        delayed, arrays = dask.delayed(self.seeded, pure=False), {}
        for name, values in like.items():
            dtype, event = _array(values[:1]).dtype, values.shape[1:]
            blocks = [
                [
                    dask.array.from_delayed(
                        delayed(name, samples, rows, next(seeds)), (len(samples), len(rows), *event), dtype
                    )
                    for samples, rows in line
                ]
                for line in places
            ]
            arrays[name] = _joined(dask.array, blocks)
        return arrays

    def block(self, target: Sequence[str], samples: Tensor, rows: Tensor) -> dict[str, "numpy.ndarray"]:
        """Some samples of some data points."""
        latents = {name: values[samples][:, rows] for name, values in self.latents.items()}
        program = poutine.condition(generative(self.model, target), data=latents)
        with evaluating(self.model), poutine.block(), pyro.plate("num_samples", len(samples), dim=-2):
            inputs = {name: values[rows] for name, values in self.inputs.items()}
            trace = poutine.trace(program).get_trace(inputs, num_rows=len(rows))
        return {name: _array(trace.nodes[name]["value"]) for name in target}

    def seeded(self, name: str, samples: Tensor, rows: Tensor, seed: int) -> "numpy.ndarray":
        """The same for one modality, whose random numbers are decided by a seed."""
        with _LOCK, torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.block((name,), samples, rows)[name]


def _joined(library: Any, blocks: Sequence[Sequence[Any]]) -> Any:
    """One array of blocks in lines, by numpy or dask, with a dimension for the chain."""
    return library.concatenate([library.concatenate(line) for line in blocks], axis=1)[None]


def _exceeds(target: Values, num_samples: int, max_bytes: int) -> bool:
    """Whether both predictive groups need more memory than `max_bytes`; raises if they do and dask is missing."""
    needed = 2 * num_samples * sum(values.numel() * values.element_size() for values in target.values())
    if needed > max_bytes and find_spec("dask") is None:
        raise ValueError(
            f"{batch_rows(target)} data points times {num_samples} samples need {needed / 2**20:,.1f} MiB, more than "
            f"max_bytes={max_bytes}: take fewer of either, raise max_bytes, or install dask (pip install "
            '"dask[array]"), with which they are generated when they are read'
        )
    return needed > max_bytes


def _applied(statistic: Callable, array: "xarray.DataArray", modality: str, name: str) -> "xarray.DataArray":
    """A statistic of every value, block by block where the values are of dask."""
    import xarray

    lead = 1 + next(place for place, dim in enumerate(array.dims) if dim in (_DATA_POINT, f"{modality}_{_DATA_POINT}"))
    result = statistic(torch.as_tensor(array.isel(dict.fromkeys(array.dims[:lead], slice(0, 2))).values))
    shape, expected = tuple(result.shape), tuple(min(size, 2) for size in array.shape[:lead])
    if shape[:lead] != expected or len(shape) > lead + 1:
        raise ValueError(f"the statistic must return shape {expected} or {(*expected, 'k')}, got {shape}")
    several = [f"{name}_entry"] if len(shape) > lead else []
    return xarray.apply_ufunc(
        lambda values: _array(statistic(torch.as_tensor(values))),
        array,
        input_core_dims=[array.dims[lead:]],
        output_core_dims=[several],
        dask="parallelized",
        output_dtypes=[_array(result).dtype],
        dask_gufunc_kwargs={"output_sizes": dict(zip(several, shape[lead:], strict=False))},
    ).compute()


def _observed(
    az: Any, x: Values, observed: Values, dims: Mapping[str, list[str]], coords: Mapping[str, Sequence[Any]]
) -> tuple["arviz.InferenceData", dict[str, list[int]]]:
    """The observed data, and for integers that are missing somewhere the places of the data points that have them."""
    values, places, dims, coords = {}, {}, dict(dims), dict(coords)
    ids = coords.get(_DATA_POINT, range(batch_rows(x)))
    for name, value in x.items():
        present = observed.get(name, torch.ones(len(value), dtype=torch.bool, device=value.device))
        if value.is_floating_point():
            values[name] = _array(torch.where(present.reshape(-1, *[1] * (value.dim() - 1)), value, torch.nan))
            continue
        present = present & ~is_missing(value).reshape(len(value), -1).any(1)
        values[name] = _array(value[present])
        if not present.all():
            places[f"{name}_observed"] = present.nonzero()[:, 0].tolist()
            dims[name] = [f"{name}_{_DATA_POINT}", *dims[name][1:]]
            coords[dims[name][0]] = [ids[place] for place in places[f"{name}_observed"]]
    return az.from_dict(observed_data=values, dims=dims, coords=coords), places


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


def _draws(values: Mapping[str, Tensor]) -> dict[str, "numpy.ndarray"]:
    return {name: _array(value)[None] for name, value in values.items()}


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
