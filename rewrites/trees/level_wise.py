"""Routing level by level: every node's gate, soft or hard, then products down the trees.

Compact (a place per node that exists, not a padded perfect tree) and linear in nodes: a handful
of operators a level whatever the number of trees; memory is rows x nodes. Rows run along the last
axis, so that to pick some nodes is to copy whole rows of memory.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array
from rewrites.trees.columns import exact, finite
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.tensors import gate_slopes


def leaf_shares(builder: Builder, ensemble: Ensemble, x: ir.Value) -> ir.Value:
    """[L, N]: how much of each row of x [N, F] reaches each leaf."""
    reached: list[ir.Value] = []
    roots = ensemble.levels[0]
    if len(roots.leaves):
        reached.append(_ones(builder, ensemble, x, len(roots.leaves)))
    if not len(roots.inner):
        return reached[0]
    gates = _gates(builder, ensemble, x)
    axis = builder.constant("axis_0", [0], np.int64)
    one = builder.constant("one", np.ones(1, ensemble.thresholds.dtype))
    start = 0
    # The share of each row that reaches each place of the frontier; 1 at the roots.
    share: ir.Value | None = None
    for depth, level in enumerate(ensemble.levels):
        if share is not None and len(level.leaves):
            whole = not len(level.inner)
            reached.append(share if whole else _pick(builder, share, level.leaves, depth, "leaf"))
        if not len(level.inner):
            break
        stop = start + len(level.inner)
        gate = _slice(builder, gates, start, stop, axis)
        if share is None:
            true_share, false_share = gate, builder.op("Sub", one, gate)
        else:
            inner = share
            if len(level.leaves):
                inner = _pick(builder, share, level.inner, depth, "inner")
            true_share = builder.op("Mul", inner, gate)
            false_share = builder.op("Sub", inner, true_share)
        share = builder.op("Concat", false_share, true_share, axis=0)
        start = stop
    return reached[0] if len(reached) == 1 else builder.op("Concat", *reached, axis=0)


def reduce_shares(
    builder: Builder,
    ensemble: Ensemble,
    shares: ir.Value,
    table: ir.Value,
    how: Literal["Sum", "Min", "Max"],
) -> ir.Value:
    """[N, K]: over the trees, the sum (or least, or largest) of the shares' mean of `table` [L, K].

    The least and the largest take memory for every tree as large as the largest.
    """
    if how == "Sum":
        turned = builder.op("Transpose", table, perm=[1, 0])
        return builder.op("Transpose", builder.op("MatMul", turned, shares), perm=[1, 0])
    tree = ensemble.tree_of_leaf
    counts = np.bincount(tree, minlength=ensemble.roots)
    by_tree = np.argsort(tree, kind="stable")
    number = np.arange(counts.max())
    real = number < counts[:, None]
    place = np.zeros(real.shape, np.int64)
    place[real] = by_tree
    present = builder.constant("is_leaf", real[:, :, None], ensemble.thresholds.dtype)
    index = builder.constant("leaves_of_tree", place, np.int64)
    own = builder.op("Mul", builder.op("Gather", shares, index, axis=0), present)
    values = builder.op("Gather", table, index, axis=0)
    turned = builder.op("Transpose", values, perm=[0, 2, 1])
    means = builder.op("MatMul", turned, own)
    found = builder.op(f"Reduce{how}", means, axes=[0], keepdims=0)
    return builder.op("Transpose", found, perm=[1, 0])


def _ones(builder: Builder, ensemble: Ensemble, x: ir.Value, count: int) -> ir.Value:
    """[count, N] ones, as many columns as x has rows: a comparison that is never true, negated."""
    dtype = ensemble.thresholds.dtype
    column = builder.op("Gather", x, builder.constant("first", [0], np.int64), axis=1)
    never = builder.op("LessOrEqual", column, builder.constant("never", np.full(1, np.nan), dtype))
    always = builder.op("Not", never)
    ones = builder.op("Cast", always, to=int(ir.DataType.from_numpy(dtype)))
    turned = builder.op("Transpose", ones, perm=[1, 0])
    index = builder.constant("root_leaves", np.zeros(count), np.int64)
    return builder.op("Gather", turned, index, axis=0)


def _gates(builder: Builder, ensemble: Ensemble, x: ir.Value) -> ir.Value:
    """[I, N]: how much of each row goes to the true child of each inner node.

    Soft, sigmoid((threshold - x) / (temperature * spread)); hard, the step x <= threshold.
    """
    hard = builder.routing == "hard"
    if hard:
        thresholds = builder.tensor("thresholds")
        source, features = exact(builder, ensemble, x)
    else:
        source, thresholds, features = finite(builder, ensemble, x)
    turned = builder.op("Transpose", source, perm=[1, 0])
    index = builder.constant("inner_features", features, np.int64)
    value = builder.op("Gather", turned, index, axis=0)
    column = builder.constant("column_axis", [1], np.int64)
    limits = builder.op("Unsqueeze", thresholds, column)
    if hard:
        kind = int(ir.DataType.from_numpy(ensemble.thresholds.dtype))
        return builder.op("Cast", builder.op("LessOrEqual", value, limits), to=kind)
    slopes = builder.op("Unsqueeze", gate_slopes(builder, ensemble), column)
    return builder.op("Sigmoid", builder.op("Mul", builder.op("Sub", limits, value), slopes))


def _pick(builder: Builder, share: ir.Value, places: Array, depth: int, kind: str) -> ir.Value:
    index = builder.constant(f"level_{depth}_{kind}", places, np.int64)
    return builder.op("Gather", share, index, axis=0)


def _slice(builder: Builder, value: ir.Value, start: int, stop: int, axis: ir.Value) -> ir.Value:
    begin = builder.constant(f"slice_{start}", [start], np.int64)
    end = builder.constant(f"slice_{stop}", [stop], np.int64)
    return builder.op("Slice", value, begin, end, axis)
