"""The generative program with several layers of latents above the modalities."""

from collections.abc import Mapping, Sequence

import pyro
from torch import Tensor, nn

from multipyro._program import Program
from multipyro.batch import Rows, batch_rows, check_batch
from multipyro.ppl_models._observe import check_names, masked, observe
from multipyro.ppl_models.priors import StandardNormalPrior

__all__ = ["HierarchicalModel"]


class HierarchicalModel(Program):
    r"""Modalities that are independent given the lowest of `L` layers of latents.

    .. math:: p(z_L) \prod_{l=1}^{L-1} p(z_l \mid z_{l+1}) \prod_m p(x_m \mid z_1)

    With one layer it is `MultimodalModel` with its latent called `z1`.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), section JMVAE-h, where `L = 2`.

    Args:
        latent_dims: Sizes of `z1, ..., zL`, from the layer the modalities are decoded from to the top.
        likelihoods: Modality name -> likelihood module, called with `z1`, `(..., batch, latent_dims[0])`.
        transitions: `L - 1` modules, the first from `z2` to a distribution over `z1`, and so on up; called with latents
            `(..., batch, latent_dims[l])`, they return event shape `(latent_dims[l - 1],)`.
        prior: Module that returns the prior over `zL` when called; `N(0, I)` if None.
        name: Prefix of the parameters in Pyro's parameter store; see `Program`.

    Sites:
        `zL, ..., z1` in this order, each modality of `x` under its own name, all in the plate `data`.

    Raises:
        ValueError: If there are no likelihoods, a modality is called like a latent or the plate, or the numbers of
            sizes and transitions disagree.

    Example:
        >>> import torch
        >>> from multipyro.ppl_models import MLP, NormalLikelihood
        >>> from multipyro.guides import NormalEncoder
        >>> down = NormalEncoder(MLP(2, 8), latent_dim=3)
        >>> model = HierarchicalModel((3, 2), {"image": NormalLikelihood(MLP(3, 16))}, [down])
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
    ) -> None:
        super().__init__(name)
        check_names(likelihoods)
        if not latent_dims or len(transitions) != len(latent_dims) - 1:
            raise ValueError(
                f"L layers need L sizes and L - 1 transitions, got sizes {list(latent_dims)} and {len(transitions)} "
                "transitions"
            )
        self.latent_dims = tuple(latent_dims)
        self.latent_dim = self.latent_dims[0]
        self.likelihoods = nn.ModuleDict(likelihoods)
        self.transitions = nn.ModuleList(transitions)
        self.prior = StandardNormalPrior(self.latent_dims[-1]) if prior is None else prior

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
        """Samples the layers from the top down and observes the modalities of `x`.

        Args:
            x: Modality name -> values `(batch, *event)`; None makes a site that is sampled, and an absent key none.
            observed: Modality name -> rows that are observed, bool `(batch,)`; an absent key means all rows.
            num_rows: Number of rows when `x` holds no values.

        Returns:
            Site name -> value, latents included.
        """
        check_batch(x, observed, self.modalities)
        top, transitions, likelihoods = len(self.latent_dims), self.transitions, self.likelihoods
        sites: dict[str, Tensor] = {}
        rows = Rows(x, observed)
        with pyro.plate("data", batch_rows(x, num_rows), dim=-1):
            with masked(rows.any()):
                sites[f"z{top}"] = pyro.sample(f"z{top}", self.prior())
                for layer in range(top - 1, 0, -1):
                    below = transitions[layer - 1](sites[f"z{layer + 1}"])
                    sites[f"z{layer}"] = pyro.sample(f"z{layer}", below)
            for name, values in x.items():
                sites[name] = observe(name, likelihoods[name], sites["z1"], values, rows.masks.get(name))
        return sites
