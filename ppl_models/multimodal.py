"""The generative program of every method with one shared latent."""

from collections.abc import Mapping
from contextlib import nullcontext

import pyro
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from torch import Tensor, nn

from multipyro.ppl_models._batch import batch_rows, check_batch, filled, rows_with_evidence, unique_name
from multipyro.ppl_models.priors import StandardNormalPrior

__all__ = ["MultimodalModel"]


class MultimodalModel(PyroModule):
    r"""Modalities that are independent given one shared latent.

    .. math:: p(z) \prod_m p(x_m \mid z)

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), eq. 2; Generalized Multimodal ELBO (Sutter et al., 2021), section 3.

    Args:
        latent_dim: Size of the shared latent `z`.
        likelihoods: Modality name -> likelihood module, called with latents `(..., batch, latent_dim)`.
        prior: Module that returns the prior over `z` when called, event shape `(latent_dim,)`; `N(0, I)` if None.
        trunk: Network shared by all likelihoods; they see its output in place of `z`, and it runs once.
        name: Prefix of the parameters in Pyro's parameter store; unique in this process by default.

    Sites:
        `z`, each modality of `x` under its own name, all in the plate `data`.

    Raises:
        ValueError: If there are no likelihoods, or a modality is called like a latent (`z`, `z1`, `z_...`) or the
            plate `data`.

    Example:
        >>> import torch
        >>> from multipyro.ppl_models import Categorical, MLP, Normal
        >>> model = MultimodalModel(2, {"image": Normal(MLP(2, 16)), "label": Categorical(MLP(2, 10))})
        >>> values = model({"image": torch.zeros(5, 16), "label": None})
        >>> values["label"].shape
        torch.Size([5])
    """

    def __init__(
        self,
        latent_dim: int,
        likelihoods: Mapping[str, nn.Module],
        prior: nn.Module | None = None,
        trunk: nn.Module | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(unique_name("model") if name is None else name)
        if not likelihoods:
            raise ValueError("likelihoods is empty: a model needs at least one modality")
        reserved = [
            m for m in likelihoods if m == "data" or m == "z" or m.startswith("z_") or m[:1] == "z" and m[1:].isdigit()
        ]
        if reserved:
            raise ValueError(
                f"modality {reserved} has the name of a latent or of the plate; z, z1, z_... and data are taken"
            )
        self.latent_dim = latent_dim
        self.likelihoods = nn.ModuleDict(likelihoods)
        self.prior = StandardNormalPrior(latent_dim) if prior is None else prior
        self.trunk = nn.Identity() if trunk is None else trunk

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of the model, in the order of its likelihoods."""
        return tuple(self._modules["likelihoods"])

    def forward(
        self,
        x: Mapping[str, Tensor | None],
        observed: Mapping[str, Tensor] | None = None,
        num_rows: int | None = None,
    ) -> dict[str, Tensor]:
        """Samples `z` from the prior and observes the modalities of `x`.

        Args:
            x: Modality name -> values `(batch, *event)`; None makes a site that is sampled, and an absent key none.
            observed: Modality name -> rows that are observed, bool `(batch,)`; an absent key means all rows.
            num_rows: Number of rows when `x` holds no values.

        Returns:
            Site name -> value, `z` included.
        """
        check_batch(x, observed, self.modalities)
        with pyro.plate("data", batch_rows(x, num_rows), dim=-1):
            with _masked(rows_with_evidence(x, observed)):
                sites = {"z": pyro.sample("z", self.prior())}
            latents = self.trunk(sites["z"])
            likelihoods = self.likelihoods
            for name, values in x.items():
                likelihood = likelihoods[name](latents)
                if values is None:
                    sites[name] = pyro.sample(name, likelihood)
                    continue
                mask = (observed or {}).get(name)
                values = filled(values, mask)
                if tuple(values.shape[1:]) != tuple(likelihood.event_shape):
                    raise ValueError(
                        f"modality {name!r} must have shape (batch, *{tuple(likelihood.event_shape)}), "
                        f"got {tuple(values.shape)}"
                    )
                if is_validation_enabled() and hasattr(likelihoods[name], "check"):
                    likelihoods[name].check(values, name)
                with _masked(mask):
                    sites[name] = pyro.sample(name, likelihood, obs=values)
        return sites


def _masked(mask: Tensor | None):
    return nullcontext() if mask is None else poutine.mask(mask=mask)
