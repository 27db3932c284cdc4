"""The guide of Bridged VAE: deterministic features, one fusion, and bridges that predict missing features."""

import itertools
from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.batch import Rows
from multipyro.guides._base import Guide, encode
from multipyro.ppl_models import MLP
from multipyro.ppl_models.networks.heads import NormalEncoder, trunk

__all__ = ["BridgedGuide", "bridged_parameters"]


class BridgedGuide(Guide):
    r"""One joint encoder for every subset: the features of what is missing are predicted from those of what is there.

    .. math::
        q(z \mid x_S) = \mathrm{FC}([h_1, \ldots, h_M]), \qquad
        h_m = \begin{cases} \mathrm{Enc}_m(x_m) & m \in S \\
        \tfrac{1}{|S|} \sum_{a \in S} \mathrm{FC}_{a \to m}(\mathrm{Enc}_a(x_a)) & \text{else} \end{cases}

    The paper has one observed modality; how several predictions of one missing feature are merged is not in it. Here
    it is their mean, row by row, over what the row has.

    References:
        Bridged Variational Autoencoders (Yadav et al.), section 3.1 and Figure 3.

    Args:
        latent_dim: Size of the latent.
        branches: Modality name -> feature network with an attribute `out_features`.
        bridge_features: Widths of the hidden layers of each bridge; empty for a linear one.
        hidden_features: Widths of the hidden layers between the joined features and the heads.
        scale: As in `NormalEncoder`.
        name: As in `Guide`.

    Attributes:
        branches: The feature networks.
        fusion: From the joined features to the posterior.
        bridges: `"a->b"` -> network from the features of `a` to those of `b`, for all ordered pairs.

    Example:
        >>> guide = BridgedGuide(2, {"a": MLP(4, 8), "b": MLP(3, 6)}, bridge_features=(16,))
        >>> guide.posterior({"a": torch.zeros(5, 4)}).batch_shape, list(guide.bridges)
        (torch.Size([5]), ['a->b', 'b->a'])
    """

    def __init__(
        self,
        latent_dim: int,
        branches: Mapping[str, nn.Module],
        bridge_features: Sequence[int] = (512,),
        hidden_features: Sequence[int] = (),
        scale: str = "softplus",
        name: str = "guide",
    ) -> None:
        super().__init__(latent_dim, None, tuple(branches), name=name)
        self.branches = nn.ModuleDict(branches)
        self._sizes = {m: branch.out_features for m, branch in branches.items()}
        joined = sum(self._sizes.values())
        self.fusion = NormalEncoder(trunk(joined, hidden_features), latent_dim, scale)
        self.bridges = nn.ModuleDict(
            {
                f"{a}->{b}": MLP(self._sizes[a], self._sizes[b], bridge_features)
                for a, b in itertools.permutations(branches, 2)
            }
        )

    def posterior(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None = None) -> dist.Distribution:
        rows, branches = Rows(x, observed), self.branches
        features = {name: encode(branches[name], x[name], rows.of(name)) for name in rows.modalities}
        joined = [self._complete(name, features, rows) for name in self.modalities]
        return self.fusion(torch.cat(joined, -1))

    def _complete(self, name: str, features: Mapping[str, Tensor], rows: Rows) -> Tensor:
        """The features of one modality, predicted by the bridges in the rows that lack it."""
        mask = rows.of(name)
        if name in features and mask is None:
            return features[name]
        bridges, like = self.bridges, next(iter(features.values()))
        total, number = like.new_zeros(len(like), self._sizes[name]), like.new_zeros(len(like), 1)
        for (other, feature), contained in zip(features.items(), rows.stacked().unsqueeze(-1), strict=True):
            if other != name:
                total = total + torch.where(contained, bridges[f"{other}->{name}"](feature), 0.0)
                number = number + contained
        predicted = total / number.clamp(min=1)  # a row with nothing observed is masked out by the caller
        return torch.where(mask.unsqueeze(-1), features[name], predicted) if name in features else predicted


def bridged_parameters(
    features: Mapping[str, int],
    latent_dim: int,
    bridge_features: Sequence[int] = (512,),
    hidden_features: Sequence[int] = (),
) -> dict[str, int]:
    r"""Number of parameters of the fusion and of all bridges, by formula.

    With `M` modalities there are `M (M - 1)` bridges, where JMVAE and TELBO have `2^M - 1` encoders, each with branches
    of its own; so the bridges cost a multiple of a feature's size, the others' encoders one of the data's.

    Totals of a whole method, model included; the paper gives no layer sizes, so they cannot be the same. Ours are for
    28x28 images and a label (2 modalities), and a second image (3), two hidden layers of 512 each way, 128 latents:

    ============================ =========== ============ ========== ==========
    method                       published 2  published 3     ours 2     ours 3
    ============================ =========== ============ ========== ==========
    MVAE                          31,484,362   61,550,346  2,260,250  3,787,050
    Bridged                       36,697,290   72,141,450  3,310,618  6,938,410
    JMVAE-kl, TELBO               60,794,122  226,958,346  3,455,514  9,760,042
    Bridged less MVAE              5,212,928   10,591,104  1,050,368  3,151,360
    ============================ =========== ============ ========== ==========

    The last row is the fusion and the bridges less the heads of MVAE's experts.

    References:
        Bridged Variational Autoencoders (Yadav et al.), Table 4 and section 3.1.

    Args:
        features: Modality name -> number of its features.
        latent_dim: Size of the latent.
        bridge_features: As in `BridgedGuide`.
        hidden_features: As in `BridgedGuide`.

    Returns:
        `{"fusion": ..., "bridges": ...}`.

    Example:
        >>> bridged_parameters({"image": 512, "label": 512}, latent_dim=128)
        {'fusion': 262400, 'bridges': 1050624}
    """

    def dense(*widths: int) -> int:
        return sum((before + 1) * after for before, after in itertools.pairwise(widths))

    joined = sum(features.values())
    pairs = itertools.permutations(features.values(), 2)
    return {
        "fusion": dense(joined, *hidden_features, 2 * latent_dim),
        "bridges": sum(dense(a, *bridge_features, b) for a, b in pairs),
    }
