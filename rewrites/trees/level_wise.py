"""Soft routing level by level: every node's gate, then products down the trees.

Compact (a place per node that exists, not a padded perfect tree) and linear in nodes: a handful
of operators a level whatever the number of trees; memory is rows x nodes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import PRIVATE_DOMAIN, Builder
from rewrites.core.rewrite import Array
from rewrites.trees import columns
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.tensors import threshold_spreads


def level_wise(
    builder: Builder, ensemble: Ensemble, x: ir.Value, leaf_values: ir.Value
) -> ir.Value:
    """Raw scores [N, K] of rows x [N, F]; an ensemble of depth 0 is not for this form."""
    gates = _gates(builder, ensemble, x)
    axis = builder.constant("axis_1", [1], np.int64)
    reached: list[ir.Value] = []
    start = 0
    # The share of each row that reaches each place of the frontier; 1 at the roots.
    share: ir.Value | None = None
    root_leaves = ensemble.levels[0].leaves
    for depth, level in enumerate(ensemble.levels):
        if share is not None and len(level.leaves):
            whole = not len(level.inner)
            reached.append(share if whole else _pick(builder, share, level.leaves, depth, "leaf"))
        if not len(level.inner):
            break
        stop = start + len(level.inner)
        gate = _slice(builder, gates, start, stop, axis)
        if share is None:
            true_share = gate
            one = builder.constant("one", np.ones(1, ensemble.thresholds.dtype))
            false_share = builder.op("Sub", one, gate)
        else:
            inner = share
            if len(level.leaves):
                inner = _pick(builder, share, level.inner, depth, "inner")
            true_share = builder.op("Mul", inner, gate)
            false_share = builder.op("Sub", inner, true_share)
        share = builder.op("Concat", false_share, true_share, axis=1)
        start = stop

    shares = reached[0] if len(reached) == 1 else builder.op("Concat", *reached, axis=1)
    if not len(root_leaves):
        return builder.op("MatMul", shares, leaf_values)
    # Trees of a single leaf add the same to every row; their leaves come first.
    first = builder.constant("root_leaves", np.arange(len(root_leaves)), np.int64)
    rest = builder.constant(
        "other_leaves", np.arange(len(root_leaves), len(ensemble.leaf_places)), np.int64
    )
    scores = builder.op("MatMul", shares, builder.op("Gather", leaf_values, rest, axis=0))
    alone = builder.op("Gather", leaf_values, first, axis=0)
    total = builder.op("ReduceSum", alone, builder.constant("axis_0", [0], np.int64), keepdims=1)
    return builder.op("Add", scores, total)


def _gates(builder: Builder, ensemble: Ensemble, x: ir.Value) -> ir.Value:
    """[N, I]: how much of each row goes to the true child of each inner node.

    sigmoid((threshold - x) / (temperature * spread)); a step with a sigmoid's gradient for
    straight-through routing.
    """
    dtype = ensemble.thresholds.dtype
    spread = threshold_spreads(ensemble, builder.spread)
    # At a vanishing temperature the steepest slope that the type can hold.
    steepest = float(np.finfo(dtype).max) / 4
    slopes = 1.0 / np.maximum(builder.temperature * spread, 1.0 / steepest)
    slope = builder.constant("inverse_temperature", slopes, dtype)
    if builder.routing == "straight-through":
        source, features = columns.exact(builder, ensemble, x)
        value = _read(builder, source, features)
        thresholds = builder.tensor("thresholds")
        return builder.op("StraightThroughGate", thresholds, value, slope, domain=PRIVATE_DOMAIN)
    source, thresholds, features = columns.finite(builder, ensemble, x)
    distance = builder.op("Sub", thresholds, _read(builder, source, features))
    return builder.op("Sigmoid", builder.op("Mul", distance, slope))


def _read(builder: Builder, source: ir.Value, features: Array) -> ir.Value:
    index = builder.constant("inner_features", features, np.int64)
    return builder.op("Gather", source, index, axis=1)


def _pick(builder: Builder, share: ir.Value, places: Array, depth: int, kind: str) -> ir.Value:
    index = builder.constant(f"level_{depth}_{kind}", places, np.int64)
    return builder.op("Gather", share, index, axis=1)


def _slice(builder: Builder, value: ir.Value, start: int, stop: int, axis: ir.Value) -> ir.Value:
    begin = builder.constant(f"slice_{start}", [start], np.int64)
    end = builder.constant(f"slice_{stop}", [stop], np.int64)
    return builder.op("Slice", value, begin, end, axis)
