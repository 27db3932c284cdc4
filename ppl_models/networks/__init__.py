"""Networks of encoders and decoders for any leading dimensions; `heads` and `flows` turn features into latents."""

from multipyro.ppl_models.networks.batch_norm_conv import BatchNormConvDecoder, BatchNormConvEncoder
from multipyro.ppl_models.networks.conv import ConvDecoder, ConvEncoder
from multipyro.ppl_models.networks.covariates import Covariates, WithCovariates
from multipyro.ppl_models.networks.discriminator import Discriminator
from multipyro.ppl_models.networks.inputs import TransformedInput
from multipyro.ppl_models.networks.instance_norm_conv import InstanceNormConvDecoder, InstanceNormConvEncoder
from multipyro.ppl_models.networks.mlp import MLP, BatchNormMLP, OneHotMLP, ResidualMLP
from multipyro.ppl_models.networks.residual_conv import (
    ResidualConvDecoder,
    ResidualConvEncoder,
    ResidualTextDecoder,
    ResidualTextEncoder,
)
from multipyro.ppl_models.networks.text import (
    CharacterDecoder,
    CharacterEncoder,
    GRUTextEncoder,
    SentenceDecoder,
    SentenceEncoder,
)

__all__ = [
    "MLP",
    "BatchNormConvDecoder",
    "BatchNormConvEncoder",
    "BatchNormMLP",
    "CharacterDecoder",
    "CharacterEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "Covariates",
    "Discriminator",
    "GRUTextEncoder",
    "InstanceNormConvDecoder",
    "InstanceNormConvEncoder",
    "OneHotMLP",
    "ResidualConvDecoder",
    "ResidualConvEncoder",
    "ResidualMLP",
    "ResidualTextDecoder",
    "ResidualTextEncoder",
    "SentenceDecoder",
    "SentenceEncoder",
    "TransformedInput",
    "WithCovariates",
]
