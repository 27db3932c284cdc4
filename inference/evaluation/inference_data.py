"""Posterior checks with arviz: draws of the model and the guide as InferenceData."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multipyro.batch import batch_rows
from multipyro.inference.evaluation._inputs import check_known, check_values, select_given
from multipyro.inference.evaluation.prediction import generate, joint_samples
from multipyro.inference.programs import Program

if TYPE_CHECKING:
    import arviz
    import numpy

__all__ = ["to_inference_data"]


def to_inference_data(
    model: Program,
    guide: Program,
    x: Mapping[str, Tensor],
    num_samples: int = 100,
    given: Sequence[str] | None = None,
    observed: Mapping[str, Tensor] | None = None,
    max_draws: int = 1_000_000,
) -> "arviz.InferenceData":
    """Draws for arviz's plots and statistics, in one chain.

    Groups: `posterior` (the latents, from the guide's `conditional` distribution given `given`),
    `posterior_predictive` (every modality of `x`, generated from those latents), `prior_predictive` and
    `observed_data`. Draws of modalities are `(chain, draw, row, *event)`. What is not observed is NaN in
    `observed_data`; a modality of whole numbers, which have no NaN, keeps its observed rows alone there, along a
    dimension `<modality>_row` whose coordinate tells their numbers.

    `arviz.loo` on `p(x | z)` would be wrong here, since every row has latents of its own; compare models by
    `log_likelihood` of held-out rows.

    Args:
        model: The generative program.
        guide: The variational program.
        x: The observed data, modality name -> values `(batch, *event)`.
        num_samples: Number of draws a row.
        given: The modalities that the latents see; all of `x` by default.
        observed: Rows that are observed. A row in which nothing of `given` is observed draws its latents from the
            model's prior.
        max_draws: Most rows times draws that are made.

    Returns:
        The four groups.

    Raises:
        ValueError: If rows times draws exceed `max_draws`, or a modality is unknown or its values are bad.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> data = to_inference_data(model, guide, {"image": model({"image": None}, num_rows=5)["image"]}, 7)
        >>> data.posterior_predictive["image"].shape
        (1, 7, 5, 16)
    """
    check_known(model, list(x))
    check_values(model, x, observed)
    given = tuple(x) if given is None else select_given(given, x, "given")
    rows = batch_rows(x)
    if rows * num_samples > max_draws:
        raise ValueError(
            f"{rows} rows times {num_samples} draws are {rows * num_samples}, more than max_draws={max_draws}: take "
            "fewer rows or draws, or raise max_draws"
        )
    with warnings.catch_warnings():
        # arviz 0.23 tells of its next version once a day, when imported
        warnings.simplefilter("ignore", FutureWarning)
        import arviz

    seen = {name: x[name] for name in given}
    masks = None if observed is None else {name: mask for name, mask in observed.items() if name in seen}
    latents, predicted = generate(model, guide, seen, tuple(x), num_samples, masks, "sample")
    prior = joint_samples(model, num_samples * rows, tuple(x))
    prior = {name: value.unflatten(0, (num_samples, rows)) for name, value in prior.items()}
    groups = {"posterior": latents, "posterior_predictive": predicted, "prior_predictive": prior}
    dims = {name: ["row", *(f"{name}_dim_{d}" for d in range(value.dim() - 1))] for name, value in x.items()}
    dims |= {name: ["row", *(f"{name}_dim_{d}" for d in range(value.dim() - 2))] for name, value in latents.items()}
    draws = {group: {name: _array(value)[None] for name, value in values.items()} for group, values in groups.items()}
    data = arviz.from_dict(**draws, dims=dims)
    values, coordinates = {}, {}
    for name, value in x.items():
        mask = None if observed is None else observed.get(name)
        if mask is None or bool(mask.all()):
            values[name] = _array(value)
        elif value.is_floating_point():
            values[name] = _array(torch.where(mask.reshape(-1, *[1] * (value.dim() - 1)), value, torch.nan))
        else:
            values[name] = _array(value[mask])
            coordinates[f"{name}_row"] = _array(mask.nonzero()[:, 0])
            dims[name] = [f"{name}_row", *dims[name][1:]]
    data.extend(arviz.from_dict(observed_data=values, dims=dims, coords=coordinates))
    return data


def _array(value: Tensor) -> "numpy.ndarray":
    return value.detach().cpu().numpy()
