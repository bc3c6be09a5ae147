"""Hard routing of small trees by a matrix product: every gate, then which leaf's way it fits.

Nakandala et al. (2020), "A Tensor Compiler for Unified Machine Learning Prediction Serving",
section 4.1. Few operators whatever the depth; time and memory grow with inner nodes x leaves of a
tree.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array
from rewrites.trees.columns import exact
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.tables import NodeTables, node_tables


def matched_leaves(builder: Builder, ensemble: Ensemble, x: ir.Value) -> ir.Value:
    """[L, N]: 1 for the leaf that each row of x [N, F] reaches in each tree, else 0."""
    tables = node_tables(ensemble)
    dtype = ensemble.thresholds.dtype
    kind = int(ir.DataType.from_numpy(dtype))
    inner_count = tables.inner
    is_inner = tables.slots < inner_count
    tree = np.repeat(np.arange(ensemble.roots), tables.sizes)
    inner, leaf = _padded(tables, tree, is_inner), _padded(tables, tree, ~is_inner)
    ways, sums = _ways(tables, tree, is_inner, inner.shape[1], leaf.shape[1])

    source, columns = exact(builder, ensemble, x)
    turned = builder.op("Transpose", source, perm=[1, 0])
    # In trees of fewer nodes than the largest a NaN, which nothing passes, fills up.
    beyond = builder.constant("no_threshold", np.full(1, np.nan, dtype))
    padded = builder.op("Concat", builder.tensor("thresholds"), beyond, axis=0)
    slot = builder.constant("gate_slot", np.where(inner < 0, inner_count, inner)[:, :, None],
                            np.int32)  # fmt: skip
    limits = builder.op("Gather", padded, slot, axis=0)
    feature = np.append(columns, 0)[inner]
    index = builder.constant("gate_features", feature, np.int64)
    value = builder.op("Gather", turned, index, axis=0)
    gates = builder.op("Cast", builder.op("LessOrEqual", value, limits), to=kind)
    ways_held = builder.op("Cast", builder.constant("ways", ways, np.int8), to=kind)
    passed = builder.op("MatMul", ways_held, gates)
    sums_held = builder.constant("sums", sums[:, :, None], dtype)
    matched = builder.op("Cast", builder.op("Equal", passed, sums_held), to=kind)
    shape = builder.constant("flat", [leaf.size, -1], np.int64)
    flat = builder.op("Reshape", matched, shape)
    # From tree after tree, filled up, to the order of the leaves.
    place = np.empty(int((~is_inner).sum()), np.int64)
    place[leaf[leaf >= 0] - inner_count] = np.flatnonzero(leaf.ravel() >= 0)
    return builder.op("Gather", flat, builder.constant("leaf_place", place, np.int64), axis=0)


def _padded(tables: NodeTables, tree: Array, chosen: Array) -> Array:
    """[T, S] the slots of the chosen nodes of each tree; -1 where there is none."""
    counts = np.bincount(tree[chosen], minlength=len(tables.sizes))
    real = np.arange(max(1, counts.max())) < counts[:, None]
    found = np.full(real.shape, -1)
    found[real] = tables.slots[chosen]
    return found


def _ways(
    tables: NodeTables, tree: Array, is_inner: Array, width: int, leaves: int
) -> tuple[Array, Array]:
    """Which decisions lead to each leaf: [T, leaves, width] of 1, -1 and 0, and the sums of the 1s.

    A row reaches the leaf where its passed decisions sum to just that; -1 where there is no leaf.
    """
    trees = len(tables.sizes)
    starts = tables.starts[tree]
    children = starts + tables.children
    parent = np.full(len(tree), -1)
    nodes = np.flatnonzero(is_inner)
    parent[children[nodes]] = nodes
    parent[children[nodes] + 1] = nodes
    number = np.empty(len(tree), np.int64)
    for chosen in (is_inner, ~is_inner):
        counts = np.bincount(tree[chosen], minlength=trees)
        number[chosen] = np.arange(chosen.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    ways = np.zeros((trees, leaves, width), np.int8)
    sums = np.full((trees, leaves), -1)
    at = leaf = np.flatnonzero(~is_inner)
    sums[tree[leaf], number[leaf]] = 0
    while True:
        up = parent[at]
        going = up >= 0
        at, up, leaf = at[going], up[going], leaf[going]
        if not len(at):
            return ways, sums
        true = at == children[up] + 1
        ways[tree[leaf], number[leaf], number[up]] = np.where(true, 1, -1)
        sums[tree[leaf], number[leaf]] += true
        at = up
