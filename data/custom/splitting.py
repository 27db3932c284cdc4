"""Which rows are for training, validation and test."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from multipyro.data.splits import Splits

__all__ = ["SHARES", "parts_by_name", "split_rows"]

#: Fractions of the rows for training, validation and test by default.
SHARES = (0.8, 0.1, 0.1)


def split_rows(
    number: int, shares: Sequence[float], seed: int, groups: Sequence[object] | None = None
) -> list[np.ndarray]:
    """Draws which rows are for training, validation and test; each part has its rows in their original order.

    Args:
        number: Number of rows.
        shares: Fraction of each part, above 0; they sum to 1.
        seed: Seed of the draw.
        groups: The group of each row, such as a patient: rows of one group go to one part, so the sizes of the parts
            only approximate the fractions.

    Returns:
        Row numbers of the three parts, int64.

    Raises:
        ValueError: If the shares are not three positive fractions that sum to 1, if they leave a part without rows (it
            could not train, select or test), if there are not as many groups as rows, or if the seed is 2**63
            or more.
        TypeError: If the seed is not an integer.
    """
    if not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if abs(seed) >= 2**63:
        raise ValueError(f"seed must be below 2**63, got {seed}")
    shares = tuple(shares) if isinstance(shares, Iterable) else (shares,)
    valid = all(isinstance(share, int | float) and not isinstance(share, bool) and share > 0 for share in shares)
    if not valid or len(shares) != 3 or not abs(sum(shares) - 1) <= 1e-6:
        raise ValueError(
            f"split must be three fractions above 0 that sum to 1, for training, validation and test, got {shares}"
        )
    generator = torch.Generator().manual_seed(seed)
    if groups is None:
        order = torch.randperm(number, generator=generator)
        ends = [round(number * sum(shares[:end])) for end in (1, 2)]
        parts = [part.sort().values.numpy() for part in order.tensor_split(ends)]
    else:
        parts = _split_groups(number, shares, groups, generator)
    if any(len(part) == 0 for part in parts):
        units = f"{number} rows" if groups is None else f"{number} rows in {len(set(groups))} groups"
        raise ValueError(f"{units} cannot be split in fractions of {shares}: a part would have no rows")
    return parts


def parts_by_name(names: Sequence[str], place: str) -> list[np.ndarray]:
    """Row numbers of the three parts where each row names its part.

    Raises:
        ValueError: If a name is not one of `Splits.NAMES`, or a part has no rows; the message begins with `place`.
    """
    found = set(names)
    if found != set(Splits.NAMES):
        raise ValueError(f"{place} must have {Splits.NAMES}, each at least once, got {sorted(map(str, found))[:10]}")
    array = np.array(list(names))
    return [np.flatnonzero(array == part) for part in Splits.NAMES]


def _split_groups(
    number: int, shares: tuple[float, ...], groups: Sequence[object], generator: torch.Generator
) -> list[np.ndarray]:
    if len(groups) != number:
        raise ValueError(f"groups must have one entry per row, got {len(groups)} for {number} rows")
    members: dict[object, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    rows = list(members.values())
    parts: list[list[int]] = [[], [], []]
    for group in torch.randperm(len(rows), generator=generator).tolist():
        # the part that is furthest below its fraction, so that every part gets a group before any is full
        part = min(range(3), key=lambda part: len(parts[part]) / shares[part])
        parts[part] += rows[group]
    return [np.array(sorted(part), np.int64) for part in parts]
