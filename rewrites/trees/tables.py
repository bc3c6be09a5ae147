"""Every node of an ensemble, tree after tree: what a row meets on its way down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rewrites.core.ensembles import EnsembleShape
from rewrites.core.rewrite import Array
from rewrites.trees.ensemble import Ensemble


@dataclass(frozen=True)
class NodeTables:
    """M nodes over T trees; within a tree they are numbered by level from its root, 0.

    A true child is numbered next to its false sibling.

    Attributes:
        starts: [T + 1], where each tree begins.
        slots: [M], the number of the inner node, or I + the number of the leaf.
        children: [M], the false child's number within the tree; a leaf is its own child.
        depths: [T], decisions on the longest way.
        inner: I, how many are no leaves.
    """

    starts: Array
    slots: Array
    children: Array
    depths: Array
    inner: int

    @property
    def sizes(self) -> Array:
        """[T] nodes of each tree."""
        return np.diff(self.starts)


def node_tables(ensemble: Ensemble) -> NodeTables:
    """Number the nodes tree by tree: linear in nodes, a step a level."""
    trees = ensemble.roots
    inner_count = len(ensemble.features)
    tree, number = np.arange(trees), np.zeros(trees, np.int64)
    sizes, depths = np.ones(trees, np.int64), np.zeros(trees, np.int64)
    found: list[tuple[Array, Array, Array, Array]] = []
    inner_seen, leaf_seen = 0, inner_count
    for level in ensemble.levels:
        leaf_tree, leaf_number = tree[level.leaves], number[level.leaves]
        slots = leaf_seen + np.arange(len(level.leaves))
        found.append((leaf_tree, leaf_number, slots, leaf_number))
        tree, number = tree[level.inner], number[level.inner]
        slots = inner_seen + np.arange(len(level.inner))
        children = sizes[tree] + 2 * _rank_within(tree, trees)
        found.append((tree, number, slots, children))
        inner_seen, leaf_seen = inner_seen + len(level.inner), leaf_seen + len(level.leaves)
        inner_of = np.bincount(tree, minlength=trees)
        sizes += 2 * inner_of
        depths += inner_of > 0
        tree, number = np.tile(tree, 2), np.concatenate([children, children + 1])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    of_tree, numbers, slots, children = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.empty(len(numbers), np.int64)
    order[starts[of_tree] + numbers] = np.arange(len(numbers))
    return NodeTables(starts, slots[order], children[order], depths, inner_count)


def shape_of(ensemble: Ensemble) -> EnsembleShape:
    """What the cost of its forms depends on."""
    tables = node_tables(ensemble)
    width = int(ensemble.features.max(initial=0)) + 1
    return EnsembleShape(tables.depths, tables.sizes // 2, len(ensemble.columns), width)


def _rank_within(groups: Array, count: int) -> Array:
    """[n] the place of each entry among those of its group."""
    order = np.argsort(groups, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(groups, minlength=count))])
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - first[groups[order]]
    return rank


def features_of(tables: NodeTables, columns: Array) -> Array:
    """[M] the column that each node reads, 0 at leaves; `columns` [I] is that of inner nodes."""
    return np.append(columns, 0)[np.minimum(tables.slots, len(columns))]
