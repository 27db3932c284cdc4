"""Feature networks for counts, positive numbers, angles, and data with missing entries."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from multipyro.batch import is_missing
from multipyro.ppl_models.networks._layers import leading_shape

__all__ = ["TransformedInput"]

_TRANSFORMS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "identity": lambda values: (values,),
    "log1p": lambda values: (values.log1p(),),
    "log": lambda values: (values.log(),),
    "circle": lambda values: (values.cos(), values.sin()),
}


class TransformedInput(nn.Module):
    r"""A feature network on transformed values, and on a mask of the entries that are present.

    The parts, such as values and mask, are concatenated along the first dimension of a data point: with a mask, 40
    numbers become 80, an image of 3 channels one of 6, and a single number 2.

    Args:
        in_shape: Shape of one data point, or its size; `()` is a single number.
        network: From the shape of the concatenated parts to the feature network, which has an attribute `out_features`.
        transform: `"log1p"`, which suits counts: large ones do not dominate small ones; `"log"` for positive numbers;
            `"circle"`, cosine and sine, for angles; or `"identity"`.
        missing_entries: Whether entries may be missing, NaN, or negative in integer data: zero in all parts, and in the
            mask, which is the last part.

    Raises:
        ValueError: If the transform is unknown.

    Example:
        >>> from multipyro.ppl_models import MLP
        >>> counts = TransformedInput(2000, lambda shape: MLP(shape, 8), "log1p")
        >>> counts(torch.randint(9, (5, 2000))).shape
        torch.Size([5, 8])
        >>> table = TransformedInput(3, lambda shape: MLP(shape, 8), missing_entries=True)
        >>> table(torch.tensor([[1.0, torch.nan, 2.0]])).shape
        torch.Size([1, 8])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        network: Callable[[tuple[int, ...]], nn.Module],
        transform: Literal["identity", "log1p", "log", "circle"] = "identity",
        missing_entries: bool = False,
    ) -> None:
        super().__init__()
        if transform not in _TRANSFORMS:
            raise ValueError(f"transform must be one of {tuple(_TRANSFORMS)}, got {transform!r}")
        self.in_shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        self.transform, self.missing_entries = transform, missing_entries
        first, *others = self.in_shape or (1,)
        parts = len(_TRANSFORMS[transform](torch.ones(()))) + missing_entries
        self.network = network((parts * first, *others))
        self.out_features = self.network.out_features

    def forward(self, values: Tensor) -> Tensor:
        leading_shape(values, self.in_shape)
        dtype = values.dtype if values.is_floating_point() else torch.get_default_dtype()
        parts = _TRANSFORMS[self.transform](values.to(dtype))
        if self.missing_entries:
            missing = is_missing(values)
            parts = (*(part.masked_fill(missing, 0) for part in parts), (~missing).to(dtype))
        return self.network(torch.cat(parts, -len(self.in_shape)) if self.in_shape else torch.stack(parts, -1))
