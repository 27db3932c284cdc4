"""Residual networks of MoPoE for CelebA: 64x64 pictures, and strings of 256 characters."""

from collections.abc import Sequence

from torch import Tensor, nn

from multipyro.batch import check_inputs, run_layers
from multipyro.ppl_models.networks.text import one_hot_rows

__all__ = ["ResidualConvDecoder", "ResidualConvEncoder", "ResidualTextDecoder", "ResidualTextEncoder"]

_SKIP, _BRANCH, _DROPOUT = 2.0, 0.3, 0.5
# multiples of the width, from the data to a single position
_PICTURE = (1, 2, 3, 4, 5)
_TEXT = (1, 2, 3, 4, 5, 5, 5)
_SIDE, _LENGTH = 64, 256


class _Block(nn.Module):
    """`2 skip(x) + 0.3 branch(x)`: the skip a convolution with batch norm, the branch two after normalization."""

    def __init__(self, before: int, after: int, last: bool, up: bool, dims: int) -> None:
        super().__init__()
        convolution = {
            (1, False): nn.Conv1d,
            (1, True): nn.ConvTranspose1d,
            (2, False): nn.Conv2d,
            (2, True): nn.ConvTranspose2d,
        }[dims, up]
        plain = nn.Conv1d if dims == 1 else nn.Conv2d
        norm = nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d
        dropout = nn.Dropout if dims == 1 else nn.Dropout2d
        # four positions become one, or one becomes four; others are halved or doubled
        shape = (4, 1, 0) if last else (4, 2, 1)
        self.branch = nn.Sequential(
            norm(before),
            nn.ReLU(),
            plain(before, before, 1, bias=dims == 1),
            dropout(_DROPOUT),
            norm(before),
            nn.ReLU(),
            convolution(before, after, *shape, bias=dims == 1),
            dropout(_DROPOUT),
        )
        self.skip = nn.Sequential(convolution(before, after, *shape, bias=False), norm(after))

    def forward(self, values: Tensor) -> Tensor:
        return _SKIP * self.skip(values) + _BRANCH * self.branch(values)


def _blocks(multiples: Sequence[int], width: int, dims: int, up: bool) -> list[nn.Module]:
    channels = [multiple * width for multiple in multiples]
    steps = list(zip(channels[:-1], channels[1:], strict=True))
    made = [
        _Block(before, after, number == len(steps) - 1, False, dims) for number, (before, after) in enumerate(steps)
    ]
    if not up:
        return made
    turned = [(after, before) for before, after in reversed(steps)]
    return [_Block(before, after, not number, True, dims) for number, (before, after) in enumerate(turned)]


class ResidualConvEncoder(nn.Module):
    r"""A convolution and four residual blocks from a 64x64 picture to one position.

    References:
        Generalized Multimodal ELBO (Sutter et al., 2021), appendix on CelebA, and its released code.

    Args:
        in_shape: `(channels, 64, 64)`.
        width: Channels of the first convolution; the blocks have 2 to 5 times as many.

    Raises:
        ValueError: If the picture has another size.

    Example:
        >>> import torch
        >>> ResidualConvEncoder((3, 64, 64), width=8)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 40])
    """

    def __init__(self, in_shape: Sequence[int], width: int = 128) -> None:
        super().__init__()
        self.in_shape = _check_picture(in_shape)
        self.out_features = _PICTURE[-1] * width
        first = nn.Conv2d(self.in_shape[0], width, 3, stride=2, padding=2, bias=False)
        self.layers = nn.Sequential(first, *_blocks(_PICTURE, width, 2, False), nn.Flatten())

    def forward(self, values: Tensor) -> Tensor:
        check_inputs(values, self.in_shape)
        rows = run_layers(self.layers, values.reshape(-1, *self.in_shape))
        return rows.reshape(*values.shape[:-3], self.out_features)


class ResidualConvDecoder(nn.Module):
    r"""The mirror of `ResidualConvEncoder`, with a linear output.

    References:
        As for `ResidualConvEncoder`.

    Args:
        in_features: Size of the latent.
        out_shape: `(channels, 64, 64)`.
        width: Channels before the last convolution.

    Raises:
        ValueError: If the picture has another size.

    Example:
        >>> import torch
        >>> ResidualConvDecoder(20, (3, 64, 64), width=8)(torch.zeros(4, 2, 20)).shape
        torch.Size([4, 2, 3, 64, 64])
    """

    def __init__(self, in_features: int, out_shape: Sequence[int], width: int = 128) -> None:
        super().__init__()
        self.out_shape = _check_picture(out_shape)
        top = _PICTURE[-1] * width
        last = nn.ConvTranspose2d(width, self.out_shape[0], 3, stride=2, padding=1, output_padding=1)
        start = [nn.Linear(in_features, top), nn.Unflatten(-1, (top, 1, 1))]
        self.layers = nn.Sequential(*start, *_blocks(_PICTURE, width, 2, True), last)

    def forward(self, latents: Tensor) -> Tensor:
        found = run_layers(self.layers, latents.reshape(-1, latents.shape[-1]))
        return found.reshape(*latents.shape[:-1], *self.out_shape)


class ResidualTextEncoder(nn.Module):
    r"""One-hot characters through a convolution and six residual blocks, from 256 positions to one.

    References:
        As for `ResidualConvEncoder`.

    Args:
        num_classes: Number of characters.
        length: Number of positions: 256.
        width: Channels of the first convolution; the blocks have 2 to 5 times as many.

    Raises:
        ValueError: If the length is another one.

    Example:
        >>> import torch
        >>> ResidualTextEncoder(71, width=8)(torch.zeros(2, 256, dtype=torch.int64)).shape
        torch.Size([2, 40])
    """

    def __init__(self, num_classes: int, length: int = _LENGTH, width: int = 128) -> None:
        super().__init__()
        _check_length(length)
        self.num_classes, self.length, self.out_features = num_classes, length, _TEXT[-1] * width
        first = nn.Conv1d(num_classes, width, 4, stride=2, padding=1)
        self.layers = nn.Sequential(first, *_blocks(_TEXT, width, 1, False), nn.Flatten())

    def forward(self, values: Tensor) -> Tensor:
        rows = one_hot_rows(values, self.length, self.num_classes, self.layers[0].weight.dtype)
        found = run_layers(self.layers, rows)
        return found.reshape(*values.shape[:-1], self.out_features)


class ResidualTextDecoder(nn.Module):
    r"""The mirror of `ResidualTextEncoder`: logits of every character at every position.

    References:
        As for `ResidualConvEncoder`; its softmax is left to the likelihood.

    Args:
        in_features: Size of the latent.
        num_classes: Number of characters.
        length: Number of positions: 256.
        width: Channels before the last convolution.

    Raises:
        ValueError: If the length is another one.

    Example:
        >>> import torch
        >>> ResidualTextDecoder(20, 71, width=8)(torch.zeros(2, 20)).shape
        torch.Size([2, 256, 71])
    """

    def __init__(self, in_features: int, num_classes: int, length: int = _LENGTH, width: int = 128) -> None:
        super().__init__()
        _check_length(length)
        self.out_shape = (length, num_classes)
        top = _TEXT[-1] * width
        last = nn.ConvTranspose1d(width, num_classes, 4, stride=2, padding=1)
        start = [nn.Linear(in_features, top), nn.Unflatten(-1, (top, 1))]
        self.layers = nn.Sequential(*start, *_blocks(_TEXT, width, 1, True), last)

    def forward(self, latents: Tensor) -> Tensor:
        found = run_layers(self.layers, latents.reshape(-1, latents.shape[-1])).transpose(1, 2)
        return found.reshape(*latents.shape[:-1], *self.out_shape)


def _check_picture(shape: Sequence[int]) -> tuple[int, ...]:
    if len(shape) != 3 or tuple(shape[1:]) != (_SIDE, _SIDE):
        raise ValueError(f"a picture must be (channels, {_SIDE}, {_SIDE}), got {tuple(shape)}")
    return tuple(shape)


def _check_length(length: int) -> None:
    if length != _LENGTH:
        raise ValueError(f"length must be {_LENGTH}, got {length}")
