"""The generative program of methods that model some modalities given others, in one direction."""

from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from multipyro.batch import Masks, Rows, Values, batch_rows, covariates_in
from multipyro.ppl_models._generative import GenerativeProgram, concatenated
from multipyro.ppl_models.networks.covariates import Covariates, encoder_input
from multipyro.ppl_models.priors import StandardNormalPrior

__all__ = ["ConditionalModel", "IndependentPrior", "check_conditions"]


class ConditionalModel(GenerativeProgram):
    r"""Targets `x` given conditions `w`, which are inputs and never scored.

    .. math:: p(z \mid w) \prod_m p(x_m \mid z, h(w))

    With features `h(w)` and the prior `N(0, I)` it is the model of CVAE; with a learned prior and without features,
    so that `x` is independent of `w` given `z`, that of CMMA; with both, CVAE with a prior network. It has no
    likelihood of a condition: all its densities are conditional, and every row must contain the conditions.

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models (Sohn et al., 2015), eq. 4;
        Variational methods for Conditional Multimodal Learning (Pandey and Dukkipati, 2016), section 3, both as
        baselines of Improving Bi-directional Generation between Different Modalities with Variational Autoencoders
        (Suzuki et al.), Table 1.

    Args:
        latent_dim: Size of the latent `z`.
        likelihoods: Target -> likelihood module, called with `(..., batch, latent_dim)`; with features, the latent and
            the features of all conditions concatenated, `(..., batch, latent_dim + features)`.
        conditions: Names of the modalities to condition on.
        prior: Module from the conditions to a distribution of batch shape `(batch,)` and event shape `(latent_dim,)`,
            called with the values of a single condition or with a dict of several; `N(0, I)` if None.
        features: Condition -> feature network, whose output is concatenated with `z`; none by default.
        name: Prefix of the parameters in Pyro's parameter store; see `Program`.
        covariates: Computes the features of covariates; the likelihoods are called with them too, concatenated last.

    Sites:
        `z`, and each target of `x` under its name, in the plate `data`.

    Raises:
        ValueError: If there are no targets or no conditions, a modality is both, or has the name of a latent; when
            called, if a condition is missing in `x` or in a row (which is checked while Pyro validates), or is to be
            generated.

    Example:
        >>> import torch
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
        covariates: Covariates | None = None,
    ) -> None:
        conditions = (conditions,) if isinstance(conditions, str) else tuple(conditions)
        both = [condition for condition in conditions if condition in likelihoods]
        if not likelihoods or not conditions or both:
            raise ValueError(
                "a conditional model needs targets, and other modalities as conditions, got targets "
                f"{list(likelihoods)} and conditions {list(conditions)}"
            )
        unknown = [condition for condition in features or {} if condition not in conditions]
        if unknown:
            raise ValueError(f"features names {unknown}, which are not conditions: there are {list(conditions)}")
        super().__init__(likelihoods, name, conditions, covariates)
        self.latent_dim = latent_dim
        self.features = nn.ModuleDict(features)
        self.prior = IndependentPrior(latent_dim) if prior is None else prior

    def _sample_latents(self, x: Values, rows: Rows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        check_conditions(self.conditions, x, rows.masks if is_validation_enabled() else None)
        given = {name: x[name] for name in self.conditions} | covariates_in(x)
        one = encoder_input(self.prior, given, self.conditions[0]) if len(self.conditions) == 1 else given
        z = pyro.sample("z", self.prior(one))
        features = [network(encoder_input(network, given, name)) for name, network in self.features.items()]
        latents = concatenated(z, *features)
        return {"z": z}, dict.fromkeys(self._modules["likelihoods"], latents)


class IndependentPrior(StandardNormalPrior):
    r"""The prior `N(0, I)` of a conditional model, independent of the conditions.

    Args:
        latent_dim: Size `D` of the latent.

    Returns (when called with the conditions):
        A distribution of batch shape `(batch,)` and event shape `(latent_dim,)`.

    Example:
        >>> import torch
        >>> IndependentPrior(2)(torch.tensor([3, 7])).batch_shape
        torch.Size([2])
    """

    def forward(self, conditions: Tensor | Values) -> dist.Distribution:
        rows = batch_rows(conditions) if isinstance(conditions, Mapping) else len(conditions)
        return super().forward().expand((rows,))


def check_conditions(conditions: Sequence[str], x: Values, observed: Masks) -> None:
    """Raises unless every row contains every condition.

    Args:
        conditions: Names of the modalities that are conditioned on.
        x: Modality name -> values.
        observed: Modality name -> rows in which it is observed.

    Raises:
        ValueError: Names the condition, and the first row in which it is missing.
    """
    absent = [name for name in conditions if x.get(name) is None]
    if absent:
        raise ValueError(
            f"this model requires its conditions {list(conditions)} and cannot generate them: {absent} "
            f"is missing in x, which contains {[name for name in x if x[name] is not None]}"
        )
    for name in conditions:
        mask = (observed or {}).get(name)
        if mask is not None and not mask.all():
            raise ValueError(
                f"this model conditions on {list(conditions)}, and {name!r} is missing in row "
                f"{int((~mask).nonzero()[0])}: leave out such rows"
            )
