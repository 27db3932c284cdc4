"""What the networks share: any leading dimensions, batch norm on a single example, and class ids."""

from collections.abc import Sequence

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from multipyro._modes import batch_norms, evaluation_mode

try:
    from torch.compiler import is_compiling
except ImportError:  # torch 2.2
    from torch._utils import is_compiling

__all__ = [
    "Layers",
    "OneHot",
    "check_ids",
    "checks_values",
    "divided_sides",
    "embed",
    "leading_shape",
    "run_layers",
    "with_norm",
]


def leading_shape(values: Tensor, in_shape: tuple[int, ...]) -> torch.Size:
    """The dimensions of values `(..., *in_shape)` before `in_shape`.

    Raises:
        ValueError: If the values end in another shape.
    """
    lead = values.dim() - len(in_shape)
    if lead < 0 or tuple(values.shape[lead:]) != in_shape:
        raise ValueError(f"expected inputs of shape (..., {', '.join(map(str, in_shape))}), got {tuple(values.shape)}")
    return values.shape[:lead]


def run_layers(layers: nn.Module, values: Tensor, in_shape: tuple[int, ...]) -> Tensor:
    """Runs layers that expect one batch dimension on values `(..., *in_shape)`.

    A single example has no batch statistics, so that batch norms in training use their running statistics for it.

    Returns:
        The outputs `(..., *out_shape)`.
    """
    lead = leading_shape(values, in_shape)
    batch = values.reshape(-1, *in_shape)
    if layers.training and len(batch) < 2:
        with evaluation_mode(*batch_norms(layers)):
            outputs = layers(batch)
    else:
        outputs = layers(batch)
    if not isinstance(outputs, Tensor):
        raise TypeError(f"a network must return a tensor, {type(layers).__name__} returned {type(outputs).__name__}")
    return outputs.reshape(lead + outputs.shape[1:])


class Layers(nn.Module):
    """Layers that expect one batch dimension, on values with any leading dimensions.

    Args:
        layers: The layers, in order.
        in_shape: Shape of one input.

    Shapes:
        `(..., *in_shape)` to `(..., *out_shape)`.
    """

    def __init__(self, layers: Sequence[nn.Module], in_shape: Sequence[int]) -> None:
        super().__init__()
        self.in_shape, self.layers = tuple(in_shape), nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        return run_layers(self.layers, values, self.in_shape)


def divided_sides(shape: Sequence[int], divisor: int) -> tuple[int, ...]:
    """Height and width of an image `(channels, height, width)`, divided by the product of the strides of a network.

    Raises:
        ValueError: If the shape is another one, or a side is not divisible, or below 16.
    """
    if len(shape) != 3 or any(side % divisor or side < 16 for side in shape[1:]):
        raise ValueError(
            f"an image must be (channels, height, width), both sides at least 16 and divisible by {divisor}, got "
            f"{tuple(shape)}"
        )
    return tuple(side // divisor for side in shape[1:])


def with_norm(layer: nn.Module, norm: nn.Module | None, activation: nn.Module | None = None) -> list[nn.Module]:
    """A layer, the norm of its outputs unless it is None, and an activation, by default a ReLU."""
    norms = [] if norm is None else [norm]
    return [layer, *norms, nn.ReLU() if activation is None else activation]


def checks_values() -> bool:
    """Whether a network checks its inputs' values: while Pyro validates, but not while torch exports or compiles it."""
    return is_validation_enabled() and not is_compiling()


def check_ids(values: Tensor, num_classes: int) -> None:
    """Raises, while values are checked, unless class ids lie in 0 to `num_classes - 1`; -1 is a missing entry."""
    if checks_values() and values.numel() and (values.min() < -1 or values.max() >= num_classes):
        raise ValueError(
            f"class ids must be from 0 to {num_classes - 1}, or -1 for a missing entry, "
            f"got {values.min().item()} to {values.max().item()}"
        )


class OneHot(nn.Module):
    """Class ids `(...)` as one-hot vectors `(..., num_classes)`; a missing entry, -1, is a vector of zeros."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("classes", torch.arange(num_classes), persistent=False)

    def forward(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        check_ids(values, len(self.classes))
        return (values.unsqueeze(-1) == self.classes).to(dtype)


def embed(embedding: nn.Embedding, values: Tensor) -> Tensor:
    """Embeds class ids `(...)` as vectors `(..., embedding_dim)`; a missing entry, -1, becomes zeros."""
    return embedding(values.clamp(min=0)) * (values >= 0).unsqueeze(-1)
