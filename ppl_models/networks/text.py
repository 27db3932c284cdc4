"""Networks for texts: convolutions over characters or embedded words, and a recurrent network."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from multipyro.ppl_models.networks._layers import Layers, OneHot, check_ids, embed, leading_shape, with_norm

__all__ = [
    "CharacterChannels",
    "CharacterDecoder",
    "CharacterEncoder",
    "CharacterLogits",
    "GRUTextEncoder",
    "SentenceDecoder",
    "SentenceEncoder",
]


class CharacterChannels(Layers):
    """Layers on texts `(..., length)` with one channel per character; a missing one, -1, is zero in all channels.

    Args:
        layers: The layers, the first of them a convolution over `num_classes` channels.
        num_classes: Number of characters.
        length: Number of positions.

    Example:
        >>> import torch
        >>> CharacterChannels([nn.Conv1d(3, 4, 2)], 3, 2)(torch.tensor([[0, 2]])).shape
        torch.Size([1, 4, 1])
    """

    def __init__(self, layers: Sequence[nn.Module], num_classes: int, length: int) -> None:
        super().__init__(layers, (num_classes, length))
        self.one_hot = OneHot(num_classes)

    def forward(self, values: Tensor) -> Tensor:
        leading_shape(values, self.in_shape[1:])
        return super().forward(self.one_hot(values, self.layers[0].weight.dtype).transpose(-1, -2))


class CharacterLogits(Layers):
    """Layers from latents to one channel per character, as logits `(..., length, num_classes)`.

    Args:
        layers: The layers, from `(batch, in_features)` to `(batch, num_classes, length)`.
        in_features: Size of the latent.
        num_classes: Number of characters.
        length: Number of positions.
    """

    def __init__(self, layers: Sequence[nn.Module], in_features: int, num_classes: int, length: int) -> None:
        super().__init__(layers, (in_features,))
        self.out_shape = (length, num_classes)

    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents).transpose(-1, -2)


class CharacterEncoder(CharacterChannels):
    r"""One-hot characters through strided convolutions down to one position.

    At length 8 it is MoPoE's text encoder: `conv(1)`, `conv(4, stride 2)`, `conv(4)`, with a ReLU after each; each
    doubling of the length adds one `conv(4, stride 2)`.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), appendix on MNIST-SVHN-Text.

    Args:
        num_classes: Number of characters.
        length: Number of positions, a power of 2 of at least 4.
        channels: Channels of every convolution, and number of output features.

    Raises:
        ValueError: If the length is not a power of 2, or below 4.

    Example:
        >>> import torch
        >>> CharacterEncoder(71, 8)(torch.zeros(5, 3, 8, dtype=torch.int64)).shape
        torch.Size([5, 3, 128])
    """

    def __init__(self, num_classes: int, length: int, channels: int = 128) -> None:
        layers: list[nn.Module] = [nn.Conv1d(num_classes, channels, 1), nn.ReLU()]
        for _ in range(_halvings(length)):
            layers += [nn.Conv1d(channels, channels, 4, stride=2, padding=1), nn.ReLU()]
        layers += [nn.Conv1d(channels, channels, 4), nn.ReLU(), nn.Flatten()]
        super().__init__(layers, num_classes, length)
        self.out_features = channels


class CharacterDecoder(CharacterLogits):
    r"""The mirror image of `CharacterEncoder`: logits of every character at every position.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), appendix on MNIST-SVHN-Text; its softmax is part of the
        likelihood here.

    Args:
        in_features: Size of the latent.
        num_classes: Number of characters.
        length: Number of positions, a power of 2 of at least 4.
        channels: Channels of every convolution.

    Raises:
        ValueError: If the length is not a power of 2, or below 4.

    Example:
        >>> import torch
        >>> CharacterDecoder(20, 71, 8)(torch.zeros(5, 3, 20)).shape
        torch.Size([5, 3, 8, 71])
    """

    def __init__(self, in_features: int, num_classes: int, length: int, channels: int = 128) -> None:
        layers: list[nn.Module] = [nn.Linear(in_features, channels), nn.Unflatten(-1, (channels, 1))]
        layers += [nn.ConvTranspose1d(channels, channels, 4), nn.ReLU()]
        for _ in range(_halvings(length)):
            layers += [nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.Conv1d(channels, num_classes, 1))
        super().__init__(layers, in_features, num_classes, length)


def _halvings(length: int) -> int:
    """How many times a power of 2 must be halved to reach 4."""
    halvings = length.bit_length() - 3
    if length < 4 or length != 4 * 2**halvings:
        raise ValueError(f"length must be a power of 2 of at least 4, got {length}")
    return halvings


# kernel, stride and padding over positions and embedding: the first three convolutions halve both, the others the
# embedding alone
_KERNELS = (*[(4, 2, 1)] * 3, *[((1, 4), (1, 2), (0, 1))] * 2)
_CHANNELS = (1, 32, 64, 128, 256, 512)


class SentenceEncoder(Layers):
    r"""Embedded words as an image, positions by embedding, through strided convolutions with batch norm.

    Three `conv(4x4, stride 2)`, then two `conv(1x4, stride 1x2)`; the map, 4x4 at 32 positions and 128 embedding
    features, is flattened. A missing word, -1, is embedded as zeros.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), the
        sentence encoder of the feature model in its released code.

    Args:
        num_classes: Number of words.
        length: Number of positions, divisible by 8.
        embedding_features: Size of a word's embedding, divisible by 32.
        padding_id: The word that pads texts, embedded as zeros; None for none.

    Raises:
        ValueError: If the length or the embedding is not divisible.

    Example:
        >>> import torch
        >>> SentenceEncoder(1590, 32)(torch.zeros(5, 3, 32, dtype=torch.int64)).shape
        torch.Size([5, 3, 8192])
    """

    def __init__(
        self, num_classes: int, length: int = 32, embedding_features: int = 128, padding_id: int | None = None
    ) -> None:
        height, width = _sentence_map(length, embedding_features)
        embedding = nn.Embedding(num_classes, embedding_features, padding_idx=padding_id)
        layers: list[nn.Module] = []
        for (before, after), kernel in zip(itertools.pairwise(_CHANNELS), _KERNELS, strict=True):
            layers += with_norm(nn.Conv2d(before, after, *kernel, bias=False), nn.BatchNorm2d(after))
        super().__init__([*layers, nn.Flatten()], (1, length, embedding_features))
        self.embedding = embedding
        self.out_features = _CHANNELS[-1] * height * width

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(_embedded(self.embedding, values, self.in_shape[1]).unsqueeze(-3))


class SentenceDecoder(Layers):
    r"""The mirror image of `SentenceEncoder`, then the logits of every word at every position.

    References:
        As for `SentenceEncoder`, whose released code ties the last layer to the embedding of the encoder: pass
        `tied_weight=encoder.embedding.weight` for that.

    Args:
        in_features: Size of the latent.
        num_classes: Number of words.
        length: Number of positions, divisible by 8.
        embedding_features: Size of a word's embedding, divisible by 32.
        tied_weight: Weight `(num_classes, embedding_features)` of the last layer, shared with an embedding; None for
            a separate one.

    Raises:
        ValueError: If the length or the embedding is not divisible, or the weight has another shape.

    Example:
        >>> import torch
        >>> SentenceDecoder(64, 1590, 32)(torch.zeros(5, 64)).shape
        torch.Size([5, 32, 1590])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        length: int = 32,
        embedding_features: int = 128,
        tied_weight: nn.Parameter | None = None,
    ) -> None:
        height, width = _sentence_map(length, embedding_features)
        top = _CHANNELS[-1]
        layers = [
            nn.Linear(in_features, top * height * width, bias=False),
            *with_norm(nn.Unflatten(-1, (top, height, width)), nn.BatchNorm2d(top)),
        ]
        for (before, after), kernel in zip(itertools.pairwise(_CHANNELS[::-1]), _KERNELS[::-1], strict=True):
            last = after == 1
            convolution = nn.ConvTranspose2d(before, after, *kernel, bias=last)
            layers += with_norm(convolution, None if last else nn.BatchNorm2d(after))
        super().__init__(layers, (in_features,))
        self.out_shape = (length, num_classes)
        self.words = nn.Linear(embedding_features, num_classes)
        if tied_weight is not None:
            shape = (num_classes, embedding_features)
            if tuple(tied_weight.shape) != shape:
                raise ValueError(f"tied_weight must have shape {shape}, got {tuple(tied_weight.shape)}")
            self.words.weight = tied_weight

    def forward(self, latents: Tensor) -> Tensor:
        return self.words(super().forward(latents).squeeze(-3))


def _sentence_map(length: int, embedding_features: int) -> tuple[int, int]:
    """Height and width of the map after the convolutions."""
    if length < 8 or length % 8 or embedding_features < 32 or embedding_features % 32:
        raise ValueError(
            "length must be divisible by 8 and embedding_features by 32, "
            f"got length = {length}, embedding_features = {embedding_features}"
        )
    return length // 8, embedding_features // 32


class GRUTextEncoder(nn.Module):
    r"""The last hidden state of a GRU over embedded tokens; a missing token, -1, is embedded as zeros.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1: an embedding of 100 features, 200 hidden units.

    Args:
        num_classes: Number of tokens.
        length: Number of positions.
        out_features: Hidden units.
        embedding_features: Size of a token's embedding.

    Example:
        >>> import torch
        >>> GRUTextEncoder(20, 9)(torch.zeros(5, 3, 9, dtype=torch.int64)).shape
        torch.Size([5, 3, 200])
    """

    def __init__(self, num_classes: int, length: int, out_features: int = 200, embedding_features: int = 100) -> None:
        super().__init__()
        self.length, self.out_features = length, out_features
        self.embedding = nn.Embedding(num_classes, embedding_features)
        self.gru = nn.GRU(embedding_features, out_features, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        embedded = _embedded(self.embedding, values, self.length)
        _, last = self.gru(embedded.flatten(end_dim=-3))
        return last[0].reshape(*embedded.shape[:-2], self.out_features)


def _embedded(embedding: nn.Embedding, values: Tensor, length: int) -> Tensor:
    """Texts `(..., length)` as embeddings `(..., length, embedding_features)`."""
    leading_shape(values, (length,))
    check_ids(values, embedding.num_embeddings)
    return embed(embedding, values)
