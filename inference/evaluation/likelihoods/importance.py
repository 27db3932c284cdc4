"""Log-likelihoods of a model, by importance sampling in bounded memory, refined where needed."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pyro import poutine
from torch import Tensor

from multipyro.batch import Masks, Rows, Values, modalities_in, selected
from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference.evaluation import _memory
from multipyro.inference.evaluation._inputs import (
    check_known,
    check_num_samples,
    check_values,
    conditions_of,
    first_row,
    select_given,
)
from multipyro.inference.evaluation._memory import elements_of_guide, row_chunks
from multipyro.inference.evaluation.likelihoods.annealing import Annealing, annealed_likelihoods
from multipyro.inference.evaluation.likelihoods.densities import Query, ScoredData, site_log_prob
from multipyro.inference.evaluation.likelihoods.estimates import LogLikelihood
from multipyro.inference.evaluation.likelihoods.proposals import (
    Component,
    ImportanceSampling,
    Proposal,
    allocate,
    defensive_mixture,
    with_fits,
)
from multipyro.inference.evaluation.likelihoods.weights import Strata, estimate_from
from multipyro.inference.evaluation.prediction import evaluating
from multipyro.inference.handlers import proposal, restrict
from multipyro.inference.programs import Program

__all__ = [
    "Samples",
    "check_scored",
    "importance_sampled",
    "log_likelihood",
    "log_likelihoods",
    "weighted_samples",
]

# k-hat above which the weights have no variance, so that the standard error says little, and a refinement is worthwhile
_REFINED = 0.5
# share of the data points above it from which the samples of the others are likely to have missed the same tail
_MANY = 0.05
# a refinement that did not suffice is followed by one with this many times the samples
_GROWTH = 4
_DEFAULT = ImportanceSampling()


def log_likelihood(
    model: Program,
    guide: Program,
    x: Values,
    target: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
    num_samples: int = 1000,
    observed: Masks = None,
    method: ImportanceSampling | Annealing = _DEFAULT,
) -> LogLikelihood:
    r"""`log p(x_T)`, or `log p(x_T | x_G)`, of the model, by importance sampling with a mixture as proposal.

    .. math:: \log p(x_T \mid x_G) \approx
        \log \frac{\sum_k w_k\, p(x_T \mid z_k)}{\sum_k w_k}, \qquad
        w_k = \frac{p(z_k)\, p(x_G \mid z_k)}{r(z_k)}, \qquad
        r = \sum_c \pi_c\, q_c

    Without `given` the denominator is `K`. The proposal `r` is a mixture of the guide given `T + G`, and of the guide
    given `G`, each at several scales, of the guide given the subsets one modality below, and of the model's prior (see
    `ImportanceSampling`). Every weight has the density of the whole mixture (the balance heuristic), and the numbers of
    samples are fixed in advance. A guide narrower than the posterior, as with mean-field guides and likelihood weights
    above 1, gives weights without a variance and estimates that are too low by far more than their standard error
    shows; the wider components repair that.

    A conditional is one ratio over common samples, so the noise of `log p(x_G)` cancels, and the value of a discrete
    target is at most 0 at every data point. Both likelihoods are properties of the model: the guide only decides how
    many samples are needed. Weights of training objectives are left out. Sums are in float64, memory is bounded
    whatever `K` is.

    Every value has a Pareto k-hat. Data points above 0.5, and if these are more than 5 % all data points, are estimated
    anew, with normals fitted to their posteriors in the proposal, and those still above 0.5 with more samples, up
    to `max_samples`; those that stay above 0.7 are counted in the result, and its summary says so. No weight is clipped
    or smoothed.

    A conditional model only has likelihoods given its conditions: `log p(x_T | w)` is one evidence under its prior
    `p(z | w)`. Private latents that the guide does not propose (those of modalities that it is not given) are drawn
    from the model.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), for k-hat; Optimally Combining Sampling Techniques
        for Monte Carlo Rendering (Veach and Guibas, 1995), for the balance heuristic; Safe and Effective Importance
        Sampling (Owen and Zhou, 2000), for the share of the prior. The estimators of the papers are separate functions,
        such as `mopoe_log_likelihood`.

    Args:
        model: The generative program.
        guide: The guide that proposes; it must support the subsets `T + G` and `G`.
        x: Modality name -> values `(batch, *event)`.
        target: The modalities `T`; by default all of `x` except `given`.
        given: The modalities `G` of a conditional; None for the evidence of `T`.
        num_samples: Number `K` of samples of each data point.
        observed: Modality name -> bool `(batch,)`, the data points in which it is observed. The likelihood of a data
            point is that of what it contains, 0 if that is nothing of `T`.
        method: Settings of importance sampling, or `Annealing(...)` for annealed importance sampling: chains that move
            from the prior to the posterior, which need no guide and cost a hundred times as much. It is the reference
            for other estimates; the result has the gap of a sandwich on simulated data, which certifies the settings.

    Returns:
        A `LogLikelihood` in nats.

    Raises:
        ValueError: If a modality is unknown or its values are invalid, `target` and `given` overlap, an argument is out
            of range, or the guide does not support what it must propose for.

    Example:
        >>> import torch
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> log_likelihood(model, guide, {"image": torch.zeros(5, 16)}, num_samples=100).values.shape
        torch.Size([5])
    """
    (estimate,) = log_likelihoods(model, guide, x, [(target, given)], num_samples, observed, method)
    return estimate


def log_likelihoods(
    model: Program,
    guide: Program,
    x: Values,
    queries: Sequence[tuple[Sequence[str] | None, Sequence[str] | None]],
    num_samples: int = 1000,
    observed: Masks = None,
    method: ImportanceSampling | Annealing = _DEFAULT,
) -> list[LogLikelihood]:
    """Several likelihoods with the same samples, as `log_likelihood`.

    The samples are `num_samples` times the number of different evidences, from one mixture for all, so each likelihood
    is estimated at least as well as alone, and the decoders run once for all. Because the samples are the same, the
    estimates are consistent: `log p(a, b) <= log p(b)` for a discrete `a` at every data point, and
    `log p(a | b) = log p(a, b) - log p(b)`.

    Args:
        model: The generative program.
        guide: The guide that proposes.
        x: Modality name -> values `(batch, *event)`.
        queries: Pairs of `target` and `given`, each as in `log_likelihood`.
        num_samples: Number of samples of each data point and evidence.
        observed: As in `log_likelihood`.
        method: As in `log_likelihood`. `max_samples` is for each evidence; chains of `Annealing` are common to a
            conditional only, not to several queries.

    Returns:
        One `LogLikelihood` for each query.

    Raises:
        ValueError: As in `log_likelihood`, or if there are no queries.
        TypeError: If `method` is neither an `ImportanceSampling` nor an `Annealing`.

    Example:
        >>> import torch
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {name: NormalLikelihood(MLP(2, 4)) for name in "ab"})
        >>> guide = ProductOfExperts(2, {name: NormalEncoder(MLP(4, 8), 2) for name in "ab"})
        >>> x = {name: torch.zeros(5, 4) for name in "ab"}
        >>> queries = [(["a", "b"], None), ("b", None), ("a", "b")]
        >>> joint, one, conditional = log_likelihoods(model, guide, x, queries, 50)
        >>> torch.allclose(conditional.values, joint.values - one.values)
        True
    """
    if not queries:
        raise ValueError("queries is empty: name at least one target")
    check_num_samples(num_samples)
    if not isinstance(method, ImportanceSampling | Annealing):
        raise TypeError(f"method must be an ImportanceSampling or an Annealing, got {method!r}")
    conditions = conditions_of(model)
    checked = [_query(model, x, conditions, *query) for query in queries]
    scored = tuple(dict.fromkeys(name for query in checked for name in (*query.target, *query.given)))
    check_values(model, selected(x, (*scored, *conditions)), observed)
    data = ScoredData(model, x, observed, ()).scored_by(scored)
    if isinstance(method, Annealing):
        return annealed_likelihoods(data, checked, method)
    evidences = evidences_of(checked, x, conditions)
    components, proposals = defensive_mixture(model, guide, evidences, method), functools.partial(proposal, guide)
    samples = [len(evidences) * number for number in (num_samples, method.budget(num_samples))]
    return importance_sampled(data, proposals, components, checked, *samples)


def check_scored(model: Program, targets: Sequence[str], given: Sequence[str]) -> None:
    """Raises if a condition of a conditional model is to be scored, or is not given."""
    conditions = conditions_of(model)
    scored = [name for name in targets if name in conditions]
    absent = [name for name in conditions if name not in given]
    if scored or absent:
        wrong = f"it has no likelihood of {scored}" if scored else f"given does not contain {absent}"
        raise ValueError(f"this model scores its targets given {list(conditions)}: {wrong}")


def _query(
    model: Program, x: Values, conditions: Sequence[str], target: Sequence[str] | None, given: Sequence[str] | None
) -> Query:
    given = () if given is None else select_given(given, x, "given")
    target = (
        tuple(name for name in modalities_in(x) if name not in given)
        if target is None
        else select_given(target, x, "target")
    )
    if set(target) & set(given) or not target:
        raise ValueError(f"target must not be empty nor overlap given, got {list(target)} and {list(given)}")
    check_known(model, [*target, *given])
    check_scored(model, target, given)
    return Query(target, tuple(name for name in given if name not in conditions))


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
    check_num_samples(num_samples)
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
