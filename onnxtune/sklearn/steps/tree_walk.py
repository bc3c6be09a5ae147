"""The nodes of a library's trees beside those of an exported ensemble: both walked from the roots.

Converters number nodes as they like; the way from the root is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxtune.errors import UnsupportedError
from onnxtune.sklearn.number_places import Change
from rewrites.core.rewrite import Array

_NO_CHILD = -1


@dataclass(frozen=True)
class OwnTrees:
    """Trees as a library holds them, one behind the other.

    Attributes:
        left: [N] the child of rows that pass the test; -1 in a leaf.
        right: [N] the other child.
        roots: [T] the first node of each tree.
    """

    left: Array
    right: Array
    roots: Array


@dataclass(frozen=True)
class Moved:
    """Tuned numbers in the library's numbering.

    Attributes:
        thresholds: the nodes whose threshold changed, the number that `<=`, or for XGBoost `<`,
            compares with, and whether missing values pass the test.
        leaves: the leaves of which a value changed, its column, and the value.
    """

    thresholds: tuple[Array, Array, Array]
    leaves: tuple[Array, Array, Array]


def joined(parts: list[tuple[Array, Array]]) -> OwnTrees:
    """Trees from the (left, right) children of each, -1 in leaves."""
    sizes = np.array([len(left) for left, _ in parts])
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    starts = np.repeat(roots, sizes)
    left, right = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    left, right = (np.where(child < 0, _NO_CHILD, child + starts) for child in (left, right))
    return OwnTrees(left, right, roots)


def moved_numbers(node: onnx.NodeProto, changes: dict[str, Change], own: OwnTrees) -> Moved:
    """What tuning changed in an ensemble, by the library's own nodes.

    Args:
        node: TreeEnsembleClassifier or TreeEnsembleRegressor.
        changes: by attribute.
        own: the same trees as the library holds them.

    Raises:
        UnsupportedError: the two are not the same trees.
    """
    held = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    place_of = _places(held, own)
    owner = np.full(len(held["nodes_nodeids"]), -1)
    owner[place_of] = np.arange(len(place_of))
    at = np.zeros(0, np.int64)
    thresholds, leaves = (at, np.zeros(0), at), (at, at, np.zeros(0))
    change = changes.get("nodes_values")
    if change is not None:
        moved = np.flatnonzero(change.moved)
        missing = held.get("nodes_missing_value_tracks_true") or np.zeros(len(owner))
        thresholds = owner[moved], change.after[moved], np.asarray(missing, bool)[moved]
    votes = "class" if "class_ids" in held else "target"
    change = changes.get(f"{votes}_weights")
    if change is not None:
        moved = np.flatnonzero(change.moved)
        trees, nodes, columns = (
            np.asarray(held[f"{votes}_{name}"])[moved] for name in ("treeids", "nodeids", "ids")
        )
        leaves = owner[_find(held, trees, nodes)], columns, change.after[moved]
    return Moved(thresholds, leaves)


def _places(held: dict[str, Any], own: OwnTrees) -> Array:
    """[N] where in the operator's lists each of the library's nodes stands."""
    trees = np.asarray(held["nodes_treeids"])
    inner = np.array([mode != b"LEAF" for mode in held["nodes_modes"]])
    true, false = (
        np.where(inner, _find(held, trees, np.asarray(held[f"nodes_{side}nodeids"])), _NO_CHILD)
        for side in ("true", "false")
    )
    false = _behind_chains(held, true, false)
    _, roots = np.unique(trees, return_index=True)
    if len(roots) != len(own.roots):
        raise UnsupportedError(f"it has {len(own.roots)} trees, and the graph {len(roots)}.")
    found = np.full(len(own.left), -1)
    mine, theirs = own.roots, roots
    while len(mine):
        found[mine] = theirs
        deeper = own.left[mine] >= 0
        if (deeper != inner[theirs]).any():
            raise UnsupportedError("its trees are not those of the graph.")
        mine, theirs = mine[deeper], theirs[deeper]
        mine, theirs = (
            np.concatenate([own.left[mine], own.right[mine]]),
            np.concatenate([true[theirs], false[theirs]]),
        )
    return found


def _behind_chains(held: dict[str, Any], true: Array, false: Array) -> Array:
    """The false children, for the first of a chain of tests for categories that of its last.

    A library's test for a set is one test in the graph for each category, all with one true child.
    """
    equal = np.array([mode == b"BRANCH_EQ" for mode in held["nodes_modes"]])
    while True:
        on = equal & equal[false] & (true == true[false])
        if not on.any():
            return false
        false = np.where(on, false[false], false)


def _find(held: dict[str, Any], trees: Array, nodes: Array) -> Array:
    """Where in the operator's lists a node of a tree stands."""
    all_trees, all_nodes = np.asarray(held["nodes_treeids"]), np.asarray(held["nodes_nodeids"])
    span = int(all_nodes.max()) + 1
    keys = all_trees * span + all_nodes
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(keys[order], trees * span + nodes)
    return np.asarray(order[np.minimum(place, len(order) - 1)])


def widest(threshold: Array) -> Array:
    """The largest double that is rounded to no more than a float32; doubles as they are.

    `x <= t` for x in float32 is the same as `x <= widest(t)` for x in float64: who compares doubles
    answers as an ONNX runtime that has rounded the row.
    """
    if threshold.dtype != np.float32:
        return threshold
    low = threshold
    middle = (low.astype(np.float64) + np.nextafter(low, np.float32(np.inf)).astype(np.float64)) / 2
    even = low.view(np.uint32) % 2 == 0  # a tie is rounded to the even of the two
    last = np.where(even, middle, np.nextafter(middle, -np.inf))
    return np.where(np.isfinite(low), last, low)
