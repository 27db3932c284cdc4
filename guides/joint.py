"""The guide with one joint encoder, as in JMVAE, and separate encoders for smaller subsets."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import nn

from multipyro._distributions import choose_rows
from multipyro.batch import Masks, Rows, Values, selected
from multipyro.guides._base import Guide, check_latent_dims, encode_joint, encode_modality
from multipyro.ppl_models.networks.heads import JointEncoder, Scale

__all__ = ["JointGuide"]


class JointGuide(Guide):
    r"""`q(z | x_1, ..., x_M)` by one network of all modalities, and one network for each further subset.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), eq. 2 (joint encoder) and eq. 4 (encoders of single modalities).

    Args:
        latent_dim: Size of the latent.
        branches: Modality name -> feature network with an attribute `out_features`.
        hidden_features: Widths of hidden layers between the concatenated features and the heads.
        encoders: Subset -> module that returns a distribution over `z`. The module of a single modality is called with
            its values, that of a larger subset with a dict. Keys are a name or a tuple of names.
        scale: As in `NormalEncoder`, for the joint encoder.
        shared: As in `JointEncoder`.
        **settings: `prior`, `private` and `name`, as in `Guide`.

    Raises:
        ValueError: If `encoders` has one of all modalities or of another latent size; when called with a subset, or
            with rows, that none of the networks supports.

    Example:
        >>> from multipyro.ppl_models import MLP
        >>> guide = JointGuide(2, {"a": MLP(4, 8), "b": MLP(3, 8)})
        >>> guide.posterior({"a": torch.zeros(5, 4), "b": torch.zeros(5, 3)}).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        latent_dim: int,
        branches: Mapping[str, nn.Module],
        hidden_features: Sequence[int] = (),
        encoders: Mapping[str | tuple[str, ...], nn.Module] | None = None,
        scale: Scale = "softplus",
        shared: nn.Module | None = None,
        **settings: Any,
    ) -> None:
        modalities = tuple(branches)
        keys = {(key,) if isinstance(key, str) else tuple(key): net for key, net in (encoders or {}).items()}
        ordered = {tuple(m for m in modalities if m in key): net for key, net in keys.items()}
        if modalities in ordered:
            raise ValueError(f"encoders must be of proper subsets of {modalities}: the branches form the one of all")
        super().__init__(latent_dim, None, modalities, [*ordered, modalities], **settings)
        check_latent_dims(ordered, latent_dim)
        self.networks = nn.ModuleDict({"+".join(key): net for key, net in ordered.items()})
        self.joint = JointEncoder(branches, latent_dim, hidden_features, scale, shared)

    def posterior(self, x: Values, observed: Masks = None) -> dist.Distribution:
        x = self.validate_inputs(x, observed)
        rows = Rows(x, observed)
        if not rows.masks:
            return self._encoded(rows.modalities, x, rows)
        subsets = [subset for subset in self.subsets if set(subset) <= set(x)]
        exactly = torch.stack([rows.exactly(subset) for subset in subsets])
        self._check_rows(rows, exactly.any(0))
        return choose_rows([self._encoded(subset, x, rows) for subset in subsets], exactly.to(torch.uint8).argmax(0))

    def _encoded(self, subset: tuple[str, ...], x: Values, rows: Rows) -> dist.Distribution:
        """The posterior of the network of `subset`, in the rows that contain all of it."""
        network = self.joint if subset == self.modalities else self.networks["+".join(subset)]
        if len(subset) == 1 and subset != self.modalities:
            return encode_modality(network, x, subset[0], rows)
        return encode_joint(network, selected(x, subset), rows.masks)
