"""Convolutional networks without normalization, each for any leading dimensions."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from multipyro.batch import check_inputs

__all__ = ["ConvDecoder", "ConvEncoder"]


class ConvEncoder(nn.Module):
    r"""Strided convolutions, a ReLU after each, then one hidden layer or none: MoPoE's for PolyMNIST by default.

    MMVAE and MoPoE have kernels of 4 for SVHN and CUB. What convolves a whole map is a layer here, with as many
    parameters: `ConvEncoder((3, 32, 32), 128, (32, 64, 64), kernel=4)` is MoPoE's for SVHN, `ConvEncoder((3, 32, 32),
    None, (32, 64, 128), kernel=4)` MMVAE's, and that of `(3, 64, 64)` with channels `(64, 128, 256, 512)` MMVAE's for
    CUB; the heads follow in the encoder around it.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), appendix on PolyMNIST and MNIST-SVHN-Text; Variational
        Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al., 2019), appendix.

    Args:
        in_shape: `(channels, height, width)` of one image.
        out_features: Number of features of one output, after a ReLU; None for the flattened map, without a layer.
        channels: Channels of each convolution; each halves height and width.
        kernel: Side of the kernels: 3, where a half is rounded up, or 4, where every half must be whole.

    Raises:
        ValueError: If the kernel is another one, or the sides do not fit it.

    Example:
        >>> import torch
        >>> ConvEncoder((3, 28, 28), 512)(torch.zeros(2, 3, 28, 28)).shape
        torch.Size([2, 512])
        >>> ConvEncoder((3, 64, 64), None, (64, 128, 256, 512), kernel=4)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 8192])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int | None = 512,
        channels: Sequence[int] = (32, 64, 128),
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        sizes = _halves(self.in_shape, len(channels), kernel)
        layers: list[nn.Module] = []
        for before, after in zip([self.in_shape[0], *channels[:-1]], channels, strict=True):
            layers += [nn.Conv2d(before, after, kernel, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.Flatten())
        flat = channels[-1] * math.prod(sizes[-1])
        if out_features is not None:
            layers += [nn.Linear(flat, out_features), nn.ReLU()]
        self.out_features = flat if out_features is None else out_features
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        check_inputs(values, self.in_shape)
        lead = values.shape[:-3]
        return self.layers(values.reshape(-1, *self.in_shape)).reshape(*lead, self.out_features)


class ConvDecoder(nn.Module):
    r"""The mirror of `ConvEncoder`: a layer to a map, then transposed convolutions with a linear output.

    With kernels of 4 the map comes from a transposed convolution too, which has one bias a channel:
    `ConvDecoder(20, (3, 32, 32), (64, 64, 32), 4, 128)` is MoPoE's for SVHN, `ConvDecoder(20, (3, 32, 32), (128, 64,
    32), 4)` MMVAE's, and that of `(3, 64, 64)` with channels `(512, 256, 128, 64)` MMVAE's for CUB.

    References:
        As for `ConvEncoder`. MMVAE's end in a sigmoid, MoPoE's do not.

    Args:
        in_features: Size of the latent.
        out_shape: `(channels, height, width)` of one image.
        channels: Channels before each transposed convolution; each doubles height and width.
        kernel: Side of the kernels: 3, or 4, where every half of the sides must be whole.
        hidden_features: Width of a hidden layer before the map, with a ReLU; None for none.

    Raises:
        ValueError: If the kernel is another one, or the sides do not fit it.

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
        kernel: int = 3,
        hidden_features: int | None = None,
    ) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        sizes = _halves(self.out_shape, len(channels), kernel)[::-1]
        layers: list[nn.Module] = []
        if hidden_features is not None:
            layers += [nn.Linear(in_features, hidden_features), nn.ReLU()]
            in_features = hidden_features
        if kernel == 3:
            layers += [nn.Linear(in_features, channels[0] * math.prod(sizes[0])), nn.ReLU()]
            layers.append(nn.Unflatten(-1, (channels[0], *sizes[0])))
        else:
            layers.append(nn.Unflatten(-1, (in_features, 1, 1)))
            layers += [nn.ConvTranspose2d(in_features, channels[0], sizes[0]), nn.ReLU()]
        widths = [*channels, self.out_shape[0]]
        for position, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            # a kernel of 3 needs no output padding for an odd side 2s - 1, and one for an even side 2s
            padding = [1 - large % 2 if kernel == 3 else 0 for large in sizes[position + 1]]
            layers.append(nn.ConvTranspose2d(before, after, kernel, stride=2, padding=1, output_padding=padding))
            if position < len(channels) - 1:
                layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        lead = latents.shape[:-1]
        return self.layers(latents.reshape(-1, latents.shape[-1])).reshape(*lead, *self.out_shape)


def _halves(shape: tuple[int, ...], times: int, kernel: int) -> list[tuple[int, ...]]:
    """Height and width of an image, and after each stride of 2."""
    if kernel not in (3, 4):
        raise ValueError(f"kernel must be 3 or 4, got {kernel}")
    if len(shape) != 3 or min(shape) < 1 or (kernel == 4 and any(side % 2**times for side in shape[1:])):
        fit = f" with sides divisible by {2**times}" if kernel == 4 else ""
        raise ValueError(f"an image must be (channels, height, width){fit}, got {shape}")
    sizes = [shape[1:]]
    for _ in range(times):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return sizes
