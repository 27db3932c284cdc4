"""Rows of several data sets joined on their classes."""

from collections.abc import Mapping

import numpy as np

__all__ = ["pairs_by_class"]


def pairs_by_class(
    labels: Mapping[str, np.ndarray],
    times: int = 1,
    most: int | None = None,
    seed: int | tuple[int, ...] = 0,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Which rows of each set make one row, and its class.

    In each class, each set has its first `n` rows, where `n` is the smallest number that any set has, and `most` at
    most. `times` times these are put in a random order, each set's in one of its own, and the i-th of all sets make a
    row. So each of them occurs in `times` rows. The rows of all classes then come in a random order.

    Args:
        labels: Name of a set -> classes of its rows, whole numbers `(rows,)`.
        times: How often each row occurs.
        most: Rows of a class that each set has at most; None for all.
        seed: Seed of the orders.

    Returns:
        Name -> row numbers `(joined rows,)`; and classes int64 `(joined rows,)`.
    """
    seed = seed if isinstance(seed, tuple) else (seed,)
    shared = set.intersection(*({*values.tolist()} for values in labels.values()))
    found: dict[str, list[np.ndarray]] = {name: [] for name in labels}
    classes = []
    for label in sorted(shared):
        members = {name: np.flatnonzero(values == label)[:most] for name, values in labels.items()}
        count = min(map(len, members.values()))
        for number, (name, rows) in enumerate(members.items()):
            # a stream for each class and set: more times leave the first rows of a class as they are
            generator = np.random.default_rng([*seed, label, number])
            found[name] += [generator.permutation(rows[:count]) for _ in range(times)]
        classes.append(np.full(count * times, label))
    joined = np.concatenate(classes) if classes else np.empty(0)
    order = np.random.default_rng(list(seed)).permutation(len(joined))
    rows = {name: np.concatenate(parts or [np.empty(0)]).astype(np.int64)[order] for name, parts in found.items()}
    return rows, joined.astype(np.int64)[order]
