"""Reads the attributes of a tree ensemble into arrays in one canonical order.

The order is by level: the roots, then the false children of the level's inner nodes, then their
true children, and so on. Inner nodes (thresholds) and leaves are each numbered along it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, numbers, required, string, strings
from rewrites.core.rewrite import Array
from rewrites.errors import ModelError, UnsupportedError


@dataclass(frozen=True)
class Level:
    """One level: which places of the frontier are inner nodes and which are leaves.

    The next frontier is the false children of `inner`, then their true children.
    """

    inner: Array
    leaves: Array


@dataclass(frozen=True)
class Ensemble:
    """A forest of I inner nodes and L leaves over T trees, with K score columns.

    Attributes:
        features: [I] int64, the feature each inner node reads.
        thresholds: [I], `x <= threshold` goes to the true child (the other modes are brought to it;
            the true child of a BRANCH_GT is its false child here).
        strict: [I] bool, the nodes that were BRANCH_LT or BRANCH_GTE.
        never: [I] bool, those of them whose threshold is -inf: no number passes.
        missing_true: [I] bool, whether NaN goes to the true child.
        values: [L, K] leaf values, 0 where the leaf has no entry for a column.
        entries: [L, K] int64, the place of each value among the operator's weights, -1 for none.
        columns: [K] int64, the target or class id of each column.
        base_values: [B], as in the attribute; empty where there is none.
        inner_places, leaf_places: [I] and [L], the place of each in the operator's node lists.
        levels: the frontier of each level.
    """

    features: Array
    thresholds: Array
    strict: Array
    never: Array
    missing_true: Array
    values: Array
    entries: Array
    columns: Array
    base_values: Array
    inner_places: Array
    leaf_places: Array
    levels: tuple[Level, ...]
    roots: int

    @property
    def depth(self) -> int:
        """Decisions on the longest way from a root to a leaf."""
        return len(self.levels) - 1

    @property
    def tree_of_leaf(self) -> Array:
        """[L] the tree of each leaf."""
        found = []
        tree = np.arange(self.roots)
        for level in self.levels:
            found.append(tree[level.leaves])
            tree = np.tile(tree[level.inner], 2)
        return np.concatenate(found)

    @property
    def always_voted(self) -> Array:
        """[K] bool: whether some tree has an entry for the column in each of its leaves."""
        tree = self.tree_of_leaf
        votes = self.entries >= 0
        counts = np.zeros((self.roots, votes.shape[1]), np.int64)
        np.add.at(counts, tree, votes)
        sizes = np.bincount(tree, minlength=self.roots)
        return np.asarray((counts == sizes[:, None]).any(axis=0))

    @property
    def movable(self) -> Array:
        """[I] bool: finite thresholds; BRANCH_LT inf has become the largest number."""
        return np.asarray(np.abs(self.thresholds) < np.finfo(self.thresholds.dtype).max)


def read(node: ir.Node, prefix: str, columns: Array, dtype: Any) -> Ensemble:
    """Read a TreeEnsembleClassifier (`prefix` "class") or TreeEnsembleRegressor ("target").

    Args:
        node: the operator.
        prefix: of the attributes that hold the leaves' weights.
        columns: ids of the targets or classes that become columns, ascending.
        dtype: of thresholds and values where the attributes are float lists.

    Raises:
        UnsupportedError: a node mode, an aggregate function or a shape that has no rewrite.
        ModelError: the attributes contradict each other.
    """
    aggregate = string(node, "aggregate_function", "SUM")
    if aggregate != "SUM":
        raise UnsupportedError(
            f"{describe(node)}: aggregate_function {aggregate} has no rewrite (SUM has)."
        )
    trees = required(node, "nodes_treeids", np.int64)
    ids = required(node, "nodes_nodeids", np.int64)
    leaf, strict_mode, turned = _modes(node)
    missing = numbers(node, "nodes_missing_value_tracks_true", np.int64)
    missing_true = np.zeros(len(trees), bool) if missing is None else missing == 1
    limits = required(node, "nodes_values", np.float32).astype(dtype)
    if len({len(trees), len(ids), len(leaf), len(limits), len(missing_true)}) != 1:
        raise ModelError(f"{describe(node)}: its nodes_* attributes differ in length.")
    finder = _Finder(trees, ids, describe(node))
    children = np.stack(
        [
            finder.places(trees, required(node, f"nodes_{side}nodeids", np.int64), ~leaf)
            for side in ("false", "true")
        ],
        axis=1,
    )
    # x > t is "not x <= t": the children change places, and with them the way of NaN.
    children = np.where(turned[:, None], children[:, ::-1], children)
    missing_true = missing_true ^ turned
    first = np.flatnonzero(np.r_[True, trees[1:] != trees[:-1]])
    levels, inner, leaves = _levels(first, children, leaf, describe(node))
    thresholds = limits[inner]
    strict = strict_mode[inner]
    never = strict & np.isneginf(thresholds)
    thresholds = np.where(strict, neighbours(thresholds, -np.inf), thresholds)
    values, entries = _leaf_values(node, prefix, columns, finder, leaves, dtype)
    base_values = numbers(node, "base_values", np.float32)
    return Ensemble(
        features=required(node, "nodes_featureids", np.int64)[inner],
        thresholds=thresholds,
        strict=strict,
        never=never,
        missing_true=missing_true[inner],
        values=values,
        entries=entries,
        columns=columns,
        base_values=np.zeros(0, dtype) if base_values is None else base_values.astype(dtype),
        inner_places=inner,
        leaf_places=leaves,
        levels=levels,
        roots=len(first),
    )


def weight_ids(node: ir.Node, prefix: str) -> Array:
    """The target or class ids that occur among the leaves' weights, ascending."""
    return np.unique(required(node, f"{prefix}_ids", np.int64))


def neighbours(values: Array, toward: float) -> Array:
    """The next numbers of the same type; inf beyond the largest."""
    with np.errstate(over="ignore"):
        return np.asarray(np.nextafter(values, values.dtype.type(toward)))


def _modes(node: ir.Node) -> tuple[Array, Array, Array]:
    """Three [nodes] bool arrays: leaves, comparisons by < or its opposite, and opposites.

    BRANCH_GT is the opposite of BRANCH_LEQ, BRANCH_GTE that of BRANCH_LT.
    """
    modes = np.asarray(strings(node, "nodes_modes"))
    known = np.isin(modes, ["LEAF", "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE"])
    if not known.all():
        raise UnsupportedError(
            f"{describe(node)}: node mode {modes[~known][0]} has no rewrite (BRANCH_LEQ, "
            "BRANCH_LT, BRANCH_GT and BRANCH_GTE have). `onnxtune inspect` lists every such node."
        )
    strict = np.isin(modes, ["BRANCH_LT", "BRANCH_GTE"])
    return modes == "LEAF", strict, np.isin(modes, ["BRANCH_GT", "BRANCH_GTE"])


class _Finder:
    """Finds the place of (tree id, node id) in the operator's node lists."""

    def __init__(self, trees: Array, ids: Array, where: str) -> None:
        self._where = where
        self._span = int(ids.max(initial=0)) + 1
        keys = trees * self._span + ids
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        if (np.diff(self._keys) == 0).any():
            raise ModelError(f"{where}: a node id occurs twice in one tree.")

    def places(self, trees: Array, ids: Array, needed: Array) -> Array:
        """[n] places; -1 where not needed."""
        keys = np.where(needed, trees * self._span + ids, self._keys[0])
        found = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        wrong = needed & ((self._keys[found] != keys) | (ids < 0) | (ids >= self._span))
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise ModelError(
                f"{self._where}: node {ids[at]} of tree {trees[at]} is referred to, "
                "but does not exist."
            )
        return np.where(needed, self._order[found], -1)


def _levels(
    roots: Array, children: Array, leaf: Array, where: str
) -> tuple[tuple[Level, ...], Array, Array]:
    """Walk all trees at once, a level at a time: linear in nodes."""
    shared = (
        f"{where}: a node has several parents (or is its own ancestor); only trees have a rewrite."
    )
    levels, inner, leaves = [], [], []
    frontier, seen = roots, 0
    while len(frontier):
        seen += len(frontier)
        if seen > len(leaf):
            raise UnsupportedError(shared)
        ends = leaf[frontier]
        levels.append(Level(np.flatnonzero(~ends), np.flatnonzero(ends)))
        inner.append(frontier[~ends])
        leaves.append(frontier[ends])
        frontier = children[frontier[~ends]].T.ravel()
    found = np.concatenate([*inner, *leaves])
    if len(np.unique(found)) < len(found):
        raise UnsupportedError(shared)
    return tuple(levels), np.concatenate(inner), np.concatenate(leaves)


def _leaf_values(
    node: ir.Node, prefix: str, columns: Array, finder: _Finder, leaves: Array, dtype: Any
) -> tuple[Array, Array]:
    """Leaf values [L, K] and the place of each among the operator's weights."""
    trees = required(node, f"{prefix}_treeids", np.int64)
    ids = required(node, f"{prefix}_nodeids", np.int64)
    weights = required(node, f"{prefix}_weights", np.float32).astype(dtype)
    targets = required(node, f"{prefix}_ids", np.int64)
    places = finder.places(trees, ids, np.ones(len(ids), bool))
    row_of = np.full(int(places.max(initial=leaves.max(initial=0))) + 1, -1)
    row_of[leaves[leaves < len(row_of)]] = np.flatnonzero(leaves < len(row_of))
    row = row_of[places]
    column = np.searchsorted(columns, targets).clip(max=max(len(columns) - 1, 0))
    # A weight on an inner node is never reached; onnxruntime ignores it as well.
    kept = (row >= 0) & (columns[column] == targets)
    values = np.zeros((len(leaves), len(columns)), dtype)
    entries = np.full(values.shape, -1, np.int64)
    entries[row[kept], column[kept]] = np.flatnonzero(kept)
    if (entries >= 0).sum() != kept.sum():
        raise UnsupportedError(
            f"{describe(node)}: a leaf has two weights for one id, which has no rewrite."
        )
    values[row[kept], column[kept]] = weights[kept]
    return values, entries
