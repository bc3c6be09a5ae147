"""Measures how far the values inside a graph spread, on given rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxtune.columns import check_batch
from onnxtune.data import load as load_data
from onnxtune.preparation import Prepared
from onnxtune.runtime import input_types, run
from rewrites.core.registry import find
from rewrites.core.rewrite import Array

# Enough for a standard deviation to within 1 %.
MOST_ROWS = 10_000

# The share of a feature's range that it spreads at least, where weights meet it.
_SHARE_OF_RANGE = 0.15

# Standard operators whose second operand is often learned.
_HOLDING = ("MatMul", "Gemm", "Add", "Sub", "Mul", "Div")
_COMPARING = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")


def node_spreads(prepared: Prepared, data: Any) -> dict[str, Array]:
    """`feed_spreads` of anything that `onnxtune.data.load` takes.

    Raises:
        DataError: the data do not fit the model.
    """
    return feed_spreads(prepared, load_data(data, input_types(prepared.source.proto)).feed)


def feed_spreads(prepared: Prepared, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Node name -> standard deviation of each feature of its data input, [F].

    Of every node with a rewrite, and of the standard ones that hold learned tensors. Beside weights
    it is a share of the feature's range at least: of a column that is 0 but for a few rows, a step
    in units of the deviation would be huge for those.
    """
    held = {tensor.name for tensor in prepared.proto.graph.initializer}
    wanted: dict[str, tuple[str, float]] = {}
    for node in prepared.proto.graph.node:
        rewrite = find(node.domain, node.op_type)
        if node.op_type in _HOLDING + _COMPARING or rewrite is not None:
            read = [name for name in node.input if name and name not in held]
            trees = rewrite is not None and rewrite.ensemble is not None
            steps = trees or node.op_type in _COMPARING
            if read:
                wanted[node.name] = read[0], 0.0 if steps else _SHARE_OF_RANGE
    rows = {name: array[:MOST_ROWS] for name, array in feed.items()}
    values = matrices(prepared, rows, sorted({value for value, _ in wanted.values()}))
    measured = {key: _spread(values[key[0]], key[1]) for key in set(wanted.values())
                if key[0] in values}  # fmt: skip
    return {name: measured[key] for name, key in wanted.items() if key in measured}


def matrices(
    prepared: Prepared, feed: Mapping[str, Array], values: Sequence[str]
) -> dict[str, Array]:
    """Value -> what it is for these rows, [N, F]; those that are numeric matrices alone."""
    found = {name: array for name, array in feed.items() if name in values}
    graph = prepared.proto.graph
    made = {name for node in graph.node for name in node.output}
    numeric = [v for v in values if v in made and _is_numeric(prepared, v)]
    if numeric:
        check_batch(input_types(prepared.source.proto), feed, prepared.source.origin)
        probe = onnx.ModelProto()
        probe.CopyFrom(prepared.proto)
        del probe.graph.output[:]
        for value in numeric:
            probe.graph.output.add().name = value
        found |= run(probe, feed, numeric)
    return {
        name: np.asarray(array)
        for name, array in found.items()
        if np.ndim(array) == 2 and np.asarray(array).dtype.kind in "fiub"
    }


def _is_numeric(prepared: Prepared, value: str) -> bool:
    kind = prepared.type_of(value)
    return kind.kind.startswith("tensor(") and not kind.is_string


def _spread(columns: Array, share_of_range: float) -> Array:
    """[F] standard deviations, at least so much of the range; NaN and infinities are left out."""
    numbers = columns.astype(np.float64)
    finite = np.isfinite(numbers)
    count = np.maximum(finite.sum(axis=0), 1)
    mean = np.where(finite, numbers, 0).sum(axis=0) / count
    square = np.where(finite, (numbers - mean) ** 2, 0).sum(axis=0) / count
    high = np.max(numbers, axis=0, where=finite, initial=-np.inf)
    low = np.min(numbers, axis=0, where=finite, initial=np.inf)
    reach = np.where(finite.any(axis=0), high - low, 0.0)
    if not share_of_range:
        return np.asarray(np.sqrt(square))
    # Beside weights, of a column that mostly holds one value, the other rows tell the size.
    usual = np.where(finite.any(axis=0), np.nanmedian(np.where(finite, numbers, np.nan), axis=0), 0)
    other = finite & (numbers != usual)
    away = np.where(other, (numbers - usual) ** 2, 0).sum(axis=0)
    size = np.sqrt(away / np.maximum(other.sum(axis=0), 1))
    return np.asarray(np.maximum(size, share_of_range * reach))
