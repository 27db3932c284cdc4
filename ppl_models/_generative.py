"""The base of the models: a plate, latents, and one observation site per modality."""

import re
from collections.abc import Iterable, Mapping

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from multipyro._distributions import common_shape
from multipyro._modes import masked
from multipyro._program import Program
from multipyro.batch import Masks, Rows, Values, batch_rows, check_batch, check_module_names, exposure_of, fill_missing
from multipyro.ppl_models.likelihoods.base import batch_shape_text
from multipyro.ppl_models.networks.covariates import Covariates

__all__ = ["GenerativeProgram", "concatenated"]

# the plates of a batch, of predictions, and of the particles of Pyro's objectives
_PLATES = ("data", "num_samples", "num_particles", "num_particles_vectorized")


class GenerativeProgram(Program):
    """Base of the models: modalities that are independent given latents.

    A subclass defines `_sample_latents`.

    Args:
        likelihoods: Modality name -> likelihood module.
        name: Prefix of the parameters in Pyro's parameter store; see `Program`.
        conditions: Names of modalities that the model conditions on.
        covariates: Computes the features of the covariates that the likelihoods take; None for no covariates.

    Raises:
        ValueError: If there are no likelihoods, or a modality has the name of a latent (`z`, `z1`, `z_...`), of a
            plate, or of an attribute of torch modules.
    """

    def __init__(
        self,
        likelihoods: Mapping[str, nn.Module],
        name: str,
        conditions: Iterable[str] = (),
        covariates: Covariates | None = None,
    ) -> None:
        super().__init__(name)
        _check_names([*likelihoods, *conditions])
        self.conditions = tuple(conditions)
        self.likelihoods = nn.ModuleDict(likelihoods)
        self.covariates = covariates

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the model generates, in the order of its likelihoods, then its conditions."""
        return (*self._modules["likelihoods"], *self.conditions)

    def _sample_latents(self, x: Values, rows: Rows) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        """Samples the latents inside the plate: site -> value, and modality -> what its likelihood is called with."""
        raise NotImplementedError

    def forward(
        self, x: Values, observed: Masks = None, num_rows: int | None = None, only_latents: bool = False
    ) -> dict[str, Tensor]:
        """Samples the latents and observes the modalities of `x`.

        Args:
            x: Modality name -> values `(batch, *event)`. A modality whose value is None is sampled, and one that is
                absent has no site. `<modality>.exposure` is the exposure of a modality of counts, `(batch,)` or
                `(batch, *event)`; see `CountLikelihood`. `<name>.covariate` is a covariate; see `Covariates`.
            observed: Modality name -> bool `(batch,)`, the rows in which it is observed; an absent key means all rows.
            num_rows: Number of rows when `x` has no values.
            only_latents: Whether to sample the latents alone and run no likelihood; private latents are still those of
                the modalities of `x`.

        Returns:
            Site name -> value, latents included.
        """
        check_batch(x, observed, self.modalities)
        rows = Rows(x, observed)
        with pyro.plate("data", batch_rows(x, num_rows), dim=-1):
            sites, inputs = self._sample_latents(x, rows)
            likelihoods, covariates = self.likelihoods, self.covariates
            for name in [name for name in x if name in inputs and not only_latents]:
                latents = inputs[name]
                if covariates is not None:
                    latents = concatenated(latents, covariates(x, latents.dtype))
                sites[name] = _observe(name, likelihoods[name], latents, x, rows.masks.get(name))
        return sites


def _observe(name: str, likelihood: nn.Module, latents: Tensor, x: Values, mask: Tensor | None) -> Tensor:
    """Samples a modality from its likelihood if its values in `x` are None, and otherwise observes them."""
    values, exposure = x[name], exposure_of(name, x)
    if exposure is None:
        distribution = likelihood(latents)
    else:
        exposure = fill_missing(exposure, mask)
        if is_validation_enabled() and not (exposure > 0).all():
            raise ValueError(f"x['{name}.exposure'] must be positive, got {exposure.min().item():.4g}")
        distribution = likelihood(latents, exposure)
    if values is None:
        return pyro.sample(name, distribution)
    values = fill_missing(values, mask)
    if tuple(values.shape[1:]) != tuple(distribution.event_shape):
        raise ValueError(
            f"modality {name!r} must have shape {batch_shape_text(distribution.event_shape)}, got {tuple(values.shape)}"
        )
    if is_validation_enabled() and hasattr(likelihood, "check"):
        likelihood.check(values, name)
    with masked(mask):
        return pyro.sample(name, distribution, obs=values)


def concatenated(*latents: Tensor) -> Tensor:
    """Latents and features `(..., batch, size)` with different leading dimensions, joined along the last one."""
    lead = common_shape(*[part.shape[:-1] for part in latents])
    return torch.cat([part.expand(*lead, part.shape[-1]) for part in latents], -1)


def _check_names(modalities: list[str]) -> None:
    if not modalities:
        raise ValueError("likelihoods is empty: a model needs at least one modality")
    reserved = [name for name in modalities if name in _PLATES or re.fullmatch(r"z\d*|z_.*", name)]
    if reserved:
        raise ValueError(
            f"modality {reserved} has the name of a latent or of a plate: "
            f"z, z1, z_... and {', '.join(_PLATES)} are reserved"
        )
    check_module_names(modalities)
