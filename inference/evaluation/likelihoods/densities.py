"""What a likelihood needs: data that a model scores, sources of latents, and the joint density of both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from multipyro.batch import Masks, Rows, Values, batch_rows
from multipyro.guides import Guide
from multipyro.guides.algebra.widening import matched_normal, widened
from multipyro.inference.evaluation._inputs import conditions_of, first_row, select_batch, take_rows
from multipyro.inference.evaluation._memory import elements_per_row
from multipyro.inference.handlers import frozen, restrict
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.programs import Program, unwrap

__all__ = [
    "GivenLatents",
    "GuideLatents",
    "LatentDensity",
    "ProgramLatents",
    "Query",
    "ScoredData",
    "latents_of",
    "site_log_prob",
]


@dataclass(frozen=True)
class Query:
    """A likelihood to estimate: `log p(target)`, or `log p(target | given)`.

    Attributes:
        target: The modalities scored.
        given: The modalities conditioned on that the model scores too; conditions of a conditional model are not.
        weights: Modalities and the factors of their log-likelihoods; 1 for all others.
    """

    target: tuple[str, ...]
    given: tuple[str, ...] = ()
    weights: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class ScoredData:
    """Data points, and the modalities by which a model scores them.

    Attributes:
        model: The generative program.
        x: Modality name -> values `(batch, *event)`, conditions of a conditional model among them.
        observed: Modality name -> data points in which it is observed.
        scored: The modalities `S`.
    """

    model: Program
    x: Values
    observed: Masks
    scored: tuple[str, ...]

    def __len__(self) -> int:
        return batch_rows(self.x)

    @property
    def program(self) -> Program:
        """The model with the modalities `S` and its conditions alone."""
        return restrict(self.model, [*self.scored, *conditions_of(self.model)])

    def rows(self, indices: Tensor) -> "ScoredData":
        """Some of the data points."""
        return ScoredData(self.model, *take_rows(self.x, self.observed, indices), self.scored)

    def scored_by(self, names: Sequence[str]) -> "ScoredData":
        """The data points with some modalities alone, conditions aside."""
        used = (*names, *conditions_of(self.model))
        return ScoredData(self.model, *select_batch(self.x, self.observed, used), tuple(names))

    def elements(self, *others: Program) -> int:
        """Elements of the largest tensor of one data point, in this program and in others."""
        head = first_row(self.x, self.observed)
        return max(elements_per_row(program, head) for program in (self.program, *others))


class LatentDensity:
    r"""`log p(z)` and `log p(x_S | z)` of one batch, with all latents in one vector.

    In standardized coordinates `u`, a latent with a Laplace prior is `z = F^{-1}(Phi(u))` with the prior's cumulative
    distribution `F`, so that its prior is `N(0, 1)`, and normals around a posterior that hardly differs from the prior
    have the right tails. The density is then that of `u`.

    Args:
        data: The data points and the modalities `S`.
        standardized: Whether the vector has standardized coordinates.

    Attributes:
        shapes: Latent site -> its event shape, in the order of the vector.
        dim: Size of the vector.
        informed: Data points in which every latent has evidence, bool `(batch,)`; None for all.

    Raises:
        ValueError: If a latent is not a real vector.

    Example:
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
        >>> density = LatentDensity(ScoredData(model, {"image": torch.zeros(5, 16)}, None, ("image",)))
        >>> log_prior, log_likelihood = density(density.prior_sample(7))
        >>> density.dim, log_prior.shape
        (2, torch.Size([7, 5]))
    """

    def __init__(self, data: ScoredData, standardized: bool = False) -> None:
        self._program, self._data = frozen(data.program), data
        sites = sample_sites(poutine.trace(self._program).get_trace(data.x, data.observed))
        latents = {name: site for name, site in sites.items() if not site["is_observed"]}
        for name, site in latents.items():
            support = site["fn"].support
            if getattr(support, "base_constraint", support) is not torch.distributions.constraints.real:
                raise ValueError(f"the latent {name!r} must be a real vector, its support is {support}")
        self.shapes = {name: tuple(site["fn"].event_shape) for name, site in latents.items()}
        priors = {name: getattr(site["fn"], "base_dist", site["fn"]) for name, site in latents.items()}
        laplace = torch.distributions.Laplace if standardized else ()
        self._laplace = {name: prior for name, prior in priors.items() if isinstance(prior, laplace)}
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.dim = sum(self._sizes)
        present = Rows({name: data.x[name] for name in data.scored}, data.observed)
        masks = [mask for mask in map(present.informing, self.shapes) if mask is not None]
        self.informed = torch.stack(masks).all(0) if masks else None

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`log p(z)` and `log p(x_S | z)` of `(samples, batch, dim)`, each `(samples, batch)`, float64."""
        log_prior, scores = self.parts(z)
        return log_prior, sum(scores.values())

    def parts(self, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`log p(z)`, and `log p(x_m | z)` of each modality, of `(samples, batch, dim)`."""
        sites = self._sites(len(z), self.split(z))
        scores = {name: site_log_prob(sites[name]) for name in self._data.scored}
        return sum(site_log_prob(sites[name]) for name in self.shapes) + self.log_volume(z), scores

    def log_volume(self, z: Tensor) -> Tensor | float:
        """The log of the latents' volume in units of the vector's, `(samples, batch)`, float64."""
        total, values, parts = 0.0, self.split(z), self._parts(z)
        for name, prior in self._laplace.items():
            change = torch.distributions.Normal(0.0, 1.0).log_prob(parts[name]) - prior.log_prob(values[name])
            total = total + change.flatten(2).sum(-1, dtype=torch.float64)
        return total

    def prior_sample(self, number: int) -> Tensor:
        """Samples of the prior, `(number, batch, dim)`."""
        sites = self._sites(number, {})
        return self.join({name: sites[name]["value"] for name in self.shapes})

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """The vector as one value for each latent site."""
        parts = self._parts(z)
        return {**parts, **{name: _to_laplace(parts[name], prior) for name, prior in self._laplace.items()}}

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """The values of all latent sites as one vector, `(samples, batch, dim)`."""
        values = {**values, **{name: _to_normal(values[name], prior) for name, prior in self._laplace.items()}}
        sizes = zip(self.shapes.items(), self._sizes, strict=True)
        lead = {name: values[name].dim() - len(shape) for name, shape in self.shapes.items()}
        return torch.cat([values[n].reshape(*values[n].shape[: lead[n]], size) for (n, _), size in sizes], -1)

    def _parts(self, z: Tensor) -> dict[str, Tensor]:
        parts = zip(self.shapes.items(), z.split(self._sizes, -1), strict=True)
        return {name: part.reshape(*z.shape[:-1], *shape) for (name, shape), part in parts}

    def _sites(self, number: int, values: Mapping[str, Tensor]) -> dict[str, dict]:
        with pyro.plate("num_samples", number, dim=-2), poutine.trace() as traced, GivenLatents(values):
            self._program(self._data.x, self._data.observed)
        return sample_sites(traced.trace)


def _to_laplace(u: Tensor, prior: torch.distributions.Laplace) -> Tensor:
    """The value at which the prior has the cumulative probability that the standard normal has at `u`."""
    distance = -math.log(2) - torch.special.log_ndtr(-u.abs())
    return prior.loc + prior.scale * u.sign() * distance


def _to_normal(value: Tensor, prior: torch.distributions.Laplace) -> Tensor:
    """The inverse of `_to_laplace`, by float64, where the probability of a tail is above 0 up to 700 scales."""
    distance = (value - prior.loc) / prior.scale
    tail = 0.5 * (-distance.abs().double().clamp(max=700)).exp()
    return -distance.sign() * torch.special.ndtri(tail).to(value)


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
