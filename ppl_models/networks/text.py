"""Networks of texts: convolutions over characters or embedded words, and a GRU."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from multipyro.batch import run_layers

__all__ = [
    "CharacterDecoder",
    "CharacterEncoder",
    "GRUTextEncoder",
    "SentenceDecoder",
    "SentenceEncoder",
    "check_tokens",
    "one_hot_rows",
]


def check_tokens(values: Tensor, length: int, num_classes: int) -> None:
    """Raises unless values are `(..., length)` ids below `num_classes`."""
    if values.shape[-1:] != (length,):
        raise ValueError(f"expected texts of shape (..., {length}), got {tuple(values.shape)}")
    if values.numel() and (values.min() < 0 or values.max() >= num_classes):
        raise ValueError(
            f"token ids must be from 0 to {num_classes - 1}, got {values.min().item()} to {values.max().item()}"
        )


def one_hot_rows(values: Tensor, length: int, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Texts `(..., length)` as rows of channels, `(rows, num_classes, length)`."""
    check_tokens(values, length, num_classes)
    return nn.functional.one_hot(values.reshape(-1, length), num_classes).transpose(1, 2).to(dtype)


def _halvings(length: int) -> int:
    """How often a power of 2 is halved to come to 4."""
    halvings = length.bit_length() - 3
    if length < 4 or length != 4 * 2**halvings:
        raise ValueError(f"length must be a power of 2 from 4 on, got {length}")
    return halvings


class CharacterEncoder(nn.Module):
    r"""One-hot characters through strided convolutions down to one position.

    At length 8 it is MoPoE's text encoder: `conv(1)`, `conv(4, stride 2)`, `conv(4)`, a ReLU after each; every doubling
    of the length is one more `conv(4, stride 2)`.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), appendix on MNIST-SVHN-Text.

    Args:
        num_classes: Number of characters.
        length: Number of positions, a power of 2 from 4 on.
        width: Channels of every convolution, and number of features.

    Raises:
        ValueError: If the length is another one.

    Example:
        >>> CharacterEncoder(71, 8)(torch.zeros(5, 3, 8, dtype=torch.int64)).shape
        torch.Size([5, 3, 128])
    """

    def __init__(self, num_classes: int, length: int, width: int = 128) -> None:
        super().__init__()
        self.num_classes, self.length, self.out_features = num_classes, length, width
        layers: list[nn.Module] = [nn.Conv1d(num_classes, width, 1), nn.ReLU()]
        for _ in range(_halvings(length)):
            layers += [nn.Conv1d(width, width, 4, stride=2, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv1d(width, width, 4), nn.ReLU(), nn.Flatten())

    def forward(self, values: Tensor) -> Tensor:
        found = self.layers(one_hot_rows(values, self.length, self.num_classes, self.layers[0].weight.dtype))
        return found.reshape(*values.shape[:-1], self.out_features)


class CharacterDecoder(nn.Module):
    r"""The mirror of `CharacterEncoder`: logits of every character at every position.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), appendix on MNIST-SVHN-Text, whose softmax is left to the
        likelihood.

    Args:
        in_features: Size of the latent.
        num_classes: Number of characters.
        length: Number of positions, a power of 2 from 4 on.
        width: Channels of every convolution.

    Raises:
        ValueError: If the length is another one.

    Example:
        >>> CharacterDecoder(20, 71, 8)(torch.zeros(5, 3, 20)).shape
        torch.Size([5, 3, 8, 71])
    """

    def __init__(self, in_features: int, num_classes: int, length: int, width: int = 128) -> None:
        super().__init__()
        self.out_shape = (length, num_classes)
        layers: list[nn.Module] = [nn.Linear(in_features, width), nn.Unflatten(-1, (width, 1))]
        layers += [nn.ConvTranspose1d(width, width, 4), nn.ReLU()]
        for _ in range(_halvings(length)):
            layers += [nn.ConvTranspose1d(width, width, 4, stride=2, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv1d(width, num_classes, 1))

    def forward(self, latents: Tensor) -> Tensor:
        found = self.layers(latents.reshape(-1, latents.shape[-1])).transpose(1, 2)
        return found.reshape(*latents.shape[:-1], *self.out_shape)


# channels, and the height of kernel and stride: the first three convolutions halve positions and embedding, the others
# the embedding alone
_SENTENCE = ((32, True), (64, True), (128, True), (256, False), (512, False))


class SentenceEncoder(nn.Module):
    r"""Embedded words as a picture, positions by embedding, through strided convolutions with batch norm.

    Three `conv(4x4, stride 2)`, then two `conv(1x4, stride 1x2)`; the map of 4x4 (at 32 positions and 128 numbers a
    word) is flattened.

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), the
        sentence encoder of the feature model of its released code.

    Args:
        num_classes: Number of words.
        length: Number of positions, divisible by 8.
        embedding: Numbers a word, divisible by 32.
        padding: The word that pads, embedded as zeros; None for none.

    Raises:
        ValueError: If the length or the embedding is not divisible.

    Example:
        >>> SentenceEncoder(1590, 32)(torch.zeros(5, 3, 32, dtype=torch.int64)).shape
        torch.Size([5, 3, 8192])
    """

    def __init__(self, num_classes: int, length: int = 32, embedding: int = 128, padding: int | None = None) -> None:
        super().__init__()
        height, width = _sentence_map(length, embedding)
        self.num_classes, self.length = num_classes, length
        self.embedding = nn.Embedding(num_classes, embedding, padding_idx=padding)
        layers: list[nn.Module] = []
        before = 1
        for after, both in _SENTENCE:
            shape = (4, 2, 1) if both else ((1, 4), (1, 2), (0, 1))
            layers += [nn.Conv2d(before, after, *shape, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.out_features = before * height * width

    def forward(self, values: Tensor) -> Tensor:
        check_tokens(values, self.length, self.num_classes)
        pictures = self.embedding(values.reshape(-1, self.length)).unsqueeze(1)
        return run_layers(self.layers, pictures).reshape(*values.shape[:-1], self.out_features)


class SentenceDecoder(nn.Module):
    r"""The mirror of `SentenceEncoder`, then the logits of every word at every position.

    References:
        As for `SentenceEncoder`, whose released code ties the last layer to the embedding of the encoder: pass
        `weight=encoder.embedding.weight` for that.

    Args:
        in_features: Size of the latent.
        num_classes: Number of words.
        length: Number of positions, divisible by 8.
        embedding: Numbers a word, divisible by 32.
        weight: Weight `(num_classes, embedding)` of the last layer; None for one of its own.

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
        embedding: int = 128,
        weight: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        height, width = _sentence_map(length, embedding)
        self.out_shape = (length, num_classes)
        channels = [after for after, _ in _SENTENCE]
        layers: list[nn.Module] = [
            nn.Linear(in_features, channels[-1] * height * width, bias=False),
            nn.Unflatten(-1, (channels[-1], height, width)),
            nn.BatchNorm2d(channels[-1]),
            nn.ReLU(),
        ]
        for position in reversed(range(len(_SENTENCE))):
            after = channels[position - 1] if position else 1
            shape = (4, 2, 1) if _SENTENCE[position][1] else ((1, 4), (1, 2), (0, 1))
            norm = [nn.BatchNorm2d(after)] if position else []
            layers += [nn.ConvTranspose2d(channels[position], after, *shape, bias=not position), *norm, nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.words = nn.Linear(embedding, num_classes)
        if weight is not None:
            if weight.shape != self.words.weight.shape:
                raise ValueError(f"weight must have shape ({num_classes}, {embedding}), got {tuple(weight.shape)}")
            self.words.weight = weight

    def forward(self, latents: Tensor) -> Tensor:
        found = run_layers(self.layers, latents.reshape(-1, latents.shape[-1])).squeeze(1)
        return self.words(found).reshape(*latents.shape[:-1], *self.out_shape)


class GRUTextEncoder(nn.Module):
    r"""The last hidden state of a GRU over embedded tokens.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1: an embedding of 100, 200 hidden units.

    Args:
        num_classes: Number of tokens.
        length: Number of positions.
        out_features: Hidden units.
        embedding: Numbers a token.

    Example:
        >>> GRUTextEncoder(20, 9)(torch.zeros(5, 3, 9, dtype=torch.int64)).shape
        torch.Size([5, 3, 200])
    """

    def __init__(self, num_classes: int, length: int, out_features: int = 200, embedding: int = 100) -> None:
        super().__init__()
        self.num_classes, self.length, self.out_features = num_classes, length, out_features
        self.embedding = nn.Embedding(num_classes, embedding)
        self.gru = nn.GRU(embedding, out_features, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        check_tokens(values, self.length, self.num_classes)
        _, last = self.gru(self.embedding(values.reshape(-1, self.length)))
        return last[0].reshape(*values.shape[:-1], self.out_features)


def _sentence_map(length: int, embedding: int) -> Sequence[int]:
    """Height and width of the picture after the convolutions."""
    if length < 8 or length % 8 or embedding < 32 or embedding % 32:
        raise ValueError(
            f"length must be divisible by 8 and embedding by 32, got length = {length}, embedding = {embedding}"
        )
    return length // 8, embedding // 32
