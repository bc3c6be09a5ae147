"""Two ways to follow each row down the trees of a group, level by level.

Rows run along the last axis and trees along the first, so that a look-up is a GatherElements
within a tree's own table. Memory is rows x trees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array
from rewrites.trees.tables import NodeTables

# A group is filled up where its constants are at most about twice those of its nodes alone.
_MOST_PADDING = 2.5


@dataclass(frozen=True)
class Reached:
    """Where the rows end in a group of G trees.

    `at` is [G, N] int32, the number of a node within its tree; `leaves` [G, S] the number of the
    leaf that each of these nodes is, 0 for the others.
    """

    name: str
    at: ir.Value
    leaves: Array


@dataclass(frozen=True)
class Columns:
    """What decisions compare.

    Attributes:
        values: [F, N], the features, turned.
        thresholds: [inner nodes + 1]; the last one is NaN, which no value passes.
        features: [M], the row of `values` that each node reads.
    """

    values: ir.Value
    thresholds: ir.Value
    features: Array


def can_be_filled(depths: Array, sizes: Array) -> Array:
    """Whether trees of these depths and nodes, leaves included, take little more filled up."""
    return np.asarray(np.exp2(np.minimum(depths, 62)) <= _MOST_PADDING * sizes)


def descend(
    builder: Builder, tables: NodeTables, trees: Array, name: str, columns: Columns
) -> Reached:
    """Follow every row down the trees of one group."""
    if can_be_filled(tables.depths[trees].max(), tables.sizes[trees].max()):
        return _descend_filled(builder, tables, trees, name, columns)
    return _descend_linked(builder, tables, trees, name, columns)


def _descend_linked(
    builder: Builder, tables: NodeTables, trees: Array, name: str, columns: Columns
) -> Reached:
    """One table for all levels, in which each node has the number of its false child.

    The true child stands behind it. A leaf is its own child. Seven operators a level.
    """
    place, real = _padded(tables, trees)
    slots = np.where(real, tables.slots[place], tables.inner)
    index = np.minimum(slots, tables.inner)
    own = np.arange(place.shape[1])
    child = np.where(real, tables.children[place], own)
    feature = np.where(real, columns.features[place], 0)

    def held(role: str, array: Array) -> ir.Value:
        return builder.constant(f"{name}{role}", array, np.int32)

    feature_table = held("node_features", feature)
    child_table = held("first_child", child)
    threshold_table = builder.op("Gather", columns.thresholds, held("slot", index), axis=0)
    root_threshold = builder.op(
        "Gather", columns.thresholds, held("root_slot", index[:, :1]), axis=0
    )
    value = _root_values(builder, name, feature[:, 0], columns)
    passed = builder.op("LessOrEqual", value, root_threshold)
    at = builder.op("Add", held("root_child", child[:, :1]), _as_number(builder, passed))
    for _ in range(int(tables.depths[trees].max()) - 1):
        passed = _decide(builder, feature_table, threshold_table, at, columns)
        first_child = builder.op("GatherElements", child_table, at, axis=1)
        at = builder.op("Add", first_child, _as_number(builder, passed))
    return Reached(name, at, np.maximum(slots - tables.inner, 0))


def _descend_filled(
    builder: Builder, tables: NodeTables, trees: Array, name: str, columns: Columns
) -> Reached:
    """A table for each level, filled up to two to the power of the level.

    The bits of a node's number are the decisions on the way to it, the first one lowest. So the
    true child stands that power behind the false one, and no look-up finds it. Below a leaf it is
    repeated. Seven operators a level, six on a GPU, whose Where is one pass.
    """
    place = tables.starts[trees][:, None]
    at: ir.Value | None = None
    # Trees of a single leaf stay there in the first level.
    for level in range(max(1, int(tables.depths[trees].max()))):

        def held(role: str, array: Array, level: int = level) -> ir.Value:
            return builder.constant(f"{name}level_{level}_{role}", array, np.int32)

        index = held("slot", np.minimum(tables.slots[place], tables.inner))
        limits = builder.op("Gather", columns.thresholds, index, axis=0)
        if at is None:
            value = _root_values(builder, name, columns.features[place[:, 0]], columns)
            at = _as_number(builder, builder.op("LessOrEqual", value, limits))
        else:
            feature_table = held("features", columns.features[place])
            passed = _decide(builder, feature_table, limits, at, columns)
            power = builder.constant(f"power_{level}", 1 << level, np.int32)
            at = builder.op("Add", at, _times(builder, passed, power))
        leaf = tables.slots[place] >= tables.inner
        first = np.where(leaf, place, tables.starts[trees][:, None] + tables.children[place])
        place = np.concatenate([first, np.where(leaf, place, first + 1)], axis=1)
    assert at is not None
    return Reached(name, at, tables.slots[place] - tables.inner)


def _root_values(builder: Builder, name: str, features: Array, columns: Columns) -> ir.Value:
    index = builder.constant(f"{name}root_features", features, np.int64)
    return builder.op("Gather", columns.values, index, axis=0)


def _decide(
    builder: Builder, features: ir.Value, thresholds: ir.Value, at: ir.Value, columns: Columns
) -> ir.Value:
    """Whether the rows pass the decisions of the nodes that they are at."""
    feature = builder.op("GatherElements", features, at, axis=1)
    value = builder.op("GatherElements", columns.values, feature, axis=0)
    return builder.op("LessOrEqual", value, builder.op("GatherElements", thresholds, at, axis=1))


def _as_number(builder: Builder, passed: ir.Value) -> ir.Value:
    return builder.op("Cast", passed, to=int(ir.DataType.INT32))


def _times(builder: Builder, passed: ir.Value, power: ir.Value) -> ir.Value:
    """The power where a decision is passed, else 0."""
    if builder.serving.provider == "cuda":
        zero = builder.constant("no_power", 0, np.int32)
        return builder.op("Where", passed, power, zero)
    return builder.op("Mul", _as_number(builder, passed), power)


def _padded(tables: NodeTables, trees: Array) -> tuple[Array, Array]:
    """[G, S] the place of each node of these trees, and whether there is one."""
    sizes = tables.sizes[trees]
    number = np.arange(int(sizes.max()))
    real = number < sizes[:, None]
    return np.where(real, tables.starts[trees][:, None] + number, 0), real
