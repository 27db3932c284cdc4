"""The guide with one joint encoder, as JMVAE has it, and encoders of their own for smaller subsets."""

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro._distributions import choose_rows
from multipyro.batch import Rows
from multipyro.guides._base import Guide, encode, encode_joint
from multipyro.ppl_models.networks.heads import JointEncoder

__all__ = ["JointGuide"]


class JointGuide(Guide):
    r"""`q(z | x_1, ..., x_M)` from one network that sees all modalities, and one network for each further subset.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), eq. 2 (joint encoder) and eq. 4 (encoders of single modalities).

    Args:
        latent_dim: Size of the latent.
        branches: Modality name -> feature network with an attribute `out_features`.
        hidden_features: Widths of hidden layers between the joined branches and the heads.
        encoders: Subset -> module giving a normal. A single modality's module is called with its values, that of a
            larger subset with a dict. Keys are a name or a tuple of names.
        scale: As in `NormalEncoder`, for the joint encoder.
        name: As in `Guide`.
        shared: As in `JointEncoder`.

    Raises:
        ValueError: If `encoders` has one of all modalities; when called with a subset, or with rows, that none of the
            networks answers.

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
        scale: str = "softplus",
        name: str = "guide",
        shared: nn.Module | None = None,
    ) -> None:
        modalities = tuple(branches)
        keys = {(key,) if isinstance(key, str) else tuple(key): net for key, net in (encoders or {}).items()}
        ordered = {tuple(m for m in modalities if m in key): net for key, net in keys.items()}
        if modalities in ordered:
            raise ValueError(f"encoders must be of proper subsets of {modalities}: branches make the one of all")
        super().__init__(latent_dim, None, modalities, [*ordered, modalities], name=name)
        self.networks = nn.ModuleDict({"+".join(key): net for key, net in ordered.items()})
        self.joint = JointEncoder(branches, latent_dim, hidden_features, scale, shared)

    def posterior(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None) -> dist.Distribution:
        x = self.given(x, observed)
        given = tuple(x)
        rows = Rows(x, observed)
        if not rows.masks:
            return self._answer(given, x, rows.masks)
        subsets = [subset for subset in self.subsets if set(subset) <= set(given)]
        exactly = torch.stack([rows.exactly(subset) for subset in subsets])
        self._check_answered(rows, exactly.any(0))
        answers = [self._answer(subset, x, rows.masks) for subset in subsets]
        return choose_rows(answers, exactly.to(torch.uint8).argmax(0))

    def _answer(
        self, subset: tuple[str, ...], x: Mapping[str, Tensor], observed: Mapping[str, Tensor]
    ) -> dist.Distribution:
        """What the network of `subset` gives in the rows that hold all of it."""
        if subset == self.modalities:
            return encode_joint(self.joint, {name: x[name] for name in subset}, observed)
        network = self.networks["+".join(subset)]
        if len(subset) == 1:
            return encode(network, x[subset[0]], observed.get(subset[0]))
        return encode_joint(network, {name: x[name] for name in subset}, observed)
