"""A tensor whose rows repeat: an image with ten captions, a digit in twenty pairs, is stored once."""

import torch
from torch import Tensor

__all__ = ["IndexedTensor"]


class IndexedTensor:
    """The tensor `pool[index]` without a copy; can replace a tensor in `MultimodalData.x`.

    Args:
        pool: The distinct rows, `(values, *shape)`.
        index: The index of each row in the pool, int64 `(rows,)`.

    Raises:
        TypeError: If the index is not int64.
        ValueError: If the index does not have shape `(rows,)`, or lies outside the pool.

    Example:
        >>> images = IndexedTensor(torch.tensor([[0.5, 1.5], [2.5, 3.5]]), torch.tensor([0, 0, 1]))
        >>> len(images), images.shape, images.index_select(0, torch.tensor([1, 2])).tolist()
        (3, torch.Size([3, 2]), [[0.5, 1.5], [2.5, 3.5]])
    """

    def __init__(self, pool: Tensor, index: Tensor) -> None:
        if index.dtype != torch.int64:
            raise TypeError(f"index must be int64, got {index.dtype}")
        if index.dim() != 1:
            raise ValueError(f"index must have shape (rows,), got {tuple(index.shape)}")
        if len(index) and not 0 <= index.min() <= index.max() < len(pool):
            raise ValueError(f"index must lie in 0 to {len(pool) - 1}, got {index.min()} to {index.max()}")
        self.pool, self.index = pool, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor) -> "IndexedTensor":
        return IndexedTensor(self.pool, self.index[rows])

    def __repr__(self) -> str:
        return f"<IndexedTensor {tuple(self.shape)} of {len(self.pool)} distinct rows, {self.dtype}>"

    @property
    def shape(self) -> torch.Size:
        """Shape of the represented tensor."""
        return torch.Size((len(self.index), *self.pool.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values."""
        return self.pool.dtype

    def dim(self) -> int:
        """Number of dimensions of the represented tensor."""
        return self.pool.dim()

    def is_floating_point(self) -> bool:
        """Whether the values have a floating type."""
        return self.pool.is_floating_point()

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """The tensor of the rows `(n,)`; `dim` must be 0."""
        if dim != 0:
            raise ValueError(f"dim must be 0, the rows, got {dim}")
        return self.pool.index_select(0, self.index.index_select(0, rows))

    def distinct(self) -> tuple[Tensor, Tensor]:
        """The values that occur, in the order of the pool, and the index of each row among them."""
        used, index = self.index.unique(return_inverse=True)
        return self.pool.index_select(0, used), index
