"""Aggregate posteriors and an aggregate prior as further stages of any method, over its frozen programs."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from multipyro.batch import batch_rows, filled, private_modality, rows_with_evidence
from multipyro.guides import AggregateGuide, ConditionalFlow, FlowPrior, Guide
from multipyro.inference.handlers import Program, frozen, restrict
from multipyro.inference.objectives.terms import SiteWeights, Term, WeightedELBO
from multipyro.inference.recipes._base import Recipe, Stage, site_weights
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MultimodalModel

__all__ = ["AGGREGATE_OPTIONS", "posterior_elbo", "prior_elbo", "q_agg_elbo", "with_aggregates"]

#: aggregate: which subsets get a flow, "label", "image+label", a list of such, True for every single modality that is
#: not the teacher, None for none; aggregate_objective: "q_agg" or "q_true"; aggregate_weights: likelihood weights of
#: q_true, None for 1; aggregate_prior: whether p(z) is replaced by a flow in the end; teacher: the subset whose
#: posteriors are aggregated, None for the recipe's own (all modalities, of vlvae the image); aggregate_epochs: epochs
#: of each of these stages, None for those of the training.
AGGREGATE_OPTIONS: dict[str, Any] = {
    "aggregate": None,
    "aggregate_objective": "q_agg",
    "aggregate_weights": None,
    "aggregate_prior": False,
    "teacher": None,
    "aggregate_epochs": None,
}
_OBJECTIVES = ("q_agg", "q_true")
# draws of the teacher a row and step: they cost next to nothing and halve what the flow of a prior lacks (measured)
_PARTICLES = 8
Subset = tuple[str, ...]


def q_agg_elbo(guide: AggregateGuide, teacher: Subset) -> WeightedELBO:
    r"""The flows drawn to the aggregates of the teacher's posteriors, all from the same draws of the teacher.

    .. math:: \sum_A \mathrm{ELBO}(q_\phi(z \mid x_A) \,\|\, q(z \mid x_T)) = -\sum_A \mathrm{KL}(q(z \mid x_T) \|
        q_\phi(z \mid x_A))

    A row counts for `A` if it holds all of `A` and all of the teacher's modalities `T`. The teacher's posterior is the
    one that trained the decoders (of a mixture guide the mixture).

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), eq. 5.
    """

    def terms(m: Program, g: Program, modalities: Subset) -> list[Term]:
        if not set(teacher) <= set(modalities):
            return []
        q = _Teacher(frozen(g), teacher)
        return [Term(_flow(guide, a, True), q, name="+".join(a)) for a in _within(guide, modalities)]

    return WeightedELBO(terms, _PARTICLES)


def posterior_elbo(guide: AggregateGuide, sites: SiteWeights | None = None) -> WeightedELBO:
    r"""The flows drawn to the frozen model's own posteriors.

    .. math:: \sum_A \mathrm{ELBO}(p(z)\, p(x_A \mid z) \,\|\, q_\phi(z \mid x_A))

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), eq. 3. The released code weighs the likelihood as in training, which tempers the posterior that is
        fitted: `sites` does that.
    """

    def terms(m: Program, g: Program, modalities: Subset) -> list[Term]:
        pairs = [(a, restrict(frozen(m), a)) for a in _within(guide, modalities)]
        return [Term(p, _flow(guide, a, False), sites=sites, name="+".join(a)) for a, p in pairs]

    return WeightedELBO(terms)


def prior_elbo(prior: FlowPrior, teacher: Subset) -> WeightedELBO:
    r"""The flow prior drawn to the aggregate of the teacher's posteriors.

    .. math:: \mathrm{ELBO}(p_\phi(z) \,\|\, q(z \mid x_T)) = -\mathrm{KL}(q(z \mid x_T) \| p_\phi(z))

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 4.2.
    """

    def terms(m: Program, g: Program, modalities: Subset) -> list[Term]:
        if not set(teacher) <= set(modalities):
            return []
        return [Term(frozen(_Prior(prior), (prior.couplings,)), _Teacher(frozen(g), teacher), name="prior")]

    return WeightedELBO(terms, _PARTICLES)


def with_aggregates(recipe: Recipe, networks: Networks, options: Mapping[str, Any]) -> Recipe:
    """The recipe with the stages that the options of `AGGREGATE_OPTIONS` ask for; itself if they ask for none.

    Args:
        recipe: What a method built. Its earlier stages train as they would without these.
        networks: Makes the feature networks of the flows.
        options: Values of all of `AGGREGATE_OPTIONS`.

    Raises:
        ValueError: If an option has a wrong value, a subset is its own teacher, the guide does not answer the teacher's
            subset, or the method has latents or a prior of another kind than `z ~ p(z)`.
    """
    aggregate, prior = options["aggregate"], options["aggregate_prior"]
    if options["aggregate_objective"] not in _OBJECTIVES:
        raise ValueError(f"aggregate_objective must be one of {_OBJECTIVES}, got {options['aggregate_objective']!r}")
    if aggregate in (None, False, [], ()) and not prior:
        return recipe
    model, guide, kept, stages = recipe.model, recipe.guide, [], []
    if not isinstance(model, MultimodalModel) or not isinstance(guide, Guide):
        raise ValueError(
            f"{recipe.name} has no prior p(z) of one shared latent: aggregates are of such methods alone "
            f"(model {type(model).__name__}, guide {type(guide).__name__})"
        )
    default = model.modalities if recipe.teacher is None else recipe.teacher
    teacher = _subset(default if options["teacher"] is None else options["teacher"], model.modalities)
    if guide.subsets is not None and teacher not in guide.subsets:
        answered = ", ".join("+".join(subset) for subset in guide.subsets)
        raise ValueError(f"{recipe.name} does not answer the teacher {'+'.join(teacher)}: it answers {answered}")
    if aggregate not in (None, False, [], ()):
        subsets = _subsets(aggregate, model.modalities, teacher)
        flows = {a: ConditionalFlow(_features(networks, a), recipe.latent_dim) for a in subsets}
        guide = AggregateGuide(guide, flows)
        elbo = q_agg_elbo(guide, teacher)
        if options["aggregate_objective"] == "q_true":
            chosen = networks.select(model.modalities)
            elbo = posterior_elbo(guide, site_weights(chosen, 1.0, 0, options["aggregate_weights"])[0])
        kept.append(guide.flows)
        stages.append(Stage(elbo, options["aggregate_epochs"], (guide.flows,), name="aggregate"))
    if prior:
        model.prior = FlowPrior(recipe.latent_dim, base=model.prior)
        kept.append(model.prior.couplings)
        elbo = prior_elbo(model.prior, teacher)
        stages.append(Stage(elbo, options["aggregate_epochs"], (model.prior.couplings,), name="prior"))
    before = []
    for stage in recipe.stages:
        train = (model, recipe.guide) if stage.train is None else stage.train
        before.append(replace(stage, train=tuple(part for module in train for part in _without(module, kept))))
    return replace(recipe, guide=guide, stages=(*before, *stages))


class _Teacher(nn.Module):
    """A guide given a subset, and only in the rows that hold all of it; only its shared latent is seen."""

    def __init__(self, guide: Program, subset: Subset) -> None:
        super().__init__()
        self.guide, self.subset = guide, subset

    def forward(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None) -> Any:
        given, rows = _complete(x, observed, self.subset)
        with _shared_only(), _masked(rows):
            return self.guide(given)


class _Flow(nn.Module):
    """The flow of a subset as a program, in the rows that hold all of it."""

    def __init__(self, guide: AggregateGuide, subset: Subset, shared_only: bool) -> None:
        super().__init__()
        self.guide, self.subset, self.shared_only = guide, subset, shared_only

    def forward(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None) -> Any:
        given, rows = _complete(x, observed, self.subset)
        with _shared_only() if self.shared_only else nullcontext(), _masked(rows):
            return self.guide.sample_aggregate(given)


class _Prior(nn.Module):
    """The flow of a prior as a program."""

    def __init__(self, prior: FlowPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None) -> Tensor:
        with pyro.plate("data", batch_rows(x), dim=-1), _masked(rows_with_evidence(x, observed)):
            return pyro.sample("z", self.prior.flow())


class _Features(nn.Module):
    """The features of several modalities, side by side."""

    def __init__(self, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        self.out_features = sum(branch.out_features for branch in branches.values())

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([branch(x[name]) for name, branch in self.branches.items()], -1)


def _flow(guide: AggregateGuide, subset: Subset, shared_only: bool) -> nn.Module:
    return frozen(_Flow(guide, subset, shared_only), (guide.flows["+".join(subset)],))


def _features(networks: Networks, subset: Subset) -> nn.Module:
    branches = networks.select(subset).branches()
    return branches[subset[0]] if len(subset) == 1 else _Features(branches)


def _within(guide: AggregateGuide, modalities: Subset) -> list[Subset]:
    return [subset for subset in guide.flow_subsets if set(subset) <= set(modalities)]


def _complete(
    x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None, subset: Subset
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The modalities of a subset, filled, and the rows that hold all of them; None for all rows."""
    masks = [observed[name] for name in subset if name in (observed or {})]
    rows = torch.stack(masks).all(0) if masks else None
    return {name: filled(x[name], rows) for name in subset}, rows


def _masked(rows: Tensor | None) -> Any:
    return nullcontext() if rows is None else poutine.mask(mask=rows)


def _shared_only() -> Any:
    """Hides private latents: an aggregate is one of the shared latent."""
    return poutine.block(hide_fn=lambda msg: msg["type"] == "sample" and private_modality(msg["name"]) is not None)


def _without(module: nn.Module, kept: Sequence[nn.Module]) -> list[nn.Module]:
    """Modules that hold all parameters of `module` but those of `kept`."""
    if any(module is other for other in kept):
        return []
    inside = {id(part) for part in module.modules()}
    if not any(id(other) in inside for other in kept):
        return [module]
    return [part for child in module.children() for part in _without(child, kept)]


def _subset(names: str | Sequence[str], modalities: Subset) -> Subset:
    names = names.split("+") if isinstance(names, str) else names
    unknown = [name for name in names if name not in modalities]
    if unknown or not names:
        raise ValueError(f"a subset must be made of {list(modalities)}, as 'a' or 'a+b', got {names}")
    return tuple(name for name in modalities if name in names)


def _subsets(aggregate: Any, modalities: Subset, teacher: Subset) -> list[Subset]:
    """The subsets that get a flow, in the order of the option, each once."""
    if aggregate is True:
        found = [(name,) for name in modalities if (name,) != teacher]
    else:
        wanted = [aggregate] if isinstance(aggregate, str) else aggregate
        if not isinstance(wanted, Sequence):
            raise ValueError(f"aggregate must be a subset, a list of subsets, True or None, got {aggregate!r}")
        found = list(dict.fromkeys(_subset(subset, modalities) for subset in wanted))
    if not found or teacher in found:
        raise ValueError(f"the teacher {'+'.join(teacher)} cannot be aggregated into itself: choose another subset")
    return found
