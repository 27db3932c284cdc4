"""Networks for decoders, encoders and joint branches; every one accepts any leading dimensions."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from multipyro.ppl_models._batch import check_inputs

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "OneHotMLP"]


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


class MLP(nn.Module):
    r"""A multi-layer perceptron from one shape to another.

    Args:
        in_shape: Shape of one input, or its size.
        out_shape: Shape of one output, or its size.
        hidden_features: Widths of the hidden layers.
        activation: Makes the activation after each hidden layer.
        activate_output: Whether the activation also follows the last layer (for feature networks).

    Shapes:
        `(..., *in_shape)` to `(..., *out_shape)`.

    Example:
        >>> import torch
        >>> MLP(2, (1, 8, 8))(torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3, 1, 8, 8])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        hidden_features: Sequence[int] = (512, 512),
        activation: Callable[[], nn.Module] = nn.ReLU,
        activate_output: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _shape(out_shape)
        self.out_features = math.prod(self.out_shape)
        widths = [math.prod(self.in_shape), *hidden_features, self.out_features]
        layers: list[nn.Module] = []
        for position, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            layers.append(nn.Linear(before, after))
            if activate_output or position < len(widths) - 2:
                layers.append(activation())
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        check_inputs(values, self.in_shape)
        return self.layers(values.flatten(-len(self.in_shape))).unflatten(-1, self.out_shape)


class OneHotMLP(nn.Module):
    r"""An MLP on class ids: a label `(...)`, or a word of `length` positions `(..., length)`.

    Args:
        num_classes: Number of classes a position can have.
        out_features: Number of features of one output.
        hidden_features: Widths of the hidden layers.
        length: Number of positions; None for a single class id.

    Example:
        >>> import torch
        >>> OneHotMLP(10, 4, (16,))(torch.tensor([3, 9])).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        num_classes: int,
        out_features: int,
        hidden_features: Sequence[int] = (512, 512),
        length: int | None = None,
        activate_output: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.out_features = num_classes, out_features
        shape = (num_classes,) if length is None else (length, num_classes)
        self.mlp = MLP(shape, out_features, hidden_features, activate_output=activate_output)

    def forward(self, values: Tensor) -> Tensor:
        if values.numel() and (values.min() < 0 or values.max() >= self.num_classes):
            seen = f"{values.min().item()} to {values.max().item()}"
            raise ValueError(f"values must be from 0 to {self.num_classes - 1}, got {seen}")
        dtype = self.mlp.layers[0].weight.dtype
        return self.mlp(nn.functional.one_hot(values, self.num_classes).to(dtype))


class ConvEncoder(nn.Module):
    r"""Strided 3x3 convolutions, then one hidden layer: the PolyMNIST encoder of MoPoE by default.

    Args:
        in_shape: `(channels, height, width)` of one image.
        out_features: Number of features of one output, after a ReLU.
        channels: Channels of each convolution; each halves height and width, rounding up.

    Example:
        >>> import torch
        >>> ConvEncoder((3, 28, 28), 512)(torch.zeros(2, 3, 28, 28)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self, in_shape: Sequence[int], out_features: int = 512, channels: Sequence[int] = (32, 64, 128)
    ) -> None:
        super().__init__()
        self.in_shape, self.out_features = tuple(in_shape), out_features
        layers: list[nn.Module] = []
        size = self.in_shape[1:]
        for before, after in zip([self.in_shape[0], *channels[:-1]], channels, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
            size = tuple((side + 1) // 2 for side in size)
        layers += [nn.Flatten(), nn.Linear(channels[-1] * math.prod(size), out_features), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        check_inputs(values, self.in_shape)
        lead = values.shape[:-3]
        return self.layers(values.reshape(-1, *self.in_shape)).reshape(*lead, self.out_features)


class ConvDecoder(nn.Module):
    r"""The mirror of `ConvEncoder`: one hidden layer, then transposed 3x3 convolutions with a linear output.

    Args:
        in_features: Size of the latent.
        out_shape: `(channels, height, width)` of one image.
        channels: Channels before each transposed convolution; each doubles height and width.

    Example:
        >>> import torch
        >>> ConvDecoder(20, (3, 28, 28))(torch.zeros(4, 2, 20)).shape
        torch.Size([4, 2, 3, 28, 28])
    """

    def __init__(self, in_features: int, out_shape: Sequence[int], channels: Sequence[int] = (128, 64, 32)) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        sizes = [self.out_shape[1:]]
        for _ in channels:
            sizes.insert(0, tuple((side + 1) // 2 for side in sizes[0]))
        layers: list[nn.Module] = [
            nn.Linear(in_features, channels[0] * math.prod(sizes[0])),
            nn.ReLU(),
            nn.Unflatten(-1, (channels[0], *sizes[0])),
        ]
        widths = [*channels, self.out_shape[0]]
        for position, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            # an odd side 2s - 1 needs no output padding, an even side 2s needs one
            padding = [1 - large % 2 for large in sizes[position + 1]]
            layers.append(nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=padding))
            if position < len(channels) - 1:
                layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        lead = latents.shape[:-1]
        return self.layers(latents.reshape(-1, latents.shape[-1])).reshape(*lead, *self.out_shape)
