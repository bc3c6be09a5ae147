"""What is inside a tree ensemble; ensembles grown without data; rows that are hard to route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper

Array = np.ndarray[Any, Any]

FEATURES = 28
OPSETS = {"": 17, "ai.onnx.ml": 3}
_NODES = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")


def rows(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Normal features, and a target that depends on every one of them."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((count, FEATURES), dtype=np.float32)
    directions = np.random.default_rng(1).standard_normal((FEATURES, 16)) / np.sqrt(FEATURES)
    y = np.sin(2 * X @ directions).sum(axis=1) + 0.3 * X.sum(axis=1)
    return X, y + 0.5 * rng.standard_normal(count)


def ensembles(proto: onnx.ModelProto) -> list[dict[str, Any]]:
    """The attributes of every tree ensemble in a model."""
    return [
        {a.name: helper.get_attribute_value(a) for a in node.attribute}
        for node in proto.graph.node
        if node.op_type.startswith("TreeEnsemble")
    ]


def size_of(proto: onnx.ModelProto) -> tuple[int, int, int]:
    """Trees, nodes with leaves, and the depth of the deepest tree."""
    trees = nodes = depth = 0
    for attributes in ensembles(proto):
        flat = Ensemble.of(attributes)
        trees += len(flat.roots)
        nodes += len(flat.leaf)
        level = flat.roots
        reached = -1
        while len(level):
            reached += 1
            level = level[~flat.leaf[level]]
            level = np.concatenate([flat.left[level], flat.right[level]])
        depth = max(depth, reached)
    return trees, nodes, depth


@dataclass(frozen=True)
class Ensemble:
    """The nodes of a regression ensemble of one target, as flat arrays."""

    roots: Array
    leaf: Array  # whether it is one
    feature: Array
    threshold: Array
    left: Array  # the node for x <= threshold
    right: Array
    value: Array  # of leaves
    base: float

    @staticmethod
    def of(attributes: dict[str, Any]) -> Ensemble:
        """Read the attributes of a TreeEnsembleRegressor."""
        tree = np.array(attributes["nodes_treeids"])
        number = np.array(attributes["nodes_nodeids"])
        place = number + tree * (number.max() + 1)
        order = np.argsort(place)

        def find(trees: Array, numbers: Array) -> Array:
            wanted = numbers + trees * (number.max() + 1)
            return np.asarray(order[np.searchsorted(place[order], wanted)])

        leaf = np.array([mode == b"LEAF" for mode in attributes["nodes_modes"]])
        value = np.zeros(len(leaf), dtype=np.float32)
        targets = find(
            np.array(attributes["target_treeids"]), np.array(attributes["target_nodeids"])
        )
        value[targets] = attributes["target_weights"]
        inner = np.flatnonzero(~leaf)
        left, right = np.zeros((2, len(leaf)), dtype=np.int64)
        left[inner] = find(tree[inner], np.array(attributes["nodes_truenodeids"])[inner])
        right[inner] = find(tree[inner], np.array(attributes["nodes_falsenodeids"])[inner])
        child = np.zeros(len(leaf), dtype=bool)
        child[left[inner]] = child[right[inner]] = True
        averaged = attributes.get("aggregate_function", b"SUM") == b"AVERAGE"
        scale = len(np.unique(tree)) if averaged else 1
        return Ensemble(
            roots=np.flatnonzero(~child),
            leaf=leaf,
            feature=np.array(attributes["nodes_featureids"]),
            threshold=np.array(attributes["nodes_values"], dtype=np.float32),
            left=left,
            right=right,
            value=value / np.float32(scale),
            base=float(np.sum(attributes.get("base_values", [0.0]))),
        )


def hard_rows(proto: onnx.ModelProto, count: int, seed: int = 2) -> Array:
    """Rows to trip over: exact thresholds, their neighbours, NaN, infinities, rows of NaN only."""
    X, _ = rows(count, seed)
    rng = np.random.default_rng(seed)
    known: dict[int, list[Array]] = {}
    for attributes in ensembles(proto):
        inner = np.array([mode != b"LEAF" for mode in attributes["nodes_modes"]])
        features = np.array(attributes["nodes_featureids"])[inner]
        values = np.array(attributes["nodes_values"], dtype=np.float32)[inner]
        for feature in np.unique(features):
            known.setdefault(int(feature), []).append(values[features == feature])
    for feature, found in known.items():
        values = np.concatenate(found)
        chosen = np.flatnonzero(rng.random(count) < 0.3)
        drawn = rng.choice(values, len(chosen))
        side = rng.integers(-1, 2, len(chosen)).astype(np.float32)
        X[chosen, feature] = np.where(side == 0, drawn, np.nextafter(drawn, drawn + side))
    for value in (np.nan, np.inf, -np.inf):
        X[rng.random(X.shape) < 0.01] = value
    X[: count // 100] = np.nan
    return X


# Grown without data, for one measure to change and the others to stay


def grown(trees: int, depth: int, leaves: int, seed: int = 0) -> onnx.ModelProto:
    """An ensemble whose trees have so many leaves and exactly such a depth.

    A path of the full depth comes first; then the leaf nearest to the root is split until there
    are enough. `leaves` is from depth + 1 to 2 ** depth.
    """
    assert depth < leaves <= 2**depth
    rng = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {f"nodes_{name}": [] for name in _NODES}
    columns |= {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    for tree in range(trees):
        children, level = _grow(depth, leaves, rng)
        for number in range(len(level)):
            left, right = children.get(number, (0, 0))
            inner = number in children
            entry = (tree, number, int(rng.integers(FEATURES)) if inner else 0,
                     "BRANCH_LEQ" if inner else "LEAF", float(rng.normal(0, 0.7)) if inner else 0.0,
                     left, right)  # fmt: skip
            for name, value in zip(_NODES, entry, strict=True):
                columns[f"nodes_{name}"].append(value)
            if not inner:
                columns["target_treeids"].append(tree)
                columns["target_nodeids"].append(number)
                columns["target_ids"].append(0)
                columns["target_weights"].append(float(rng.normal()))
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["X"],
        ["y"],
        "trees",
        domain="ai.onnx.ml",
        n_targets=1,
        **cast(Any, columns),
    )
    graph = helper.make_graph(
        [node],
        "grown",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _grow(
    depth: int, leaves: int, rng: np.random.Generator
) -> tuple[dict[int, tuple[int, int]], list[int]]:
    """Children by node, and the level of every node."""
    children: dict[int, tuple[int, int]] = {}
    level = [0]

    def split(node: int) -> tuple[int, int]:
        children[node] = (len(level), len(level) + 1)
        level.extend([level[node] + 1] * 2)
        return children[node]

    node, waiting = 0, []
    for _ in range(depth):
        pair = split(node)
        side = int(rng.integers(2))
        node = pair[side]
        waiting.append(pair[1 - side])
    count = depth + 1
    while count < leaves:  # `waiting` is in the order of the levels
        shallow = waiting.pop(0)
        if level[shallow] == depth:
            continue
        new = split(shallow)
        place = next((i for i, n in enumerate(waiting) if level[n] > level[new[0]]), len(waiting))
        waiting[place:place] = new
        count += 1
    return children, level
