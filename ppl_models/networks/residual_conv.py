"""The networks of MoPoE for CelebA: residual convolutions for 64x64 images and for texts of 256 characters."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from multipyro.ppl_models.networks._layers import Layers
from multipyro.ppl_models.networks.text import CharacterChannels, CharacterLogits

__all__ = ["ResidualConvDecoder", "ResidualConvEncoder", "ResidualTextDecoder", "ResidualTextEncoder"]

_SKIP_WEIGHT, _BRANCH_WEIGHT, _DROPOUT = 2.0, 0.3, 0.5
# channels as multiples of the base channels, from the data to a single position
_IMAGE_MULTIPLES = (1, 2, 3, 4, 5)
_TEXT_MULTIPLES = (1, 2, 3, 4, 5, 5, 5)
_SIDE, _LENGTH = 64, 256


class _Block(nn.Module):
    """`2 skip(x) + 0.3 branch(x)`: a normalized convolution, and two convolutions after normalization."""

    def __init__(self, before: int, after: int, last: bool, transposed: bool, dims: int) -> None:
        super().__init__()
        convolution = {
            (1, False): nn.Conv1d,
            (1, True): nn.ConvTranspose1d,
            (2, False): nn.Conv2d,
            (2, True): nn.ConvTranspose2d,
        }
        strided, pointwise = convolution[dims, transposed], convolution[dims, False]
        norm = nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d
        dropout = nn.Dropout if dims == 1 else nn.Dropout2d
        # the last block turns four positions into one, or one into four; others halve or double their number
        kernel = (4, 1, 0) if last else (4, 2, 1)
        self.branch = nn.Sequential(
            norm(before),
            nn.ReLU(),
            pointwise(before, before, 1, bias=dims == 1),
            dropout(_DROPOUT),
            norm(before),
            nn.ReLU(),
            strided(before, after, *kernel, bias=dims == 1),
            dropout(_DROPOUT),
        )
        self.skip = nn.Sequential(strided(before, after, *kernel, bias=False), norm(after))

    def forward(self, values: Tensor) -> Tensor:
        return _SKIP_WEIGHT * self.skip(values) + _BRANCH_WEIGHT * self.branch(values)


def _blocks(multiples: Sequence[int], base_channels: int, transposed: bool, dims: int) -> list[nn.Module]:
    """The blocks of an encoder, or from the last to the first those of a decoder."""
    channels = [multiple * base_channels for multiple in (multiples[::-1] if transposed else multiples)]
    last = 0 if transposed else len(channels) - 2
    steps = enumerate(itertools.pairwise(channels))
    return [_Block(before, after, number == last, transposed, dims) for number, (before, after) in steps]


class ResidualConvEncoder(Layers):
    r"""A convolution and four residual blocks, from a 64x64 image to one position.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), appendix on CelebA, and its released code.

    Args:
        in_shape: `(channels, 64, 64)`.
        base_channels: Channels of the first convolution; the blocks have 2 to 5 times as many.

    Raises:
        ValueError: If the image has another size.

    Example:
        >>> import torch
        >>> ResidualConvEncoder((3, 64, 64), base_channels=8)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 40])
    """

    def __init__(self, in_shape: Sequence[int], base_channels: int = 128) -> None:
        _check_image(in_shape)
        first = nn.Conv2d(in_shape[0], base_channels, 3, stride=2, padding=2, bias=False)
        super().__init__([first, *_blocks(_IMAGE_MULTIPLES, base_channels, False, 2), nn.Flatten()], in_shape)
        self.out_features = _IMAGE_MULTIPLES[-1] * base_channels


class ResidualConvDecoder(Layers):
    r"""The mirror image of `ResidualConvEncoder`, with a linear output.

    References:
        As for `ResidualConvEncoder`.

    Args:
        in_features: Size of the latent.
        out_shape: `(channels, 64, 64)`.
        base_channels: Channels before the last convolution.

    Raises:
        ValueError: If the image has another size.

    Example:
        >>> import torch
        >>> ResidualConvDecoder(20, (3, 64, 64), base_channels=8)(torch.zeros(4, 2, 20)).shape
        torch.Size([4, 2, 3, 64, 64])
    """

    def __init__(self, in_features: int, out_shape: Sequence[int], base_channels: int = 128) -> None:
        _check_image(out_shape)
        top = _IMAGE_MULTIPLES[-1] * base_channels
        last = nn.ConvTranspose2d(base_channels, out_shape[0], 3, stride=2, padding=1, output_padding=1)
        first = [nn.Linear(in_features, top), nn.Unflatten(-1, (top, 1, 1))]
        super().__init__([*first, *_blocks(_IMAGE_MULTIPLES, base_channels, True, 2), last], (in_features,))
        self.out_shape = tuple(out_shape)


class ResidualTextEncoder(CharacterChannels):
    r"""One-hot characters through a convolution and six residual blocks, from 256 positions to one.

    References:
        As for `ResidualConvEncoder`.

    Args:
        num_classes: Number of characters.
        length: Number of positions: 256.
        base_channels: Channels of the first convolution; the blocks have 2 to 5 times as many.

    Raises:
        ValueError: If the length is not 256.

    Example:
        >>> import torch
        >>> ResidualTextEncoder(71, base_channels=8)(torch.zeros(2, 256, dtype=torch.int64)).shape
        torch.Size([2, 40])
    """

    def __init__(self, num_classes: int, length: int = _LENGTH, base_channels: int = 128) -> None:
        _check_length(length)
        first = nn.Conv1d(num_classes, base_channels, 4, stride=2, padding=1)
        super().__init__([first, *_blocks(_TEXT_MULTIPLES, base_channels, False, 1), nn.Flatten()], num_classes, length)
        self.out_features = _TEXT_MULTIPLES[-1] * base_channels


class ResidualTextDecoder(CharacterLogits):
    r"""The mirror image of `ResidualTextEncoder`: logits of every character at every position.

    References:
        As for `ResidualConvEncoder`; its softmax is part of the likelihood here.

    Args:
        in_features: Size of the latent.
        num_classes: Number of characters.
        length: Number of positions: 256.
        base_channels: Channels before the last convolution.

    Raises:
        ValueError: If the length is not 256.

    Example:
        >>> import torch
        >>> ResidualTextDecoder(20, 71, base_channels=8)(torch.zeros(2, 20)).shape
        torch.Size([2, 256, 71])
    """

    def __init__(self, in_features: int, num_classes: int, length: int = _LENGTH, base_channels: int = 128) -> None:
        _check_length(length)
        top = _TEXT_MULTIPLES[-1] * base_channels
        last = nn.ConvTranspose1d(base_channels, num_classes, 4, stride=2, padding=1)
        first = [nn.Linear(in_features, top), nn.Unflatten(-1, (top, 1))]
        layers = [*first, *_blocks(_TEXT_MULTIPLES, base_channels, True, 1), last]
        super().__init__(layers, in_features, num_classes, length)


def _check_image(shape: Sequence[int]) -> None:
    if len(shape) != 3 or tuple(shape[1:]) != (_SIDE, _SIDE):
        raise ValueError(f"an image must be (channels, {_SIDE}, {_SIDE}), got {tuple(shape)}")


def _check_length(length: int) -> None:
    if length != _LENGTH:
        raise ValueError(f"length must be {_LENGTH}, got {length}")
