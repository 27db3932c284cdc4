"""Importance sampling over a batch in bounded memory: common samples for several evidences, refined where needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from multipyro.batch import Rows, batch_rows
from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference.evaluation import _memory
from multipyro.inference.evaluation._inputs import conditions_of, first_row, take_rows
from multipyro.inference.evaluation._memory import elements_per_row, row_chunks
from multipyro.inference.evaluation.likelihoods.proposals import Component, Proposal, allocate, site_log_prob
from multipyro.inference.evaluation.likelihoods.weights import Strata, WeightStatistics, weight_statistics
from multipyro.inference.evaluation.prediction import evaluating
from multipyro.inference.handlers import restrict
from multipyro.inference.programs import Program

__all__ = ["UNRELIABLE", "Query", "Samples", "importance_sampled", "statistics_of", "weighted_samples"]

#: Pareto k-hat above which an estimate is not to be trusted
UNRELIABLE = 0.7
# a refinement takes this many times the samples of the one before
_GROWTH = 4


@dataclass(frozen=True)
class Query:
    """A likelihood to estimate: `log p(target)`, or `log p(target | given)`.

    Attributes:
        target: The modalities scored.
        given: The modalities conditioned on that the model scores too; conditions of a conditional model are not.
    """

    target: tuple[str, ...]
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Samples:
    """Weighted samples of the latents of a batch of data points.

    Attributes:
        base: `log p(z) - log r(z)`, `(samples, batch)`, float64.
        scores: Modality -> `log p(x_m | z)`, `(samples, batch)`, 0 where it is not observed.
        strata: How the samples are divided among the proposal's components.
        covers_prior: Whether the prior is one of them, so that `p(z) / r(z)` is bounded and has the mean 1.
    """

    base: Tensor
    scores: dict[str, Tensor]
    strata: Strata
    covers_prior: bool

    def log_weights(self, names: Sequence[str]) -> Tensor:
        """`log p(x_S, z) - log r(z)` for `S = names`, `(samples, batch)`."""
        return sum([self.scores[name] for name in names], self.base)

    def statistics(self, query: Query) -> WeightStatistics:
        """The estimate of a query and its diagnostics."""
        above = self.log_weights((*query.target, *query.given))
        below = self.log_weights(query.given) if query.given else None
        return weight_statistics(above, below, self.strata, self.base if self.covers_prior else None)


def weighted_samples(
    model: Program,
    guide: Program,
    x: Mapping[str, Tensor],
    observed: Mapping[str, Tensor] | None,
    components: Sequence[Component],
    number: int,
    scored: Sequence[str],
    size: int,
) -> Samples:
    """Samples of the mixture of `components` for one batch, scored in parts of at most `size` samples a data point."""
    counts = allocate(components, number)
    bases, scores = [], {name: [] for name in scored}
    with encoders_run_once():  # one proposal for all parts
        mixture = Proposal(restrict(model, [*scored, *conditions_of(model)]), guide, x, observed, components, counts)
        for trace, base in mixture.draw(size):
            bases.append(base)
            for name in scored:
                scores[name].append(site_log_prob(trace.nodes[name]).expand_as(base))
    joined = {name: torch.cat(parts) for name, parts in scores.items()}
    base, informed = torch.cat(bases), Rows({name: x[name] for name in scored}, observed).any()
    # without evidence both densities are left out, but for rounding
    base = base if informed is None else torch.where(informed, base, 0.0)
    covers_prior = any(count and not part.subset for part, count in zip(components, counts, strict=True))
    return Samples(base, joined, Strata(counts), covers_prior)


def importance_sampled(
    model: Program,
    guide: Program,
    x: Mapping[str, Tensor],
    observed: Mapping[str, Tensor] | None,
    components: Sequence[Component],
    queries: Sequence[Query],
    num_samples: int,
    max_samples: int,
) -> tuple[list[WeightStatistics], Tensor]:
    """Estimates of several queries with common samples.

    Data points with a k-hat above 0.7 in one of the queries are estimated anew, for all queries, with four times the
    samples, and again until `max_samples`.

    Args:
        model: The generative program.
        guide: The program that proposes, such as a guide's `proposal`.
        x: Modality name -> values `(batch, *event)`: all modalities scored, and conditions.
        observed: Modality name -> data points in which it is observed.
        components: The mixture.
        queries: What to estimate.
        num_samples: Samples of each data point at first.
        max_samples: Most samples of a data point.

    Returns:
        One `WeightStatistics` for each query, and the number of samples of each data point, int64 `(batch,)`.
    """
    scored = list(dict.fromkeys(name for query in queries for name in (*query.target, *query.given)))
    with evaluating(model, guide), poutine.block():
        head = first_row(x, observed)
        program = restrict(model, [*scored, *conditions_of(model)])
        given = [part.subset for part in components if part.subset]
        sizes = [elements_per_row(restrict(guide, subset), head) for subset in dict.fromkeys(given)]
        elements = max(elements_per_row(program, head), *sizes)

        def estimate(rows: Tensor, number: int) -> list[WeightStatistics]:
            part, masks = take_rows(x, observed, rows)
            size = max(1, _memory.MAX_ELEMENTS // (len(rows) * elements))
            samples = weighted_samples(model, guide, part, masks, components, number, scored, size)
            return [samples.statistics(query) for query in queries]

        number, pending = num_samples, torch.arange(batch_rows(x))
        found, used = None, torch.zeros(len(pending), dtype=torch.long)
        while len(pending):
            found = _merged(found, pending, _in_chunks(estimate, pending, number, elements, len(scored) + 2))
            used[pending] = number
            if number >= max_samples:
                break
            unreliable = torch.stack([statistics.khat[pending] for statistics in found]).amax(0) > UNRELIABLE
            pending, number = pending[unreliable.to(pending.device)], min(_GROWTH * number, max_samples)
    return found, used


def statistics_of(parts: Sequence[WeightStatistics]) -> WeightStatistics:
    """Statistics of consecutive data points as one."""
    names = WeightStatistics.__dataclass_fields__
    return WeightStatistics(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def _in_chunks(
    estimate: Callable[[Tensor, int], list[WeightStatistics]], rows: Tensor, number: int, elements: int, kept: int
) -> list[WeightStatistics]:
    """Estimates of some data points, as many at once as memory allows for `kept` numbers of each sample."""
    chunks = row_chunks(len(rows), max(elements, kept * number // min(number, 64)), number)
    parts = [estimate(rows[chunk], number) for chunk in chunks]
    return [statistics_of(each) for each in zip(*parts, strict=True)]


def _merged(before: list[WeightStatistics] | None, rows: Tensor, new: list[WeightStatistics]) -> list[WeightStatistics]:
    """The statistics of all data points with those of `rows` replaced."""
    if before is None:
        return new
    names = WeightStatistics.__dataclass_fields__
    return [
        WeightStatistics(**{name: getattr(old, name).index_copy(0, rows, getattr(part, name)) for name in names})
        for old, part in zip(before, new, strict=True)
    ]
