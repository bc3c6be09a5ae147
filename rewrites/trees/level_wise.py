"""Routing level by level: every node's gate, soft or hard, then products down the trees.

Compact (a place per node that exists, not a padded perfect tree) and linear in nodes: a handful
of operators a level and block of trees; memory is rows x nodes. Rows run along the last axis, so
that to pick some nodes is to copy whole rows of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array
from rewrites.trees.blocks import Block, blocks
from rewrites.trees.columns import exact, finite
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.tables import node_tables
from rewrites.trees.tensors import gate_slopes

# Inner nodes times rows of a block, whose gates fill a core's cache; inner nodes at least, and
# blocks at most: each has operators of its own.
_GATES, _NODES, _MOST_BLOCKS = 1 << 19, 128, 64


@dataclass(frozen=True)
class Shares:
    """`value` [L', N]: how much of each row reaches some leaves: `leaves`, or all in order."""

    name: str
    value: ir.Value
    leaves: Array | None


def leaf_shares(builder: Builder, ensemble: Ensemble, x: ir.Value) -> list[Shares]:
    """How much of each row of x [N, F] reaches each leaf, trees in blocks."""
    if not ensemble.depth:
        return [Shares("", _ones(builder, ensemble, x, len(ensemble.leaf_places)), None)]
    tables = node_tables(ensemble)
    starts = np.repeat(tables.starts[:-1], tables.sizes)
    rows = builder.serving.batch_size
    most = max(_NODES, _GATES // rows, -(-tables.inner // _MOST_BLOCKS))
    if ensemble.aggregate in ("MIN", "MAX"):
        most = tables.inner
    parts = blocks(tables.children + starts, tables.slots, tables.starts[:-1], tables.inner, most)
    gates = _Gates(builder, ensemble, x)
    found = []
    for number, part in enumerate(parts):
        name = f"block_{number}_" if len(parts) > 1 else ""
        found.append(_shares(builder, ensemble, x, part, name, gates))
    return found


def _shares(
    builder: Builder, ensemble: Ensemble, x: ir.Value, part: Block, name: str, gates: _Gates
) -> Shares:
    """Down the levels of one block."""
    reached: list[ir.Value] = []
    go, stop = part.levels[0]
    if len(stop):
        reached.append(_ones(builder, ensemble, x, len(stop), name))
    if not len(go):
        return Shares(name, reached[0], part.leaves)
    gate_values = gates.of(part, name)
    axis = builder.constant("axis_0", [0], np.int64)
    one = builder.constant("one", np.ones(1, ensemble.thresholds.dtype))
    start = 0
    # The share of each row that reaches each place of the frontier; 1 at the roots.
    share: ir.Value | None = None
    for depth, (go, stop) in enumerate(part.levels):
        if share is not None and len(stop):
            whole = not len(go)
            reached.append(
                share if whole else _pick(builder, share, stop, f"{name}level_{depth}_leaf")
            )
        if not len(go):
            break
        end = start + len(go)
        gate = _slice(builder, gate_values, start, end, axis)
        if share is None:
            true_share, false_share = gate, builder.op("Sub", one, gate)
        else:
            inner = share
            if len(stop):
                inner = _pick(builder, share, go, f"{name}level_{depth}_inner")
            true_share = builder.op("Mul", inner, gate)
            false_share = builder.op("Sub", inner, true_share)
        share = builder.op("Concat", false_share, true_share, axis=0)
        start = end
    value = reached[0] if len(reached) == 1 else builder.op("Concat", *reached, axis=0)
    return Shares(name, value, part.leaves)


def reduce_shares(
    builder: Builder,
    ensemble: Ensemble,
    shares: Sequence[Shares],
    table: ir.Value,
    how: Literal["Sum", "Min", "Max"],
) -> ir.Value:
    """[N, K]: over the trees, the sum (or least, or largest) of the shares' mean of `table` [L, K].

    The least and the largest take memory for every tree as large as the largest.
    """
    if how == "Sum":
        parts = []
        for share in shares:
            own = _rows(builder, table, share.leaves, f"{share.name}block_leaves")
            turned = builder.op("Transpose", own, perm=[1, 0])
            parts.append(builder.op("MatMul", turned, share.value))
        total = parts[0] if len(parts) == 1 else builder.op("Sum", *parts)
        return builder.op("Transpose", total, perm=[1, 0])
    (share,) = shares
    leaves = share.leaves
    back = None if leaves is None else np.argsort(leaves)
    value = _rows(builder, share.value, back, "leaf_order")
    tree = ensemble.tree_of_leaf
    counts = np.bincount(tree, minlength=ensemble.roots)
    by_tree = np.argsort(tree, kind="stable")
    number = np.arange(counts.max())
    real = number < counts[:, None]
    place = np.zeros(real.shape, np.int64)
    place[real] = by_tree
    present = builder.constant("is_leaf", real[:, :, None], ensemble.thresholds.dtype)
    index = builder.constant("leaves_of_tree", place, np.int64)
    own = builder.op("Mul", builder.op("Gather", value, index, axis=0), present)
    values = builder.op("Gather", table, index, axis=0)
    turned = builder.op("Transpose", values, perm=[0, 2, 1])
    means = builder.op("MatMul", turned, own)
    found = builder.reduce_first(how, means, keepdims=0)
    return builder.op("Transpose", found, perm=[1, 0])


def _rows(builder: Builder, value: ir.Value, places: Array | None, role: str) -> ir.Value:
    """Some rows of a value; itself where they are all, in order."""
    if places is None or np.array_equal(places, np.arange(len(places))):
        return value
    return builder.op("Gather", value, builder.constant(role, places, np.int64), axis=0)


def _ones(
    builder: Builder, ensemble: Ensemble, x: ir.Value, count: int, name: str = ""
) -> ir.Value:
    """[count, N] ones, as many columns as x has rows: a comparison that is never true, negated."""
    dtype = ensemble.thresholds.dtype
    column = builder.op("Gather", x, builder.constant("first", [0], np.int64), axis=1)
    never = builder.op("LessOrEqual", column, builder.constant("never", np.full(1, np.nan), dtype))
    always = builder.op("Not", never)
    ones = builder.op("Cast", always, to=int(ir.DataType.from_numpy(dtype)))
    turned = builder.op("Transpose", ones, perm=[1, 0])
    index = builder.constant(f"{name}root_leaves", np.zeros(count), np.int64)
    return builder.op("Gather", turned, index, axis=0)


class _Gates:
    """How much of each row goes to the true child of each inner node.

    Soft, sigmoid((threshold - x) / (temperature * spread)); hard, the step x <= threshold.
    """

    def __init__(self, builder: Builder, ensemble: Ensemble, x: ir.Value) -> None:
        self._builder = builder
        self._kind = int(ir.DataType.from_numpy(ensemble.thresholds.dtype))
        self._slopes: ir.Value | None = None
        if builder.routing == "hard":
            self._thresholds = builder.tensor("thresholds")
            source, self._features = exact(builder, ensemble, x)
        else:
            source, self._thresholds, self._features = finite(builder, ensemble, x)
            self._slopes = gate_slopes(builder, ensemble)
        self._turned = builder.op("Transpose", source, perm=[1, 0])

    def of(self, part: Block, name: str) -> ir.Value:
        """[inner nodes of the block, N]."""
        builder, inner = self._builder, part.inner
        index = builder.constant(f"{name}inner_features", self._features[inner], np.int64)
        value = builder.op("Gather", self._turned, index, axis=0)
        column = builder.constant("column_axis", [1], np.int64)
        own = _rows(builder, self._thresholds, inner, f"{name}inner_nodes")
        limits = builder.op("Unsqueeze", own, column)
        if self._slopes is None:
            return builder.op("Cast", builder.op("LessOrEqual", value, limits), to=self._kind)
        widths = _rows(builder, self._slopes, inner, f"{name}inner_nodes")
        slopes = builder.op("Unsqueeze", widths, column)
        return builder.op("Sigmoid", builder.op("Mul", builder.op("Sub", limits, value), slopes))


def _pick(builder: Builder, share: ir.Value, places: Array, role: str) -> ir.Value:
    return builder.op("Gather", share, builder.constant(role, places, np.int64), axis=0)


def _slice(builder: Builder, value: ir.Value, start: int, stop: int, axis: ir.Value) -> ir.Value:
    begin = builder.constant(f"slice_{start}", [start], np.int64)
    end = builder.constant(f"slice_{stop}", [stop], np.int64)
    return builder.op("Slice", value, begin, end, axis)
