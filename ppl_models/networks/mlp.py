"""Fully connected networks."""

import itertools
import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from multipyro.ppl_models.networks._layers import OneHot, leading_shape, run_layers, with_norm

__all__ = ["MLP", "BatchNormMLP", "OneHotMLP", "ResidualMLP"]


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


class MLP(nn.Module):
    r"""A multi-layer perceptron between tensors of any two shapes; `()` is a single number.

    Args:
        in_shape: Shape of one input, or its size.
        out_shape: Shape of one output, or its size.
        hidden_features: Widths of the hidden layers.
        activation: Constructor of the activation after each hidden layer.
        activate_output: Whether the activation also follows the last layer, as in feature networks.
        batch_norm: Whether batch norm precedes each activation.

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
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _shape(out_shape)
        self.out_features = math.prod(self.out_shape)
        layers: list[nn.Module] = []
        pairs = list(itertools.pairwise([math.prod(self.in_shape), *hidden_features, self.out_features]))
        for before, after in pairs if activate_output else pairs[:-1]:
            norm = nn.BatchNorm1d(after) if batch_norm else None
            # batch norm would subtract a bias again
            layers += with_norm(nn.Linear(before, after, bias=not batch_norm), norm, activation())
        if not activate_output:
            layers.append(nn.Linear(*pairs[-1]))
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        size, lead = math.prod(self.in_shape), leading_shape(values, self.in_shape)
        return run_layers(self.layers, values.reshape(*lead, size), (size,)).reshape(*lead, *self.out_shape)


class OneHotMLP(nn.Module):
    r"""An MLP on one-hot class ids: a label `(...)`, or a text `(..., length)`.

    A missing entry, -1, is a vector of zeros.

    Args:
        num_classes: Number of classes.
        out_features: Number of output features.
        hidden_features: Widths of the hidden layers.
        length: Number of positions of a text; None for a single class id.
        activation: As in `MLP`.
        activate_output: As in `MLP`.
        batch_norm: As in `MLP`.

    Raises:
        ValueError: While Pyro validates, if an id is out of range.

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
        activation: Callable[[], nn.Module] = nn.ReLU,
        activate_output: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.out_features = num_classes, out_features
        shape = (num_classes,) if length is None else (length, num_classes)
        self.one_hot = OneHot(num_classes)
        self.mlp = MLP(shape, out_features, hidden_features, activation, activate_output, batch_norm)

    def forward(self, values: Tensor) -> Tensor:
        return self.mlp(self.one_hot(values, self.mlp.layers[0].weight.dtype))


class BatchNormMLP(nn.Module):
    r"""Two hidden layers, the second with batch norm: `D512R-D512BR` of JMVAE, for vectors such as attributes.

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
        self.in_shape, self.out_features = _shape(in_shape), out_features
        self.layers = nn.Sequential(
            nn.Linear(math.prod(self.in_shape), out_features),
            nn.ReLU(),
            # batch norm would subtract a bias again
            nn.Linear(out_features, out_features, bias=False),
            nn.BatchNorm1d(out_features),
            nn.ReLU(),
        )

    def forward(self, values: Tensor) -> Tensor:
        size = math.prod(self.in_shape)
        return run_layers(self.layers, values.reshape(*leading_shape(values, self.in_shape), size), (size,))


class ResidualMLP(nn.Module):
    r"""Fully connected residual blocks with batch norm: the layers that all modalities of VLVAE share.

    .. math:: h_1 = f_1(v) + (v, 0), \qquad h_{i + 1} = f_{i + 1}(h_i) + h_i

    where each block `f` is a layer, batch norm, a leaky ReLU and another layer, and the input is padded with zeros.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1, and its released code: 500 units; one block and the heads in the encoder (three layers
        and one residual connection), two blocks and a last layer of 200 in the decoder (five and two).

    Args:
        in_features: Size of the input, at most `hidden_features`.
        out_features: Size of the output of a linear layer after the blocks; None for no such layer.
        hidden_features: Width of the blocks.
        num_blocks: Number of blocks.

    Raises:
        ValueError: If the input is wider than the blocks, or there is no block.

    Example:
        >>> import torch
        >>> ResidualMLP(50, 200, num_blocks=2)(torch.zeros(4, 2, 50)).shape
        torch.Size([4, 2, 200])
    """

    def __init__(
        self, in_features: int, out_features: int | None = None, hidden_features: int = 500, num_blocks: int = 1
    ) -> None:
        super().__init__()
        if in_features > hidden_features or num_blocks < 1:
            raise ValueError(
                f"in_features must be at most hidden_features and num_blocks at least 1, got {in_features}, "
                f"{hidden_features} and {num_blocks}"
            )
        self.out_features = hidden_features if out_features is None else out_features
        widths = [in_features, *[hidden_features] * (num_blocks - 1)]
        self.blocks = nn.ModuleList(self._block(width, hidden_features) for width in widths)
        self.last = nn.Identity() if out_features is None else nn.Linear(hidden_features, out_features)

    @staticmethod
    def _block(before: int, after: int) -> nn.Module:
        # batch norm would subtract a bias again
        normalized = (nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.LeakyReLU())
        return nn.Sequential(*normalized, nn.Linear(after, after))

    def forward(self, values: Tensor) -> Tensor:
        for block in self.blocks:
            outputs = run_layers(block, values, (block[0].in_features,))
            values = outputs + nn.functional.pad(values, (0, outputs.shape[-1] - values.shape[-1]))
        return self.last(values)
