"""Other trees for TreeEnsemble."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import LongList, required
from rewrites.core.rewrite import Array
from rewrites.trees.nodes import MEMBER, runs
from rewrites.trees.taking import Lists

_SIDES = ("true", "false")


def take_indexed(node: ir.Node, trees: Array) -> Lists:
    """The operator's lists with these trees, numbered anew."""
    modes = _tensor(node, "nodes_modes")
    roots = required(node, "tree_roots", np.int64)
    ids = {side: required(node, f"nodes_{side}nodeids", np.int64) for side in _SIDES}
    leafs = {side: required(node, f"nodes_{side}leafs", np.int64) != 0 for side in _SIDES}
    count, leaves = len(modes), len(_tensor(node, "leaf_weights"))
    node_keys, leaf_keys = _reached(roots, ids, leafs, count, leaves)

    # Which nodes and leaves each tree has, as runs of the sorted keys tree * size + place.
    node_first, node_count = _runs_of(node_keys // max(1, count), len(roots))
    leaf_first, leaf_count = _runs_of(leaf_keys // max(1, leaves), len(roots))
    picked = runs(node_first[trees], node_count[trees])
    places = node_keys[picked] % max(1, count)
    picked_leaves = runs(leaf_first[trees], leaf_count[trees])
    weights = leaf_keys[picked_leaves] % max(1, leaves)
    tree = np.repeat(np.arange(len(trees)), node_count[trees])
    weight_tree = np.repeat(np.arange(len(trees)), leaf_count[trees])
    node_start = np.cumsum(node_count[trees]) - node_count[trees]
    leaf_start = np.cumsum(leaf_count[trees]) - leaf_count[trees]

    def moved(old: Array, of: Array, keys: Array, size: int, first: Array, start: Array) -> Array:
        """New places of old ones, in the trees `of`."""
        source = trees[of]
        return np.searchsorted(keys, source * size + old) - first[source] + start[of]

    found: list[ir.Attr] = []
    for side in _SIDES:
        old, is_leaf = ids[side][places], leafs[side][places]
        to_node = moved(np.where(is_leaf, 0, old), tree, node_keys, count, node_first, node_start)
        to_leaf = moved(np.where(is_leaf, old, 0), tree, leaf_keys, leaves, leaf_first, leaf_start)
        new = np.where(is_leaf, to_leaf, to_node)
        found.append(_ints(f"nodes_{side}nodeids", new))
        found.append(_ints(f"nodes_{side}leafs", is_leaf.astype(np.int64)))
    new_roots = moved(roots[trees], np.arange(len(trees)), node_keys, count, node_first, node_start)
    found.append(_ints("tree_roots", new_roots))
    features = required(node, "nodes_featureids", np.int64)
    found.append(_ints("nodes_featureids", features[places]))
    targets = required(node, "leaf_targetids", np.int64)
    found.append(_ints("leaf_targetids", targets[weights]))
    if "nodes_missing_value_tracks_true" in node.attributes:
        tracks = np.zeros(count, np.int64)
        listed = required(node, "nodes_missing_value_tracks_true", np.int64)
        tracks[: len(listed)] = listed[:count]
        found.append(_ints("nodes_missing_value_tracks_true", tracks[places]))
    for name, taken in (
        ("nodes_modes", places),
        ("nodes_splits", places),
        ("nodes_hitrates", places),
        ("leaf_weights", weights),
    ):
        if name in node.attributes:
            held = _tensor(node, name)
            new_held = held[taken] if len(held) > taken.max(initial=-1) else held[:0]
            found.append(ir.AttrTensor(name, ir.tensor(new_held, name=name)))
    if "membership_values" in node.attributes:
        values = _members(_tensor(node, "membership_values"), modes, places)
        found.append(
            ir.AttrTensor("membership_values", ir.tensor(values, name="membership_values"))
        )
    return Lists(tuple(found), places, weights, tree, weight_tree)


def _ints(name: str, values: Array) -> LongList:
    return LongList(name, ir.AttributeType.INTS, values)


def _tensor(node: ir.Node, name: str) -> Array:
    return np.asarray(node.attributes[name].as_tensor().numpy()).ravel()


def _reached(
    roots: Array, ids: dict[str, Array], leafs: dict[str, Array], count: int, leaves: int
) -> tuple[Array, Array]:
    """Sorted keys tree * count + node, and tree * leaves + leaf, of what each tree reaches."""
    keys = np.arange(len(roots)) * count + roots
    nodes, ends = [], []
    while len(keys):
        nodes.append(keys)
        tree, at = keys // count, keys % count
        onward = []
        for side in ids:
            child, is_leaf = ids[side][at], leafs[side][at]
            onward.append((tree * count + child)[~is_leaf])
            ends.append((tree * leaves + child)[is_leaf])
        keys = np.unique(np.concatenate(onward))
    return np.unique(np.concatenate(nodes)), np.unique(np.concatenate(ends))


def _runs_of(trees: Array, count: int) -> tuple[Array, Array]:
    held = np.bincount(trees, minlength=count)
    return np.cumsum(held) - held, held


def _members(listed: Array, modes: Array, places: Array) -> Array:
    """The sets of the MEMBER nodes among these places, one after another, a NaN behind each."""
    ends = np.flatnonzero(np.isnan(np.append(listed, np.nan)))
    starts = np.r_[0, ends[:-1] + 1]
    number = np.cumsum(modes == MEMBER) - 1
    wanted = number[places[modes[places] == MEMBER]]
    sizes = ends[wanted] - starts[wanted]
    closed = np.append(listed, np.asarray([np.nan], listed.dtype))
    return closed[runs(starts[wanted], sizes + 1)]
