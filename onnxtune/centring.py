"""Thresholds in the middle of the gaps that they cut through, where values repeat.

Of a column of zeros and ones, 1e-35 and 0.5 part the same rows; but the first step of training
takes 1e-35 to the other side of all zeros, and a soft gate there is half open for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from onnxtune.met_values import met_values
from onnxtune.torch_module import OnnxModule
from rewrites.core.rewrite import Array

# A value that so many rows have, and such a share of them, repeats.
_ROWS, _SHARE = 5, 0.02

# Rows that are looked at.
_MOST_ROWS = 10_000


def centred(
    module: OnnxModule, feed: Mapping[str, Array], trained: Collection[str]
) -> dict[str, Array]:
    """Thresholds beside a repeated value -> the middle between it and the next value.

    No row of `feed` is routed otherwise than before.

    Args:
        module: the model.
        feed: rows, as `onnxtune.data.load` makes them.
        trained: names of the tensors that may move.

    Returns:
        Tensor name -> value, of the tensors of thresholds that a feature's values are known for.
    """
    names = [n for n in trained if n in module.learned and module.learned[n].group == "thresholds"]
    sample = {name: array[:_MOST_ROWS] for name, array in feed.items()}
    found = {}
    for name, (data, features) in met_values(module.prepared, names, sample).items():
        tensor = module.learned[name]
        value = tensor.value.astype(np.float64)
        order = np.argsort(features, kind="stable")
        used, first = np.unique(features[order], return_index=True)
        for feature, own in zip(used.tolist(), np.split(order, first[1:]), strict=True):
            value[own] = _between(value[own], data[:, feature], tensor.value.dtype)
        moves = (np.broadcast_to(tensor.unit, value.shape) != 0) & np.isfinite(tensor.value)
        new = np.where(moves, value, tensor.value).astype(tensor.value.dtype)
        found[name] = np.asarray(new)
    return found


def _between(thresholds: Array, column: Array, dtype: np.dtype[np.generic]) -> Array:
    """[P] for the values [N] of a feature, as numbers of `dtype`."""
    values, counts = np.unique(column[np.isfinite(column)].astype(np.float64), return_counts=True)
    if len(values) < 2:
        return thresholds
    repeats = counts >= max(_ROWS, _SHARE * counts.sum())
    above = np.searchsorted(values, thresholds, side="right")
    inside = (above > 0) & (above < len(values))
    low, high = above.clip(1) - 1, above.clip(0, len(values) - 1)
    middle = ((values[low] + values[high]) / 2).astype(dtype).astype(np.float64)
    # Between neighbours there is no number, and the middle is rounded to one of them.
    parts = (values[low] <= middle) & (middle < values[high])
    beside = inside & (repeats[low] | repeats[high]) & parts
    return np.where(beside, middle, thresholds)
