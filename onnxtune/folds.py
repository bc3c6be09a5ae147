"""Rows in folds, each of which is held out once."""

from __future__ import annotations

import numpy as np

from onnxtune.errors import ArgumentError
from onnxtune.validation import group_numbers
from rewrites.core.rewrite import Array


def folds(
    target: Array,
    classes: bool,
    count: int,
    rng: np.random.Generator,
    groups: Array | None = None,
) -> list[Array]:
    """Row numbers of each fold, ascending; every row is in exactly one.

    Args:
        target: class indices where `classes` is set; else any numbers, one entry a row.
        classes: whether every class is to be in all folds alike; groups go before that.
        count: of folds.
        rng: which rows go where.
        groups: [N], rows of one group stay together, and the folds become about equally large; as
            many as there are groups, if these are fewer.

    Raises:
        ArgumentError: less than two folds, or too few rows or groups for them.
        DataError: a row's group is missing.
    """
    rows = len(target)
    if count < 2:
        raise ArgumentError(f"{count} folds cannot be held out in turns; give 2 or more.")
    if rows < 2 * count:
        raise ArgumentError(
            f"{rows} rows are too few for {count} folds of two or more each; give fewer folds."
        )
    if groups is not None:
        fold = _whole_groups(group_numbers(groups, "the groups"), count, rng)
    else:
        order = rng.permutation(rows)
        if classes:
            order = order[np.argsort(np.ravel(target)[order], kind="stable")]
        fold = np.empty(rows, np.int64)
        fold[order] = np.arange(rows) % count
    return [np.flatnonzero(fold == number) for number in range(int(fold.max()) + 1)]


def _whole_groups(groups: Array, count: int, rng: np.random.Generator) -> Array:
    """[N] the fold of each row: the largest groups first, each into the smallest fold."""
    sizes = np.bincount(groups)
    if len(sizes) < 2:
        raise ArgumentError("All rows are of one group, and groups stay whole; give two or more.")
    count = min(count, len(sizes))
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold, filled = np.empty(len(sizes), np.int64), np.zeros(count, np.int64)
    for group in order.tolist():
        fold[group] = np.argmin(filled)
        filled[fold[group]] += sizes[group]
    # The first fold holds out the fewest rows: what is trained on its others is handed out.
    place = np.empty(count, np.int64)
    place[np.argsort(filled, kind="stable")] = np.arange(count)
    return np.asarray(place[fold][groups])
