"""Networks of VLVAE: residual convolutions with instance norm for pictures, residual layers for what is shared."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from multipyro.batch import check_inputs, run_layers

__all__ = ["InstanceNormDecoder", "InstanceNormEncoder", "SharedLayers"]

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


class InstanceNormEncoder(nn.Module):
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
        >>> InstanceNormEncoder((3, 64, 64), width=4)(torch.zeros(2, 3, 64, 64)).shape
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


class InstanceNormDecoder(nn.Module):
    r"""The mirror of `InstanceNormEncoder`, with a linear output: logits for a Beta, means for other likelihoods.

    References:
        As for `InstanceNormEncoder`; of its two forms that of the code, with one layer more before the map.

    Args:
        in_features: Size of the latent, or of what layers before it give.
        out_shape: `(channels, height, width)`, sides divisible by 4 and at least 16.
        width: Channels before the last convolution.

    Raises:
        ValueError: If a side is not divisible by 4, or below 16.

    Example:
        >>> import torch
        >>> InstanceNormDecoder(20, (3, 64, 64), width=4)(torch.zeros(4, 2, 20)).shape
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


class SharedLayers(nn.Module):
    r"""Fully connected layers with batch norm and residual connections, for what all modalities share.

    .. math:: h_1 = f_1(v) + (v, 0), \qquad h_{i + 1} = f_{i + 1}(h_i) + h_i

    where each block `f` is a layer, batch norm, a leaky ReLU and another layer, and the input is filled up with zeros.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1, and its released code: 500 units; one block and the heads in the encoder (three layers
        and one residual connection), two blocks and a last layer of 200 in the decoder (five and two).

    Args:
        in_features: Size of the input, at most `hidden_features`.
        out_features: Size of the output of a last layer, which is linear; None for no such layer.
        hidden_features: Width of the hidden layers.
        blocks: Number of blocks.

    Raises:
        ValueError: If the input is wider than the hidden layers, or there is no block.

    Example:
        >>> import torch
        >>> SharedLayers(50, 200, blocks=2)(torch.zeros(4, 2, 50)).shape
        torch.Size([4, 2, 200])
    """

    def __init__(
        self, in_features: int, out_features: int | None = None, hidden_features: int = 500, blocks: int = 1
    ) -> None:
        super().__init__()
        if in_features > hidden_features or blocks < 1:
            raise ValueError(
                f"in_features must be at most hidden_features and blocks at least 1, got {in_features}, "
                f"{hidden_features} and {blocks}"
            )
        self.hidden_features = hidden_features
        self.out_features = hidden_features if out_features is None else out_features
        widths = [in_features, *[hidden_features] * (blocks - 1)]
        self.blocks = nn.ModuleList(self._block(width, hidden_features) for width in widths)
        self.last = nn.Identity() if out_features is None else nn.Linear(hidden_features, out_features)

    @staticmethod
    def _block(before: int, after: int) -> nn.Module:
        # the bias of a normalized layer would be taken away again
        normalized = (nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.LeakyReLU())
        return nn.Sequential(*normalized, nn.Linear(after, after))

    def forward(self, values: Tensor) -> Tensor:
        rows = values.reshape(-1, values.shape[-1])
        for block in self.blocks:
            rows = run_layers(block, rows) + nn.functional.pad(rows, (0, self.hidden_features - rows.shape[-1]))
        return self.last(rows).reshape(*values.shape[:-1], self.out_features)


def _quarters(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 3 or any(side % 4 or side < 16 for side in shape[1:]):
        raise ValueError(
            f"an image must be (channels, height, width) with sides from 16 on divisible by 4, got {shape}"
        )
    return tuple(side // 4 for side in shape[1:])
