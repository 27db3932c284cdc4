"""Aggregate posteriors and an aggregate prior as further stages of any method, over its frozen programs."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Annotated, Any, Literal

import pyro
from pyro import poutine
from torch import Tensor, nn

from multipyro._modes import masked
from multipyro.batch import Masks, Rows, Values, batch_rows, fill_missing, private_modality, selected
from multipyro.guides import AggregateGuide, Guide
from multipyro.inference.handlers import distribution_of, frozen
from multipyro.inference.objectives import GUIDE, MODEL, SUBSET, Objective, elbo, listed_subsets, sum_over
from multipyro.inference.options import Bounds, Weight
from multipyro.inference.programs import Handler, Part, Program, Subset, handler, substitute, unwrap
from multipyro.inference.recipes._base import Recipe, Stage, Weighting
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import FlowPrior, MultimodalModel
from multipyro.ppl_models.networks.flows import ConditionalFlow
from multipyro.ppl_models.networks.heads import joined

__all__ = ["aggregate_prior_elbo", "q_agg_elbo", "q_true_elbo", "with_aggregates"]

# samples of the teacher per data point and step: they cost next to nothing, and halve the error of a prior's flow
# (measured)
_PARTICLES = 8


def q_agg_elbo(subsets: Sequence[Subset], teacher: Subset) -> Objective:
    r"""The flows fitted to the aggregates of the teacher's posteriors, all from the same samples of the teacher.

    .. math:: \sum_A \mathrm{ELBO}(q_\phi(z \mid x_A) \,\|\, q(z \mid x_T)) = -\sum_A \mathrm{KL}(q(z \mid x_T) \|
        q_\phi(z \mid x_A))

    A row counts for `A` if it contains all of `A` and all of the teacher's modalities `T`. The teacher's posterior is
    the one that trained the decoders (of a mixture guide the mixture).

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), eq. 5.

    Args:
        subsets: The subsets `A`; the guide is an `AggregateGuide` with a flow for each.
        teacher: The subset `T`.
    """
    flow = aggregate_flow(GUIDE, SUBSET, shared_only=True)
    student = frozen(flow, train=[GUIDE.part("flows", SUBSET)])
    body = elbo(student, complete(frozen(GUIDE), teacher), num_particles=_PARTICLES)
    return sum_over(listed_subsets(subsets, requires=teacher), body)


def q_true_elbo(subsets: Sequence[Subset], sites: Mapping[str, float] | None = None) -> Objective:
    r"""The flows fitted to the frozen model's own posteriors.

    .. math:: \sum_A \mathrm{ELBO}(p(z)\, p(x_A \mid z) \,\|\, q_\phi(z \mid x_A))

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), eq. 3. The released code weights the likelihood as in training, which tempers the posterior that is
        fitted: `sites` does that.

    Args:
        subsets: The subsets `A`; the guide is an `AggregateGuide` with a flow for each.
        sites: Site name -> weight.
    """
    flow = frozen(aggregate_flow(GUIDE, SUBSET), train=[GUIDE.part("flows", SUBSET)])
    return sum_over(listed_subsets(subsets), elbo(frozen(MODEL) | SUBSET, flow, sites))


def aggregate_prior_elbo(teacher: Subset) -> Objective:
    r"""The model's flow prior fitted to the aggregate of the teacher's posteriors.

    .. math:: \mathrm{ELBO}(p_\phi(z) \,\|\, q(z \mid x_T)) = -\mathrm{KL}(q(z \mid x_T) \| p_\phi(z))

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 4.2.

    Args:
        teacher: The subset `T`.
    """
    prior = frozen(flow_prior(MODEL), train=[MODEL.part("prior", "flow")])
    body = elbo(prior, complete(frozen(GUIDE), SUBSET), num_particles=_PARTICLES, name="prior")
    return sum_over(listed_subsets([teacher]), body)


def with_aggregates(
    recipe: Recipe,
    networks: Networks,
    *,
    aggregate: bool | str | Sequence[str] | None = None,
    aggregate_objective: Literal["q_agg", "q_true"] = "q_agg",
    aggregate_weights: Mapping[str, Weight] | Literal["dimension"] | None = None,
    aggregate_prior: bool = False,
    teacher: str | Sequence[str] | None = None,
    aggregate_epochs: Annotated[int, Bounds(1)] | None = None,
) -> Recipe:
    """The recipe with further stages for aggregate posteriors and an aggregate prior; itself if none is requested.

    Args:
        recipe: What a method built. Its earlier stages train as they would without these.
        networks: Makes the feature networks of the flows.
        aggregate: The subsets that get a flow: `label`, `image+label`, a list of such, True for every single modality
            that is not the teacher, None for none.
        aggregate_objective: What the flows are fitted to: the aggregate of the teacher's posteriors (`q_agg`) or the
            model's own posterior (`q_true`).
        aggregate_weights: Likelihood weights of `q_true`; None for 1.
        aggregate_prior: Whether the prior is replaced by a flow in the end.
        teacher: The subset whose posteriors are aggregated; None for that of the method (all modalities, of vlvae the
            image).
        aggregate_epochs: Epochs of each of these stages; None for those of the training.

    Raises:
        ValueError: If an option has a wrong value, a subset is its own teacher, the guide does not support the
            teacher's subset, or the method has latents or a prior of another kind than `z ~ p(z)`.
    """
    wanted = aggregate if aggregate not in (False, [], ()) else None
    if wanted is None and not aggregate_prior:
        return recipe
    model, guide, kept, stages = recipe.model, recipe.guide, [], []
    if not isinstance(model, MultimodalModel) or not isinstance(guide, Guide):
        raise ValueError(
            f"{recipe.name} has no prior p(z) of one shared latent, as an aggregate needs it "
            f"(model {type(model).__name__}, guide {type(guide).__name__})"
        )
    default = model.modalities if recipe.teacher is None else recipe.teacher
    source = _subset(default if teacher is None else teacher, model.modalities)
    if guide.subsets is not None and source not in guide.subsets:
        supported = ", ".join("+".join(subset) for subset in guide.subsets)
        raise ValueError(f"{recipe.name} does not support the teacher {'+'.join(source)}: it supports {supported}")
    if wanted is not None:
        subsets = _subsets(wanted, model.modalities, source)
        flows = {a: ConditionalFlow(_features(networks, a), recipe.latent_dim) for a in subsets}
        guide = AggregateGuide(guide, flows)
        if aggregate_objective == "q_true":
            chosen = networks.select(model.modalities).modalities
            objective = q_true_elbo(guide.flow_subsets, Weighting(chosen, weights=aggregate_weights).sites_at_peak)
        else:
            objective = q_agg_elbo(guide.flow_subsets, source)
        kept.append(guide.flows)
        stages.append(Stage(objective, aggregate_epochs, (guide.flows,), name="aggregate", activates=(guide,)))
    if aggregate_prior:
        model.prior = FlowPrior(recipe.latent_dim, base=model.prior)
        kept.append(model.prior.flow)
        objective = aggregate_prior_elbo(source)
        stages.append(Stage(objective, aggregate_epochs, (model.prior.flow,), name="prior", activates=(model.prior,)))
    before = []
    for stage in recipe.stages:
        if guide is not recipe.guide:
            stage = substitute(stage, _part_of_teacher)
        train = (model, recipe.guide) if stage.train is None else stage.train
        before.append(replace(stage, train=tuple(part for module in train for part in _without(module, kept))))
    return replace(recipe, guide=guide, stages=(*before, *stages))


@handler("{program}|{modalities}")
def complete(program: Program, modalities: Sequence[str]) -> nn.Module:
    """A guide given all of `modalities`, in the rows that contain all of them; its private latents are hidden."""
    return _Complete(program, tuple(modalities), True)


@handler("flow({modalities})")
def aggregate_flow(guide: Program, modalities: Sequence[str], shared_only: bool = False) -> nn.Module:
    """The flow of a subset as a program, in the rows that contain all of it; `shared_only` hides private latents."""
    return _Complete(distribution_of(guide, "aggregate"), tuple(modalities), shared_only)


@handler("flow prior")
def flow_prior(model: Program) -> nn.Module:
    """The flow of a model's prior as a program."""
    return _FlowPrior(unwrap(model))


class _Complete(Handler):
    def forward(self, x: Values, observed: Masks = None) -> Any:
        modalities, shared_only = self.settings
        rows = Rows(x, observed).all_of(modalities)
        given = {name: fill_missing(values, rows) for name, values in selected(x, modalities).items()}
        with _shared_latents() if shared_only else nullcontext(), masked(rows):
            return self.program(given)


class _FlowPrior(Handler):
    def forward(self, x: Values, observed: Masks = None) -> Tensor:
        with pyro.plate("data", batch_rows(x), dim=-1), masked(Rows(x, observed).any()):
            return pyro.sample("z", self.program.prior.transformed())


class _Features(nn.Module):
    """The features of several modalities, side by side."""

    def __init__(self, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        self.out_features = sum(branch.out_features for branch in branches.values())

    def forward(self, x: Values) -> Tensor:
        return joined(self.branches, x)


def _features(networks: Networks, subset: Subset) -> nn.Module:
    branches = networks.select(subset).branches()
    return branches[subset[0]] if len(subset) == 1 else _Features(branches)


def _shared_latents() -> AbstractContextManager:
    """Hides private latents: an aggregate is one of the shared latent."""
    return poutine.block(hide_fn=lambda msg: msg["type"] == "sample" and private_modality(msg["name"]) is not None)


def _part_of_teacher(value: Any) -> Any:
    """A part of the guide as a part of the teacher of the `AggregateGuide` around it."""
    return Part(GUIDE, ("teacher", *value.path)) if isinstance(value, Part) and value.program == GUIDE else value


def _without(module: nn.Module, kept: Sequence[nn.Module]) -> list[nn.Module]:
    """Modules that have all parameters of `module` but those of `kept`."""
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
        raise ValueError(f"a subset must consist of {list(modalities)}, as 'a' or 'a+b', got {names}")
    return tuple(name for name in modalities if name in names)


def _subsets(aggregate: Any, modalities: Subset, teacher: Subset) -> list[Subset]:
    """The subsets that get a flow, in the order of the option, each once."""
    if aggregate is True:
        subsets = [(name,) for name in modalities if (name,) != teacher]
    else:
        wanted = [aggregate] if isinstance(aggregate, str) else aggregate
        if not isinstance(wanted, Sequence):
            raise ValueError(f"aggregate must be a subset, a list of subsets, True or None, got {aggregate!r}")
        subsets = list(dict.fromkeys(_subset(subset, modalities) for subset in wanted))
    if not subsets or teacher in subsets:
        raise ValueError(f"the teacher {'+'.join(teacher)} cannot be aggregated into itself: choose another subset")
    return subsets
