"""Other trees for TreeEnsembleClassifier and TreeEnsembleRegressor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import LongList, numbers, places_of_words, required
from rewrites.core.rewrite import Array
from rewrites.trees.nodes import LEAF, Nodes, runs
from rewrites.trees.taking import Lists

_WHOLE = ("nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids")


def take_listed(
    node: ir.Node, nodes: Nodes, prefix: str, trees: Array, signed: bool = False
) -> Lists:
    """The operator's lists with these trees, numbered anew.

    Args:
        node: the operator.
        nodes: as they were read.
        prefix: of the attributes that hold the leaves' weights.
        trees: [T'] numbers of trees, in the order of their roots.
        signed: whether negative weights anywhere tell how all are read. Where only trees that are
            left out have some, one of these stays, on an inner node, where no row meets it.
    """
    size = len(nodes.modes)
    starts = np.sort(nodes.roots)
    counts = np.diff(np.append(starts, size))
    places, tree = (
        runs(starts[trees], counts[trees]),
        np.repeat(np.arange(len(trees)), counts[trees]),
    )
    tree_of_weight = np.searchsorted(starts, nodes.leaves, side="right") - 1
    order = np.argsort(tree_of_weight, kind="stable")
    held = np.bincount(tree_of_weight, minlength=len(starts))
    first = np.cumsum(held) - held
    weights = order[runs(first[trees], held[trees])]
    weight_tree = np.repeat(np.arange(len(trees)), held[trees])
    holders = nodes.leaves[weights]
    below = np.flatnonzero(nodes.weights < 0)
    inner = np.flatnonzero(nodes.modes[places] != LEAF)
    if signed and len(below) and len(inner) and not (nodes.weights[weights] < 0).any():
        weights = np.append(weights, below[0])
        weight_tree = np.append(weight_tree, tree[inner[0]])
        holders = np.append(holders, places[inner[0]])

    def whole(name: str) -> Array:
        return required(node, name, np.int64)

    mode, words = places_of_words(node, "nodes_modes")
    lists = {name: whole(name)[places] for name in _WHOLE} | {
        "nodes_treeids": tree,
        f"{prefix}_treeids": weight_tree,
        f"{prefix}_nodeids": whole("nodes_nodeids")[holders],
        f"{prefix}_ids": whole(f"{prefix}_ids")[weights],
    }
    missing = numbers(node, "nodes_missing_value_tracks_true", np.int64)
    if missing is not None:
        tracks = np.zeros(size, np.int64)
        tracks[: len(missing)] = missing[:size]
        lists["nodes_missing_value_tracks_true"] = tracks[places]
    integers, strings = ir.AttributeType.INTS, ir.AttributeType.STRINGS
    found: list[ir.Attr] = [LongList(name, integers, values) for name, values in lists.items()]
    found.append(LongList("nodes_modes", strings, mode[places], words))
    for name, taken in (
        ("nodes_values", places),
        ("nodes_hitrates", places),
        (f"{prefix}_weights", weights),
    ):
        found.extend(_floats(node, name, taken))
    return Lists(tuple(found), places, weights, tree, weight_tree)


def _floats(node: ir.Node, name: str, places: Array) -> list[ir.Attr]:
    """A list of floats, or the tensor that stands for it, rearranged; nothing where it is short."""
    plain, tensor = node.attributes.get(name), node.attributes.get(f"{name}_as_tensor")
    held = numbers(node, name, np.float32)
    if held is None:
        return []
    new = held[places] if len(held) > places.max(initial=-1) else held[:0]
    if plain is not None:
        return [LongList(name, ir.AttributeType.FLOATS, new)]
    assert tensor is not None
    value = ir.tensor(new, name=tensor.as_tensor().name)
    return [ir.AttrTensor(f"{name}_as_tensor", value)]
