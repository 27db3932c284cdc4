"""The guide of Bridged VAE: deterministic features, one fusion, and bridges that predict missing features."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from multipyro.batch import Masks, Rows, Values
from multipyro.guides._base import Guide, encode_modality
from multipyro.ppl_models.networks.heads import NormalEncoder, Scale, trunk
from multipyro.ppl_models.networks.mlp import MLP

__all__ = ["BridgedGuide"]


class BridgedGuide(Guide):
    r"""One joint encoder for every subset: features of missing modalities are predicted from those of the present ones.

    .. math::
        q(z \mid x_S) = \mathrm{FC}([h_1, \ldots, h_M]), \qquad
        h_m = \begin{cases} \mathrm{Enc}_m(x_m) & m \in S \\
        \tfrac{1}{|S|} \sum_{a \in S} \mathrm{FC}_{a \to m}(\mathrm{Enc}_a(x_a)) & \text{else} \end{cases}

    The paper has one observed modality and does not say how several predictions of one missing feature are combined.
    Here it is their mean, for each data point over its observed modalities.

    With `M` modalities there are `M (M - 1)` bridges, where JMVAE and TELBO have `2^M - 1` encoders, each with its
    own branches: the bridges grow with the size of the features, the encoders with the size of the data. Total numbers
    of parameters, model included (the paper gives no layer sizes, so they cannot agree; ours are for 28x28 images and a
    label (2 modalities), and a second image (3), two hidden layers of 512 in each direction, 128 latents):

    ============================ =========== ============ ========== ==========
    method                       published 2  published 3     ours 2     ours 3
    ============================ =========== ============ ========== ==========
    MVAE                          31,484,362   61,550,346  2,260,250  3,787,050
    Bridged                       36,697,290   72,141,450  3,310,618  6,938,410
    JMVAE-kl, TELBO               60,794,122  226,958,346  3,455,514  9,760,042
    Bridged minus MVAE             5,212,928   10,591,104  1,050,368  3,151,360
    ============================ =========== ============ ========== ==========

    The last line is the fusion and the bridges minus the heads of MVAE's experts.

    References:
        Bridged Variational Autoencoders (Yadav et al.), section 3.1, Figure 3 and Table 4.

    Args:
        latent_dim: Size of the latent.
        branches: Modality name -> feature network with an attribute `out_features`.
        bridge_features: Widths of the hidden layers of each bridge; empty for a linear one.
        hidden_features: Widths of the hidden layers between the concatenated features and the heads.
        scale: As in `NormalEncoder`.
        **settings: `prior`, `private` and `name`, as in `Guide`.

    Attributes:
        branches: The feature networks.
        fusion: From the concatenated features to the posterior.
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
        scale: Scale = "softplus",
        **settings: Any,
    ) -> None:
        super().__init__(latent_dim, None, tuple(branches), **settings)
        self.branches = nn.ModuleDict(branches)
        self._sizes = {m: branch.out_features for m, branch in branches.items()}
        self.fusion = NormalEncoder(trunk(sum(self._sizes.values()), hidden_features), latent_dim, scale)
        self.bridges = nn.ModuleDict(
            {
                f"{a}->{b}": MLP(self._sizes[a], self._sizes[b], bridge_features)
                for a, b in itertools.permutations(branches, 2)
            }
        )

    def posterior(self, x: Values, observed: Masks = None) -> dist.Distribution:
        rows, branches = Rows(x, observed), self.branches
        features = {name: encode_modality(branches[name], x, name, rows) for name in rows.modalities}
        return self.fusion(torch.cat([self._completed(name, features, rows) for name in self.modalities], -1))

    def _completed(self, name: str, features: Mapping[str, Tensor], rows: Rows) -> Tensor:
        """The features of one modality, predicted by the bridges in the rows in which it is missing."""
        mask = rows.of(name)
        if mask is None:
            return features[name]
        bridges, like = self.bridges, next(iter(features.values()))
        total, number = like.new_zeros(len(like), self._sizes[name]), like.new_zeros(len(like), 1)
        for (other, feature), present in zip(features.items(), rows.stacked().unsqueeze(-1), strict=True):
            if other != name:
                total = total + torch.where(present, bridges[f"{other}->{name}"](feature), 0.0)
                number = number + present
        predicted = total / number.clamp(min=1)  # a row in which nothing is observed is masked out by the caller
        return torch.where(mask.unsqueeze(-1), features[name], predicted) if name in features else predicted
