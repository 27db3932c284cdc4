"""The generative program with several layers of latents above the modalities."""

from collections.abc import Mapping, Sequence

import pyro
from torch import Tensor, nn

from multipyro._modes import masked
from multipyro.batch import Rows, Values
from multipyro.ppl_models._generative import GenerativeProgram
from multipyro.ppl_models.networks.covariates import Covariates
from multipyro.ppl_models.priors import StandardNormalPrior

__all__ = ["HierarchicalModel"]


class HierarchicalModel(GenerativeProgram):
    r"""Modalities that are independent given the lowest of `L` layers of latents.

    .. math:: p(z_L) \prod_{l=1}^{L-1} p(z_l \mid z_{l+1}) \prod_m p(x_m \mid z_1)

    With one layer it is `MultimodalModel` with its latent called `z1`.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), section JMVAE-h, where `L = 2`.

    Args:
        latent_dims: Sizes of `z1, ..., zL`, from the layer that the modalities are decoded from to the top.
        likelihoods: Modality name -> likelihood module, called with `z1`, `(..., batch, latent_dims[0])`.
        transitions: `L - 1` modules, the first from `z2` to a distribution over `z1`, and so on up; called with latents
            `(..., batch, latent_dims[l])`, they return event shape `(latent_dims[l - 1],)`.
        prior: Module that returns the prior over `zL` when called; `N(0, I)` if None.
        name: Prefix of the parameters in Pyro's parameter store; see `Program`.
        covariates: Computes the features of covariates; the likelihoods are called with them too, concatenated last.

    Sites:
        `zL, ..., z1` in this order, each modality of `x` under its name, all in the plate `data`.

    Raises:
        ValueError: If there are no likelihoods, a modality has the name of a latent or of a plate, or the numbers of
            sizes and transitions disagree.

    Example:
        >>> import torch
        >>> from multipyro.ppl_models import MLP, NormalLikelihood
        >>> from multipyro.ppl_models.networks.heads import NormalEncoder
        >>> transition = NormalEncoder(MLP(2, 8), latent_dim=3)
        >>> model = HierarchicalModel((3, 2), {"image": NormalLikelihood(MLP(3, 16))}, [transition])
        >>> values = model({"image": torch.zeros(5, 16)})
        >>> list(values), values["z1"].shape
        (['z2', 'z1', 'image'], torch.Size([5, 3]))
    """

    def __init__(
        self,
        latent_dims: Sequence[int],
        likelihoods: Mapping[str, nn.Module],
        transitions: Sequence[nn.Module],
        prior: nn.Module | None = None,
        name: str = "model",
        covariates: Covariates | None = None,
    ) -> None:
        super().__init__(likelihoods, name, covariates=covariates)
        if not latent_dims or len(transitions) != len(latent_dims) - 1:
            raise ValueError(
                f"L layers need L sizes and L - 1 transitions, got sizes {list(latent_dims)} and {len(transitions)} "
                "transitions"
            )
        self.latent_dims = tuple(latent_dims)
        self.latent_dim = self.latent_dims[0]
        self.transitions = nn.ModuleList(transitions)
        self.prior = StandardNormalPrior(self.latent_dims[-1]) if prior is None else prior

    def _sample_latents(self, x: Values, rows: Rows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        top, transitions, sites = len(self.latent_dims), self.transitions, {}
        with masked(rows.any()):
            sites[f"z{top}"] = pyro.sample(f"z{top}", self.prior())
            for layer in range(top - 1, 0, -1):
                sites[f"z{layer}"] = pyro.sample(f"z{layer}", transitions[layer - 1](sites[f"z{layer + 1}"]))
        return sites, dict.fromkeys(self.modalities, sites["z1"])
