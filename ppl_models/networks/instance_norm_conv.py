"""Networks of VLVAE: residual convolutions with instance norm for pictures, residual layers for what is shared."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from multipyro.batch import check_inputs

__all__ = ["InstanceNormConvDecoder", "InstanceNormConvEncoder"]

_BLOCKS = 3
_MAP_CHANNELS = 10
_HIDDEN = 1000


def _normalized(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(channels), nn.ReLU()]


class _Block(nn.Module):
    """The input plus two convolutions of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect") for _ in range(2))
        self.layers = nn.Sequential(*_normalized(first, channels), second, nn.InstanceNorm2d(channels))

    def forward(self, values: Tensor) -> Tensor:
        return values + self.layers(values)


class InstanceNormConvEncoder(nn.Module):
    r"""A wide convolution, two strided ones, three residual blocks, and two layers.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1 and its released code, at width 64.

    Args:
        in_shape: `(channels, height, width)`, sides divisible by 4 and at least 16.
        out_features: Number of features.
        width: Channels of the first convolution; the blocks have four times as many.

    Raises:
        ValueError: If a side is not divisible by 4, or below 16.

    Example:
        >>> import torch
        >>> InstanceNormConvEncoder((3, 64, 64), width=4)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 200])
    """

    def __init__(self, in_shape: Sequence[int], out_features: int = 200, width: int = 64) -> None:
        super().__init__()
        self.in_shape, self.out_features = tuple(in_shape), out_features
        sides = _quarters(self.in_shape)
        first = nn.Conv2d(self.in_shape[0], width, 7, padding=3, padding_mode="reflect")
        self.layers = nn.Sequential(
            *_normalized(first, width),
            *_normalized(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), 2 * width),
            *_normalized(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), 4 * width),
            *(_Block(4 * width) for _ in range(_BLOCKS)),
            *_normalized(nn.Conv2d(4 * width, _MAP_CHANNELS, 3, padding=1), _MAP_CHANNELS),
            nn.Flatten(),
            nn.Linear(_MAP_CHANNELS * math.prod(sides), _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, out_features),
        )

    def forward(self, values: Tensor) -> Tensor:
        check_inputs(values, self.in_shape)
        rows = self.layers(values.reshape(-1, *self.in_shape))
        return rows.reshape(*values.shape[:-3], self.out_features)


class InstanceNormConvDecoder(nn.Module):
    r"""The mirror of `InstanceNormConvEncoder`, with a linear output: logits for a Beta, means for other likelihoods.

    References:
        As for `InstanceNormConvEncoder`; of its two forms that of the code, with one layer more before the map.

    Args:
        in_features: Size of the latent, or of what layers before it give.
        out_shape: `(channels, height, width)`, sides divisible by 4 and at least 16.
        width: Channels before the last convolution.

    Raises:
        ValueError: If a side is not divisible by 4, or below 16.

    Example:
        >>> import torch
        >>> InstanceNormConvDecoder(20, (3, 64, 64), width=4)(torch.zeros(4, 2, 20)).shape
        torch.Size([4, 2, 3, 64, 64])
    """

    def __init__(self, in_features: int, out_shape: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        sides = _quarters(self.out_shape)
        up = {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}
        self.layers = nn.Sequential(
            nn.Linear(in_features, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _MAP_CHANNELS * math.prod(sides)),
            nn.ReLU(),
            nn.Unflatten(-1, (_MAP_CHANNELS, *sides)),
            *_normalized(nn.Conv2d(_MAP_CHANNELS, 4 * width, 3, padding=1), 4 * width),
            *(_Block(4 * width) for _ in range(_BLOCKS)),
            *_normalized(nn.ConvTranspose2d(4 * width, 2 * width, **up), 2 * width),
            *_normalized(nn.ConvTranspose2d(2 * width, width, **up), width),
            nn.Conv2d(width, self.out_shape[0], 7, padding=3, padding_mode="reflect"),
        )

    def forward(self, latents: Tensor) -> Tensor:
        rows = self.layers(latents.reshape(-1, latents.shape[-1]))
        return rows.reshape(*latents.shape[:-1], *self.out_shape)


def _quarters(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 3 or any(side % 4 or side < 16 for side in shape[1:]):
        raise ValueError(
            f"an image must be (channels, height, width) with sides from 16 on divisible by 4, got {shape}"
        )
    return tuple(side // 4 for side in shape[1:])
