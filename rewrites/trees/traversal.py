"""Hard routing by following each row from node to node: exact, and linear in depth.

Seven operators a level whatever the number of trees; memory is rows x trees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array
from rewrites.trees.columns import exact
from rewrites.trees.ensemble import Ensemble


@dataclass(frozen=True)
class _Tables:
    """Tables over all nodes, numbered so that a true child follows its false sibling.

    `slot` is the inner node's number, or I for a leaf; `leaf_row` the leaf's number, or 0.
    A leaf is its own first child.
    """

    slot: Array
    leaf_row: Array
    first_child: Array


def _tables(ensemble: Ensemble) -> _Tables:
    slots, rows, firsts = [], [], []
    start, inner_seen, leaf_seen = 0, 0, 0
    # Where each place of the level's frontier stands in this module's numbering of the level.
    position = np.arange(ensemble.roots)
    inner_count = len(ensemble.features)
    for level in ensemble.levels:
        size, inner, leaves = len(position), len(level.inner), len(level.leaves)
        slot = np.full(size, inner_count)
        slot[position[level.inner]] = inner_seen + np.arange(inner)
        row = np.zeros(size, np.int64)
        row[position[level.leaves]] = leaf_seen + np.arange(leaves)
        first = start + np.arange(size)
        first[position[level.inner]] = start + size + 2 * np.arange(inner)
        slots.append(slot)
        rows.append(row)
        firsts.append(first)
        start, inner_seen, leaf_seen = start + size, inner_seen + inner, leaf_seen + leaves
        position = np.concatenate([2 * np.arange(inner), 2 * np.arange(inner) + 1])
    return _Tables(
        slot=np.concatenate(slots),
        leaf_row=np.concatenate(rows),
        first_child=np.concatenate(firsts),
    )


def traversal(builder: Builder, ensemble: Ensemble, x: ir.Value, leaf_values: ir.Value) -> ir.Value:
    """Raw scores [N, K] of rows x [N, F]; an ensemble of depth 0 is not for this form."""
    tables = _tables(ensemble)
    dtype = ensemble.thresholds.dtype
    # A leaf's threshold is NaN, so that no value passes it and the row stays where it is.
    beyond = builder.constant("no_threshold", np.full(1, np.nan, dtype))
    padded = builder.op("Concat", builder.tensor("thresholds"), beyond, axis=0)
    slot = builder.constant("slot", tables.slot, np.int32)
    thresholds = builder.op("Gather", padded, slot, axis=0)
    source, columns = exact(builder, ensemble, x)
    features = np.append(columns, 0)[tables.slot]
    feature_table = builder.constant("node_features", features, np.int64)
    child_table = builder.constant("first_child", tables.first_child, np.int32)

    roots = slice(0, ensemble.roots)
    root_slot = builder.constant("root_slot", tables.slot[roots], np.int32)
    root_threshold = builder.op("Gather", padded, root_slot, axis=0)
    root_feature = builder.constant("root_features", features[roots], np.int64)
    root_child = builder.constant("root_child", tables.first_child[roots], np.int32)
    value = builder.op("Gather", source, root_feature, axis=1)
    at = _step(builder, value, root_threshold, root_child)
    for _ in range(ensemble.depth - 1):
        feature = builder.op("Gather", feature_table, at, axis=0)
        value = builder.op("GatherElements", source, feature, axis=1)
        threshold = builder.op("Gather", thresholds, at, axis=0)
        at = _step(builder, value, threshold, builder.op("Gather", child_table, at, axis=0))

    row_table = builder.constant("leaf_row", tables.leaf_row, np.int32)
    values = builder.op("Gather", leaf_values, row_table, axis=0)
    reached = builder.op("Gather", values, at, axis=0)
    return builder.op("ReduceSum", reached, builder.constant("axis_1", [1], np.int64), keepdims=0)


def _step(
    builder: Builder, value: ir.Value, threshold: ir.Value, first_child: ir.Value
) -> ir.Value:
    """The next node of every row in every tree: the first child, or the one behind it."""
    passed = builder.op("LessOrEqual", value, threshold)
    return builder.op("Add", first_child, builder.op("Cast", passed, to=int(ir.DataType.INT32)))
