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
from typing import Literal, NamedTuple

import pyro.distributions as dist
from pyro.infer.util import is_validation_enabled
from torch import nn

from multipyro.batch import Masks, Rows, Values, selected
from multipyro.guides import Guide, JointGuide, NormalEncoder
from multipyro.inference.objectives import GUIDE, MODEL, elbo
from multipyro.inference.options import Share
from multipyro.inference.recipes._base import Recipe, Stage, Weighting, method
from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models import MLP, AutoregressiveTextLikelihood, MultimodalModel
from multipyro.ppl_models.networks import ResidualMLP
from multipyro.ppl_models.networks.heads import chain, trunk

__all__ = ["vlvae"]

# units of the hidden layers, and features between them and the networks of the modalities, at a hidden width of 512
_HIDDEN, _FEATURES, _WIDTH = 500, 200, 512


class _SharedLayers(NamedTuple):
    """The shared layers, and the branches before them.

    Args:
        branches: Modality name -> feature network, all of one size.
        encoder: From the joined features to the heads.
        decoder: From the latent to the input of all likelihoods.
    """

    branches: dict[str, nn.Module]
    encoder: ResidualMLP
    decoder: ResidualMLP


class _FirstOnly(Guide):
    """`q(z | x)` from the first modality alone, whatever else is given."""

    def __init__(self, latent_dim: int, modalities: tuple[str, ...], encoders: Mapping[str, nn.Module]) -> None:
        super().__init__(latent_dim, encoders, modalities, [modalities[:1], modalities])

    def posterior(self, x: Values, observed: Masks = None) -> dist.Distribution:
        first, other = self.modalities
        rows = Rows(x, observed)
        if is_validation_enabled() and other in x and first in rows.masks and rows.exactly([other]).any():
            raise ValueError(f"a row contains {other} without {first}, which this guide does not support")
        return self.experts(selected(x, (first,)), observed)[first]


def _guide(
    networks: Networks, latent_dim: int, pair: tuple[str, ...], given: tuple[str, ...], parts: _SharedLayers | None
) -> Guide:
    """The guide given both modalities, or the first one alone."""
    if parts is not None and given == pair:
        return JointGuide(latent_dim, parts.branches, shared=parts.encoder)
    if parts is not None:
        encoder = NormalEncoder(chain(parts.branches[pair[0]], parts.encoder), latent_dim)
        return _FirstOnly(latent_dim, pair, {pair[0]: encoder})
    if given == pair:
        return JointGuide(latent_dim, networks.branches(), networks.joint_features)
    return _FirstOnly(latent_dim, pair, networks.select(pair[:1]).encoders(latent_dim))


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
        networks: Builds the parts.
        latent_dim: Size of the latent.
        weighting: Weights of the sites.
        inference: `"marginal"`: the guide is given the image alone; `"joint"`: both.
        token_dropout: Share of the previous words that are hidden from the text's decoder.
        shared: Whether the paper's shared layers are added.
    """
    names = tuple(networks.modalities)
    pair = (names[0], names[-1])
    networks, text = networks.select(pair), networks.modalities[names[-1]]
    given = pair if inference == "joint" else pair[:1]
    parts = _shared_layers(networks, given, latent_dim) if shared else None
    likelihoods = networks.likelihoods(latent_dim if parts is None else parts.decoder.out_features)
    if text.kind == "text":
        *widths, features = networks.hidden_features
        if parts is None:
            network = MLP(networks.input_size(latent_dim), features, widths, activate_output=True)
        else:
            network = trunk(networks.input_size(parts.decoder.out_features))
        likelihoods[text.name] = AutoregressiveTextLikelihood(
            network, text.num_classes, *text.shape, token_dropout=token_dropout
        )
    decoder = None if parts is None else parts.decoder
    model = MultimodalModel(latent_dim, likelihoods, trunk=decoder, covariates=networks.covariate_features())
    guide = _guide(networks, latent_dim, pair, given, parts)
    return Recipe(model, guide, (Stage(elbo(MODEL, GUIDE | given, weighting.sites)),), teacher=given)


def _shared_layers(networks: Networks, given: Sequence[str], latent_dim: int) -> _SharedLayers:
    """The shared layers: 512 as the last hidden width is the paper's size, and no layer is narrower than its inputs."""
    width = networks.hidden_features[-1]
    features, hidden = (max(1, size * width // _WIDTH) for size in (_FEATURES, _HIDDEN))
    joined = len(given) * features
    encoder = ResidualMLP(joined, None, max(hidden, joined))
    decoder = ResidualMLP(latent_dim, features, max(hidden, latent_dim), num_blocks=2)
    return _SharedLayers(networks.select(given).branches(features), encoder, decoder)
