"""Importance sampling over a batch in bounded memory: common samples for several evidences, refined where needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pyro import poutine
from torch import Tensor

from multipyro.batch import Rows, Values
from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference.evaluation import _memory
from multipyro.inference.evaluation._inputs import conditions_of, first_row
from multipyro.inference.evaluation._memory import elements_of_guide, row_chunks
from multipyro.inference.evaluation.likelihoods.densities import ScoredData
from multipyro.inference.evaluation.likelihoods.estimates import LogLikelihood
from multipyro.inference.evaluation.likelihoods.latents import site_log_prob
from multipyro.inference.evaluation.likelihoods.proposals import Component, Proposal, allocate, with_fits
from multipyro.inference.evaluation.likelihoods.weights import Strata, estimate_from
from multipyro.inference.evaluation.prediction import evaluating
from multipyro.inference.handlers import restrict
from multipyro.inference.programs import Program

__all__ = ["Query", "Samples", "evidences_of", "importance_sampled", "weighted_samples"]

# k-hat above which the weights have no variance, so that the standard error says little, and a refinement is worthwhile
_REFINED = 0.5
# share of the data points above it from which the samples of the others are likely to have missed the same tail
_MANY = 0.05
# a refinement that did not suffice is followed by one with this many times the samples
_GROWTH = 4


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

    def log_weights(self, names: Sequence[str], factors: Mapping[str, float] | None = None) -> Tensor:
        """`log p(x_S, z) - log r(z)` for `S = names`, `(samples, batch)`, log-likelihoods times their factors."""
        factors = factors or {}
        return sum([factors.get(name, 1.0) * self.scores[name] for name in names], self.base)

    def estimate(self, query: Query) -> LogLikelihood:
        """The estimate of a query and its diagnostics."""
        factors = dict(query.weights)
        above = self.log_weights((*query.target, *query.given), factors)
        below = self.log_weights(query.given, factors) if query.given else None
        return estimate_from(above, below, self.strata, self.base if self.covers_prior else None)


def weighted_samples(
    data: ScoredData, guide: Program, components: Sequence[Component], number: int, size: int
) -> Samples:
    """Samples of the mixture of `components` for one batch, scored in parts of at most `size` samples a data point."""
    counts = allocate(components, number)
    bases, scores = [], {name: [] for name in data.scored}
    with encoders_run_once():  # one proposal for all parts
        for trace, base in Proposal(data, guide, components, counts).draw(size):
            bases.append(base)
            for name in data.scored:
                scores[name].append(site_log_prob(trace.nodes[name]).expand_as(base))
    joined = {name: torch.cat(parts) for name, parts in scores.items()}
    base, informed = torch.cat(bases), Rows({name: data.x[name] for name in data.scored}, data.observed).any()
    # without evidence both densities are left out, but for rounding
    base = base if informed is None else torch.where(informed, base, 0.0)
    covers_prior = any(count and not part.subset for part, count in zip(components, counts, strict=True))
    return Samples(base, joined, Strata(counts), covers_prior)


def importance_sampled(
    data: ScoredData,
    proposals: Callable[[int], Program],
    components: Sequence[Component],
    queries: Sequence[Query],
    num_samples: int,
    max_samples: int,
) -> list[LogLikelihood]:
    """Estimates of several queries with common samples.

    Data points with a k-hat above 0.5 in one of the queries are estimated anew, for all queries, with a proposal that
    has normals fitted to their posteriors, then with four times the samples, and so on until `max_samples`. The fits
    do not use the samples of an estimate, and an estimate uses its last samples alone. If more than 5 % of the data
    points are above, all are fitted: samples that missed the tail of their weights have a small k-hat and a low value,
    so keeping those alone would bias the mean.

    Args:
        data: The data points, scored by the modalities of all queries.
        proposals: From the number of samples to the program that proposes, such as a guide's `proposal`.
        components: The mixture.
        queries: The likelihoods to estimate.
        num_samples: Initial number of samples per data point.
        max_samples: Maximum of samples of one estimate; equal to `num_samples`, nothing is refined.

    Returns:
        One `LogLikelihood` for each query, with the samples of each data point in all.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    number, pending, mixture = num_samples, torch.arange(len(data)), components
    estimates, used = [], torch.zeros(len(pending), dtype=torch.long)
    with evaluating(data.model, proposals(number)), poutine.block():
        while len(pending):
            new = _estimates(data, proposals(number), mixture, queries, number, pending)
            estimates = [old.replaced(pending, part) for old, part in zip(estimates or new, new, strict=True)]
            used[pending] += number
            if number >= max_samples:
                break
            above = torch.stack([each.khat[pending] for each in estimates]) > _REFINED
            refine = above.any(0)
            if mixture is not components:
                number = min(_GROWTH * number, max_samples)
            elif refine.any():
                unclear = [query for query, rows in zip(queries, above, strict=True) if rows.any()]
                mixture = with_fits(components, evidences_of(unclear, data.x, conditions_of(data.model)))
                refine |= refine.double().mean() > _MANY
            pending = pending[refine.to(pending.device)]
    counts = zip(components, allocate(components, num_samples), strict=True)
    proposal = {component.label: count for component, count in counts}
    absent = [label for label, count in proposal.items() if not count]
    notes = (f"too few samples for the proposal's components {absent}",) if absent else ()
    return [replace(each, num_samples=used, proposal=proposal, notes=notes) for each in estimates]


def evidences_of(queries: Sequence[Query], x: Values, conditions: Sequence[str]) -> list[tuple[str, ...]]:
    """The subsets whose evidence is part of a query, in the order of `x` and with the conditions."""
    parts = [part for query in queries for part in ((*query.target, *query.given), query.given) if part]
    return list(dict.fromkeys(tuple(n for n in x if n in part or n in conditions) for part in parts))


def _estimates(
    data: ScoredData,
    guide: Program,
    components: Sequence[Component],
    queries: Sequence[Query],
    number: int,
    rows: Tensor,
) -> list[LogLikelihood]:
    """Estimates of some data points, as many at once as memory allows for the decoders and for all weights."""
    subsets = dict.fromkeys(part.subset for part in components if part.subset)
    head = first_row(data.x, data.observed)
    once, each = zip(*(elements_of_guide(restrict(guide, subset), head) for subset in subsets), strict=True)
    elements = max(data.elements(), *each)
    # both do not grow with the samples that are decoded at once
    kept = max((len(data.scored) + 2) * number, *once) // min(number, 64)
    parts = []
    for chunk in row_chunks(len(rows), max(elements, kept), number, "likelihoods"):
        size = max(1, _memory.MAX_ELEMENTS // (len(chunk) * elements))
        samples = weighted_samples(data.rows(rows[chunk]), guide, components, number, size)
        parts.append([samples.estimate(query) for query in queries])
    return [LogLikelihood.joined(each) for each in zip(*parts, strict=True)]
