"""The generative program of methods that model some modalities given others, in one direction."""

from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro._program import Program
from multipyro.batch import batch_rows, check_batch
from multipyro.ppl_models._observe import check_names, observe

__all__ = ["ConditionalModel", "IndependentPrior", "check_conditions"]


class ConditionalModel(Program):
    r"""Targets `x` given conditions `w`, which it reads and never scores.

    .. math:: p(z \mid w) \prod_m p(x_m \mid z, h(w))

    With features `h(w)` and the prior `N(0, I)` it is the model of CVAE; with a learned prior and without features,
    so that `x` is independent of `w` given `z`, that of CMMA; with both, CVAE with a prior network. It has no
    likelihood of a condition: everything it says is given the conditions, and every row must hold them.

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models (Sohn et al., 2015), eq. 4;
        Variational methods for Conditional Multimodal Learning (Pandey and Dukkipati, 2016), section 3, both as
        baselines of Improving Bi-directional Generation between Different Modalities with Variational Autoencoders
        (Suzuki et al.), Table 1.

    Args:
        latent_dim: Size of the latent `z`.
        likelihoods: Target -> likelihood module, called with `(..., batch, latent_dim)`; with features, the latent and
            the features of all conditions in one, `(..., batch, latent_dim + features)`.
        conditions: Names of the modalities that are given.
        prior: Module from the conditions to a distribution of batch shape `(batch,)` and event shape `(latent_dim,)`:
            called with the values of a single condition, with a dict of several. `N(0, I)` by default.
        features: Condition -> feature network, whose output the likelihoods see beside `z`; none by default.
        name: Prefix of the parameters in Pyro's parameter store; see `Program`.

    Sites:
        `z`, and each target of `x` under its own name, in the plate `data`.

    Raises:
        ValueError: If there are no targets or no conditions, one modality is both, or has the name of a latent; when
            called, if a row lacks a condition or a condition is to be generated.

    Example:
        >>> from multipyro.ppl_models import NormalLikelihood, OneHotMLP, MLP
        >>> image = NormalLikelihood(MLP(2 + 8, 16))
        >>> model = ConditionalModel(2, {"image": image}, ["label"], features={"label": OneHotMLP(10, 8)})
        >>> model({"label": torch.tensor([3, 7]), "image": None})["image"].shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        latent_dim: int,
        likelihoods: Mapping[str, nn.Module],
        conditions: Sequence[str],
        prior: nn.Module | None = None,
        features: Mapping[str, nn.Module] | None = None,
        name: str = "model",
    ) -> None:
        super().__init__(name)
        conditions = (conditions,) if isinstance(conditions, str) else tuple(conditions)
        both = [condition for condition in conditions if condition in likelihoods]
        if not likelihoods or not conditions or both:
            raise ValueError(
                "a conditional model needs targets, and other modalities as conditions, got targets "
                f"{list(likelihoods)} and conditions {list(conditions)}"
            )
        unknown = [condition for condition in features or {} if condition not in conditions]
        if unknown:
            raise ValueError(f"features name {unknown}, which are no conditions: there are {list(conditions)}")
        check_names([*likelihoods, *conditions])
        self.latent_dim = latent_dim
        self.conditions = conditions
        self.likelihoods = nn.ModuleDict(likelihoods)
        self.features = nn.ModuleDict(features)
        self.prior = IndependentPrior(latent_dim) if prior is None else prior

    @property
    def modalities(self) -> tuple[str, ...]:
        """The targets, then the conditions."""
        return (*self._modules["likelihoods"], *self.conditions)

    def forward(
        self,
        x: Mapping[str, Tensor | None],
        observed: Mapping[str, Tensor] | None = None,
        num_rows: int | None = None,
    ) -> dict[str, Tensor]:
        """Samples `z` from its prior given the conditions, and observes the targets of `x`.

        Args:
            x: Modality name -> values `(batch, *event)`, the conditions among them; None for a target makes a site
                that is sampled, and an absent target none.
            observed: Modality name -> rows that are observed, bool `(batch,)`; a condition must be in all rows.
            num_rows: Number of rows, which the conditions tell.

        Returns:
            Site name -> value, `z` included.
        """
        check_batch(x, observed, self.modalities)
        check_conditions(self.conditions, x, observed)
        given = {name: x[name] for name in self.conditions}
        only = next(iter(given.values())) if len(given) == 1 else given
        features, likelihoods = self.features, self.likelihoods
        with pyro.plate("data", batch_rows(x, num_rows), dim=-1):
            sites = {"z": pyro.sample("z", self.prior(only))}
            seen = [features[name](given[name]) for name in features]
            lead = sites["z"].shape[:-1]
            latents = torch.cat([sites["z"], *[part.expand(*lead, part.shape[-1]) for part in seen]], -1)
            for name, values in x.items():
                if name not in given:
                    sites[name] = observe(name, likelihoods[name], latents, values, (observed or {}).get(name))
        return sites


class IndependentPrior(nn.Module):
    r"""The prior `N(0, I)` of a conditional model, whatever the conditions are.

    Args:
        latent_dim: Size `D` of the latent.

    Returns (when called with the conditions):
        A distribution of batch shape `(batch,)` and event shape `(latent_dim,)`.

    Example:
        >>> IndependentPrior(2)(torch.tensor([3, 7])).batch_shape
        torch.Size([2])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self, conditions: Tensor | Mapping[str, Tensor]) -> dist.Distribution:
        rows = batch_rows(conditions) if isinstance(conditions, Mapping) else len(conditions)
        loc = self.loc.expand(rows, -1)
        return dist.Normal(loc, torch.ones_like(loc)).to_event(1)


def check_conditions(
    conditions: Sequence[str], x: Mapping[str, Tensor | None], observed: Mapping[str, Tensor] | None
) -> None:
    """Raises unless every row holds every condition.

    Args:
        conditions: Names of the modalities that are given.
        x: Modality name -> values.
        observed: Modality name -> rows that are observed.

    Raises:
        ValueError: Names the condition, and the first row that lacks it.
    """
    absent = [name for name in conditions if x.get(name) is None]
    if absent:
        raise ValueError(
            f"this model generates given {list(conditions)}, which it can neither do without nor generate: x lacks "
            f"{absent}, it holds {[name for name in x if x[name] is not None]}"
        )
    for name in conditions:
        mask = (observed or {}).get(name)
        if mask is not None and not mask.all():
            raise ValueError(
                f"this model generates given {list(conditions)}, and row {int((~mask).nonzero()[0])} lacks {name!r}: "
                "leave out the rows that do"
            )
