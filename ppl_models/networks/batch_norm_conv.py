"""Networks of strided 4x4 convolutions with batch norm for 64x64 images."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from multipyro.batch import check_inputs, run_layers

__all__ = ["BatchNormConvDecoder", "BatchNormConvEncoder"]

# mean and standard deviation of pixels in [0, 1], about those of photographs of faces: what a network sees and gives
# is of the order of 1, and a normal likelihood of the same scale is JMVAE's variance of 1 on standardized pixels
_LOC, _SCALE = 0.5, 0.27


class BatchNormConvEncoder(nn.Module):
    r"""Four strided 4x4 convolutions, flattened: `C64R-C128BR-C256BR-C256BR-F` of JMVAE at width 64.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), appendix, CelebA. The padding of 1 is that of the released code.

    Args:
        in_shape: `(channels, height, width)` of one image of pixels in `[0, 1]`, sides divisible by 16.
        width: Channels of the first convolution.
        normalize: Whether the second to fourth convolution are followed by batch norm.
        slope: Slope of the activation below 0: 0 for a ReLU.

    Raises:
        ValueError: If a side is not divisible by 16.

    Example:
        >>> import torch
        >>> BatchNormConvEncoder((3, 64, 64), width=8)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 512])
    """

    def __init__(self, in_shape: Sequence[int], width: int = 64, normalize: bool = True, slope: float = 0.0) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        sides = _sixteenths(self.in_shape)
        self.out_features = 4 * width * math.prod(sides)
        layers: list[nn.Module] = []
        channels = (self.in_shape[0], width, 2 * width, 4 * width, 4 * width)
        for position, (before, after) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            norm = normalize and position > 0
            # the bias of a normalized layer would be taken away again
            layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=not norm))
            layers += [nn.BatchNorm2d(after)] if norm else []
            layers.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def forward(self, values: Tensor) -> Tensor:
        check_inputs(values, self.in_shape)
        rows = (values.reshape(-1, *self.in_shape) - _LOC) / _SCALE
        return run_layers(self.layers, rows).reshape(*values.shape[:-3], self.out_features)


class BatchNormConvDecoder(nn.Module):
    r"""One layer, then transposed 4x4 convolutions, linear output: `D4096R-DC256BR-DC128BR-DC64BR-DC3` at width 64.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), appendix, CelebA. The paper crops by 2, which would not double the side; the released code crops by 1,
        and so does this.

    Args:
        in_features: Size of the latent.
        out_shape: `(channels, height, width)` of one image of pixels in `[0, 1]`, sides divisible by 16.
        width: Channels before the last convolution.

    Raises:
        ValueError: If a side is not divisible by 16.

    Example:
        >>> import torch
        >>> BatchNormConvDecoder(20, (3, 64, 64), width=8)(torch.zeros(4, 2, 20)).shape
        torch.Size([4, 2, 3, 64, 64])
    """

    def __init__(self, in_features: int, out_shape: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        sides = _sixteenths(self.out_shape)
        layers: list[nn.Module] = [
            nn.Linear(in_features, 4 * width * math.prod(sides)),
            nn.ReLU(),
            nn.Unflatten(-1, (4 * width, *sides)),
        ]
        for before, after in ((4 * width, 4 * width), (4 * width, 2 * width), (2 * width, width)):
            convolution = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(width, self.out_shape[0], 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        found = run_layers(self.layers, latents.reshape(-1, latents.shape[-1]))
        return (_LOC + _SCALE * found).reshape(*latents.shape[:-1], *self.out_shape)


def _sixteenths(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of an image after four strides of 2."""
    if len(shape) != 3 or any(side % 16 or not side for side in shape[1:]):
        raise ValueError(f"an image must be (channels, height, width) with sides divisible by 16, got {shape}")
    return tuple(side // 16 for side in shape[1:])
