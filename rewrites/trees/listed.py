"""Reads TreeEnsembleClassifier and TreeEnsembleRegressor: lists of nodes by tree and node id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, numbers, places_of_words, required, string
from rewrites.core.rewrite import Array
from rewrites.errors import ModelError, UnsupportedError
from rewrites.trees.nodes import EQ, GT, GTE, LEAF, LEQ, LT, NEQ, Aggregate, Nodes

_MODES = {
    "LEAF": LEAF,
    "BRANCH_LEQ": LEQ,
    "BRANCH_LT": LT,
    "BRANCH_GTE": GTE,
    "BRANCH_GT": GT,
    "BRANCH_EQ": EQ,
    "BRANCH_NEQ": NEQ,
}
_AGGREGATES: dict[str, Aggregate] = {
    "AVERAGE": "AVERAGE",
    "SUM": "SUM",
    "MIN": "MIN",
    "MAX": "MAX",
}


def read_listed(
    node: ir.Node, prefix: str, count: int, dtype: Any, tuned: Mapping[str, Array] | None = None
) -> Nodes:
    """The nodes of a TreeEnsembleClassifier (`prefix` "class") or Regressor ("target").

    Args:
        node: the operator.
        prefix: of the attributes that hold the leaves' weights.
        count: classes or targets.
        dtype: of thresholds and values where the attributes are float lists.
        tuned: numbers that stand in those of attributes, NaN for "as it was".

    Raises:
        UnsupportedError: a node mode or an aggregate function that is none of the operator's.
        ModelError: the attributes contradict each other.
    """
    where = describe(node)
    trees = required(node, "nodes_treeids", np.int64)
    ids = required(node, "nodes_nodeids", np.int64)
    modes = _modes(node)
    features = required(node, "nodes_featureids", np.int64)
    limits = _numbers(node, "nodes_values", dtype, tuned)
    sides = [required(node, f"nodes_{side}nodeids", np.int64) for side in ("false", "true")]
    size = len(trees)
    if {len(array) for array in (ids, modes, features, limits, *sides)} != {size}:
        raise ModelError(f"{where}: its nodes_* attributes differ in length.")
    if not size:
        raise ModelError(f"{where}: it has no nodes.")
    missing = np.zeros(size, bool)
    tracks = numbers(node, "nodes_missing_value_tracks_true", np.int64)
    if tracks is not None:
        missing[: len(tracks)] = tracks[:size] == 1
    finder = _Finder(trees, ids, where)
    inner = modes != LEAF
    children = np.stack([finder.places(trees, side, inner) for side in sides], axis=1)
    # A tree begins wherever the id changes; -1 is what the kernel takes for "none yet".
    first = np.r_[True, (trees[1:] != trees[:-1]) | (trees[:-1] == -1)]

    leaf_trees = required(node, f"{prefix}_treeids", np.int64)
    leaf_ids = required(node, f"{prefix}_nodeids", np.int64)
    targets = required(node, f"{prefix}_ids", np.int64)
    weights = _numbers(node, f"{prefix}_weights", dtype, tuned)
    if len({len(array) for array in (leaf_trees, leaf_ids, targets, weights)}) != 1:
        raise ModelError(f"{where}: its {prefix}_* attributes differ in length.")
    if len(targets) and (targets.min() < 0 or targets.max() >= count):
        raise ModelError(f"{where}: {prefix}_ids names none of its {count} outputs.")
    leaves = finder.places(leaf_trees, leaf_ids, np.ones(len(leaf_ids), bool))
    base_values = numbers(node, "base_values", np.float32)
    if base_values is None:
        base_values = np.zeros(0, dtype)
    word = string(node, "aggregate_function", "SUM")
    if word not in _AGGREGATES:
        raise UnsupportedError(
            f"{where}: aggregate_function {word} is none of {', '.join(_AGGREGATES)}."
        )
    return Nodes(
        where=where,
        modes=modes,
        features=features,
        limits=limits,
        missing=missing,
        children=children,
        roots=np.flatnonzero(first),
        places=np.arange(size),
        set_starts=None,
        members=np.zeros(0, dtype),
        leaves=leaves,
        targets=targets,
        weights=weights,
        first_weights=_first_weights(trees, ids, leaf_trees, leaf_ids, weights, modes),
        base_values=base_values.astype(dtype),
        aggregate=_AGGREGATES[word],
        targets_count=count,
    )


def _numbers(node: ir.Node, name: str, dtype: Any, tuned: Mapping[str, Array] | None) -> Array:
    held = required(node, name, np.float32).astype(dtype)
    if tuned is not None and name in tuned:
        new = tuned[name]
        moved = np.flatnonzero(~np.isnan(new))
        held[moved] = new[moved]
    return held


def _modes(node: ir.Node) -> Array:
    """[n] int8."""
    places, words = places_of_words(node, "nodes_modes")
    unknown = [word for word in words if word not in _MODES]
    if unknown:
        raise UnsupportedError(
            f"{describe(node)}: node mode {unknown[0]} is none of the operator's "
            f"({', '.join(_MODES)}). `onnxtune inspect` lists every such node."
        )
    return np.array([_MODES[word] for word in words], np.int8)[places]


def _first_weights(
    trees: Array, ids: Array, leaf_trees: Array, leaf_ids: Array, weights: Array, modes: Array
) -> Array:
    """[n] the first weight at or behind each node, by tree and node id; only EQ nodes ask for it.

    That is what the kernel compares to tell whether two leaves are the same.
    """
    if not len(weights) or not (modes == EQ).any():
        return np.zeros(len(trees), weights.dtype)
    order = np.lexsort((leaf_ids, leaf_trees))
    known = np.unique(np.r_[trees, leaf_trees], return_inverse=True)[1]
    span = int(max(ids.max(), leaf_ids.max())) + 1
    wanted = known[: len(trees)] * span + ids
    held = (known[len(trees) :] * span + leaf_ids)[order]
    place = np.searchsorted(held, wanted).clip(max=len(held) - 1)
    return np.asarray(weights[order][place])


class _Finder:
    """Finds the place of (tree id, node id) in the operator's node lists."""

    def __init__(self, trees: Array, ids: Array, where: str) -> None:
        self._where = where
        self._least = int(trees.min())
        self._span = int(ids.max()) + 1
        keys = (trees - self._least) * self._span + ids
        if (np.diff(keys) > 0).all():  # as exporters list them
            self._order, self._keys = np.arange(len(keys)), keys
        else:
            self._order = np.argsort(keys, kind="stable")
            self._keys = keys[self._order]
        if (np.diff(self._keys) == 0).any():
            raise ModelError(f"{where}: a node id occurs twice in one tree.")

    def places(self, trees: Array, ids: Array, needed: Array) -> Array:
        """[n] places; -1 where not needed."""
        keys = np.where(needed, (trees - self._least) * self._span + ids, self._keys[0])
        found = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        wrong = needed & ((self._keys[found] != keys) | (ids < 0) | (ids >= self._span))
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise ModelError(
                f"{self._where}: node {ids[at]} of tree {trees[at]} is referred to, "
                "but does not exist."
            )
        return np.where(needed, self._order[found], -1)
