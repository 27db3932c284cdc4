"""A guide in which flows answer chosen subsets, and another guide, their teacher, the rest."""

import functools
from collections.abc import Callable, Mapping

import pyro.distributions as dist
import torch
from pyro.nn import pyro_method
from torch import Tensor, nn

from multipyro._distributions import choose_rows
from multipyro.batch import Rows, filled
from multipyro.guides._base import Guide

__all__ = ["AggregateGuide"]


class AggregateGuide(Guide):
    r"""Flows conditioned on chosen subsets of the modalities, a teacher for every other subset.

    .. math:: q_\phi(z \mid x_A) \approx q^A(z) = E_{p(x \mid x_A)}\, q_{\mathrm{teacher}}(z \mid x)

    What a flow approximates is a matter of what it is trained on: `ELBO(flow || frozen teacher)` gives the aggregate
    of the teacher's posteriors, `ELBO(frozen model|A || flow)` the model's own posterior. Until its flow has been
    trained, a subset that the teacher answers too is answered by the teacher; whatever trains before the flows is
    therefore as it would be without them.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), eq. 3 and 5.

    Args:
        teacher: The guide that answers all other subsets.
        flows: Subset -> `ConditionalFlow`, or any other encoder. Keys are a name or a tuple of names; the flow of a
            single modality is called with its values, that of a larger subset with a dict.
        name: As in `Guide`.

    Raises:
        ValueError: If there are no flows; when called with a subset, or with rows, that neither a flow nor the teacher
            answers.

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
        ordered = {self._ordered(subset): flow for subset, flow in flows.items()}
        if teacher.subsets is not None:
            self.subsets = (*teacher.subsets, *(subset for subset in ordered if subset not in teacher.subsets))
        self.teacher = teacher
        self.flows = nn.ModuleDict({"+".join(subset): flow for subset, flow in ordered.items()})
        self.flow_subsets = tuple(ordered)
        self.active = False

    def activate(self) -> None:
        """Makes the flows the posteriors of their subsets, also of those that the teacher supports too."""
        self.active = True

    def posterior(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        return self._answer(self.teacher.posterior, x, observed)

    def conditional(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        return self._answer(self.teacher.conditional, x, observed)

    def proposal(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None, num_samples: int = 1
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        return self._answer(functools.partial(self.teacher.proposal, num_samples=num_samples), x, observed)

    def aggregate(self, x: Mapping[str, Tensor]) -> dist.Distribution:
        """The flow of exactly the modalities of `x`, trained or not, of batch shape `(batch,)`."""
        subset = tuple(name for name in self.modalities if name in x)
        flow = self.flows["+".join(subset)]
        return flow(x[subset[0]] if len(subset) == 1 else {name: x[name] for name in subset})

    @pyro_method
    def sample_aggregate(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `forward`, from `aggregate` in place of the posterior."""
        return self._sample(lambda x, _: self.teacher.with_private(self.aggregate(x), x), x, None)

    def _answer(self, ask: Callable, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None):
        given, rows = tuple(x), Rows(x, observed)
        if not rows.masks:
            if not self._is_mine(given):
                return ask(x)
            return self.teacher.with_private(self.aggregate(x), x)
        mine = [subset for subset in self.flow_subsets if set(subset) <= set(given) and self._is_mine(subset)]
        if not mine:
            return ask(x, observed)
        exactly = torch.stack([rows.exactly(subset) for subset in mine])  # (flows, batch)
        answers = [self.aggregate({name: filled(x[name], rows.of(name)) for name in subset}) for subset in mine]
        index = exactly.to(torch.uint8).argmax(0)
        if self.teacher.subsets is None or given in self.teacher.subsets:
            # to the teacher, the rows that a flow answers hold nothing
            rest = ask(x, dict(zip(given, rows.stacked() & ~exactly.any(0), strict=True)))
            answers.append(rest["z"] if isinstance(rest, Mapping) else rest)
            index = torch.where(exactly.any(0), index, len(mine))
        else:
            self._check_answered(rows, exactly.any(0))
        return self.teacher.with_private(choose_rows(answers, index), x, observed)

    def _is_mine(self, subset: tuple[str, ...]) -> bool:
        """Whether a subset is answered by its flow rather than by the teacher."""
        if subset not in self.flow_subsets:
            return False
        return self.active or not (self.teacher.subsets is None or subset in self.teacher.subsets)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.active)

    def set_extra_state(self, state: Tensor) -> None:
        self.active = bool(state)
