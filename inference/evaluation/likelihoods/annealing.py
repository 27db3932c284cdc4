"""Annealed importance sampling with Hamiltonian moves, and the sandwich that certifies it on simulated data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pyro import poutine
from torch import Tensor

from multipyro.batch import fill_missing, modality_of
from multipyro.inference.evaluation import _memory
from multipyro.inference.evaluation._inputs import conditions_of
from multipyro.inference.evaluation._memory import shown
from multipyro.inference.evaluation.likelihoods.densities import LatentDensity, Query, ScoredData
from multipyro.inference.evaluation.likelihoods.estimates import LogLikelihood, Sandwich
from multipyro.inference.evaluation.likelihoods.weights import Strata, estimate_from
from multipyro.inference.evaluation.prediction import evaluating, simulate
from multipyro.inference.programs import Program, unwrap

__all__ = ["Annealing", "annealed_likelihoods", "bidirectional_sandwich"]

_ACCEPTANCE = 0.8
# rate at which the preliminary run adapts its step sizes
_GAIN = 0.3
_FIRST_STEP = 0.2
_JITTER = 0.2
# tensors that a decoder's gradient keeps, beside its largest one
_KEPT = 6


@dataclass(frozen=True)
class Annealing:
    """Settings of annealed importance sampling.

    Args:
        num_chains: Number of chains per data point; each has one weight.
        num_temperatures: Number of intermediate distributions.
        leapfrogs: Number of leapfrog steps of the Hamiltonian move at each of them.
        num_simulated: Number of simulated data points of the sandwich beside an estimate; 0 for none.

    Raises:
        ValueError: If a number is too small.

    Example:
        >>> Annealing(num_temperatures=100).num_chains
        32
    """

    num_chains: int = 32
    num_temperatures: int = 300
    leapfrogs: int = 8
    num_simulated: int = 20

    def __post_init__(self) -> None:
        """Checks the numbers."""
        smallest = {"num_chains": 2, "num_temperatures": 2, "leapfrogs": 1, "num_simulated": 0}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def annealed_likelihoods(data: ScoredData, queries: Sequence[Query], settings: Annealing) -> list[LogLikelihood]:
    """Estimates of several likelihoods, each by separate chains, with a sandwich on simulated data like these."""
    estimates, sandwiches = [], {}
    for query in queries:
        part = data.scored_by((*query.given, *query.target))
        if settings.num_simulated and part.scored not in sandwiches:
            few, masks = min(settings.num_simulated, len(part)), part.observed or {}
            # an exposure is no more than a fill value where its modality is missing
            inputs = {
                name: fill_missing(values, masks.get(modality_of(name)))[:few]
                for name, values in part.x.items()
                if name not in part.scored
            }
            sandwiches[part.scored] = bidirectional_sandwich(data.model, few, part.scored, settings, inputs)
        log_weights = annealed_log_weights(part, [stage for stage in (query.given, query.target) if stage], settings)
        estimates.append(replace(annealed_estimate(log_weights, settings), sandwich=sandwiches.get(part.scored)))
    return estimates


def annealed_log_weights(data: ScoredData, stages: Sequence[Sequence[str]], settings: Annealing) -> list[Tensor]:
    r"""Log-weights of annealed importance sampling, `(chains, batch)`, float64, after each stage.

    .. math:: \log w = \sum_t (\beta_t - \beta_{t-1}) \log p(x_S \mid z_{t-1}), \qquad
        z_t \sim T_t(\cdot \mid z_{t-1}) \text{ leaves } p(z)\, p(x_S \mid z)^{\beta_t} \text{ invariant}

    The chains of all data points move at once. A stage anneals the likelihoods of some modalities in, after those of
    the stages before, so that the weights of the last stage divided by those of the first estimate a conditional with
    the same chains. Step sizes, one for each data point and temperature, and the temperatures are chosen in a
    preliminary run whose chains are discarded; afterwards nothing is adapted, so the mean weight is unbiased.

    References:
        Annealed Importance Sampling (Neal, 2001); On the Quantitative Analysis of Decoder-Based Generative Models (Wu
        et al., 2017).

    Args:
        data: The data points, scored by the modalities of all stages.
        stages: The modalities of each stage.
        settings: The settings.

    Returns:
        One tensor for each stage.
    """
    weights: list[list[Tensor]] = [[] for _ in stages]
    with evaluating(data.model), poutine.block():
        for rows in _row_chunks(data, settings):
            path = _Path(data.rows(rows), stages, settings)
            for parts, log_weight in zip(weights, path.forward(), strict=True):
                parts.append(log_weight)
    return [torch.cat(parts, 1) for parts in weights]


def bidirectional_sandwich(
    model: Program,
    num_data_points: int = 20,
    target: Sequence[str] | None = None,
    settings: Annealing | None = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> Sandwich:
    r"""Bounds the log-likelihood of data simulated by the model from both sides.

    Forward chains go from the prior to the posterior, and the log of their mean weight is below `log p(x)` in
    expectation. Backward chains start from the latents that a data point was simulated with, an exact sample of its
    posterior, go to the prior, and bound it from above by :math:`-\log \tfrac1K \sum_k 1 / w_k`.

    References:
        Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo (Grosse et al., 2015).

    Args:
        model: The generative program.
        num_data_points: Number of data points to simulate.
        target: The modalities to simulate; all of the model's by default.
        settings: Settings of the annealing.
        inputs: Inputs that are not simulated: the conditions of a conditional model, and exposures; as many data points
            are simulated.

    Returns:
        The `Sandwich`.

    Raises:
        ValueError: If a latent is not a real vector, or the conditions of a conditional model are missing.

    Example:
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 4))})
        >>> sandwich = bidirectional_sandwich(model, 5, settings=Annealing(4, 10))
        >>> len(sandwich.lower.values), len(sandwich.upper.values)
        (5, 5)
    """
    settings = Annealing() if settings is None else settings
    given = dict(inputs or {})
    absent = [name for name in conditions_of(model) if name not in given]
    if absent:
        raise ValueError(f"this model generates given {list(conditions_of(model))}: inputs do not contain {absent}")
    target = tuple(name for name in (unwrap(model).modalities if target is None else target) if name not in given)
    simulation = simulate(model, num_data_points, target, given)
    data, lower, upper = ScoredData(model, simulation.x, None, target), [], []
    with evaluating(model), poutine.block():
        for rows in _row_chunks(data, settings):
            path = _Path(data.rows(rows), [target], settings)
            lower += path.forward()
            upper.append(path.backward({name: value[rows] for name, value in simulation.latents.items()}))
    above = annealed_estimate([-torch.cat(upper, 1)], settings)
    return Sandwich(annealed_estimate([torch.cat(lower, 1)], settings), above.negated())


def annealed_estimate(log_weights: Sequence[Tensor], settings: Annealing) -> LogLikelihood:
    """The estimate from log-weights after one stage, or from those of the last of two given the first."""
    below = log_weights[0] if len(log_weights) > 1 else None
    estimate = estimate_from(log_weights[-1], below, Strata([settings.num_chains]))
    return replace(
        estimate,
        num_samples=torch.full((len(estimate.values),), settings.num_chains),
        proposal={"annealed chains": settings.num_chains},
        method="annealed importance sampling",
    )


def _row_chunks(data: ScoredData, settings: Annealing) -> tuple[Tensor, ...]:
    elements = data.elements() * settings.num_chains * _KEPT
    return torch.arange(len(data)).split(max(1, _memory.MAX_ELEMENTS // elements))


class _Path:
    """The distributions from the prior to the posterior of one batch of data points, and the moves between them."""

    def __init__(self, data: ScoredData, stages: Sequence[Sequence[str]], settings: Annealing) -> None:
        self.density = LatentDensity(data)
        self.stages, self.settings = [tuple(stage) for stage in stages], settings
        self.schedules = []
        z = self.density.prior_sample(settings.num_chains)
        for number in range(len(stages)):
            schedule, z = self._prepared(number, z)
            self.schedules.append(schedule)

    def forward(self) -> list[Tensor]:
        """Log-weights after each stage, from the prior on, `(chains, batch)` each."""
        z = self.density.prior_sample(self.settings.num_chains)
        total, weights = 0.0, []
        for number, (betas, sizes) in enumerate(self.schedules):
            state = self._state(number, z)
            for step in shown(range(1, len(betas)), f"annealing, {z.shape[1]} data points"):
                total = total + (betas[step] - betas[step - 1]) * state.now
                if step < len(betas) - 1 or number < len(self.schedules) - 1:
                    state, _ = self._moved(number, state, betas[step], sizes[step])
            z = state.z
            weights.append(total)
        return weights

    def backward(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Log-weights of one stage from exact samples of the posterior to the prior, `(chains, batch)`."""
        ((betas, sizes),) = self.schedules
        z = self.density.join(latents).expand(self.settings.num_chains, -1, -1)
        state, total = self._state(0, z), 0.0
        for step in range(len(betas) - 1, 0, -1):
            state, _ = self._moved(0, state, betas[step], sizes[step])
            total = total + (betas[step] - betas[step - 1]) * state.now
        return total

    def _state(self, stage: int, z: Tensor) -> "_State":
        """The state at `z` in one stage."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_prior, scores = self.density.parts(z)
            now = sum(scores[name] for name in self.stages[stage])
            before = log_prior + sum(scores[name] for done in self.stages[:stage] for name in done)
            gradients = [
                torch.autograd.grad(part.sum(), z, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                for part in (before, now)
            ]
        return _State(z.detach(), before.detach(), now.detach(), *gradients)

    def _moved(self, stage: int, start: "_State", beta: Tensor, size: Tensor) -> tuple["_State", Tensor]:
        """The state after one Hamiltonian move that leaves `p(z) p(x|z)^beta` invariant, and its acceptance."""
        z = start.z
        # jittered independently of the state, against orbits that close
        size = size * (1 + _JITTER * (2 * torch.rand(z.shape[:2], device=z.device, dtype=z.dtype) - 1))
        size, beta_of = size.unsqueeze(-1), beta.to(z)
        speed = torch.randn_like(z)
        state, momentum = start, speed
        for _ in range(self.settings.leapfrogs):
            momentum = momentum + size / 2 * state.gradient(beta_of)
            state = self._state(stage, state.z + size * momentum)
            momentum = momentum + size / 2 * state.gradient(beta_of)
        kinetic = 0.5 * (speed.square() - momentum.square()).sum(-1, dtype=torch.float64)
        gain = state.log_density(beta) - start.log_density(beta) + kinetic
        probability = gain.nan_to_num(-math.inf, 0.0).clamp(max=0).exp()
        return start.where(torch.rand_like(probability) < probability, state), probability

    def _prepared(self, number: int, z: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The temperatures and step sizes of one stage, and chains at its end.

        Temperatures are placed so that all steps change the log-weight by the same number of standard deviations over
        the chains.
        """
        steps = self.settings.num_temperatures
        betas = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=z.device) ** 4
        state, log_size = self._state(number, z), torch.full(z.shape[1:2], math.log(_FIRST_STEP), device=z.device)
        sizes, spreads = [], []
        for beta in shown(betas, f"annealing, step sizes of {z.shape[1]} data points"):
            state, acceptance = self._moved(number, state, beta, log_size.exp())
            log_size = log_size + _GAIN * (acceptance.mean(0) - _ACCEPTANCE).to(log_size)
            sizes.append(log_size)
            spreads.append(state.now.std(0).median())
        spread = torch.stack(spreads).double().clamp(min=1e-6)
        # means over neighbors, as single steps and single chains are noisy
        log_sizes = _smoothed(torch.stack(sizes, -1).double())
        length = ((spread[1:] + spread[:-1]) / 2 * betas.diff()).cumsum(0)
        length = torch.cat([torch.zeros_like(length[:1]), length / length[-1]])
        placed = _interpolated(
            torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=z.device), length, betas[None]
        )
        fitted = _interpolated(placed[0], betas, log_sizes)
        return (placed[0], fitted.exp().T.to(z)), state.z


@dataclass(frozen=True)
class _State:
    """Positions of all chains `(chains, batch, dim)`, with the densities and gradients there.

    Attributes:
        z: The positions.
        before: `log p(z)` and the log-likelihoods of the stages before, `(chains, batch)`.
        now: The log-likelihood of this stage, which is annealed in.
        before_gradient: The gradient of `before`.
        now_gradient: The gradient of `now`.
    """

    z: Tensor
    before: Tensor
    now: Tensor
    before_gradient: Tensor
    now_gradient: Tensor

    def gradient(self, beta: Tensor) -> Tensor:
        """The gradient of `log_density`, 0 where it is not finite: such a path will be rejected."""
        return (self.before_gradient + beta * self.now_gradient).nan_to_num(0.0, 0.0, 0.0)

    def log_density(self, beta: Tensor) -> Tensor:
        """The log-density at one temperature, `(chains, batch)`."""
        return self.before + beta * self.now

    def where(self, accepted: Tensor, other: "_State") -> "_State":
        """The other state where it is accepted."""
        chosen = {}
        for name, value in vars(self).items():
            mask = accepted if value.dim() == accepted.dim() else accepted.unsqueeze(-1)
            chosen[name] = torch.where(mask, getattr(other, name), value)
        return _State(**chosen)


def _smoothed(values: Tensor, width: int = 11) -> Tensor:
    """Running means over the last dimension."""
    padded = torch.nn.functional.pad(values[:, None], (width // 2, width // 2), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, width, 1)[:, 0]


def _interpolated(at: Tensor, points: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation at `(n,)` of `values` `(rows, m)` given at increasing `points` `(m,)`, `(rows, n)`."""
    right = torch.searchsorted(points, at).clamp(1, len(points) - 1)
    left = right - 1
    share = ((at - points[left]) / (points[right] - points[left])).clamp(0, 1).nan_to_num(0.0)
    return values[:, left] * (1 - share) + values[:, right] * share
