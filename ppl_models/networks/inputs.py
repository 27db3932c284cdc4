"""Feature networks for counts, and for data with missing entries."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from multipyro.batch import is_missing
from multipyro.ppl_models.networks._layers import leading_shape
from multipyro.ppl_models.networks.mlp import MLP

__all__ = ["CountMLP", "ValueAndMask"]


class CountMLP(nn.Module):
    r"""An MLP on `log(1 + x)`, so that large counts do not dominate small ones.

    Args:
        in_shape: Shape of one data point of counts, floating point or int64.
        out_features: Number of output features.
        hidden_features: Widths of the hidden layers.
        activate_output: Whether a ReLU also follows the last layer.

    Example:
        >>> CountMLP(2000, 8, (16,))(torch.randint(9, (5, 2000))).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_features: int,
        hidden_features: Sequence[int] = (512, 512),
        activate_output: bool = False,
    ) -> None:
        super().__init__()
        self.mlp = MLP(in_shape, out_features, hidden_features, activate_output=activate_output)
        self.in_shape, self.out_features = self.mlp.in_shape, out_features

    def forward(self, values: Tensor) -> Tensor:
        return self.mlp(values.to(self.mlp.layers[0].weight.dtype).log1p())


class ValueAndMask(nn.Module):
    r"""A feature network on values, with zeros for missing entries, and a mask of those that are present.

    Missing entries are NaN, or negative in integer data. Values and mask are concatenated along the first dimension of
    a data point: 40 numbers become 80, an image of 3 channels one of 6, and a single number 2.

    Args:
        in_shape: Shape of one data point, or its size; `()` is a single number.
        network: From the doubled shape to the feature network, which has an attribute `out_features`.

    Example:
        >>> network = ValueAndMask(3, lambda shape: MLP(shape, 8))
        >>> network(torch.tensor([[1.0, torch.nan, 2.0]])).shape
        torch.Size([1, 8])
    """

    def __init__(self, in_shape: int | Sequence[int], network: Callable[[tuple[int, ...]], nn.Module]) -> None:
        super().__init__()
        self.in_shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        first, *others = self.in_shape or (1,)
        self.network = network((2 * first, *others))
        self.out_features = self.network.out_features

    def forward(self, values: Tensor) -> Tensor:
        leading_shape(values, self.in_shape)
        missing = is_missing(values)
        values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
        parts = [values.masked_fill(missing, 0), (~missing).to(values.dtype)]
        return self.network(torch.cat(parts, -len(self.in_shape)) if self.in_shape else torch.stack(parts, -1))
