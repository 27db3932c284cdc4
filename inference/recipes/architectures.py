"""The network architectures: what each is, which modalities it suits, and how its encoder and decoder are built."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from multipyro.data import Modality
from multipyro.ppl_models import networks
from multipyro.ppl_models.networks.heads import chain, trunk

__all__ = [
    "ARCHITECTURES",
    "DISCRIMINATORS",
    "Architecture",
    "Sizes",
    "architecture_for",
    "default_architectures",
    "feature_network",
    "first_suitable",
]

# the smallest side of the images that get the networks of JMVAE for CelebA
_LARGE = 64
# kind of data -> transform of the input of its encoder
_TRANSFORMS = {"angles": "circle", "counts": "log1p", "positive": "log"}
# likelihoods with two parameters per entry from the decoder
_TWO_PARAMETERS = ("von_mises", "zero_inflated_negative_binomial", "zero_inflated_poisson")
# the number of features of ResNet-101
_RESNET = 2048
# the slope of leaky ReLUs, that of DCGAN
_SLOPE = 0.2
#: Kind of a strided discriminator -> batch norm, slope of leaky ReLUs: those of JMVAE's paper, and those of its code.
DISCRIMINATORS = {"normalized": (True, 0.0), "leaky": (False, _SLOPE)}


@dataclass(frozen=True)
class Sizes:
    """The sizes that determine the widths of all layers; a last hidden width of 512 gives those of the papers.

    Args:
        hidden_features: Widths of the hidden layers.
        normalized: Whether vectors, and the layers after joined branches, have batch norm, as in JMVAE for CelebA.
        features: Number of output features of an encoder that can choose it; None for the last hidden width.
    """

    hidden_features: tuple[int, ...]
    normalized: bool = False
    features: int | None = None

    @property
    def last(self) -> int:
        """The last hidden width."""
        return self.hidden_features[-1]

    @property
    def out_features(self) -> int:
        """The number of output features of an encoder that can choose it."""
        return self.last if self.features is None else self.features

    @property
    def joint_features(self) -> tuple[int, ...]:
        """Widths of the layers after joined branches."""
        return (2 * self.last,) if self.normalized else ()

    def over(self, divisor: int) -> int:
        """The last hidden width divided by `divisor`, at least 1."""
        return max(1, self.last // divisor)


def _never(modality: Modality) -> bool:
    """`default_for` of an architecture that is never the default."""
    return False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network architecture for one modality: an encoder (feature network) and a decoder.

    Args:
        name: Name in `--networks` and in `networks_for`.
        about: Its source and what it consists of, in a few words.
        suits: Whether it can process a modality.
        encoder: From modality and sizes to a feature network with an attribute `out_features`.
        decoder: From modality, sizes and latent size to a network from the latent to the parameters of the likelihood.
        default_for: Whether a modality gets it by default; the first such architecture of `ARCHITECTURES` is used.
        discriminator: From modality, sizes and kind to a feature network for a discriminator; None for the encoder.
        normal_scale: Initial standard deviation of a normal likelihood; None for that of the likelihood.
        batch_norm: Whether vectors beside it have batch norm too.

    Example:
        >>> ARCHITECTURES["gru"].suits(Modality("label", (), "label", "categorical", 10))
        False
    """

    name: str
    about: str
    suits: Callable[[Modality], bool]
    encoder: Callable[[Modality, Sizes], nn.Module]
    decoder: Callable[[Modality, Sizes, int], nn.Module]
    default_for: Callable[[Modality], bool] = _never
    discriminator: Callable[[Modality, Sizes, str], nn.Module] | None = None
    normal_scale: float | None = None
    batch_norm: bool = False


def _sides_divisible(modality: Modality, divisor: int, smallest: int) -> bool:
    """Whether it is an image whose sides are divisible by `divisor` and at least `smallest`."""
    return modality.kind == "image" and all(side % divisor == 0 and side >= smallest for side in modality.shape[1:])


def _is_color(modality: Modality) -> bool:
    return modality.kind == "image" and modality.shape[0] == 3


def _is_text(modality: Modality) -> bool:
    return modality.kind == "text" and modality.likelihood == "categorical" and len(modality.shape) == 1


def _has_2_to_the_n_positions(modality: Modality) -> bool:
    return _is_text(modality) and modality.dim >= 4 and modality.dim.bit_count() == 1


def _tokens(modality: Modality) -> tuple[int, int]:
    """Number of classes and of positions."""
    return modality.num_classes, math.prod(modality.shape)


def _parameters(modality: Modality) -> tuple[int, ...]:
    """Shape of the parameters that the likelihood of one entry takes from a decoder."""
    if modality.likelihood == "categorical":
        return (modality.num_classes,)
    return (2,) if modality.likelihood in _TWO_PARAMETERS else ()


def feature_network(architecture: Architecture, modality: Modality, sizes: Sizes) -> nn.Module:
    """The encoder of an architecture, on transformed values or with a mask where the kind of data needs it."""
    transform = _TRANSFORMS.get(modality.kind, "identity")
    if transform == "identity" and not modality.missing_entries:
        return architecture.encoder(modality, sizes)
    return networks.TransformedInput(
        modality.shape,
        lambda shape: architecture.encoder(
            replace(modality, shape=shape, columns=None, scaling=None, mean_counts=None), sizes
        ),
        transform,
        modality.missing_entries,
    )


def _mlp_encoder(modality: Modality, sizes: Sizes) -> nn.Module:
    if sizes.normalized and modality.kind == "vector" and not modality.is_discrete:
        return networks.BatchNormMLP(modality.shape, sizes.out_features)
    return _mlp(modality, sizes)


def _mlp(modality: Modality, sizes: Sizes, **settings: Any) -> nn.Module:
    """A feature network of the hidden widths, with `settings` of `MLP`."""
    *before, _ = sizes.hidden_features
    settings = {"activate_output": True, **settings}
    if not modality.is_discrete:
        return networks.MLP(modality.shape, sizes.out_features, before, **settings)
    positions = math.prod(modality.shape) if modality.shape else None
    return networks.OneHotMLP(modality.num_classes, sizes.out_features, before, positions, **settings)


def _mlp_decoder(modality: Modality, sizes: Sizes, latent_dim: int) -> nn.Module:
    if sizes.normalized and modality.kind == "vector":
        return networks.MLP(latent_dim, modality.shape, (sizes.last, 8 * sizes.last))
    decoder = networks.MLP(latent_dim, (*modality.shape, *_parameters(modality)), sizes.hidden_features)
    if modality.mean_counts is not None:  # counts of hundreds are hundreds of steps away from a mean of 1
        log_means = torch.tensor(modality.mean_counts).reshape(modality.shape).log()
        with torch.no_grad():
            bias = decoder.layers[-1].bias.unflatten(0, decoder.out_shape)
            (bias[..., 0] if _parameters(modality) else bias).copy_(log_means)
    return decoder


def _strided_discriminator(modality: Modality, sizes: Sizes, kind: str) -> nn.Module:
    network = networks.BatchNormConvEncoder(modality.shape, sizes.over(8), *DISCRIMINATORS[kind])
    return chain(network, trunk(network.out_features, sizes.joint_features)) if sizes.joint_features else network


def _shallow(sizes: Sizes) -> int:
    """Units of the only hidden layer."""
    return max(1, 400 * sizes.last // 512)


def _tapered(sizes: Sizes) -> tuple[int, ...]:
    """Units of the three layers of an encoder."""
    return (2 * sizes.last, sizes.last, sizes.over(2))


def _plain(modality: Modality, sizes: Sizes) -> tuple[tuple[int, ...], int | None]:
    """Channels of the convolutions, and the width of the linear layer after them, if there is one."""
    if _sides_divisible(modality, 16, _LARGE):
        return tuple(map(sizes.over, (8, 4, 2, 1))), None
    return tuple(map(sizes.over, (16, 8, 8))), sizes.over(4)


def _plain_encoder(modality: Modality, sizes: Sizes) -> nn.Module:
    channels, features = _plain(modality, sizes)
    return networks.ConvEncoder(modality.shape, features, channels, kernel_size=4)


def _plain_decoder(modality: Modality, sizes: Sizes, latent_dim: int) -> nn.Module:
    channels, features = _plain(modality, sizes)
    return networks.ConvDecoder(latent_dim, modality.shape, channels[::-1], 4, features)


def _residual_encoder(modality: Modality, sizes: Sizes) -> nn.Module:
    if modality.kind == "image":
        return networks.ResidualConvEncoder(modality.shape, sizes.over(4))
    return networks.ResidualTextEncoder(*_tokens(modality), sizes.over(4))


def _residual_decoder(modality: Modality, sizes: Sizes, latent_dim: int) -> nn.Module:
    if modality.kind == "image":
        return networks.ResidualConvDecoder(latent_dim, modality.shape, sizes.over(4))
    return networks.ResidualTextDecoder(latent_dim, *_tokens(modality), sizes.over(4))


def _normalized_encoder(modality: Modality, sizes: Sizes) -> nn.Module:
    if _sides_divisible(modality, 16, _LARGE):
        return networks.BatchNormConvEncoder(modality.shape, sizes.over(8), negative_slope=_SLOPE)
    return _mlp(modality, sizes, activation=_leaky_relu, batch_norm=True)


def _normalized_decoder(modality: Modality, sizes: Sizes, latent_dim: int) -> nn.Module:
    if _sides_divisible(modality, 16, _LARGE):
        return networks.BatchNormConvDecoder(latent_dim, modality.shape, sizes.over(8), _SLOPE)
    shape = (*modality.shape, *_parameters(modality))
    return networks.MLP(latent_dim, shape, sizes.hidden_features, _leaky_relu, batch_norm=True)


def _leaky_relu() -> nn.Module:
    return nn.LeakyReLU(_SLOPE)


def _word_features(sizes: Sizes) -> int:
    """Size of a word's embedding, divisible by 32."""
    return 32 * max(1, sizes.over(4) // 32)


#: The architectures by name. Of those that are the default for a modality, the first is used.
ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="strided",
            about="JMVAE on CelebA: strided convolutions with batch norm; images with sides divisible by 16",
            suits=lambda modality: _sides_divisible(modality, 16, 16),
            encoder=lambda modality, sizes: networks.BatchNormConvEncoder(modality.shape, sizes.over(8)),
            decoder=lambda modality, sizes, latent_dim: networks.BatchNormConvDecoder(
                latent_dim, modality.shape, sizes.over(8)
            ),
            default_for=lambda modality: _is_color(modality) and _sides_divisible(modality, 16, _LARGE),
            discriminator=_strided_discriminator,
            normal_scale=0.27,  # JMVAE has 1 on standardized pixels, whose standard deviation in [0, 1] is this
            batch_norm=True,
        ),
        Architecture(
            name="plain",
            about="MoPoE on SVHN and, from 64x64 on, MMVAE on CUB: convolutions without batch norm; images with sides "
            "divisible by 8",
            suits=lambda modality: _sides_divisible(modality, 8, 16),
            encoder=_plain_encoder,
            decoder=_plain_decoder,
            default_for=lambda modality: _is_color(modality) and modality.shape[1:] == (32, 32),
        ),
        Architecture(
            name="convolutional",
            about="MoPoE on PolyMNIST (its appendix, section 4.7): three convolutions of fixed size; images and grids",
            suits=lambda modality: modality.kind in ("image", "grid"),
            encoder=lambda modality, sizes: networks.ConvEncoder(modality.shape),
            decoder=lambda modality, sizes, latent_dim: networks.ConvDecoder(latent_dim, modality.shape),
            default_for=lambda modality: _is_color(modality) or modality.kind == "grid",
        ),
        Architecture(
            name="residual",
            about="MoPoE on CelebA: residual blocks; images of 64x64 and texts of 256 characters",
            suits=lambda modality: modality.shape == (256,) if _is_text(modality) else modality.shape[1:] == (64, 64),
            encoder=_residual_encoder,
            decoder=_residual_decoder,
        ),
        Architecture(
            name="instance",
            about="VLVAE: residual blocks with instance norm; images with sides divisible by 4",
            suits=lambda modality: _sides_divisible(modality, 4, 16),
            encoder=lambda modality, sizes: networks.InstanceNormConvEncoder(
                modality.shape, sizes.out_features, sizes.over(8)
            ),
            decoder=lambda modality, sizes, latent_dim: networks.InstanceNormConvDecoder(
                latent_dim, modality.shape, sizes.over(8)
            ),
        ),
        Architecture(
            name="tapered",
            about="MMVAE on CUB: three narrowing layers with ELUs; vectors",
            suits=lambda modality: modality.kind == "vector" and modality.likelihood != "categorical",
            encoder=lambda modality, sizes: networks.MLP(
                modality.shape, _tapered(sizes)[-1], _tapered(sizes)[:-1], nn.ELU, activate_output=True
            ),
            decoder=lambda modality, sizes, latent_dim: networks.MLP(
                latent_dim, modality.shape, _tapered(sizes)[::-1], nn.ELU
            ),
            default_for=lambda modality: modality.shape == (_RESNET,),
        ),
        Architecture(
            name="characters",
            about="MoPoE on MNIST-SVHN-Text: convolutions; texts whose length is a power of 2",
            suits=_has_2_to_the_n_positions,
            encoder=lambda modality, sizes: networks.CharacterEncoder(*_tokens(modality), sizes.over(4)),
            decoder=lambda modality, sizes, latent_dim: networks.CharacterDecoder(
                latent_dim, *_tokens(modality), sizes.over(4)
            ),
            default_for=lambda modality: modality.alphabet is not None and modality.dim >= 8,
        ),
        Architecture(
            name="sentence",
            about="MMVAE on CUB: convolutions over word embeddings; texts whose length is divisible by 8",
            suits=lambda modality: _is_text(modality) and modality.dim % 8 == 0,
            encoder=lambda modality, sizes: networks.SentenceEncoder(
                *_tokens(modality), _word_features(sizes), modality.pad
            ),
            decoder=lambda modality, sizes, latent_dim: networks.SentenceDecoder(
                latent_dim, *_tokens(modality), _word_features(sizes)
            ),
            default_for=lambda modality: modality.vocabulary is not None and modality.dim >= 16,
        ),
        Architecture(
            name="gru",
            about="VLVAE: a recurrent encoder and the decoder of `mlp`; texts",
            suits=_is_text,
            encoder=lambda modality, sizes: networks.GRUTextEncoder(*_tokens(modality), sizes.out_features),
            decoder=_mlp_decoder,
        ),
        Architecture(
            name="shallow",
            about="MMVAE and MoPoE on MNIST: one hidden layer; images and vectors",
            suits=lambda modality: modality.kind in ("image", "vector") and modality.likelihood != "categorical",
            encoder=lambda modality, sizes: networks.MLP(modality.shape, _shallow(sizes), (), activate_output=True),
            decoder=lambda modality, sizes, latent_dim: networks.MLP(latent_dim, modality.shape, (_shallow(sizes),)),
        ),
        Architecture(
            name="normalized",
            about="Bridged VAE: batch norm and leaky ReLUs, in strided convolutions for images of 64x64 and more with "
            "sides divisible by 16, in fully connected layers for everything else",
            suits=lambda modality: True,
            encoder=_normalized_encoder,
            decoder=_normalized_decoder,
        ),
        Architecture(
            name="mlp",
            about="JMVAE on MNIST: two hidden layers; everything",
            suits=lambda modality: True,
            encoder=_mlp_encoder,
            decoder=_mlp_decoder,
            default_for=lambda modality: True,
        ),
    )
}


def architecture_for(name: str, modality: Modality) -> Architecture:
    """The architecture of this name, which must suit the modality.

    Raises:
        ValueError: If the name is unknown, or the architecture does not suit the modality.
    """
    if not _named(name).suits(modality):
        raise ValueError(
            f"the architecture {name!r} does not suit modality {modality.name!r}: {modality.kind}, shape "
            f"{modality.shape}"
        )
    return _named(name)


def first_suitable(modalities: Mapping[str, Modality], names: Sequence[str]) -> dict[str, str]:
    """Modality -> the first of the named architectures that suits it, without the modalities that none suits.

    Raises:
        ValueError: If a name is unknown.
    """
    suitable = {m: [name for name in names if _named(name).suits(modality)] for m, modality in modalities.items()}
    return {modality: suiting[0] for modality, suiting in suitable.items() if suiting}


def default_architectures(modalities: Mapping[str, Modality]) -> dict[str, str]:
    """Modality -> its default architecture, which depends on the other modalities too.

    A 28x28 gray image beside one with the architecture `plain` has `shallow`, so that MNIST-SVHN-Text at its default
    widths has the networks of MoPoE.
    """
    defaults = {name: _default(modality) for name, modality in modalities.items()}
    if "plain" in defaults.values():
        defaults |= {n: "shallow" for n, m in modalities.items() if m.kind == "image" and m.shape == (1, 28, 28)}
    return defaults


def _default(modality: Modality) -> str:
    return next(a.name for a in ARCHITECTURES.values() if a.default_for(modality) and a.suits(modality))


def _named(name: str) -> Architecture:
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}: choose from {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
