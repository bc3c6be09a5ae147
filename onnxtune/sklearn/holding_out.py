"""Which rows an estimator is not fitted on, so that tuning can be judged by them."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.data import Table
from onnxtune.errors import ArgumentError
from onnxtune.tables import to_array
from onnxtune.validation import hold_out, is_pair, numbered

Array = np.ndarray[Any, Any]

# With fewer a verdict says nothing.
LEAST = 10


def valid_among(valid: Any, kept: Array, rows: int) -> Any:
    """What `valid` says of some of the rows.

    Args:
        valid: as `onnxtune.tune` takes it; rows of their own stay.
        kept: [M] the numbers of these rows.
        rows: how many there were.

    Raises:
        ArgumentError: it holds numbers of rows that are not there.
    """
    array = np.zeros(()) if is_pair(valid) else to_array(valid, "valid")
    if array.ndim == 0:
        return valid
    if array.ndim == 1 and len(array) != rows and array.dtype.kind in "iu":
        array = numbered(array, rows)
    return array[kept] if len(array) == rows else valid


def held_out(y: Array, classes: bool, valid: Any, seed: int) -> tuple[Array, Array] | str:
    """Row numbers to fit on and to validate on, or why there are none.

    A class is held out only as far as it stays among those to fit on.

    Args:
        y: the target, [N] or [N, K].
        classes: whether it holds classes.
        valid: as `onnxtune.tune` takes it, but for columns and rows of their own.
        seed: of what is random.

    Raises:
        ArgumentError: `valid` is nothing that rows can be held out by.
    """
    whole = classes and y.ndim == 1
    target = np.unique(y, return_inverse=True)[1] if whole else np.zeros(len(y), np.int64)
    table = Table({}, None, len(y))
    try:
        kept, out = hold_out(table, target, whole, valid, np.random.default_rng(seed))
    except ArgumentError:
        if len(y) >= 2 * LEAST or not isinstance(valid, float):
            raise
        kept, out = np.arange(len(y)), np.zeros(0, np.int64)
    if whole:
        # The first row of a class that would be missing goes back.
        first = np.unique(target[out], return_index=True)[1]
        alone = out[first][~np.isin(target[out][first], target[kept])]
        kept, out = np.union1d(kept, alone), np.setdiff1d(out, alone)
    if len(out) < LEAST:
        return (
            f"of {len(y)} rows {len(out)} would be left to judge a tuned model by; give more, "
            f"or a larger share (valid), so that there are {LEAST} or more"
        )
    return kept, out
