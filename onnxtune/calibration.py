"""Measures how far the values inside a graph spread, on given rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxtune.data import load as load_data
from onnxtune.preparation import Prepared
from onnxtune.runtime import input_types, run
from rewrites.core.registry import find
from rewrites.core.rewrite import Array

# Enough for a standard deviation to within 1 %.
MOST_ROWS = 10_000

# Standard operators whose second operand is often learned.
_HOLDING = ("MatMul", "Gemm", "Add", "Sub", "Mul", "Div")


def node_spreads(prepared: Prepared, data: Any) -> dict[str, Array]:
    """`feed_spreads` of anything that `onnxtune.data.load` takes.

    Raises:
        DataError: the data do not fit the model.
    """
    return feed_spreads(prepared, load_data(data, input_types(prepared.source.proto)).feed)


def feed_spreads(prepared: Prepared, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Node name -> standard deviation of each feature of its data input, [F].

    Of every node with a rewrite, and of the standard ones that hold learned tensors.
    """
    held = {tensor.name for tensor in prepared.proto.graph.initializer}
    wanted = {}
    for node in prepared.proto.graph.node:
        if node.op_type in _HOLDING or find(node.domain, node.op_type) is not None:
            read = [name for name in node.input if name and name not in held]
            if read:
                wanted[node.name] = read[0]
    measured = value_spreads(prepared, feed, sorted(set(wanted.values())))
    return {name: measured[value] for name, value in wanted.items() if value in measured}


def value_spreads(
    prepared: Prepared, feed: Mapping[str, Array], values: Sequence[str]
) -> dict[str, Array]:
    """Value -> standard deviation of each of its columns, [F]; numeric matrices only.

    NaN and infinite numbers are left out.
    """
    rows = {name: array[:MOST_ROWS] for name, array in feed.items()}
    found = {name: array for name, array in rows.items() if name in values}
    graph = prepared.proto.graph
    made = {name for node in graph.node for name in node.output}
    numeric = [v for v in values if v in made and _is_numeric(prepared, v)]
    if numeric:
        probe = onnx.ModelProto()
        probe.CopyFrom(prepared.proto)
        del probe.graph.output[:]
        for value in numeric:
            probe.graph.output.add().name = value
        found |= run(probe, rows, numeric)
    return {
        name: _spread(np.asarray(array))
        for name, array in found.items()
        if np.ndim(array) == 2 and np.asarray(array).dtype.kind in "fiub"
    }


def _is_numeric(prepared: Prepared, value: str) -> bool:
    kind = prepared.type_of(value)
    return kind.kind.startswith("tensor(") and not kind.is_string


def _spread(columns: Array) -> Array:
    numbers = columns.astype(np.float64)
    finite = np.isfinite(numbers)
    count = np.maximum(finite.sum(axis=0), 1)
    mean = np.where(finite, numbers, 0).sum(axis=0) / count
    square = np.where(finite, (numbers - mean) ** 2, 0).sum(axis=0) / count
    return np.asarray(np.sqrt(square))
