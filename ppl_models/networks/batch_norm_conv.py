"""The networks of JMVAE for 64x64 images: strided 4x4 convolutions with batch norm, in the style of DCGAN."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from multipyro.ppl_models.networks._layers import Layers, divided_sides, with_norm

__all__ = ["BatchNormConvDecoder", "BatchNormConvEncoder"]

# mean and standard deviation of pixels in [0, 1], roughly those of photographs of faces: inputs and outputs of the
# layers are of order 1, and a normal likelihood of this scale is JMVAE's variance of 1 on standardized pixels
_LOC, _SCALE = 0.5, 0.27


class BatchNormConvEncoder(Layers):
    r"""Four strided 4x4 convolutions, flattened: `C64R-C128BR-C256BR-C256BR-F` of JMVAE with 64 base channels.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), appendix, CelebA. The padding of 1 is that of the released code.

    Args:
        in_shape: `(channels, height, width)` of one image with pixels in `[0, 1]`, both sides divisible by 16.
        base_channels: Channels of the first convolution.
        batch_norm: Whether batch norm follows the second to fourth convolution.
        negative_slope: Slope of the leaky ReLUs for negative inputs; 0 for plain ReLUs.

    Raises:
        ValueError: If a side is not divisible by 16.

    Example:
        >>> import torch
        >>> BatchNormConvEncoder((3, 64, 64), base_channels=8)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        base_channels: int = 64,
        batch_norm: bool = True,
        negative_slope: float = 0.0,
    ) -> None:
        sides = divided_sides(in_shape, 16)
        layers: list[nn.Module] = []
        channels = (in_shape[0], *(multiple * base_channels for multiple in (1, 2, 4, 4)))
        for position, (before, after) in enumerate(itertools.pairwise(channels)):
            normalized = batch_norm and position > 0
            # batch norm would subtract a bias again
            convolution = nn.Conv2d(before, after, 4, stride=2, padding=1, bias=not normalized)
            norm = nn.BatchNorm2d(after) if normalized else None
            layers += with_norm(convolution, norm, _activation(negative_slope))
        super().__init__([*layers, nn.Flatten()], in_shape)
        self.out_features = 4 * base_channels * math.prod(sides)

    def forward(self, values: Tensor) -> Tensor:
        return super().forward((values - _LOC) / _SCALE)


class BatchNormConvDecoder(Layers):
    r"""A layer, then transposed 4x4 convolutions: `D4096R-DC256BR-DC128BR-DC64BR-DC3` of JMVAE with 64 base channels.

    The output is linear.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), appendix, CelebA. The paper crops by 2, which would not double the side; here, as in the released code,
        the crop is 1.

    Args:
        in_features: Size of the latent.
        out_shape: `(channels, height, width)` of one image with pixels in `[0, 1]`, both sides divisible by 16.
        base_channels: Channels before the last convolution.
        negative_slope: As in `BatchNormConvEncoder`.

    Raises:
        ValueError: If a side is not divisible by 16.

    Example:
        >>> import torch
        >>> BatchNormConvDecoder(20, (3, 64, 64), base_channels=8)(torch.zeros(4, 2, 20)).shape
        torch.Size([4, 2, 3, 64, 64])
    """

    def __init__(
        self, in_features: int, out_shape: Sequence[int], base_channels: int = 64, negative_slope: float = 0.0
    ) -> None:
        sides, top = divided_sides(out_shape, 16), 4 * base_channels
        linear = nn.Linear(in_features, top * math.prod(sides))
        layers = [linear, _activation(negative_slope), nn.Unflatten(-1, (top, *sides))]
        for before, after in itertools.pairwise((top, top, 2 * base_channels, base_channels)):
            convolution = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
            layers += with_norm(convolution, nn.BatchNorm2d(after), _activation(negative_slope))
        layers.append(nn.ConvTranspose2d(base_channels, out_shape[0], 4, stride=2, padding=1))
        super().__init__(layers, (in_features,))
        self.out_shape = tuple(out_shape)

    def forward(self, latents: Tensor) -> Tensor:
        return _LOC + _SCALE * super().forward(latents)


def _activation(negative_slope: float) -> nn.Module:
    return nn.LeakyReLU(negative_slope) if negative_slope else nn.ReLU()
