"""Hard routing by following each row from node to node: exact, and linear in depth.

Six or seven operators a level, whatever the number of trees. Memory is rows x trees; trees of much
the same size go down together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array
from rewrites.trees.columns import exact
from rewrites.trees.descents import Columns, Reached, descend
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.tables import NodeTables, features_of, node_tables

# Columns of leaf values up to which each is looked up for itself; beyond, whole rows are.
_FEW_COLUMNS = 4

# Groups of trees that go down together, at most.
_MOST_GROUPS = 8


def traversal(
    builder: Builder, ensemble: Ensemble, x: ir.Value, most: int | None = None
) -> list[Reached]:
    """The leaves that rows x [N, F] reach; an ensemble of depth 0 is not for this form.

    No more than `most` trees go down at a time, where memory is scarce.
    """
    tables = node_tables(ensemble)
    source, columns = exact(builder, ensemble, x)
    turned = builder.op("Transpose", source, perm=[1, 0])
    # A leaf's threshold is NaN, so that no value passes it and the row stays where it is.
    beyond = builder.constant("no_threshold", np.full(1, np.nan, ensemble.thresholds.dtype))
    thresholds = builder.op("Concat", builder.tensor("thresholds"), beyond, axis=0)
    read = Columns(turned, thresholds, features_of(tables, columns))
    found = _groups(tables)
    size = most or ensemble.roots
    groups = [part for trees in found for part in np.array_split(trees, -(-len(trees) // size))]
    return [
        descend(builder, tables, trees, f"group_{number}_" if len(groups) > 1 else "", read)
        for number, trees in enumerate(groups)
    ]


def reduce_leaves(
    builder: Builder,
    groups: Sequence[Reached],
    table: ir.Value,
    columns: int,
    how: Literal["Sum", "Min", "Max"],
) -> ir.Value:
    """[N, K]: over the trees, the sum (or least, or largest) of the rows of `table` [L, K]."""
    parts = []
    for group in groups:
        if columns > _FEW_COLUMNS:
            leaf = builder.constant(f"{group.name}leaf", group.leaves, np.int32)
            number = builder.op("GatherElements", leaf, group.at, axis=1)
            values = builder.op("Gather", table, number, axis=0)
            parts.append(builder.reduce_first(how, values, keepdims=0))
            continue
        singles = []
        for column in range(columns):
            picked = _column(builder, table, column)
            leaf = builder.constant(f"{group.name}leaf", group.leaves, np.int32)
            by_node = builder.op("Gather", picked, leaf, axis=0)
            values = builder.op("GatherElements", by_node, group.at, axis=1)
            singles.append(builder.reduce_first(how, values, keepdims=1))
        total = singles[0] if columns == 1 else builder.op("Concat", *singles, axis=0)
        parts.append(builder.op("Transpose", total, perm=[1, 0]))
    if len(parts) == 1:
        return parts[0]
    return builder.op(how, *parts)


def _column(builder: Builder, table: ir.Value, column: int) -> ir.Value:
    index = builder.constant(f"column_{column}", column, np.int64)
    return builder.op("Gather", table, index, axis=1)


def _groups(tables: NodeTables) -> list[Array]:
    """Trees that go down together: few groups, little padding, few levels gone in vain.

    Trees are ordered by size, roughly, and then by depth. Of 1, 2, ... groups, cut where the padded
    levels are fewest, the first is taken that leaves little to gain: each group costs operators,
    and so time at a batch of one.
    """
    order = np.lexsort((tables.depths, np.log2(tables.sizes).astype(np.int64)))
    sizes, depths = tables.sizes[order], tables.depths[order]
    ends = np.unique(np.linspace(0, len(order), min(len(order), 32) + 1).astype(np.int64))
    span = np.diff(ends)
    deepest = np.maximum.reduceat(depths, ends[:-1])
    largest = np.maximum.reduceat(sizes, ends[:-1])
    blocks = len(span)
    # work[i, j], held[i, j]: of a group of the blocks i to j.
    work = np.full((blocks, blocks), np.inf)
    padded = np.full((blocks, blocks), np.inf)
    for i in range(blocks):
        trees = np.cumsum(span[i:])
        work[i, i:] = trees * np.maximum.accumulate(deepest[i:])
        padded[i, i:] = trees * np.maximum.accumulate(largest[i:])
    cuts = _best_cuts(work + padded * (work[0, -1] / padded[0, -1]), min(_MOST_GROUPS, blocks))
    totals = [sum(work[i, j] for i, j in cut) for cut in cuts]
    room = [sum(padded[i, j] for i, j in cut) for cut in cuts]
    enough = max(2.0 * float(sizes.sum()), 1e5)
    for cut, total, held in zip(cuts, totals, room, strict=True):
        if (total <= 1.25 * min(totals) and held <= enough) or cut is cuts[-1]:
            return [order[ends[i] : ends[j + 1]] for i, j in cut]
    raise AssertionError


def _best_cuts(cost: Array, most: int) -> list[list[tuple[int, int]]]:
    """For 1, 2, ... `most` groups of consecutive blocks, the cheapest: [(first, last), ...]."""
    blocks = len(cost)
    best = [cost[:, -1].copy()]
    for _ in range(most - 1):
        after = np.append(best[-1][1:], np.inf)
        best.append(np.min(cost + after[None, :], axis=1))
    cuts = []
    for count in range(most):
        at, cut = 0, []
        for left in range(count, -1, -1):
            if left == 0:
                cut.append((at, blocks - 1))
                break
            after = np.append(best[left - 1][1:], np.inf)
            last = int(np.argmin(cost[at] + after))
            cut.append((at, last))
            at = last + 1
        cuts.append(cut)
    return cuts
