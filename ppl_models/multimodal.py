"""The generative program of every method with one shared latent."""

from collections.abc import Mapping

import pyro
import torch
from torch import Tensor, nn

from multipyro._program import Program
from multipyro.batch import Rows, batch_rows, check_batch
from multipyro.ppl_models._observe import check_names, masked, observe
from multipyro.ppl_models.priors import StandardNormalPrior

__all__ = ["MultimodalModel"]


class MultimodalModel(Program):
    r"""Modalities that are independent given one shared latent, and perhaps a private one each.

    .. math:: p(z) \prod_m p(x_m \mid z) \qquad\text{or}\qquad p(z) \prod_m p(z_m)\, p(x_m \mid z, z_m)

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), eq. 2; Generalized Multimodal ELBO (Sutter et al., 2021), section 3, and eq. 34 for private latents.

    Args:
        latent_dim: Size of the shared latent `z`.
        likelihoods: Modality name -> likelihood module, called with latents `(..., batch, latent_dim)`; where the
            modality has a private latent, with both in one, `(..., batch, latent_dim + private_dim)`.
        prior: Module that returns the prior over `z` when called, event shape `(latent_dim,)`; `N(0, I)` if None.
        trunk: Network shared by all likelihoods; they see its output in place of `z`, and it runs once.
        name: Prefix of the parameters in Pyro's parameter store; see `Program`.
        private: Modality name -> size of its private latent, of prior `N(0, I)`, or the module that returns its prior
            when called; a modality that is not named has none.

    Sites:
        `z`, `z_<modality>` for each modality of `x` with a private latent (masked in the rows that lack it), each
        modality of `x` under its own name, all in the plate `data`.

    Raises:
        ValueError: If there are no likelihoods, or a modality is called like a latent (`z`, `z1`, `z_...`) or the
            plate `data`, or `private` names a modality that there is not or a size below 1.

    Example:
        >>> import torch
        >>> from multipyro.ppl_models import CategoricalLikelihood, MLP, NormalLikelihood
        >>> likelihoods = {"image": NormalLikelihood(MLP(2, 16)), "label": CategoricalLikelihood(MLP(2, 10))}
        >>> model = MultimodalModel(2, likelihoods)
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
        name: str = "model",
        private: Mapping[str, int | nn.Module] | None = None,
    ) -> None:
        super().__init__(name)
        check_names(likelihoods)
        self.latent_dim = latent_dim
        self.likelihoods = nn.ModuleDict(likelihoods)
        self.prior = StandardNormalPrior(latent_dim) if prior is None else prior
        self.trunk = nn.Identity() if trunk is None else trunk
        self.private = nn.ModuleDict(_private_priors(private or {}, likelihoods))

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
        """Samples the latents from their priors and observes the modalities of `x`.

        Args:
            x: Modality name -> values `(batch, *event)`; None makes a site that is sampled, and an absent key none.
            observed: Modality name -> rows that are observed, bool `(batch,)`; an absent key means all rows.
            num_rows: Number of rows when `x` holds no values.

        Returns:
            Site name -> value, latents included.
        """
        check_batch(x, observed, self.modalities)
        sites: dict[str, Tensor] = {}
        rows = Rows(x, observed)
        with pyro.plate("data", batch_rows(x, num_rows), dim=-1):
            priors = {"z": self.prior}
            priors.update({f"z_{name}": prior for name, prior in self.private.items() if name in x})
            for site, prior in priors.items():
                with masked(rows.informing(site)):
                    sites[site] = pyro.sample(site, prior())
            shared = self.trunk(sites["z"])
            likelihoods = self.likelihoods
            for name, values in x.items():
                latents = _joined(shared, sites[f"z_{name}"]) if f"z_{name}" in sites else shared
                sites[name] = observe(name, likelihoods[name], latents, values, rows.masks.get(name))
        return sites


def _private_priors(private: Mapping[str, int | nn.Module], likelihoods: Mapping[str, nn.Module]) -> dict:
    """Modality name -> module of its private prior, in the order of the likelihoods."""
    unknown = [name for name in private if name not in likelihoods]
    if unknown:
        raise ValueError(f"private names unknown modalities {unknown}: this model has {list(likelihoods)}")
    small = {name: size for name, size in private.items() if not isinstance(size, nn.Module) and size < 1}
    if small:
        raise ValueError(f"sizes of private latents must be at least 1, got {small}")
    made = {m: p if isinstance(p, nn.Module) else StandardNormalPrior(p) for m, p in private.items()}
    return {name: made[name] for name in likelihoods if name in made}


def _joined(shared: Tensor, own: Tensor) -> Tensor:
    lead = torch.broadcast_shapes(shared.shape[:-1], own.shape[:-1])
    return torch.cat([shared.expand(*lead, -1), own.expand(*lead, -1)], -1)
