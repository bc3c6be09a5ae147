"""Raw scores of an ensemble: the form is chosen here, by routing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.level_wise import level_wise
from rewrites.trees.tensors import is_dense
from rewrites.trees.traversal import reduce_leaves, traversal


def raw_scores(builder: Builder, ensemble: Ensemble, x: ir.Value) -> ir.Value:
    """Sum over the trees of the values of the leaves reached, [N, K], without base values."""
    values = _leaf_values(builder, ensemble)
    if ensemble.depth == 0:
        return _constant_scores(builder, ensemble, x, values)
    if builder.routing == "hard":
        groups = traversal(builder, ensemble, x)
        return reduce_leaves(builder, groups, values, ensemble.values.shape[1], "Sum")
    return level_wise(builder, ensemble, x, values)


def _leaf_values(builder: Builder, ensemble: Ensemble) -> ir.Value:
    """[L, K]; one number per entry is spread out, with 0 where there is none."""
    held = builder.tensor("leaf_values")
    if is_dense(ensemble):
        return held
    zero = builder.constant("zero", np.zeros(1, ensemble.values.dtype))
    present = ensemble.entries >= 0
    place = np.full(present.shape, present.sum())
    place[present] = np.arange(present.sum())
    padded = builder.op("Concat", held, zero, axis=0)
    return builder.op("Gather", padded, builder.constant("entry_index", place, np.int64), axis=0)


def _constant_scores(
    builder: Builder, ensemble: Ensemble, x: ir.Value, values: ir.Value
) -> ir.Value:
    """Every tree is a single leaf: the same sums for every row."""
    axis = builder.constant("axis_0", [0], np.int64)
    total = builder.op("ReduceSum", values, axis, keepdims=1)
    # A column of zeros, as long as x, by a comparison that is never true.
    column = builder.op("Gather", x, builder.constant("first", [0], np.int64), axis=1)
    dtype = ensemble.values.dtype
    never = builder.op("LessOrEqual", column, builder.constant("never", np.full(1, np.nan), dtype))
    zeros = builder.op("Cast", never, to=int(ir.DataType.from_numpy(dtype)))
    return builder.op("Add", zeros, total)


def add_base(builder: Builder, scores: ir.Value) -> ir.Value:
    """Add the base values, where the node has some."""
    if "base_values" not in builder.tensors:
        return scores
    return builder.op("Add", scores, builder.tensor("base_values"))
