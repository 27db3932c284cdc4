"""A guide in which flows are the posteriors of chosen subsets, and another guide, the teacher, of the rest."""

import functools
from collections.abc import Callable, Mapping

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro._distributions import choose_rows
from multipyro.batch import Masks, Rows, Values, fill_missing, selected
from multipyro.guides._base import Guide, Posterior, by_site, check_fit, check_latent_dims
from multipyro.ppl_models.networks.covariates import encoder_input

__all__ = ["AggregateGuide"]


class AggregateGuide(Guide):
    r"""Flows conditioned on chosen subsets of the modalities, and a teacher for every other subset.

    .. math:: q_\phi(z \mid x_A) \approx q^A(z) = E_{p(x \mid x_A)}\, q_{\mathrm{teacher}}(z \mid x)

    The objective decides what a flow approximates: `ELBO(flow || frozen teacher)` gives the aggregate of the teacher's
    posteriors, `ELBO(frozen model|A || flow)` the posterior of the model. Until `activate` is called, the posterior of
    a subset that the teacher supports is the teacher's, so that all stages of training before that of the flows are as
    they would be without them. The stage that trains the flows activates them when it starts.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), eq. 3 and 5.

    Args:
        teacher: The guide of all other subsets.
        flows: Subset -> `ConditionalFlow`, or any other encoder. Keys are a name or a tuple of names; the flow of a
            single modality is called with its values, that of a larger subset with a dict.
        name: As in `Guide`.

    Attributes:
        active: Whether the flows replace the teacher's posteriors; part of `state_dict`.

    Raises:
        ValueError: If there are no flows, or one of another latent size; when called with a subset, or with rows, that
            neither a flow nor the teacher supports.

    Example:
        >>> from multipyro.guides import ConditionalFlow, JointGuide
        >>> from multipyro.ppl_models import MLP
        >>> teacher = JointGuide(2, {"a": MLP(4, 8), "b": MLP(3, 8)})
        >>> guide = AggregateGuide(teacher, {"b": ConditionalFlow(MLP(3, 8), 2)})
        >>> guide.subsets, guide.posterior({"b": torch.zeros(5, 3)}).batch_shape
        ((('a', 'b'), ('b',)), torch.Size([5]))
    """

    def __init__(self, teacher: Guide, flows: Mapping[str | tuple[str, ...], nn.Module], name: str = "guide") -> None:
        if not flows:
            raise ValueError("flows is empty: an aggregate guide needs at least one")
        super().__init__(teacher.latent_dim, None, teacher.modalities, prior=teacher.prior, name=name)
        ordered = {self._in_order(subset): flow for subset, flow in flows.items()}
        check_latent_dims(ordered, teacher.latent_dim)
        if teacher.subsets is not None:
            self.subsets = (*teacher.subsets, *(subset for subset in ordered if subset not in teacher.subsets))
        self.teacher = teacher
        self.flows = nn.ModuleDict({"+".join(subset): flow for subset, flow in ordered.items()})
        self.flow_subsets = tuple(ordered)
        self.active = False

    @classmethod
    def for_model(cls, model: object, teacher: Guide, *args: object, **kwargs: object) -> "AggregateGuide":
        """As the constructor; raises if the teacher does not fit the model, as `Guide.for_model` does."""
        check_fit(teacher, model)
        return cls(teacher, *args, **kwargs)

    def activate(self) -> None:
        """Makes the flows the posteriors of their subsets, including those that the teacher supports."""
        self.active = True

    def posterior(self, x: Values, observed: Masks = None) -> Posterior:
        return self._flows_or(self.teacher.posterior, x, observed)

    def conditional(self, x: Values, observed: Masks = None) -> Posterior:
        return self._flows_or(self.teacher.conditional, x, observed)

    def proposal(self, x: Values, observed: Masks = None, num_samples: int = 1) -> Posterior:
        return self._flows_or(functools.partial(self.teacher.proposal, num_samples=num_samples), x, observed)

    def aggregate(self, x: Values, observed: Masks = None) -> dist.Distribution:
        """The flow of exactly the modalities of `x`, active or not, of batch shape `(batch,)`; masks do not matter."""
        subset = tuple(name for name in self.modalities if name in x)
        flow = self.flows["+".join(subset)]
        return flow(encoder_input(flow, x, subset[0]) if len(subset) == 1 else selected(x, subset))

    def private_posteriors(self, x: Values, observed: Masks = None) -> dict[str, dist.Distribution]:
        return self.teacher.private_posteriors(x, observed)

    def _flows_or(self, teacher: Callable, x: Values, observed: Masks) -> Posterior:
        """The flow of each row's subset, and the distribution of the teacher for rows of other subsets."""
        rows = Rows(x, observed)
        present = rows.modalities
        subsets = [subset for subset in self.flow_subsets if set(subset) <= set(present) and self._uses_flow(subset)]
        if not rows.masks:
            return self.aggregate(x) if present in subsets else teacher(x)
        if not subsets:
            return teacher(x, observed)
        exactly = torch.stack([rows.exactly(subset) for subset in subsets])  # (flows, batch)
        filled = {name: fill_missing(values, rows.masks.get(name)) for name, values in selected(x, present).items()}
        choices = [self.aggregate(selected(filled, subset)) for subset in subsets]
        index, by_flow = exactly.to(torch.uint8).argmax(0), exactly.any(0)
        if self.teacher.supports(present):
            # for the teacher, nothing is observed in the rows of the flows
            rest = teacher(x, dict(zip(present, rows.stacked() & ~by_flow, strict=True)))
            choices.append(by_site(rest)["z"])
            index = torch.where(by_flow, index, len(subsets))
        else:
            self._check_rows(rows, by_flow)
        return choose_rows(choices, index)

    def _uses_flow(self, subset: tuple[str, ...]) -> bool:
        """Whether the posterior of a subset with a flow is the flow rather than the teacher's."""
        return self.active or not self.teacher.supports(subset)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.active)

    def set_extra_state(self, state: Tensor) -> None:
        self.active = bool(state)
