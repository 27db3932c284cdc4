"""The names and the observation site of a modality, as generative programs make it."""

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import pyro
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from multipyro.batch import check_module_names, filled
from multipyro.ppl_models.likelihoods.base import batch_shape_text

__all__ = ["check_names", "masked", "observe"]

# the rows of a batch, the samples of predictions, and the particles of Pyro's objectives
_PLATES = ("data", "num_samples", "num_particles", "num_particles_vectorized")


def observe(name: str, likelihood: nn.Module, latents: Tensor, values: Tensor | None, mask: Tensor | None) -> Tensor:
    """Samples a modality from its likelihood, or scores what it is observed to be.

    Args:
        name: Name of the modality and of its site.
        likelihood: Module from latents to a distribution.
        latents: What it is called with, `(..., batch, latent_dim)`.
        values: The observed values `(batch, *event)`; None to sample the site.
        mask: Rows that are observed, bool `(batch,)`; None for all.

    Raises:
        ValueError: If the values have another shape than the likelihood, or cannot have come from it.
    """
    distribution = likelihood(latents)
    if values is None:
        return pyro.sample(name, distribution)
    values = filled(values, mask)
    if tuple(values.shape[1:]) != tuple(distribution.event_shape):
        raise ValueError(
            f"modality {name!r} must have shape {batch_shape_text(distribution.event_shape)}, got {tuple(values.shape)}"
        )
    if is_validation_enabled() and hasattr(likelihood, "check"):
        likelihood.check(values, name)
    with masked(mask):
        return pyro.sample(name, distribution, obs=values)


def masked(mask: Tensor | None) -> AbstractContextManager:
    """Leaves the rows that `mask` does not hold out of every density within; None leaves none out."""
    return nullcontext() if mask is None else poutine.mask(mask=mask)


def check_names(modalities: Iterable[str]) -> None:
    """Raises if there is no modality, or one has the name of a latent, of a plate or of an attribute of modules."""
    modalities = list(modalities)
    if not modalities:
        raise ValueError("likelihoods is empty: a model needs at least one modality")
    reserved = [m for m in modalities if m in _PLATES or re.fullmatch(r"z\d*|z_.*", m)]
    if reserved:
        raise ValueError(
            f"modality {reserved} has the name of a latent or of a plate: "
            f"z, z1, z_... and {', '.join(_PLATES)} are taken"
        )
    check_module_names(modalities)
