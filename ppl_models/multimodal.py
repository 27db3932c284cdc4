"""The generative program of every method with one shared latent."""

from collections.abc import Mapping

import pyro
from torch import Tensor, nn

from multipyro._modes import masked
from multipyro.batch import Rows, Values
from multipyro.ppl_models._generative import GenerativeProgram, concatenated
from multipyro.ppl_models.networks.covariates import Covariates
from multipyro.ppl_models.priors import StandardNormalPrior

__all__ = ["MultimodalModel"]


class MultimodalModel(GenerativeProgram):
    r"""Modalities that are independent given one shared latent, and optionally a private one each.

    .. math:: p(z) \prod_m p(x_m \mid z) \qquad\text{or}\qquad p(z) \prod_m p(z_m)\, p(x_m \mid z, z_m)

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), eq. 2; Generalized Multimodal ELBO (Sutter et al., 2021), section 3, and eq. 34 for private latents.

    Args:
        latent_dim: Size of the shared latent `z`.
        likelihoods: Modality name -> likelihood module, called with latents `(..., batch, latent_dim)`; if the modality
            has a private latent, with both concatenated, `(..., batch, latent_dim + private_dim)`.
        prior: Module that returns the prior over `z` when called, event shape `(latent_dim,)`; `N(0, I)` if None.
        trunk: Network that all likelihoods share; they are called with its output in place of `z`, and it runs once.
        name: Prefix of the parameters in Pyro's parameter store; see `Program`.
        private: Modality name -> size of its private latent with the prior `N(0, I)`, or a module that returns its
            prior when called; other modalities have none.
        covariates: Computes the features of covariates; the likelihoods are called with them too, concatenated last.

    Sites:
        `z`, `z_<modality>` for each modality of `x` with a private latent (masked in the rows where it is missing),
        each modality of `x` under its name, all in the plate `data`.

    Raises:
        ValueError: If there are no likelihoods, a modality has the name of a latent (`z`, `z1`, `z_...`) or of a plate,
            or `private` names an unknown modality or a size below 1.

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
        covariates: Covariates | None = None,
    ) -> None:
        super().__init__(likelihoods, name, covariates=covariates)
        self.latent_dim = latent_dim
        self.prior = StandardNormalPrior(latent_dim) if prior is None else prior
        self.trunk = nn.Identity() if trunk is None else trunk
        self.private = nn.ModuleDict(_private_priors(private or {}, likelihoods))

    def _sample_latents(self, x: Values, rows: Rows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        priors = {"z": self.prior}
        priors.update({f"z_{name}": prior for name, prior in self.private.items() if name in x})
        sites: dict[str, Tensor] = {}
        for site, prior in priors.items():
            with masked(rows.informing(site)):
                sites[site] = pyro.sample(site, prior())
        shared = self.trunk(sites["z"])
        private = {name: sites[f"z_{name}"] for name in self.modalities if f"z_{name}" in sites}
        inputs = {m: concatenated(shared, private[m]) if m in private else shared for m in self.modalities}
        return sites, inputs


def _private_priors(
    private: Mapping[str, int | nn.Module], likelihoods: Mapping[str, nn.Module]
) -> dict[str, nn.Module]:
    """Modality name -> module of its private prior, in the order of the likelihoods."""
    unknown = [name for name in private if name not in likelihoods]
    if unknown:
        raise ValueError(f"private names unknown modalities {unknown}: this model has {list(likelihoods)}")
    invalid = {name: size for name, size in private.items() if not isinstance(size, nn.Module) and size < 1}
    if invalid:
        raise ValueError(f"sizes of private latents must be at least 1, got {invalid}")
    ordered = {name: private[name] for name in likelihoods if name in private}
    return {name: p if isinstance(p, nn.Module) else StandardNormalPrior(p) for name, p in ordered.items()}
