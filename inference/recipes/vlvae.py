r"""VLVAE: a guide given the image alone, a model of image and text, and a flow from the text.

.. math:: \mathrm{ELBO}(m \| g_{\{image\}}), \qquad\text{then the flow by}\quad q_{agg} \;\text{or}\; q_{true}

`shared=True` adds the paper's shared layers (`ResidualMLP`). The features, of both modalities joined where the guide
gets both, pass one residual block with batch norm before the heads. The latent passes two blocks and a layer,
once a step, and the decoders of image and text get the result in place of `z`. With `--networks image=instance
text=gru --hidden 512` these have the paper's sizes: 200 features, 500 units. By default the decoders share `z` alone,
and a text has its own MLP. The shared layers train in the first stage and are frozen in later ones, with their
running statistics. The flow has a separate encoder of the text, since the shared one is part of the guide.

References:
    On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and Kushman),
    section 5.1.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import pyro.distributions as dist
from torch import nn

from multipyro.batch import Masks, Rows, Values, selected
from multipyro.guides import Guide, JointGuide, NormalEncoder
from multipyro.inference.objectives import GUIDE, MODEL, elbo
from multipyro.inference.options import Share
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import AutoregressiveTextLikelihood, MultimodalModel
from multipyro.ppl_models.networks import ResidualMLP
from multipyro.ppl_models.networks.heads import chain, trunk

__all__ = ["vlvae"]

# units of the hidden layers, and features between them and the networks of the modalities, at a hidden width of 512
_HIDDEN, _FEATURES, _WIDTH = 500, 200, 512


class _FirstOnly(Guide):
    """`q(z | x)` from the first modality alone, whatever else is given."""

    def __init__(self, latent_dim: int, modalities: tuple[str, ...], encoders: Mapping[str, nn.Module]) -> None:
        super().__init__(latent_dim, encoders, modalities, [modalities[:1], modalities])

    def posterior(self, x: Values, observed: Masks = None) -> dist.Distribution:
        first, rows = self.modalities[0], Rows(x, observed)
        if first in rows.masks:
            self._check_rows(rows, rows.masks[first])
        return self.experts(selected(x, (first,)), observed)[first]


@method(
    "vlvae",
    title="image-only guide, autoregressive text, flows for the text",
    paper="Cremer and Kushman, eq. 1, 3, 5",
    subsets="the image, the text (by its flow), both (by the image)",
    networks="1 encoder, 1 flow",
    min_modalities=2,
    takes="the first and the last; either from the other",
    architectures=("instance", "gru"),
    defaults={"aggregate": True},
)
def vlvae(
    networks: Networks,
    latent_dim: int,
    weighting: Weighting,
    *,
    inference: Literal["marginal", "joint"] = "marginal",
    token_dropout: Share = 0.0,
    shared: bool = False,
) -> Recipe:
    """VLVAE.

    Args:
        networks: Builds the decoders and the encoders.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        inference: `"marginal"`: the guide is given the image alone; `"joint"`: both.
        token_dropout: Share of the previous words that are hidden from the text's decoder.
        shared: Whether the paper's shared layers are added.
    """
    pair = (next(iter(networks.modalities)), list(networks.modalities)[-1])
    networks = networks.select(pair)
    given, text = pair if inference == "joint" else pair[:1], networks.modalities[pair[1]]
    branches, encoder, decoder = _shared_layers(networks, given, latent_dim) if shared else (None, None, None)
    size = latent_dim if decoder is None else decoder.out_features
    likelihoods = networks.likelihoods(size)
    if text.kind == "text":
        network = trunk(networks.input_size(size), () if shared else networks.hidden_features)
        likelihoods[text.name] = AutoregressiveTextLikelihood(
            network, text.num_classes, *text.shape, token_dropout=token_dropout
        )
    model = MultimodalModel(latent_dim, likelihoods, trunk=decoder, covariates=networks.covariate_features())
    if given == pair:
        branches = networks.branches() if branches is None else branches
        guide = JointGuide(latent_dim, branches, networks.joint_features, shared=encoder)
    elif shared:
        image_encoder = NormalEncoder(chain(branches[pair[0]], encoder), latent_dim)
        guide = _FirstOnly(latent_dim, pair, {pair[0]: image_encoder})
    else:
        guide = _FirstOnly(latent_dim, pair, networks.select(given).encoders(latent_dim))
    return Recipe(model, guide, (Stage(elbo(MODEL, GUIDE | given, weighting.sites)),), teacher=given)


def _shared_layers(
    networks: Networks, given: Sequence[str], latent_dim: int
) -> tuple[dict[str, nn.Module], ResidualMLP, ResidualMLP]:
    """The branches and the shared layers after them, and the shared layers between the latent and the likelihoods.

    A last hidden width of 512 gives the paper's sizes; no layer is narrower than its inputs.
    """
    width = networks.hidden_features[-1]
    features, hidden = (max(1, size * width // _WIDTH) for size in (_FEATURES, _HIDDEN))
    joined = len(given) * features
    encoder = ResidualMLP(joined, None, max(hidden, joined))
    decoder = ResidualMLP(latent_dim, features, max(hidden, latent_dim), num_blocks=2)
    return networks.select(given).branches(features), encoder, decoder
