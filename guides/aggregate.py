"""A guide in which flows answer chosen subsets, and another guide, their teacher, the rest."""

from collections.abc import Callable, Mapping, Sequence

import pyro.distributions as dist
import torch
from pyro.nn import pyro_method
from torch import Tensor, nn

from multipyro.batch import Rows, filled
from multipyro.guides._base import Guide
from multipyro.guides.algebra.widening import widened

__all__ = ["AggregateGuide", "RowwiseDistribution"]


class RowwiseDistribution(dist.TorchDistribution):
    r"""Each row of a batch from one of several distributions.

    Args:
        distributions: Distributions of batch shape `(..., batch)` and one event shape.
        index: Which of them each row is from, int64 `(batch,)`.

    Example:
        >>> low, high = (dist.Normal(torch.full((3, 2), m), 1.0).to_event(1) for m in (0.0, 9.0))
        >>> RowwiseDistribution([low, high], torch.tensor([0, 1, 0])).mean[:, 0]
        tensor([0., 9., 0.])
    """

    arg_constraints = {}

    def __init__(
        self, distributions: Sequence[dist.Distribution], index: Tensor, validate_args: bool | None = None
    ) -> None:
        self.distributions, self.index = list(distributions), index
        shapes = [distribution.batch_shape for distribution in distributions]
        batch_shape = torch.broadcast_shapes(*shapes, index.shape)
        super().__init__(batch_shape, distributions[0].event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        """Whether every one of them has."""
        return all(distribution.has_rsample for distribution in self.distributions)

    @property
    def support(self) -> dist.constraints.Constraint:
        """That of the first."""
        return self.distributions[0].support

    @property
    def mean(self) -> Tensor:
        """Each row's own mean, `(..., batch, *event)`."""
        return self._chosen([distribution.mean for distribution in self.distributions])

    def expand(self, batch_shape, _instance=None):
        expanded = [distribution.expand(batch_shape) for distribution in self.distributions]
        return RowwiseDistribution(expanded, self.index, validate_args=self._validate_args)

    def widened(self, scale: float) -> "RowwiseDistribution | None":
        """The same choice among the widened distributions, as `widening.widened`; None if one has no rule."""
        parts = [widened(distribution, scale) for distribution in self.distributions]
        if any(part is None for part in parts):
            return None
        return RowwiseDistribution(parts, self.index, validate_args=self._validate_args)

    def rsample(self, sample_shape=()) -> Tensor:
        return self._chosen([distribution.rsample(sample_shape) for distribution in self.distributions])

    def sample(self, sample_shape=()) -> Tensor:
        return self._chosen([distribution.sample(sample_shape) for distribution in self.distributions])

    def log_prob(self, value: Tensor) -> Tensor:
        return self._chosen([distribution.log_prob(value) for distribution in self.distributions], event_dim=0)

    def _chosen(self, values: Sequence[Tensor], event_dim: int | None = None) -> Tensor:
        index = self.index.reshape(-1, *[1] * (len(self.event_shape) if event_dim is None else event_dim))
        chosen = values[0]
        for number, value in enumerate(values[1:], start=1):
            chosen = torch.where(index == number, value, chosen)
        return chosen


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
        flows: Subset -> `ConditionalFlow` (or another encoder with an attribute `is_trained`). Keys are a name or a
            tuple of names; a single modality's flow is called with its values, that of a larger subset with a dict.
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

    def posterior(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        return self._answer(self.teacher.posterior, x, observed)

    def conditional(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        return self._answer(self.teacher.conditional, x, observed)

    def proposal(
        self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None
    ) -> dist.Distribution | dict[str, dist.Distribution]:
        return self._answer(self.teacher.proposal, x, observed)

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
        return self.teacher.with_private(RowwiseDistribution(answers, index), x, observed)

    def _is_mine(self, subset: tuple[str, ...]) -> bool:
        """Whether a subset is answered by its flow rather than by the teacher."""
        if subset not in self.flow_subsets:
            return False
        return self.flows["+".join(subset)].is_trained or not (
            self.teacher.subsets is None or subset in self.teacher.subsets
        )
