"""The log-likelihoods of a model, of data points and of some modalities given others."""

import functools
from collections.abc import Sequence

from multipyro.batch import Masks, Values, modalities_in
from multipyro.inference.evaluation._inputs import check_known, check_values, conditions_of, select_given
from multipyro.inference.evaluation.likelihoods.annealing import Annealing, annealed_likelihoods
from multipyro.inference.evaluation.likelihoods.densities import ScoredData
from multipyro.inference.evaluation.likelihoods.estimates import LogLikelihood
from multipyro.inference.evaluation.likelihoods.importance import Query, evidences_of, importance_sampled
from multipyro.inference.evaluation.likelihoods.proposals import ImportanceSampling, defensive_mixture
from multipyro.inference.handlers import proposal
from multipyro.inference.programs import Program

__all__ = ["check_scored", "log_likelihood", "log_likelihoods"]

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
    anew, with normals fitted to their own posteriors in the proposal, and those still above 0.5 with more samples, up
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
    if not isinstance(method, ImportanceSampling | Annealing):
        raise TypeError(f"method must be an ImportanceSampling or an Annealing, got {method!r}")
    conditions = conditions_of(model)
    checked = [_query(model, x, conditions, *query) for query in queries]
    scored = tuple(dict.fromkeys(name for query in checked for name in (*query.target, *query.given)))
    data = ScoredData(model, x, observed, ()).scored_by(scored)
    check_values(model, data.x, observed)
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
