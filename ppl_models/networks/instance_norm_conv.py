"""The networks of VLVAE for images: residual convolutions with instance norm."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from multipyro.ppl_models.networks._layers import Layers, divided_sides, with_norm

__all__ = ["InstanceNormConvDecoder", "InstanceNormConvEncoder"]

_NUM_BLOCKS = 3
_MAP_CHANNELS = 10
_HIDDEN_FEATURES = 1000


def _normalized(convolution: nn.Module) -> list[nn.Module]:
    return with_norm(convolution, nn.InstanceNorm2d(convolution.out_channels))


class _Block(nn.Module):
    """The input plus two convolutions of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect") for _ in range(2))
        self.layers = nn.Sequential(*_normalized(first), second, nn.InstanceNorm2d(channels))

    def forward(self, values: Tensor) -> Tensor:
        return values + self.layers(values)


class InstanceNormConvEncoder(Layers):
    r"""A wide convolution, two strided ones, three residual blocks, and two linear layers.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1 and its released code, with 64 base channels.

    Args:
        in_shape: `(channels, height, width)`, both sides divisible by 4 and at least 16.
        out_features: Number of output features.
        base_channels: Channels of the first convolution; the blocks have four times as many.

    Raises:
        ValueError: If a side is not divisible by 4, or below 16.

    Example:
        >>> import torch
        >>> InstanceNormConvEncoder((3, 64, 64), base_channels=4)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 200])
    """

    def __init__(self, in_shape: Sequence[int], out_features: int = 200, base_channels: int = 64) -> None:
        sides = divided_sides(in_shape, 4)
        first, second, third = base_channels, 2 * base_channels, 4 * base_channels
        layers = [
            *_normalized(nn.Conv2d(in_shape[0], first, 7, padding=3, padding_mode="reflect")),
            *_normalized(nn.Conv2d(first, second, 3, stride=2, padding=1)),
            *_normalized(nn.Conv2d(second, third, 3, stride=2, padding=1)),
            *(_Block(third) for _ in range(_NUM_BLOCKS)),
            *_normalized(nn.Conv2d(third, _MAP_CHANNELS, 3, padding=1)),
            nn.Flatten(),
            nn.Linear(_MAP_CHANNELS * math.prod(sides), _HIDDEN_FEATURES),
            nn.ReLU(),
            nn.Linear(_HIDDEN_FEATURES, out_features),
        ]
        super().__init__(layers, in_shape)
        self.out_features = out_features


class InstanceNormConvDecoder(Layers):
    r"""The mirror image of `InstanceNormConvEncoder`.

    The output is linear: logits for a Beta likelihood, means for others.

    References:
        As for `InstanceNormConvEncoder`. Of paper and code, which differ here, this follows the code, with one more
        layer before the map.

    Args:
        in_features: Size of the latent, or of the output of layers before this network.
        out_shape: `(channels, height, width)`, both sides divisible by 4 and at least 16.
        base_channels: Channels before the last convolution.

    Raises:
        ValueError: If a side is not divisible by 4, or below 16.

    Example:
        >>> import torch
        >>> InstanceNormConvDecoder(20, (3, 64, 64), base_channels=4)(torch.zeros(4, 2, 20)).shape
        torch.Size([4, 2, 3, 64, 64])
    """

    def __init__(self, in_features: int, out_shape: Sequence[int], base_channels: int = 64) -> None:
        sides = divided_sides(out_shape, 4)
        first, second, third = base_channels, 2 * base_channels, 4 * base_channels
        double = {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}
        layers = [
            nn.Linear(in_features, _HIDDEN_FEATURES),
            nn.ReLU(),
            nn.Linear(_HIDDEN_FEATURES, _MAP_CHANNELS * math.prod(sides)),
            nn.ReLU(),
            nn.Unflatten(-1, (_MAP_CHANNELS, *sides)),
            *_normalized(nn.Conv2d(_MAP_CHANNELS, third, 3, padding=1)),
            *(_Block(third) for _ in range(_NUM_BLOCKS)),
            *_normalized(nn.ConvTranspose2d(third, second, **double)),
            *_normalized(nn.ConvTranspose2d(second, first, **double)),
            nn.Conv2d(first, out_shape[0], 7, padding=3, padding_mode="reflect"),
        ]
        super().__init__(layers, (in_features,))
        self.out_shape = tuple(out_shape)
