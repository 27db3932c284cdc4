"""Strided convolutions without normalization, for images, spectra and volumes."""

import itertools
import math
from collections.abc import Sequence

from torch import nn

from multipyro.ppl_models.networks._layers import Layers

__all__ = ["ConvDecoder", "ConvEncoder"]

_CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class ConvEncoder(Layers):
    r"""Strided convolutions with a ReLU after each, then at most one linear layer: by default MoPoE's for PolyMNIST.

    The number of sides decides between 1-d, 2-d and 3-d convolutions.

    MMVAE and MoPoE use kernels of size 4 for SVHN and CUB. A convolution over a whole map is a linear layer here, with
    as many parameters: `ConvEncoder((3, 32, 32), 128, (32, 64, 64), kernel_size=4)` is MoPoE's for SVHN,
    `ConvEncoder((3, 32, 32), None, (32, 64, 128), kernel_size=4)` MMVAE's, and the same with `(3, 64, 64)` and channels
    `(64, 128, 256, 512)` MMVAE's for CUB; the heads belong to the encoder around it.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), appendix on PolyMNIST and MNIST-SVHN-Text; Variational
        Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), appendix.

    Args:
        in_shape: `(channels, length)`, `(channels, height, width)` or `(channels, depth, height, width)`.
        out_features: Width of the linear layer, which a ReLU follows; None for the flattened map without a layer.
        channels: Channels of each convolution; each halves all sides.
        kernel_size: 3, where halves are rounded up, or 4, where all sides must be divisible.

    Raises:
        ValueError: If the kernel has another size, or the sides do not suit it.

    Example:
        >>> import torch
        >>> ConvEncoder((3, 28, 28), 512)(torch.zeros(2, 3, 28, 28)).shape
        torch.Size([2, 512])
        >>> ConvEncoder((3, 64, 64), None, (64, 128, 256, 512), kernel_size=4)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 8192])
        >>> ConvEncoder((1, 500), 64)(torch.zeros(2, 1, 500)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int | None = 512,
        channels: Sequence[int] = (32, 64, 128),
        kernel_size: int = 3,
    ) -> None:
        sizes = _halved_sides(tuple(in_shape), len(channels), kernel_size)
        convolution = _CONVOLUTION[len(sizes[0])]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([in_shape[0], *channels]):
            layers += [convolution(before, after, kernel_size, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.Flatten())
        map_features = channels[-1] * math.prod(sizes[-1])
        if out_features is not None:
            layers += [nn.Linear(map_features, out_features), nn.ReLU()]
        super().__init__(layers, in_shape)
        self.out_features = map_features if out_features is None else out_features


class ConvDecoder(Layers):
    r"""The mirror image of `ConvEncoder`: a layer from the latent to a map, then transposed convolutions.

    The output is linear. With kernels of size 4 the map comes from a transposed convolution too, which has one bias
    per channel: `ConvDecoder(20, (3, 32, 32), (64, 64, 32), 4, 128)` is MoPoE's for SVHN, `ConvDecoder(20, (3, 32, 32),
    (128, 64, 32), 4)` MMVAE's, and the same with `(3, 64, 64)` and channels `(512, 256, 128, 64)` MMVAE's for CUB.

    References:
        As for `ConvEncoder`. MMVAE's decoders end in a sigmoid, MoPoE's do not.

    Args:
        in_features: Size of the latent.
        out_shape: `(channels, length)`, `(channels, height, width)` or `(channels, depth, height, width)`.
        channels: Channels before each transposed convolution; each doubles all sides.
        kernel_size: 3, or 4, where all sides must be divisible.
        hidden_features: Width of a hidden layer before the map, which a ReLU follows; None for none.

    Raises:
        ValueError: If the kernel has another size, or the sides do not suit it.

    Example:
        >>> import torch
        >>> ConvDecoder(20, (3, 28, 28))(torch.zeros(4, 2, 20)).shape
        torch.Size([4, 2, 3, 28, 28])
    """

    def __init__(
        self,
        in_features: int,
        out_shape: Sequence[int],
        channels: Sequence[int] = (128, 64, 32),
        kernel_size: int = 3,
        hidden_features: int | None = None,
    ) -> None:
        sizes = _halved_sides(tuple(out_shape), len(channels), kernel_size)[::-1]
        transposed = _TRANSPOSED[len(sizes[0])]
        layers: list[nn.Module] = []
        width = in_features
        if hidden_features is not None:
            layers += [nn.Linear(width, hidden_features), nn.ReLU()]
            width = hidden_features
        if kernel_size == 3:
            layers += [nn.Linear(width, channels[0] * math.prod(sizes[0])), nn.ReLU()]
            layers.append(nn.Unflatten(-1, (channels[0], *sizes[0])))
        else:
            layers.append(nn.Unflatten(-1, (width, *[1] * len(sizes[0]))))
            layers += [transposed(width, channels[0], sizes[0]), nn.ReLU()]
        for (before, after), sides in zip(itertools.pairwise([*channels, out_shape[0]]), sizes[1:], strict=True):
            # a kernel of 3 needs no output padding for an odd side 2s - 1, and 1 for an even side 2s
            padding = [1 - side % 2 if kernel_size == 3 else 0 for side in sides]
            layers.append(transposed(before, after, kernel_size, stride=2, padding=1, output_padding=padding))
            layers.append(nn.ReLU())
        super().__init__(layers[:-1], (in_features,))
        self.out_shape = tuple(out_shape)


def _halved_sides(shape: tuple[int, ...], times: int, kernel_size: int) -> list[tuple[int, ...]]:
    """The sides of `(channels, *sides)`, and those after each stride of 2."""
    if kernel_size not in (3, 4):
        raise ValueError(f"kernel_size must be 3 or 4, got {kernel_size}")
    if len(shape) not in (2, 3, 4) or min(shape) < 1 or (kernel_size == 4 and any(n % 2**times for n in shape[1:])):
        condition = f" with sides divisible by {2**times}" if kernel_size == 4 else ""
        raise ValueError(f"the shape must be (channels, *sides) with 1 to 3 sides{condition}, got {shape}")
    sizes = [shape[1:]]
    for _ in range(times):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return sizes
