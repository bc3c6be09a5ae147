"""Tree operators of the private domain: they exist in torch only."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from torch import Tensor

from onnxtune.soft_trees import Blocks, blocks_of, soft_scores
from onnxtune.torch_node import Converter, Node, Operation
from onnxtune.tree_paths import Trees, leaf_sum, path_scores, reached


def _held(node: Node, first: int, count: int = len(Trees._fields)) -> list[np.ndarray[Any, Any]]:
    """The tables of trees, constants from this input on."""
    found = [node.constant(first + number) for number in range(count)]
    return [table for table in found if table is not None]


def _depths(node: Node) -> list[int]:
    return [int(depth) for depth in node.attributes["depths"]]


def _tree_paths(node: Node) -> tuple[Operation, list[int]]:
    """Inputs: thresholds, leaf values, source, slopes, tables."""
    depths, reduction = _depths(node), node.attributes["reduction"]

    def scores(*values: Tensor) -> Tensor:
        return path_scores(Trees(*values[:5]), depths, reduction, *values[5:])

    return Operation(scores, *_held(node, 4)), [0, 1, 2, 3]


def _tree_leaves(node: Node) -> tuple[Operation, list[int]]:
    """Inputs: thresholds, source, tables."""
    depths = _depths(node)

    def leaves(*values: Tensor) -> Tensor:
        thresholds, source = values[5:]
        return reached(Trees(*values[:5]), thresholds, source, depths)

    return Operation(leaves, *_held(node, 2)), [0, 1]


def _tree_shares(node: Node) -> tuple[Operation, list[int]]:
    """Inputs: thresholds, leaf values, source, slopes, tables."""
    features, children, slots, roots = _held(node, 4, 4)
    blocks = blocks_of(features, children, slots, roots, int(node.attributes["inner"]))
    groups = (blocks.inner, blocks.leaves, blocks.features, blocks.places)
    sizes = [len(group) for group in groups]
    flat = [tensor.numpy() for group in groups for tensor in group]

    def scores(*values: Tensor) -> Tensor:
        held = list(values[: len(flat)])
        ends = list(accumulate(sizes))
        inner, leaves, features, places = (
            held[end - size : end] for end, size in zip(ends, sizes, strict=True)
        )
        return soft_scores(
            Blocks(inner, leaves, features, places, blocks.levels), *values[len(flat) :]
        )

    return Operation(scores, *flat), [0, 1, 2, 3]


def _leaf_sum(node: Node) -> tuple[Operation, list[int]]:
    """Inputs: leaf values, leaves."""
    reduction = node.attributes["reduction"]
    return Operation(lambda table, leaves: leaf_sum(table, leaves, reduction)), [0, 1]


CONVERTERS: dict[str, Converter] = {
    "LeafSum": _leaf_sum,
    "TreeLeaves": _tree_leaves,
    "TreePaths": _tree_paths,
    "TreeShares": _tree_shares,
}
