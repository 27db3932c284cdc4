"""Bounds under the guide alone, and likelihoods of its predictions: they evaluate the guide, not the model."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor, nn

from multipyro.batch import Masks, Rows, Values, modalities_in, private_modality
from multipyro.guides import IterativeSampling
from multipyro.inference.evaluation._inputs import checked_batch, conditions_of, first_row, select_batch, supports
from multipyro.inference.evaluation._memory import chunks, elements_per_row, in_parts
from multipyro.inference.evaluation.likelihoods.densities import Query, ScoredData, site_log_prob
from multipyro.inference.evaluation.likelihoods.estimates import LogLikelihood
from multipyro.inference.evaluation.likelihoods.importance import check_scored, importance_sampled, weighted_samples
from multipyro.inference.evaluation.likelihoods.proposals import Component, ImportanceSampling, mixture_of
from multipyro.inference.evaluation.prediction import evaluating
from multipyro.inference.handlers import conditional, latents_from, proposal, restrict
from multipyro.inference.objectives.sites import sample_sites
from multipyro.inference.programs import Program, unwrap

__all__ = [
    "ConditionalBounds",
    "bound_log_weights",
    "conditional_terms",
    "guide_conditional_log_likelihood",
    "guide_predictive_log_likelihood",
    "importance_weighted_bound",
]

_DEFAULT = ImportanceSampling()


class ConditionalBounds(NamedTuple):
    """The guide's conditional bounds of each data point, `(batch,)`, in nats, float64.

    Attributes:
        mean: The mean of `log p(x_T | z_i)` over `N` samples.
        logmeanexp: The `N`-sample bound on the log of the guide's predictive density: the log of the mean of
            `p(x_T | z_i)`. It is below that log in expectation, by nats for an image, and grows with `N`.

    Example:
        >>> ConditionalBounds(torch.tensor([-2.0]), torch.tensor([-1.5])).logmeanexp
        tensor([-1.5000])
    """

    mean: Tensor
    logmeanexp: Tensor


def importance_weighted_bound(
    model: Program,
    guide: Program,
    x: Values,
    given: Sequence[str],
    target: Sequence[str] | None = None,
    num_samples: int = 15,
    observed: Masks = None,
    weights: Mapping[str, float] | None = None,
) -> LogLikelihood:
    r"""A lower bound on `log p(x_T)` with `K` samples of the guide given some modalities.

    .. math:: E \log \tfrac1K \sum_k \frac{p(z_k) \prod_{m \in T} p(x_m | z_k)}{q(z_k | x_G)} \le \log p(x_T),
        \qquad z_k \sim q(z | x_G)

    `q` is the guide's `conditional` distribution and nothing else: no other scale, no prior. So the bound measures how
    well the guide given `G` covers the posterior given `T`, and tends to the same `log p(x_T)` for every `G` only as
    `K` grows, slowly where the guide is narrow; `log_likelihood` estimates that limit. `G` may have more or fewer
    modalities than `T`: private latents of modalities that are scored and not given come from the model, those of
    modalities that are given and not scored are left out.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), Table 4; Bridged Variational Autoencoders (Yadav et al.),
        Tables 1 to 4; Importance Weighted Autoencoders (Burda et al., 2016), eq. 8.

    Args:
        model: The generative program.
        guide: The guide.
        x: Modality name -> values `(batch, *event)`, of `G` and `T`.
        given: The modalities `G` that the guide is given.
        target: The modalities `T` that are scored; all of `x` by default.
        num_samples: Number `K` of samples of each data point.
        observed: Modality name -> bool `(batch,)`, the data points in which it is observed.
        weights: Modality name -> factor of its log-likelihood, 1 by default. With any other the result bounds no
            likelihood.

    Returns:
        A `LogLikelihood`, whose k-hat shows whether the bound may lie far below.

    Raises:
        ValueError: If a modality is unknown or its values are invalid, a data point contains nothing of `given`, or the
            guide does not support it.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, MultimodalModel, NormalLikelihood
        >>> model = MultimodalModel(2, {name: NormalLikelihood(MLP(2, 4)) for name in "ab"})
        >>> guide = ProductOfExperts(2, {name: NormalEncoder(MLP(4, 8), 2) for name in "ab"})
        >>> x = {name: torch.zeros(5, 4) for name in "ab"}
        >>> importance_weighted_bound(model, guide, x, given=["a"]).values.shape
        torch.Size([5])
    """
    data, given = _checked_bound(model, x, given, target, observed)
    query, components = Query(data.scored, weights=tuple((weights or {}).items())), [Component(given, 1.0, 1.0)]
    (bound,) = importance_sampled(data, lambda _: conditional(guide), components, [query], num_samples, num_samples)
    return replace(bound, method="importance-weighted bound")


def bound_log_weights(
    model: Program,
    guide: Program,
    x: Values,
    given: Sequence[str],
    target: Sequence[str] | None,
    num_samples: int,
) -> Tensor:
    """The log-weights that `importance_weighted_bound` averages, `(num_samples, batch)`, float64, all in memory."""
    data, given = _checked_bound(model, x, given, target, None)
    with evaluating(model, guide), poutine.block():
        size = next(chunks(num_samples, data.elements() * len(data)))
        samples = weighted_samples(data, conditional(guide), [Component(given, 1.0, 1.0)], num_samples, size)
    return samples.log_weights(data.scored)


def _checked_bound(
    model: Program, x: Values, given: Sequence[str], target: Sequence[str] | None, observed: Masks
) -> tuple[ScoredData, tuple[str, ...]]:
    """The data points of a bound with what they are scored by, and what the guide is given."""
    x, given, target = checked_batch(model, x, observed, given, modalities_in(x) if target is None else target)
    target = tuple(name for name in target if name not in conditions_of(model))
    rows = Rows({name: x[name] for name in given}, observed).any()
    if rows is not None and not rows.all():
        raise ValueError(f"{int((~rows).sum())} of the {len(rows)} data points contain none of {list(given)}")
    return ScoredData(model, x, observed, target), tuple(name for name in x if name in given)


def guide_conditional_log_likelihood(
    model: Program,
    guide: Program,
    x: Values,
    given: Sequence[str],
    target: Sequence[str],
    num_samples: int = 10,
    observed: Masks = None,
) -> ConditionalBounds:
    r"""Bounds on how well the guide, given some modalities, predicts others.

    .. math:: \tfrac1N \sum_i \log p(x_T | z_i) \quad\text{and}\quad \log \tfrac1N \sum_i p(x_T | z_i), \qquad
        z_i \sim q(z | x_G)

    A layer of latents that the guide's `conditional` leaves to the model, as that of a hierarchical guide does, is
    sampled `N` times from :math:`p(z_1 | z_{2,i})` for each `i`, and all `N^2` terms count.

    These evaluate the guide: importance weights, which would hide the collapse of `q(z | x_G)`, are left out. Both are
    `N`-sample bounds and not estimates: the log-mean-exp of ten samples of an image can lie a hundred nats below the
    density it bounds, which `guide_predictive_log_likelihood` estimates. The conditional of the model itself is
    `log_likelihood(..., given=...)`.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), eq. 5, and for JMVAE-h eq. 6, with `N = 10`: the mean. Its log-mean-exp is tighter.

    Args:
        model: The generative program.
        guide: The guide whose `conditional` distribution given `given` is evaluated.
        x: Modality name -> values `(batch, *event)`.
        given: The modalities `G`.
        target: The modalities `T`.
        num_samples: Number `N` of samples of each data point.
        observed: Modality name -> bool `(batch,)`, the data points in which it is observed. One in which nothing of
            `given` is observed takes its latents from the model's prior; a target that is not observed counts 0.

    Returns:
        `ConditionalBounds`, likelihoods unweighted.

    Raises:
        ValueError: If a modality is unknown or its values are invalid, or the guide does not support `given`.

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
    terms = conditional_terms(model, guide, x, given, target, num_samples, observed)
    return ConditionalBounds(terms.mean(0), terms.logsumexp(0) - math.log(len(terms)))


def conditional_terms(
    model: Program,
    guide: Program,
    x: Values,
    given: Sequence[str],
    target: Sequence[str],
    num_samples: int,
    observed: Masks,
) -> Tensor:
    """`log p(x_T | z)` of each sample of the guide, `(terms, batch)`, float64."""
    x, given, target = checked_batch(model, x, observed, given, target)
    check_scored(model, target, given)
    guided, scored = restrict(conditional(guide), given), restrict(model, [*target, *conditions_of(model)])

    def terms(part: Values, masks: Masks) -> dict[str, Tensor]:
        latents = latents_from(guide, *select_batch(part, masks, given))
        log_probs, left = _scores(scored, latents, part, masks, target)
        # private latents are left to the model too, but eq. 6 is about layers
        inner = num_samples if any(private_modality(name) is None for name in left) else 1
        others = [_scores(scored, latents, part, masks, target)[0] for _ in range(inner - 1)]
        return {"terms": torch.cat([log_probs, *others])}

    with evaluating(model, guide), poutine.block():
        head = first_row(x, observed)
        elements = max(elements_per_row(scored, head), elements_per_row(guided, head))
        return in_parts(x, observed, num_samples, elements, terms)["terms"]


def guide_predictive_log_likelihood(
    model: Program,
    guide: Program,
    x: Values,
    given: Sequence[str],
    target: Sequence[str],
    num_samples: int = 1000,
    observed: Masks = None,
    method: ImportanceSampling = _DEFAULT,
) -> LogLikelihood:
    r"""The log-density of the targets under the guide's prediction, by importance sampling.

    .. math:: \log \int q(z | x_G)\, p(x_T | z)\, dz \approx
        \log \tfrac1K \sum_k \frac{q(z_k | x_G)\, p(x_T | z_k)}{r(z_k)}

    The proposal `r` is the guide given `T`, and given `T` and `G` where it supports that, at several scales, and a
    share of `q(z | x_G)` in place of the prior; everything else is as in `log_likelihood`. With the guide given `T`
    alone and one sample it is `vlvae_log_likelihood`. The log-mean-exp of `guide_conditional_log_likelihood`
    bounds the same integral with samples of `q(z | x_G)` alone, few of which fit one image of a class. It is the
    model's `log p(x_T | x_G)` if `q(z | x_G)` is the exact posterior; otherwise it lies below that, in the mean
    over data of the model, by the divergence of the two predictions. Private latents of the targets come from the
    model.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), eq. 6.

    Args:
        model: The generative program.
        guide: The guide whose `conditional` distribution given `given` is evaluated, and whose proposal given `target`
            is sampled. An `AggregateGuide` uses its flow where it has one.
        x: Modality name -> values `(batch, *event)`.
        given: The modalities `G`.
        target: The modalities `T`.
        num_samples: Number `K` of samples of each data point.
        observed: Modality name -> bool `(batch,)`; every data point must contain all of `given` and `target`.
        method: As in `log_likelihood`; `prior` is the share of the samples from `q(z | x_G)`, and with `scales=[1]` and
            `prior=0` all are from `q(z | x_T)`.

    Returns:
        A `LogLikelihood` in nats, likelihoods unweighted.

    Raises:
        ValueError: If a modality is unknown or its values are invalid, `given` and `target` overlap, one of them is
            missing in a data point, or the guide does not support one of the two.
        TypeError: If the model is conditional, so that there is no `q(z | x_T)`, or the guide completes what is missing
            (`IterativeSampling`), so that its `q(z | x_G)` has no density.

    Example:
        >>> from multipyro.guides import NormalEncoder, ProductOfExperts
        >>> from multipyro.ppl_models import MLP, CategoricalLikelihood, MultimodalModel, OneHotMLP
        >>> model = MultimodalModel(2, {name: CategoricalLikelihood(MLP(2, 3)) for name in ("a", "b")})
        >>> guide = ProductOfExperts(2, {name: NormalEncoder(OneHotMLP(3, 8), 2) for name in ("a", "b")})
        >>> x = {"a": torch.tensor([0, 2]), "b": torch.tensor([1, 1])}
        >>> guide_predictive_log_likelihood(model, guide, x, ["a"], ["b"], num_samples=100).values.shape
        torch.Size([2])
    """
    if conditions_of(model) or isinstance(unwrap(guide), IterativeSampling):
        what = "the model is conditional" if conditions_of(model) else "the guide completes what is missing"
        raise TypeError(f"{what}: its prediction has no density over latents; use guide_conditional_log_likelihood")
    max_samples = method.budget(num_samples)
    x, given, target = checked_batch(model, x, observed, given, target)
    if set(given) & set(target):
        raise ValueError(f"given and target must not overlap, got {list(given)} and {list(target)}")
    missing = {name: int((~mask).sum()) for name, mask in (observed or {}).items() if name in x and not mask.all()}
    if missing:
        raise ValueError(f"every data point must contain all of {list(x)}, but some do not: {missing}")
    ordered = tuple(name for name in x if name in target)
    everything = modalities_in(x)
    several = len(method.scales) > 1 or method.prior
    components = mixture_of([ordered, everything] if several and supports(guide, everything) else [ordered], (), method)
    prediction = _Prediction(restrict(model, target), restrict(conditional(guide), given), given)
    data, proposals = ScoredData(prediction, x, None, target), functools.partial(proposal, guide)
    (estimate,) = importance_sampled(data, proposals, components, [Query(target)], num_samples, max_samples)
    return estimate


class _Prediction(nn.Module):
    """A model with the distribution of a guide in place of its prior, conditional on the guide's inputs.

    Attributes:
        conditions: The modalities that the guide is given.
    """

    def __init__(self, model: Program, latents: Program, conditions: Sequence[str]) -> None:
        super().__init__()
        self.model, self.latents, self.conditions = model, latents, tuple(conditions)

    def forward(self, x: Values, observed: Masks = None) -> Any:
        # private latents of given modalities do not affect the target, whose private latents the model samples
        with poutine.block(hide_fn=lambda site: private_modality(site["name"]) is not None):
            with poutine.trace() as sampled:  # records the values that outer handlers set
                self.latents(x, observed)
        with poutine.block(hide=list(sampled.trace.nodes)):
            return poutine.replay(self.model, trace=sampled.trace)(x, observed)


def _scores(model, latents, x, observed, target: Sequence[str]) -> tuple[Tensor, list[str]]:
    """`log p(x_T | z)` of every sample and data point, and the latents that the model sampled, not the guide."""
    with latents:
        trace = poutine.trace(model).get_trace(x, observed)
    sites = sample_sites(trace)
    left = [name for name, site in sites.items() if not site["is_observed"] and name not in latents.names]
    return sum(site_log_prob(sites[name]) for name in target), left
