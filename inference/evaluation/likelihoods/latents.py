"""Sources of latents for the components of a proposal, and the handler that sets them in a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from multipyro.batch import Masks, Rows, Values
from multipyro.guides import Guide
from multipyro.guides.algebra.widening import matched_normal, widened
from multipyro.inference.evaluation._inputs import select_batch
from multipyro.inference.handlers import restrict
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.programs import Program, unwrap

__all__ = [
    "GivenLatents",
    "GuideLatents",
    "ProgramLatents",
    "latents_of",
    "site_log_prob",
]


def latents_of(program: Program, subset: Sequence[str], x: Values, observed: Masks) -> "GuideLatents | ProgramLatents":
    """The latents that a program samples given one subset of the modalities of `x`.

    Raises:
        ValueError: If a latent is discrete.
    """
    kind = GuideLatents if isinstance(unwrap(program), Guide) else ProgramLatents
    return kind(restrict(program, subset), *select_batch(x, observed, subset))


class GuideLatents:
    """The latents of a guide given one subset: distributions that do not depend on one another's values."""

    def __init__(self, program: Program, x: Values, observed: Masks) -> None:
        sites = _latent_sites(program, x, observed)
        self.sites = {name: site["fn"] for name, site in sites.items()}
        self.names = tuple(self.sites)
        contained = Rows(x, observed)
        self.rows = {name: contained.informing(name) for name in self.names}
        self._scaled: dict[float, dict[str, Any]] = {}

    def sample(self, number: int, kind: str, scale: float) -> dict[str, Tensor]:
        """Site -> `(number, batch, latent_dim)`."""
        return {name: site.sample((number,)) for name, site in self._at(scale).items()}

    def log_probs(self, values: Mapping[str, Tensor], kind: str, scale: float) -> dict[str, Tensor]:
        """Site -> log-density `(samples, batch)`, float64."""
        sites = self._at(scale)
        return {name: summed_log_prob(sites[name], value) for name, value in values.items()}

    def _at(self, scale: float) -> dict[str, Any]:
        if scale not in self._scaled:
            self._scaled[scale] = {name: _spread(site, scale) for name, site in self.sites.items()}
        return self._scaled[scale]


class ProgramLatents:
    """The latents of any program of Pyro, traced anew for each set of values: one site may depend on another."""

    def __init__(self, program: Program, x: Values, observed: Masks) -> None:
        self.program, self.x, self.observed = program, x, observed
        self.names = tuple(_latent_sites(program, x, observed))
        contained = Rows(x, observed)
        self.rows = {name: contained.informing(name) for name in self.names}

    def sample(self, number: int, kind: str, scale: float) -> dict[str, Tensor]:
        """Site -> `(number, batch, latent_dim)`."""
        return {name: site["value"] for name, site in self._sites(number, scale).items()}

    def log_probs(self, values: Mapping[str, Tensor], kind: str, scale: float) -> dict[str, Tensor]:
        """Site -> log-density `(samples, batch)`, float64."""
        sites = self._sites(len(next(iter(values.values()))), scale, values)
        return {name: summed_log_prob(sites[name]["fn"], value) for name, value in values.items()}

    def _sites(self, number: int, scale: float, values: Mapping[str, Tensor] | None = None) -> dict[str, dict]:
        with pyro.plate("num_samples", number, dim=-2), poutine.trace() as traced, GivenLatents(values or {}):
            with _Spread(scale):
                self.program(self.x, self.observed)
        return sample_sites(traced.trace)


def _latent_sites(program: Program, x: Values, observed: Masks) -> dict[str, dict]:
    sites = sample_sites(poutine.trace(program).get_trace(x, observed))
    for name, site in sites.items():
        support = getattr(site["fn"], "support", None)
        if getattr(support, "is_discrete", False):
            raise ValueError(f"the latent {name!r} must be a real vector, its support is {support}")
    return sites


class GivenLatents(Messenger):
    """Gives latents their values; other data points, and other latents, are drawn by the program."""

    def __init__(self, values: Mapping[str, Tensor], rows: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.values, self.rows = values, rows or {}

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] not in self.values or msg["is_observed"]:
            return
        value = self.values[msg["name"]]
        if msg["name"] in self.rows:
            lead = value.shape[: value.dim() - msg["fn"].event_dim]
            rows = self.rows[msg["name"]]
            rows = rows.reshape(*rows.shape, *[1] * msg["fn"].event_dim)
            value = torch.where(rows, value, msg["fn"].expand(lead)())
        msg["value"], msg["done"] = value, True


class _Spread(Messenger):
    """Widens every distribution that a program samples from."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg: dict) -> None:
        if not msg["is_observed"] and not poutine.util.site_is_subsample(msg):
            msg["fn"] = _spread(msg["fn"], self.scale)


def _spread(distribution: Any, scale: float) -> Any:
    wider = widened(distribution, scale)
    return matched_normal(distribution, scale) if wider is None else wider


def site_log_prob(site: Mapping[str, Any]) -> Tensor:
    """The log-density of a site, masked and unweighted, summed in float64."""
    log_prob, mask = summed_log_prob(site["fn"], site["value"]), site["mask"]
    return log_prob if mask is None or mask is True else torch.where(torch.as_tensor(mask), log_prob, 0.0)


def summed_log_prob(distribution: Any, value: Tensor) -> Tensor:
    """The log-density with its event dimensions summed in float64."""
    if isinstance(distribution, torch.distributions.Independent):
        log_prob = distribution.base_dist.log_prob(value)
        dims = tuple(range(-distribution.reinterpreted_batch_ndims, 0))
        return log_prob.sum(dims, dtype=torch.float64) if dims else log_prob.double()
    return distribution.log_prob(value).double()
