"""Raw scores of an ensemble: the form is chosen here, by routing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.level_wise import leaf_shares, reduce_shares
from rewrites.trees.paths import leaf_sum, tree_leaves, tree_paths
from rewrites.trees.tensors import is_dense
from rewrites.trees.traversal import reduce_leaves, traversal

Reduction = Literal["Sum", "Min", "Max"]

# (table [L, K] of a number per leaf and column, K, reduction) -> [N, K] over the trees.
Reduce = Callable[[ir.Value, int, Reduction], ir.Value]


def raw_scores(builder: Builder, ensemble: Ensemble, x: ir.Value) -> ir.Value:
    """Sum over the trees of the values of the leaves reached, [N, K], without base values."""
    reduce = routed(builder, ensemble, x)
    return reduce(_leaf_values(builder, ensemble), ensemble.values.shape[1], "Sum")


def routed(builder: Builder, ensemble: Ensemble, x: ir.Value) -> Reduce:
    """Send the rows x [N, F] down the trees; what comes back reduces tables over their leaves."""
    if builder.routing == "soft" or ensemble.depth == 0:
        shares = leaf_shares(builder, ensemble, x)
        return lambda table, _, how: reduce_shares(builder, ensemble, shares, table, how)
    if builder.routing == "straight-through":
        return lambda table, _, how: tree_paths(builder, ensemble, x, table, how)
    if builder.for_torch:
        leaves = tree_leaves(builder, ensemble, x)
        return lambda table, _, how: leaf_sum(builder, leaves, table, how)
    groups = traversal(builder, ensemble, x)
    return lambda table, columns, how: reduce_leaves(builder, groups, table, columns, how)


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


def add_base(builder: Builder, scores: ir.Value) -> ir.Value:
    """Add the base values, where the node has some."""
    if "base_values" not in builder.tensors:
        return scores
    return builder.op("Add", scores, builder.tensor("base_values"))
