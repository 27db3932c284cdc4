"""The layers that all modalities of a recipe share, before the heads of its guide and before its decoders."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from multipyro.inference.recipes.networks import Networks
from multipyro.ppl_models.networks import ResidualMLP

__all__ = ["SharedParts", "shared_parts"]

# units of the hidden layers, and features between them and the networks of the modalities, at a hidden width of 512
_HIDDEN, _FEATURES, _WIDTH = 500, 200, 512


class SharedParts(NamedTuple):
    """What shared layers stand between.

    Args:
        branches: Modality name -> feature network, all of one size.
        encoder: From the joined features to the heads.
        decoder: From the latent to what all likelihoods see in its place.
    """

    branches: dict[str, nn.Module]
    encoder: ResidualMLP
    decoder: ResidualMLP


def shared_parts(networks: Networks, seen: Sequence[str], latent_dim: int) -> SharedParts:
    """The shared layers of VLVAE and the branches before them.

    The last hidden width sets their widths, so that 512 is the paper's size; hidden layers are at least as wide as what
    goes into them.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1.

    Args:
        networks: Makes the branches.
        seen: The modalities that the encoder sees.
        latent_dim: Size of the latent.
    """
    width = networks.hidden_features[-1]
    features, hidden = (max(1, size * width // _WIDTH) for size in (_FEATURES, _HIDDEN))
    joined = len(seen) * features
    encoder = ResidualMLP(joined, None, max(hidden, joined))
    decoder = ResidualMLP(latent_dim, features, max(hidden, latent_dim), num_blocks=2)
    return SharedParts(networks.select(seen).branches(features), encoder, decoder)
