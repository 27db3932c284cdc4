"""Networks for texts: convolutions over characters or embedded words, and a recurrent network."""

import torch
from torch import Tensor, nn

from multipyro.ppl_models.networks._layers import OneHot, check_ids, embed, leading_shape, run_layers

__all__ = [
    "CharacterChannels",
    "CharacterDecoder",
    "CharacterEncoder",
    "GRUTextEncoder",
    "SentenceDecoder",
    "SentenceEncoder",
]


class CharacterChannels(nn.Module):
    """Texts `(..., length)` as one channel per character, `(..., num_classes, length)`.

    Args:
        num_classes: Number of characters.
        length: Number of positions.

    Example:
        >>> CharacterChannels(3, 2)(torch.tensor([0, 2]), torch.float32)
        tensor([[1., 0.],
                [0., 0.],
                [0., 1.]])
    """

    def __init__(self, num_classes: int, length: int) -> None:
        super().__init__()
        self.out_shape = (num_classes, length)
        self.one_hot = OneHot(num_classes)

    def forward(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        leading_shape(values, self.out_shape[1:])
        return self.one_hot(values, dtype).transpose(-1, -2)


class CharacterEncoder(nn.Module):
    r"""One-hot characters through strided convolutions down to one position.

    At length 8 it is MoPoE's text encoder: `conv(1)`, `conv(4, stride 2)`, `conv(4)`, with a ReLU after each; each
    doubling of the length adds one `conv(4, stride 2)`. A missing character, -1, is zero in all channels.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), appendix on MNIST-SVHN-Text.

    Args:
        num_classes: Number of characters.
        length: Number of positions, a power of 2 of at least 4.
        channels: Channels of every convolution, and number of output features.

    Raises:
        ValueError: If the length is another one.

    Example:
        >>> CharacterEncoder(71, 8)(torch.zeros(5, 3, 8, dtype=torch.int64)).shape
        torch.Size([5, 3, 128])
    """

    def __init__(self, num_classes: int, length: int, channels: int = 128) -> None:
        super().__init__()
        self.out_features = channels
        self.channels = CharacterChannels(num_classes, length)
        layers: list[nn.Module] = [nn.Conv1d(num_classes, channels, 1), nn.ReLU()]
        for _ in range(_halvings(length)):
            layers += [nn.Conv1d(channels, channels, 4, stride=2, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv1d(channels, channels, 4), nn.ReLU(), nn.Flatten())

    def forward(self, values: Tensor) -> Tensor:
        return run_layers(self.layers, self.channels(values, self.layers[0].weight.dtype), self.channels.out_shape)


class CharacterDecoder(nn.Module):
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
        ValueError: If the length is another one.

    Example:
        >>> CharacterDecoder(20, 71, 8)(torch.zeros(5, 3, 20)).shape
        torch.Size([5, 3, 8, 71])
    """

    def __init__(self, in_features: int, num_classes: int, length: int, channels: int = 128) -> None:
        super().__init__()
        self.in_features, self.out_shape = in_features, (length, num_classes)
        layers: list[nn.Module] = [nn.Linear(in_features, channels), nn.Unflatten(-1, (channels, 1))]
        layers += [nn.ConvTranspose1d(channels, channels, 4), nn.ReLU()]
        for _ in range(_halvings(length)):
            layers += [nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv1d(channels, num_classes, 1))

    def forward(self, latents: Tensor) -> Tensor:
        return run_layers(self.layers, latents, (self.in_features,)).transpose(-1, -2)


def _halvings(length: int) -> int:
    """How many times a power of 2 must be halved to reach 4."""
    halvings = length.bit_length() - 3
    if length < 4 or length != 4 * 2**halvings:
        raise ValueError(f"length must be a power of 2 of at least 4, got {length}")
    return halvings


# (kernel, stride, padding) over positions and embedding: the first three convolutions halve both, the others the
# embedding alone
_BOTH, _EMBEDDING = (4, 2, 1), ((1, 4), (1, 2), (0, 1))
_SENTENCE = ((32, _BOTH), (64, _BOTH), (128, _BOTH), (256, _EMBEDDING), (512, _EMBEDDING))


class SentenceEncoder(nn.Module):
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
        >>> SentenceEncoder(1590, 32)(torch.zeros(5, 3, 32, dtype=torch.int64)).shape
        torch.Size([5, 3, 8192])
    """

    def __init__(
        self, num_classes: int, length: int = 32, embedding_features: int = 128, padding_id: int | None = None
    ) -> None:
        super().__init__()
        height, width = _sentence_map(length, embedding_features)
        self.in_shape, self.image_shape = (length,), (1, length, embedding_features)
        self.embedding = nn.Embedding(num_classes, embedding_features, padding_idx=padding_id)
        layers: list[nn.Module] = []
        before = 1
        for after, kernel in _SENTENCE:
            layers += [nn.Conv2d(before, after, *kernel, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.out_features = before * height * width

    def forward(self, values: Tensor) -> Tensor:
        leading_shape(values, self.in_shape)
        check_ids(values, self.embedding.num_embeddings)
        return run_layers(self.layers, embed(self.embedding, values).unsqueeze(-3), self.image_shape)


class SentenceDecoder(nn.Module):
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
        super().__init__()
        height, width = _sentence_map(length, embedding_features)
        self.in_features, self.out_shape = in_features, (length, num_classes)
        top = _SENTENCE[-1][0]
        layers: list[nn.Module] = [
            nn.Linear(in_features, top * height * width, bias=False),
            nn.Unflatten(-1, (top, height, width)),
            nn.BatchNorm2d(top),
            nn.ReLU(),
        ]
        for position, (before, kernel) in reversed(list(enumerate(_SENTENCE))):
            after = _SENTENCE[position - 1][0] if position else 1
            norm = [nn.BatchNorm2d(after)] if position else []
            layers += [nn.ConvTranspose2d(before, after, *kernel, bias=not position), *norm, nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.words = nn.Linear(embedding_features, num_classes)
        if tied_weight is not None:
            shape = (num_classes, embedding_features)
            if tuple(tied_weight.shape) != shape:
                raise ValueError(f"tied_weight must have shape {shape}, got {tuple(tied_weight.shape)}")
            self.words.weight = tied_weight

    def forward(self, latents: Tensor) -> Tensor:
        return self.words(run_layers(self.layers, latents, (self.in_features,)).squeeze(-3))


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
        >>> GRUTextEncoder(20, 9)(torch.zeros(5, 3, 9, dtype=torch.int64)).shape
        torch.Size([5, 3, 200])
    """

    def __init__(self, num_classes: int, length: int, out_features: int = 200, embedding_features: int = 100) -> None:
        super().__init__()
        self.in_shape, self.out_features = (length,), out_features
        self.embedding = nn.Embedding(num_classes, embedding_features)
        self.gru = nn.GRU(embedding_features, out_features, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        lead = leading_shape(values, self.in_shape)
        check_ids(values, self.embedding.num_embeddings)
        _, last = self.gru(embed(self.embedding, values.reshape(-1, *self.in_shape)))
        return last[0].reshape(*lead, self.out_features)
