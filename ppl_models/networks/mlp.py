"""Fully connected networks, each for any leading dimensions."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from multipyro.batch import check_inputs, run_layers

__all__ = ["MLP", "BatchNormMLP", "OneHotMLP", "ResidualMLP"]


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


class BatchNormMLP(nn.Module):
    r"""Two hidden layers on a vector such as attributes, the second with batch norm: `D512R-D512BR` of JMVAE.

    References:
        Improving Bi-directional Generation between Different Modalities with Variational Autoencoders (Suzuki et
        al.), appendix, CelebA.

    Args:
        in_shape: Shape of one input, or its size.
        out_features: Width of both layers.

    Example:
        >>> import torch
        >>> BatchNormMLP(40, 16)(torch.zeros(2, 40)).shape
        torch.Size([2, 16])
    """

    def __init__(self, in_shape: int | Sequence[int], out_features: int = 512) -> None:
        super().__init__()
        self.in_shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        self.out_features = out_features
        self.layers = nn.Sequential(
            nn.Linear(math.prod(self.in_shape), out_features),
            nn.ReLU(),
            nn.Linear(out_features, out_features, bias=False),
            nn.BatchNorm1d(out_features),
            nn.ReLU(),
        )

    def forward(self, values: Tensor) -> Tensor:
        lead = values.shape[: values.dim() - len(self.in_shape)]
        check_inputs(values, self.in_shape)
        return run_layers(self.layers, values.reshape(-1, math.prod(self.in_shape))).reshape(*lead, self.out_features)


class ResidualMLP(nn.Module):
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
        >>> ResidualMLP(50, 200, blocks=2)(torch.zeros(4, 2, 50)).shape
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
