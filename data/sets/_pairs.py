"""Examples of several data sets joined on their classes."""

from collections.abc import Mapping

import numpy as np

__all__ = ["pairs_by_class"]


def pairs_by_class(
    labels: Mapping[str, np.ndarray],
    times: int = 1,
    limit: int | None = None,
    seed: int | tuple[int, ...] = 0,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Which rows of each data set form one example, and its class.

    In each class, each data set contributes its first `n` rows, where `n` is the smallest number that any has, and at
    most `limit`. `times` times these are put in a random order, independently for each data set, and the i-th of all
    form an example. So each row occurs in `times` examples. The examples of all classes are then put in a random order.

    Args:
        labels: Name of a data set -> classes of its rows, integers `(rows,)`.
        times: How often each row occurs.
        limit: Largest number of rows that a data set contributes to a class; None for all.
        seed: Seed of the orders.

    Returns:
        Name -> row numbers `(examples,)`; and classes int64 `(examples,)`.
    """
    seed = seed if isinstance(seed, tuple) else (seed,)
    shared = set.intersection(*({*values.tolist()} for values in labels.values()))
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in labels}
    classes = []
    for label in sorted(shared):
        members = {name: np.flatnonzero(values == label)[:limit] for name, values in labels.items()}
        count = min(map(len, members.values()))
        for number, (name, rows) in enumerate(members.items()):
            # a stream for each class and data set: a larger `times` leaves the first examples of a class as they are
            generator = np.random.default_rng([*seed, label, number])
            drawn[name] += [generator.permutation(rows[:count]) for _ in range(times)]
        classes.append(np.full(count * times, label))
    joined = np.concatenate(classes) if classes else np.empty(0)
    order = np.random.default_rng(list(seed)).permutation(len(joined))
    rows = {name: np.concatenate(parts or [np.empty(0)]).astype(np.int64)[order] for name, parts in drawn.items()}
    return rows, joined.astype(np.int64)[order]
