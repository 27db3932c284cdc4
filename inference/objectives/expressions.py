r"""Objectives as expressions: weighted ELBOs between programs, sums of them, and sums over families of subsets.

An objective is written as its equation is read:

    >>> from multipyro.inference.objectives import GUIDE, MODEL, PROPER_SUBSETS, SUBSET, number
    >>> m, g, A = MODEL, GUIDE, SUBSET
    >>> alpha = number("alpha", 0.1)
    >>> elbo(m, g) + alpha * sum_over(PROPER_SUBSETS, elbo(g | A, g))
    ELBO(m || g) + alpha sum_{A proper} ELBO(g|A || g)

Every guide is traced once per step and every generative program replayed on its trace, so that each latent is drawn
once and each encoder runs once.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from multipyro.batch import Masks, Values, modalities_in
from multipyro.guides import StratifiedMixture
from multipyro.inference.handlers import where_proper
from multipyro.inference.objectives._base import Evaluation, Objective, replayed, trace_of
from multipyro.inference.objectives.families import SINGLES, SubsetFamily, random_subsets
from multipyro.inference.objectives.sites import TracePair, closed_form
from multipyro.inference.objectives.spec import instances_in
from multipyro.inference.objectives.weights import (
    BySubset,
    SiteWeights,
    Weight,
    as_weight,
    check_choice,
    is_one,
)
from multipyro.inference.programs import (
    GUIDE,
    MODEL,
    SUBSET,
    Program,
    ProgramExpression,
    Subset,
    SubsetPlaceholder,
    as_expression,
    subset_text,
    substitute,
)

__all__ = ["Elbo", "Expression", "Sum", "SumOver", "Weighted", "elbo", "subset_elbo", "sum_over"]

KL = Literal["analytic", "sampled", "components"]


class Expression(Objective):
    """Base of the objectives that are sums of terms. `+` adds two of them, `weight *` scales one.

    The settings of a sum cannot be changed: its terms are built once.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in {setting.name for setting in fields(self)} and vars(self).get(name, value) is not value:
            raise AttributeError(f"{name} of an objective cannot be changed: make another objective")
        super().__setattr__(name, value)

    def __post_init__(self) -> None:
        super().__init__()

    def terms(self, modalities: Subset) -> Sequence["Term"]:
        """The terms for a batch with these modalities; random subsets are drawn in each call, all others once."""
        cached = vars(self).setdefault("_cached_terms", {})
        if modalities in cached:
            return cached[modalities]
        terms = tuple(self._terms(modalities))
        if not any(family.is_random for family in instances_in(self, SubsetFamily)):
            cached[modalities] = terms
        return terms

    @abstractmethod
    def _terms(self, modalities: Subset) -> Iterator["Term"]:
        """Builds the terms."""

    def __add__(self, other: Objective) -> "Sum":
        return Sum((*_summands(self), *_summands(other)))

    def __radd__(self, other: int) -> "Expression":
        if other == 0:  # the start of Python's own `sum`
            return self
        return NotImplemented

    def __rmul__(self, weight: float | Tensor | Weight) -> "Weighted":
        return Weighted(as_weight(weight), self)

    def evaluate(self, model: Program, guide: Program, x: Values, observed: Masks = None) -> Evaluation:
        binding, modalities = self._binding(model, guide), modalities_in(x)
        result = Evaluation(torch.zeros(()))
        q_traces: dict[tuple[ProgramExpression, int], poutine.Trace] = {}
        for weight, term in self.terms(modalities):
            q = term.q, term.num_particles
            if q not in q_traces:  # a guide that several terms have is traced once
                q_traces[q] = trace_of(binding[term.q], term.num_particles, x, observed)
            p_trace = replayed(binding[term.p], q_traces[q], term.num_particles, x, observed)
            pair = TracePair.of_traces(p_trace, q_traces[q])
            term.add_to(result, pair, weight.value(len(modalities)), len(modalities))
        return result


class Term(NamedTuple):
    """One term of a sum.

    Args:
        weight: The product of the weights around it.
        elbo: The ELBO, without placeholders for subsets.
    """

    weight: Weight
    elbo: "Elbo"

    def within(self, subset: Subset, of_each_row: bool) -> "Term":
        """The term with a subset in place of `SUBSET`; `of_each_row` as in `SubsetFamily`."""

        def with_subset(part: Any) -> Any:
            if isinstance(part, SubsetPlaceholder):
                return subset
            return part.of(subset) if isinstance(part, BySubset) else part

        weight, elbo = substitute(self.weight, with_subset), substitute(self.elbo, with_subset)
        p = where_proper(elbo.p, subset) if of_each_row else elbo.p
        return Term(weight, replace(elbo, p=p, name=elbo.name or subset_text(subset)))


@dataclass(eq=False, repr=False)
class Elbo(Expression):
    r"""The ELBO between two programs; `elbo` is this class, as equations write it.

    .. math:: \mathrm{ELBO}(p \| q) = E_q [ \log p - \log q ]

    Args:
        p: The generative program: the model, or a guide that scores the latents another guide drew (then the ELBO is
            `-KL(q || p)`, summed over the batch).
        q: The variational program.
        sites: Site name -> weight, applied to that site on both sides (for example a KL weight for `z`): numbers,
            tensors `()` or `(batch,)`, schedules, or arithmetic with them. 0 is allowed.
        reconstruction: A further weight of every observed site.
        kl: `"analytic"` uses closed forms where the families have one and the latents of both programs come in one
            order (elsewhere it falls back to samples); `"sampled"` never does; `"components"` replaces the KL of a
            mixture by the weighted mean of its components' KLs, an upper bound, so that the objective estimates the
            mean of the bounds of the components with one component per data point.
        num_particles: Number of samples of the latents per data point.
        name: Prefix of the term's sums in reports: none by default, in a sum over subsets the subset.

    Raises:
        ValueError: If `kl` is unknown or `num_particles` is below 1.
        TypeError: If a weight is neither a number, a tensor nor a schedule.

    Example:
        >>> from multipyro.inference.programs import GUIDE, MODEL
        >>> elbo(MODEL, GUIDE, {"z": 0.5, "label": 10})
        ELBO(m || g; z: 0.5, label: 10)
    """

    p: Program | ProgramExpression
    q: Program | ProgramExpression
    sites: Mapping[str, float | Tensor | Weight] | None = None
    _: KW_ONLY
    reconstruction: float | Tensor | Weight = 1.0
    kl: KL = "analytic"
    num_particles: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        check_choice("kl", self.kl, KL)
        vars(self).update(p=as_expression(self.p), q=as_expression(self.q), sites=SiteWeights(self.sites))
        vars(self).update(reconstruction=as_weight(self.reconstruction))
        Objective.__init__(self, self.num_particles)

    def _terms(self, modalities: Subset) -> Iterator[Term]:
        yield Term(as_weight(1.0), self)

    def equation(self) -> str:
        weights = SiteWeights({"x": self.reconstruction, **self.sites})
        kl = "; mean KL of the components" if self.kl == "components" else ""
        return f"ELBO({self.p!r} || {self.q!r}{weights}{kl})"

    def add_to(self, result: Evaluation, pair: TracePair, weight: float | Tensor, num_modalities: int) -> None:
        """Adds the weighted sites of the two programs to an evaluation."""
        reconstruction = weight * self.reconstruction.value(num_modalities)
        for name in pair.p_sites:
            factor = self.sites.of(name, num_modalities)
            if name in pair.latents:
                result.add(name, pair.masked(name, -self._kl(pair, name)), weight * factor, "kl", self.name)
            else:
                result.add(name, pair.masked(name, pair.log_prob(name)), reconstruction * factor, prefix=self.name)

    def _kl(self, pair: TracePair, name: str) -> Tensor:
        mixture, prior = pair.q_sites[name]["fn"], pair.p_sites[name]
        if self.kl == "components" and isinstance(mixture, StratifiedMixture):
            divergences = [closed_form(component, prior["fn"]) for component in mixture.components]
            if all(divergence is not None for divergence in divergences):
                mean = (mixture.weights * torch.stack(divergences, -1)).sum(-1)
                return scale_and_mask(mean, prior["scale"], pair.q_sites[name]["mask"])
        return pair.kl(name, exact=self.kl != "sampled" and pair.is_ordered)


@dataclass(eq=False, repr=False)
class Weighted(Expression):
    """An objective with a weight.

    Args:
        weight: The weight.
        body: The objective.
    """

    weight: Weight
    body: Expression

    def _terms(self, modalities: Subset) -> Iterator[Term]:
        for weight, term in self.body.terms(modalities):
            yield Term(self.weight * weight, term)

    def equation(self) -> str:
        return _grouped(self.body) if is_one(self.weight) else f"{self.weight!r} {_grouped(self.body)}"


@dataclass(eq=False, repr=False)
class Sum(Expression):
    """The sum of several objectives.

    Args:
        summands: The objectives.
    """

    summands: tuple[Expression, ...]

    def _terms(self, modalities: Subset) -> Iterator[Term]:
        for summand in self.summands:
            yield from summand.terms(modalities)

    def equation(self) -> str:
        return " + ".join(summand.equation() for summand in self.summands)


@dataclass(eq=False, repr=False)
class SumOver(Expression):
    """The sum of an objective over the subsets of a family, each in place of `SUBSET`; `sum_over` is this class.

    Args:
        family: `SINGLES`, `PROPER_SUBSETS`, `random_subsets(k)` or `listed_subsets(...)`. Of the family's
            `of_each_row()`, a row counts for the subsets that are a proper part of what is observed in it.
        body: The objective, written with `SUBSET`.

    Example:
        >>> from multipyro.inference.objectives import GUIDE, MODEL, PROPER_SUBSETS, SUBSET
        >>> sum_over(PROPER_SUBSETS, elbo(MODEL | SUBSET, GUIDE | SUBSET))
        sum_{A proper} ELBO(m|A || g|A)
    """

    family: SubsetFamily
    body: Expression

    def _terms(self, modalities: Subset) -> Iterator[Term]:
        for subset in self.family.subsets(modalities):
            for term in self.body.terms(modalities):
                yield term.within(subset, self.family.per_row)

    def equation(self) -> str:
        return f"sum_{{{self.family!r}}} {_grouped(self.body)}"


# in equations they read as functions
elbo, sum_over = Elbo, SumOver


def subset_elbo(
    num_random_subsets: int = 0, sites: Mapping[str, float | Tensor | Weight] | None = None, *, kl: KL = "analytic"
) -> Expression:
    r"""The joint ELBO, one of every single modality, and those of random subsets: the objective of MVAE.

    .. math:: L = \sum_{S} \mathrm{ELBO}(m|_S \,\|\, g|_S), \qquad
        S = \{1..M\}, \{1\}, \ldots, \{M\}, \text{ and } k \text{ random subsets}

    Each ELBO has its own sample and reconstructs only the modalities of its subset. The sum is not a bound on
    `log p(x_1, ..., x_M)` but on `sum_S log p(x_S)`. Random subsets have from 2 to `M - 1` members: a size is
    drawn uniformly, then a subset of this size, without repetition. Rows with missing modalities count in the ELBO of
    all they contain, and in those of the subsets that are proper parts of it.

    Departure: the released 19-modality code applies likelihood weights to the joint and the image term only; here
    they apply to all.

    References:
        Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu and Goodman, 2018), eq. 3-5;
        Bridged Variational Autoencoders (Yadav et al.), eq. 5.

    Args:
        num_random_subsets: Number `k` of random subsets per step, drawn from torch's global generator.
        sites: Site name -> weight, the same in every term.
        kl: As in `elbo`.

    Returns:
        The objective.

    Example:
        >>> subset_elbo(num_random_subsets=2)
        ELBO(m || g) + sum_{A single} ELBO(m|A || g|A) + sum_{2 random A} ELBO(m|A || g|A)
    """
    m, g, a = MODEL, GUIDE, SUBSET
    within = elbo(m | a, g | a, sites, kl=kl)
    objective = elbo(m, g, sites, kl=kl) + sum_over(SINGLES.of_each_row(), within)
    if num_random_subsets:
        objective = objective + sum_over(random_subsets(num_random_subsets).of_each_row(), within)
    return objective


def _summands(objective: Any) -> tuple[Expression, ...]:
    if not isinstance(objective, Expression):
        raise TypeError(f"only sums of ELBOs can be added up, got {type(objective).__name__}")
    return objective.summands if isinstance(objective, Sum) else (objective,)


def _grouped(objective: Expression) -> str:
    """The equation of a factor: a sum in brackets."""
    return f"({objective.equation()})" if isinstance(objective, Sum) else objective.equation()
