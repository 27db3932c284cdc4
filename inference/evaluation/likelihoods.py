"""Log-likelihoods: those of the model by importance sampling, and the guide's conditional bounds."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from multipyro.batch import batch_rows, private_modality, rows_with_evidence
from multipyro.guides._encoder_cache import encoders_run_once
from multipyro.inference.evaluation.prediction import (
    check_known,
    check_values,
    chosen,
    chunks,
    conditions_of,
    elements_of_a_row,
    evaluating,
    first_row,
    row_chunks,
    take_rows,
)
from multipyro.inference.handlers import Program, conditional, latents_from, proposal, restrict
from multipyro.inference.objectives.terms import check_sites, sample_sites

__all__ = [
    "ConditionalBounds",
    "LogLikelihood",
    "guide_conditional_log_likelihood",
    "importance_sampled",
    "log_likelihood",
]


class LogLikelihood(NamedTuple):
    """An estimate of a log-likelihood, in nats a row.

    `rows` holds each row's estimate `(batch,)` and `rows_se` its Monte Carlo standard error; `mean` is the mean over
    rows, `se` its standard error over rows (Monte Carlo included), and `mc_se` the Monte Carlo part alone.

    Example:
        >>> one = LogLikelihood(-1.5, 0.5, 0.0, torch.tensor([-1.0, -2.0]), torch.zeros(2))
        >>> one.mean == one.rows.mean().item()
        True
    """

    mean: float
    se: float
    mc_se: float
    rows: Tensor
    rows_se: Tensor


class ConditionalBounds(NamedTuple):
    """The guide's conditional bounds of each row, `(batch,)`, in nats: the mean and the log-mean-exp over latents.

    Example:
        >>> ConditionalBounds(torch.tensor([-2.0]), torch.tensor([-1.5])).logmeanexp
        tensor([-1.5000])
    """

    mean: Tensor
    logmeanexp: Tensor


def log_likelihood(
    model: Program,
    guide: Program,
    x: Mapping[str, Tensor],
    target: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
    num_samples: int = 1000,
    observed: Mapping[str, Tensor] | None = None,
    defensive: float = 0.1,
    seen: Sequence[str] | None = None,
) -> LogLikelihood:
    r"""`log p(x_S)`, or `log p(x_S | x_G)`, of the model, by importance sampling with the guide as proposal.

    .. math:: \log p(x_S) \approx \log \tfrac1K \sum_k \frac{p(z_k) \prod_{m \in S} p(x_m | z_k)}{r(z_k | x_S)},
        \qquad r = (1 - \delta) q + \delta p

    The share `delta` of the samples comes from the model's prior, which keeps every weight below
    :math:`p(x_S | z) / \delta`: a guide trained with likelihood weights above 1 is far narrower than the posterior
    and alone would miss most of the evidence. The estimate is unbiased for `p(x_S)` at any `delta`.

    A conditional is the difference of two evidences, `log p(x_S, x_G) - log p(x_G)`, each with its own proposal. Both
    are properties of the model: a guide only changes their variance (and, at finite `K`, a bias of about minus half
    the variance of the estimate). A mixture guide proposes from the whole mixture, with the full density. Weights of
    training objectives are left out. Memory is bounded whatever `K` is.

    A conditional model has only likelihoods given its conditions: `log p(x_S | w)` is one evidence under its prior
    `p(z | w)`, with the guide's posterior as proposal. A guide that completes what is missing (`IterativeSampling`)
    proposes from one mixture over several completions a row, drawn before and independently of `z`: the estimate stays
    unbiased, but the mixture is narrower than the posterior, and `delta` should not be 0.

    References:
        Bridged Variational Autoencoders (Yadav et al.), Table 1; Generalized Multimodal ELBO (Sutter et al., 2021),
        Table 4, whose released code averages over different images by mistake. Both compare what the same likelihood is
        estimated at when the proposal has seen other modalities: `seen`, with few samples and `defensive=0`.

    Args:
        model: The generative program.
        guide: The proposal; it must answer the subsets asked for.
        x: Modality name -> values `(batch, *event)`.
        target: The modalities `S`; all of `x` (but those in `given`) by default.
        given: The modalities `G` of a conditional; None for the evidence of `S` alone.
        num_samples: Number `K` of samples a row.
        observed: Rows that are observed; a row's likelihood is that of what it holds, 0 for nothing.
        defensive: The share `delta`; 0 proposes from the guide alone, as the papers' tables do.
        seen: The modalities that the proposal has seen, more or fewer than `S`; what the evidence is of by default.

    Returns:
        A `LogLikelihood` in nats, likelihoods unweighted.

    Raises:
        ValueError: If a modality is unknown or its values are bad, `target` and `given` overlap, or the guide does not
            answer what it must propose for. If `seen` comes with `given`, or a row lacks all that it names.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {"image": NormalLikelihood(MLP(2, 16))})
        >>> guide = ProductOfExperts(2, {"image": NormalEncoder(MLP(16, 8), 2)})
        >>> log_likelihood(model, guide, {"image": torch.zeros(5, 16)}, num_samples=10).rows.shape
        torch.Size([5])
    """
    given = () if given is None else chosen(given, x, "given")
    target = tuple(name for name in x if name not in given) if target is None else chosen(target, x, "target")
    if set(target) & set(given) or not target:
        raise ValueError(f"target must not be empty nor overlap given, got {list(target)} and {list(given)}")
    check_known(model, [*target, *given])
    check_scored(model, target, given)
    scored = (*target, *given)
    seen = scored if seen is None else _told(seen, given, x, observed)
    x = {name: values for name, values in x.items() if name in scored or name in seen}
    check_values(model, x, observed)
    rows, variance = importance_sampled(model, guide, x, observed, num_samples, defensive, scored, seen)
    if set(given) - set(conditions_of(model)):  # conditions have no likelihood that could be taken away
        part = {name: x[name] for name in given}
        below, below_variance = importance_sampled(model, guide, part, observed, num_samples, defensive, given, given)
        rows, variance = rows - below, variance + below_variance
        held = rows_with_evidence({name: x[name] for name in target}, observed)
        if held is not None:
            # both estimates are of the same evidence where nothing of the subset is observed
            rows, variance = torch.where(held, rows, 0.0), torch.where(held, variance, 0.0)
    return mean_of_rows(rows, variance)


def _told(
    seen: Sequence[str], given: Sequence[str], x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None
) -> tuple[str, ...]:
    """The modalities that a proposal has seen; raises where it would have seen nothing."""
    seen = chosen(seen, x, "seen")
    if given:
        raise ValueError(f"seen goes with the evidence of a subset, got given = {list(given)} besides")
    held = rows_with_evidence({name: x[name] for name in seen}, observed)
    if held is not None and not held.all():
        raise ValueError(f"{int((~held).sum())} of the {len(held)} rows hold none of {list(seen)} to propose from")
    return seen


def check_scored(model: Program, targets: Sequence[str], given: Sequence[str]) -> None:
    """Raises if a conditional model is asked to score a condition, or to score without one."""
    conditions = conditions_of(model)
    scored = [name for name in targets if name in conditions]
    absent = [name for name in conditions if name not in given]
    if scored or absent:
        wrong = f"it gives no likelihood of {scored}" if scored else f"given lacks {absent}"
        raise ValueError(f"this model scores its targets given {list(conditions)}: {wrong}")


def mean_of_rows(rows: Tensor, variance: Tensor) -> LogLikelihood:
    """The `LogLikelihood` of rows with these estimates and Monte Carlo variances, `(batch,)` each."""
    number = len(rows)
    se = rows.std().item() / math.sqrt(number) if number > 1 else math.nan
    return LogLikelihood(rows.mean().item(), se, variance.sum().sqrt().item() / number, rows, variance.sqrt())


def guide_conditional_log_likelihood(
    model: Program,
    guide: Program,
    x: Mapping[str, Tensor],
    given: Sequence[str],
    target: Sequence[str],
    num_samples: int = 10,
    observed: Mapping[str, Tensor] | None = None,
) -> ConditionalBounds:
    r"""Bounds on how well the guide, given some modalities, predicts others.

    .. math:: \tfrac1N \sum_i \log p(x_T | z_i) \quad\text{and}\quad \log \tfrac1N \sum_i p(x_T | z_i), \qquad
        z_i \sim q(z | x_G)

    A layer of latents that the guide's `conditional` leaves to the model, as that of a hierarchical guide does, is
    drawn `N` times from :math:`p(z_1 | z_{2,i})` for each `i`, and all `N^2` terms count.

    These judge the guide: importance weights, which would remove exactly the collapse of `q(z | x_G)` that is to be
    seen, are left out. The model's own conditional is `log_likelihood(..., given=...)`.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), eq. 5, and for JMVAE-h eq. 6, with `N = 10`: the mean. Its log-mean-exp is tighter.

    Args:
        model: The generative program.
        guide: The guide whose `conditional` distribution given `given` is judged.
        x: Modality name -> values `(batch, *event)`.
        given: The modalities `G`.
        target: The modalities `T`.
        num_samples: Number `N` of latents a row.
        observed: Rows that are observed. A row in which nothing of `given` is observed draws its latents from the
            model's prior; a target that is not observed counts 0.

    Returns:
        `ConditionalBounds` of each row, likelihoods unweighted.

    Raises:
        ValueError: If a modality is unknown or its values are bad, or the guide does not answer `given`.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, OneHotMLP
        >>> model = MultimodalModel(2, {name: CategoricalLikelihood(MLP(2, 3)) for name in ("a", "b")})
        >>> guide = ProductOfExperts(2, {"a": NormalEncoder(OneHotMLP(3, 8), 2)})
        >>> x = {"a": torch.tensor([0, 2]), "b": torch.tensor([1, 1])}
        >>> bounds = guide_conditional_log_likelihood(model, guide, x, ["a"], ["b"])
        >>> (bounds.mean <= bounds.logmeanexp).all()
        tensor(True)
    """
    given, target = chosen(given, x, "given"), chosen(target, x, "target")
    check_known(model, [*given, *target])
    x = {name: values for name, values in x.items() if name in given or name in target}
    check_values(model, x, observed)
    check_scored(model, target, given)
    seen, scored = restrict(conditional(guide), given), restrict(model, [*target, *conditions_of(model)])
    parts = []
    with evaluating(model, guide), poutine.block():
        head = first_row(x, observed)
        elements = max(elements_of_a_row(scored, head), elements_of_a_row(seen, head))
        for rows in row_chunks(batch_rows(x), elements, num_samples):
            part, masks = take_rows(x, observed, rows)
            held, held_masks = take_rows({name: x[name] for name in given}, observed, rows)
            found = []
            with encoders_run_once():
                for number in chunks(num_samples, len(rows) * elements):
                    with pyro.plate("num_samples", number, dim=-2):
                        latents = latents_from(guide, held, held_masks)
                        log_probs, left = _scores(scored, latents, part, masks, target)
                        # private latents are left to the model too, but eq. 6 is about layers
                        inner = num_samples if any(private_modality(name) is None for name in left) else 1
                        found.append(log_probs)
                        found += [_scores(scored, latents, part, masks, target)[0] for _ in range(inner - 1)]
            parts.append(torch.cat(found))
    terms = torch.cat(parts, 1)
    return ConditionalBounds(terms.mean(0), terms.logsumexp(0) - math.log(len(terms)))


def _scores(model, latents, x, observed, target: Sequence[str]) -> tuple[Tensor, list[str]]:
    """`log p(x_T | z)` of every sample and row, and the latents that were not the guide's but the model's."""
    with latents:
        trace = poutine.trace(model).get_trace(x, observed)
    trace.compute_log_prob(lambda name, _: name in target)
    sites = sample_sites(trace)
    left = [name for name, site in sites.items() if not site["is_observed"] and name not in latents.names]
    return sum(sites[name]["log_prob"] for name in target), left


def importance_sampled(
    model, guide, x, observed, num_samples: int, defensive: float, scored: Sequence[str], seen: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Estimates of `log p(x_scored)` of each row and their Monte Carlo variances, `(batch,)` each."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    if not 0 <= defensive < 1:
        raise ValueError(f"defensive must lie in [0, 1), got {defensive}")
    from_prior = min(round(defensive * num_samples), num_samples - 1)
    log_k = math.log(num_samples)
    estimates, variances = [], []
    with evaluating(model, guide), poutine.block():
        model, guide = restrict(model, scored), restrict(proposal(guide), seen)
        head = first_row(x, observed)
        elements = max(elements_of_a_row(model, head), elements_of_a_row(guide, head))
        for rows in row_chunks(batch_rows(x), elements, num_samples):
            part, masks = take_rows(x, observed, rows)
            evidence = rows_with_evidence({name: part[name] for name in scored}, masks)
            sources = [(False, number) for number in chunks(num_samples - from_prior, len(rows) * elements)]
            sources += [(True, number) for number in chunks(from_prior, len(rows) * elements)] if from_prior else []
            # running sums of the weights and of their squares, in logs
            first = second = torch.tensor(-math.inf)
            with encoders_run_once():  # one proposal for all: the share of the prior is balanced against that of q
                for prior_first, number in sources:
                    logs = _log_weights(model, guide, part, masks, number, prior_first, from_prior / num_samples)
                    logs = logs if evidence is None else torch.where(evidence, logs, 0.0)
                    first = torch.logaddexp(first, logs.logsumexp(0))
                    second = torch.logaddexp(second, (2 * logs).logsumexp(0))
            estimates.append(first - log_k)
            # delta method: var(log mean w) = (E w^2 / (E w)^2 - 1) / K, for strata a little too large
            variances.append(((second - 2 * first + log_k).exp() - 1).clamp(min=0) / num_samples)
    return torch.cat(estimates), torch.cat(variances)


def _log_weights(model, guide, x, observed, number: int, prior_first: bool, share: float) -> Tensor:
    """`log p(x, z) - log r(z | x)` of `number` latents a row from the guide or from the prior, `(number, batch)`."""
    first, second = (model, guide) if prior_first else (guide, model)
    with pyro.plate("num_particles", number, dim=-2):
        first_trace = poutine.trace(first).get_trace(x, observed)
        second_trace = poutine.trace(poutine.replay(second, trace=first_trace)).get_trace(x, observed)
    first_trace.compute_log_prob()
    second_trace.compute_log_prob()
    model_trace, guide_trace = (first_trace, second_trace) if prior_first else (second_trace, first_trace)
    model_sites, guide_sites = sample_sites(model_trace), sample_sites(guide_trace)
    check_sites(model_sites, list(guide_sites))
    log_q = sum(site["log_prob"] for site in guide_sites.values())
    log_prior = sum(model_sites[name]["log_prob"] for name in guide_sites)
    log_x = sum(site["log_prob"] for name, site in model_sites.items() if name not in guide_sites)
    if share:
        log_q = torch.logaddexp(math.log1p(-share) + log_q, math.log(share) + log_prior)
    return log_prior + log_x - log_q
