"""The guide of several layers of latents, which are the outputs of one deterministic path."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
from torch import nn

from multipyro.batch import Masks, Rows, Values, fill_missing
from multipyro.guides._base import Guide
from multipyro.guides._encoder_cache import encode_once
from multipyro.ppl_models.networks.heads import NormalEncoder, Scale, joined, trunk
from multipyro.ppl_models.networks.mlp import MLP

__all__ = ["HierarchicalGuide"]


class HierarchicalGuide(Guide):
    r"""`L` layers of latents that are independent given all modalities.

    .. math:: q(z_1, \dots, z_L \mid x) = \prod_l q(z_l \mid h_l), \qquad h_1 = f_1(x), \quad h_{l+1} = f_{l+1}(h_l)

    The path from the modalities to the top is deterministic: `z_l` depends on `h_l`, and so does the layer above, not
    on the sampled `z_l`. So each KL of the bound is exact given the sample of the layer above. Every `f` after the
    first starts with a linear layer of the size of the latent below, as in the paper's list of layers (its D64); the
    paper does not say whether that layer is the mean of `z_l`, here it is a separate layer.

    The guide supports all modalities together only. `IterativeSampling` completes missing ones, as in the paper, which
    trains no other encoder. Predictions and embeddings (`conditional`) use the top layer alone, for every subset: the
    model samples the layers below from `p(z_l | z_{l+1})`, as in JM eq. 6, and Figure 3 there shows the top layer.
    For a reconstruction from `z1`, sample `posterior`: `Predictive(generative(model, target), guide)(x)`.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), eq. 3 and section JMVAE-h.

    Args:
        latent_dims: Sizes of `z1, ..., zL`.
        branches: Modality name -> feature network with an attribute `out_features`; `h_1` concatenates their outputs.
        hidden_features: Widths of the hidden layers from each layer's path to the next.
        scale: As in `NormalEncoder`.
        **settings: `prior`, that of the top layer, `private` and `name`, as in `Guide`.

    Sites:
        `zL, ..., z1`, in the order of the model.

    Raises:
        ValueError: If a list of sizes is empty; when called without a modality, or with rows in which some are missing.

    Example:
        >>> import torch
        >>> guide = HierarchicalGuide((3, 2), {"a": MLP(4, 8), "b": MLP(3, 8)}, (16,))
        >>> sites = guide.posterior({"a": torch.zeros(5, 4), "b": torch.zeros(5, 3)})
        >>> {name: tuple(site.event_shape) for name, site in sites.items()}
        {'z2': (2,), 'z1': (3,)}
    """

    _model_size = "latent_dims"

    def __init__(
        self,
        latent_dims: Sequence[int],
        branches: Mapping[str, nn.Module],
        hidden_features: Sequence[int] = (512, 512),
        scale: Scale = "softplus",
        **settings: Any,
    ) -> None:
        if not latent_dims or not hidden_features:
            raise ValueError(
                f"latent_dims and hidden_features must have at least one size, got {latent_dims} and {hidden_features}"
            )
        modalities = tuple(branches)
        super().__init__(latent_dims[-1], None, modalities, [modalities], **settings)
        self.latent_dims = tuple(latent_dims)
        self.embedding = f"z{len(latent_dims)}"
        *before, width = hidden_features
        path, widths = [], [sum(branch.out_features for branch in branches.values())]
        for size in latent_dims[:-1]:
            path.append(nn.Sequential(nn.Linear(widths[-1], size), MLP(size, width, before, activate_output=True)))
            widths.append(width)
        self.branches = nn.ModuleDict(branches)
        self.path = nn.ModuleList(path)
        self.heads = nn.ModuleList(
            NormalEncoder(trunk(features), size, scale) for features, size in zip(widths, latent_dims, strict=True)
        )

    def posterior(self, x: Values, observed: Masks = None) -> dict[str, dist.Distribution]:
        rows = Rows(x, observed)
        if rows.masks:
            requirement = f"this guide needs all of {list(self.modalities)}: IterativeSampling completes them"
            self._check_rows(rows, rows.all_of(self.modalities), requirement)
            x = {name: fill_missing(values, rows.masks.get(name)) for name, values in x.items()}
        return encode_once(self.heads, tuple(x.values()), lambda: self._layers(x))

    def conditional(self, x: Values, observed: Masks = None) -> dict[str, dist.Distribution]:
        return {self.embedding: self.posterior(x, observed)[self.embedding]}

    def _layers(self, x: Values) -> dict[str, dist.Distribution]:
        path, heads = self.path, self.heads
        features = joined(self.branches, x)
        layers = {"z1": heads[0](features)}
        for number, step in enumerate(path, start=1):
            features = step(features)
            layers[f"z{number + 1}"] = heads[number](features)
        return dict(reversed(layers.items()))
