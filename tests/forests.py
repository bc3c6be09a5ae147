"""Random tree ensembles as ONNX models, and rows that try their thresholds."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Shape = Literal["balanced", "chain", "grown", "leaf", "mixed"]
Votes = Literal["single", "first", "second", "both", "dense", "tree", "sparse", "doubled"]

KINDS = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(np.int64): TensorProto.INT64,
}


COMPARED = {
    "BRANCH_LEQ": operator.le,
    "BRANCH_LT": operator.lt,
    "BRANCH_GTE": operator.ge,
    "BRANCH_GT": operator.gt,
    "BRANCH_EQ": operator.eq,
    "BRANCH_NEQ": operator.ne,
}
CATEGORIES = [0, 1, 2, 3, 5, 31, 33, 2.5, -1]


@dataclass(frozen=True)
class Trees:
    """The `nodes_*` attributes of an ensemble, and its leaves as (tree id, node id)."""

    tree: Array
    node: Array
    feature: Array
    value: Array
    mode: list[str]
    true: Array
    false: Array
    missing: Array
    leaves: Array
    width: int

    @property
    def inner(self) -> Array:
        """[nodes] bool."""
        return np.array([mode != "LEAF" for mode in self.mode])


def random_trees(
    rng: np.random.Generator,
    *,
    count: int = 3,
    depth: int = 4,
    width: int = 4,
    shape: Shape = "mixed",
    modes: Sequence[str] = ("BRANCH_LEQ",),
    missing: bool = False,
    infinite: bool = False,
    whole: bool = False,
    doubles: bool = False,
    categories: bool = False,
    shared: bool = False,
) -> Trees:
    """Trees with few distinct thresholds, their nodes in any order behind the root.

    Args:
        rng: the source of everything.
        count: of trees.
        depth: decisions on the longest way, at most.
        width: of the rows they read.
        shape: of every tree; "mixed" draws one each.
        modes: of inner nodes, drawn from these.
        missing: let NaN go to the true child of some nodes.
        infinite: give some nodes an infinite threshold.
        whole: round the thresholds to halves.
        doubles: thresholds that no float32 holds.
        categories: thresholds that stand for categories, whole numbers most of them.
        shared: let false children have the true child of their parent, and test for another
            category there.
    """
    pool = rng.normal(size=(width, 4))
    if whole:
        pool = np.round(pool * 4) / 2
    if not doubles:
        pool = pool.astype(np.float32).astype(np.float64)
    if categories:
        pool = rng.choice(CATEGORIES, size=pool.shape)
    pool[:, 0] *= rng.integers(0, 2, width)  # zero is a threshold like others
    if infinite:
        pool[:, 1] = rng.choice([np.inf, -np.inf], width)
    columns: dict[str, list[Any]] = {name: [] for name in ("tree", "node", "true", "false")}
    for tree in range(count):
        kind = shape if shape != "mixed" else rng.choice(["balanced", "chain", "grown", "leaf"])
        true, false = _grow(rng, kind, depth)
        size = len(true)
        ids = rng.permutation(size)  # the root's id may be any
        order = np.r_[0, 1 + rng.permutation(size - 1)]
        columns["tree"].append(np.full(size, tree))
        columns["node"].append(ids[order])
        columns["true"].append(np.where(true < 0, -1, ids[true])[order])
        columns["false"].append(np.where(false < 0, -1, ids[false])[order])
    table = {name: np.concatenate(parts).astype(np.int64) for name, parts in columns.items()}
    leaf = table["true"] < 0
    total = len(leaf)
    feature = np.where(leaf, 0, rng.integers(0, width, total))
    value = np.where(leaf, 0.0, pool[feature, rng.integers(0, 4, total)])
    mode = np.where(leaf, "LEAF", rng.choice(list(modes), total))
    # onnxruntime mixes up leaves that nothing reaches where the first tree is a leaf.
    if shared and not leaf[0]:
        _share(rng, table, feature, mode, "BRANCH_EQ" in modes)
        value = np.where(leaf, 0.0, pool[feature, rng.integers(0, 4, total)])
    return Trees(
        tree=table["tree"],
        node=table["node"],
        feature=feature,
        value=value,
        mode=[str(word) for word in mode],
        true=np.maximum(table["true"], 0),
        false=np.maximum(table["false"], 0),
        missing=rng.integers(0, 2, total) * ~leaf * missing,
        leaves=np.stack([table["tree"][leaf], table["node"][leaf]], axis=1),
        width=width,
    )


def without_leaf_roots(trees: Trees) -> Trees:
    """Without the trees that are a single leaf, whatever else there is."""
    sizes = np.bincount(trees.tree)
    kept = sizes[trees.tree] > 1
    tree = np.unique(trees.tree[kept], return_inverse=True)[1]
    number = dict(zip(trees.tree[kept].tolist(), tree.tolist(), strict=True))
    return Trees(
        tree=tree,
        node=trees.node[kept],
        feature=trees.feature[kept],
        value=trees.value[kept],
        mode=[mode for mode, keep in zip(trees.mode, kept, strict=True) if keep],
        true=trees.true[kept],
        false=trees.false[kept],
        missing=trees.missing[kept],
        leaves=np.array([(number[t], n) for t, n in trees.leaves.tolist() if t in number]),
        width=trees.width,
    )


def _share(
    rng: np.random.Generator, table: dict[str, Array], feature: Array, mode: Array, equal: bool
) -> None:
    place = {key: at for at, key in enumerate(zip(table["tree"], table["node"], strict=True))}
    for at in np.flatnonzero(mode != "LEAF"):
        below = place[table["tree"][at], table["false"][at]]
        if mode[below] == "LEAF" or rng.random() < 0.4:
            continue
        if rng.random() < 0.8:
            feature[below] = feature[at]
            if equal:
                mode[at] = mode[below] = "BRANCH_EQ"
        if rng.random() < 0.8:
            table["true"][below] = table["true"][at]


def _grow(rng: np.random.Generator, kind: str, depth: int) -> tuple[Array, Array]:
    """The children of every node of one tree, the root first; -1 at leaves."""
    true, false = [-1], [-1]
    frontier = [0] if kind != "leaf" else []
    for _ in range(depth):
        following = []
        for node in frontier:
            true[node], false[node] = len(true), len(true) + 1
            true += [-1, -1]
            false += [-1, -1]
            children = [true[node], false[node]]
            if kind == "chain":
                children = [int(rng.choice(children))]
            elif kind == "grown":
                children = [child for child in children if rng.random() < 0.6]
            following += children
        frontier = following
    return np.array(true), np.array(false)


def random_rows(
    rng: np.random.Generator,
    trees: Trees,
    rows: int,
    dtype: Any = np.float32,
    *,
    special: bool = True,
) -> Array:
    """Rows [rows, width] on the thresholds, right beside them, and away from them.

    Args:
        rng: the source of everything.
        trees: whose thresholds.
        rows: how many.
        dtype: of the rows.
        special: NaN and infinities among them.
    """
    kind = np.dtype(dtype)
    out = np.empty((rows, trees.width), kind)
    for column in range(trees.width):
        limits = np.unique(trees.value[trees.inner & (trees.feature == column)])
        finite = limits[np.isfinite(limits)]
        if kind.kind == "i":
            near = np.r_[np.floor(finite), np.ceil(finite), finite + 1, rng.integers(-4, 4, 8)]
            out[:, column] = rng.choice(near.astype(kind), rows)
            continue
        at = finite.astype(kind)
        parts = [at, np.nextafter(at, kind.type(-np.inf)), np.nextafter(at, kind.type(np.inf))]
        # For doubles: what lies between two floats.
        parts += [finite.astype(np.float32).astype(kind), rng.normal(size=8).astype(kind)]
        parts += [np.array([0.0, -0.0], kind)]
        if special:
            largest = np.finfo(np.float32).max
            parts += [np.array([np.nan, np.nan, np.inf, -np.inf, largest, -largest], kind)]
        out[:, column] = rng.choice(np.concatenate(parts), rows)
    return out


def away_from_thresholds(trees: Trees, rows: Array, distance: float) -> Array:
    """[N] bool: rows whose every value keeps this distance from its column's thresholds.

    NaN always does; inf does from any threshold but inf; numbers that are all but infinite do not.
    """
    inner = trees.inner
    at = rows[:, trees.feature[inner]].astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(at - trees.value[inner])
    keeps = np.isnan(at) | (gap > distance)
    huge = np.isfinite(at) & (np.abs(at) > 1e30)
    return np.asarray((keeps & ~huge).all(axis=1))


@dataclass(frozen=True)
class Weights:
    """The leaves' weights: (tree id, node id), target or class id, number."""

    leaves: Array
    ids: Array
    numbers: Array


def random_weights(
    rng: np.random.Generator,
    trees: Trees,
    columns: int,
    votes: Votes = "dense",
    *,
    signed: bool = True,
    doubles: bool = False,
    coarse: bool = False,
) -> Weights:
    """Weights of the leaves, in any order.

    Args:
        rng: the source of everything.
        trees: whose leaves.
        columns: targets or classes.
        votes: "dense", an entry for each column at each leaf ("single" and "both" say it for one
            and two); "first" and "second", for one of two; "tree", each tree for one of them;
            "sparse", one entry or more at each leaf; "doubled", two for some columns.
        signed: some numbers are negative.
        doubles: numbers that no float32 holds.
        coarse: few different numbers, so that branches may be the same.
    """
    count = len(trees.leaves)
    if votes in ("dense", "single", "both"):
        places, ids = np.repeat(np.arange(count), columns), np.tile(np.arange(columns), count)
    elif votes in ("sparse", "doubled"):
        held = rng.random((count, columns)) < 0.4
        held[np.arange(count), rng.integers(columns, size=count)] = True
        places, ids = np.nonzero(held)
        if votes == "doubled":
            again = rng.random(len(places)) < 0.3
            places, ids = np.r_[places, places[again]], np.r_[ids, ids[again]]
    else:
        places = np.arange(count)
        ids = {
            "first": np.zeros(count, np.int64),
            "second": np.ones(count, np.int64),
            "tree": (trees.leaves[:, 0] + rng.integers(columns)) % columns,
        }[votes]
    numbers = rng.normal(size=len(ids)) if signed else rng.random(len(ids))
    if coarse:
        numbers = np.round(numbers)
    numbers *= rng.random(len(ids)) < 0.9  # zeros among them
    if not doubles:
        numbers = numbers.astype(np.float32).astype(np.float64)
    order = rng.permutation(len(ids))
    return Weights(trees.leaves[places][order], ids[order], numbers[order])


def leaf_numbers(trees: Trees) -> Weights:
    """Weights that tell the leaf: target t is the number of the leaf reached in tree t."""
    return Weights(trees.leaves, trees.leaves[:, 0], np.arange(len(trees.leaves)) + 1.0)


def regressor(
    trees: Trees,
    weights: Weights,
    targets: int,
    *,
    base: Sequence[float] = (),
    link: str = "NONE",
    dtype: Any = np.float32,
    as_tensors: bool = False,
    **more: Any,
) -> onnx.ModelProto:
    """A model of one TreeEnsembleRegressor called `trees`; more attributes by keyword."""
    attributes = _attributes(trees, weights, "target", base, as_tensors)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        name="trees",
        domain="ai.onnx.ml",
        n_targets=targets,
        **attributes,
        **({"post_transform": link} | more),
    )
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", targets])]
    return _model(node, trees.width, dtype, outputs)


def classifier(
    trees: Trees,
    weights: Weights,
    classes: int,
    *,
    base: Sequence[float] = (),
    link: str = "NONE",
    dtype: Any = np.float32,
    words: bool = False,
    plain: bool = False,
    as_tensors: bool = False,
    **more: Any,
) -> onnx.ModelProto:
    """A model of one TreeEnsembleClassifier called `trees`; more attributes by keyword.

    Args:
        trees: the nodes.
        weights: the votes.
        classes: how many labels.
        base: base values.
        link: post_transform.
        dtype: of the input.
        words: string labels.
        plain: the integer labels are 0, 1, ...
        as_tensors: numbers in the attributes `*_as_tensor`, as doubles.
        more: attributes of the node.
    """
    attributes = _attributes(trees, weights, "class", base, as_tensors)
    if words:
        attributes["classlabels_strings"] = [f"class {number}" for number in range(classes)]
    else:
        labels = range(classes) if plain else range(3, 3 + 2 * classes, 2)
        attributes["classlabels_int64s"] = list(labels)
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "p"],
        name="trees",
        domain="ai.onnx.ml",
        **attributes,
        **({"post_transform": link} | more),
    )
    kind = TensorProto.STRING if words else TensorProto.INT64
    outputs = [
        helper.make_tensor_value_info("label", kind, ["N"]),
        helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", None]),
    ]
    return _model(node, trees.width, dtype, outputs)


def indexed(
    rng: np.random.Generator,
    trees: Trees,
    weights: Weights,
    targets: int,
    *,
    aggregate: int = 1,
    link: int = 0,
    dtype: Any = np.float32,
    sets: bool = False,
) -> onnx.ModelProto:
    """A model of one TreeEnsemble called `trees`: a leaf for each weight, one a leaf.

    Args:
        rng: the source of sets.
        trees: the nodes; those of BRANCH_EQ become tests for a set where `sets`.
        weights: one for each leaf.
        targets: how many.
        aggregate: aggregate_function.
        link: post_transform.
        dtype: of the input and all numbers.
        sets: whether there are sets.
    """
    inner = np.flatnonzero(trees.inner)
    number = {(trees.tree[at], trees.node[at]): place for place, at in enumerate(inner)}
    leaf = {tuple(key): place for place, key in enumerate(weights.leaves.tolist())}
    order = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
    modes = [order.index(trees.mode[at]) for at in inner]
    members: list[float] = []
    for place, mode in enumerate(modes):
        if sets and mode == 4:
            modes[place] = 6
            most = rng.choice([3, 8])
            small = [value for value in CATEGORIES if 0 <= value <= 30]
            known = small if rng.random() < 0.6 else [v for v in CATEGORIES if v != 2.5]
            members += [*rng.choice(known, rng.integers(1, most)), np.nan]
    held: dict[str, Any] = {"nodes_featureids": trees.feature[inner].tolist()}
    for side in ("true", "false"):
        keys = [(trees.tree[at], getattr(trees, side)[at]) for at in inner]
        held[f"nodes_{side}leafs"] = [int(key in leaf) for key in keys]
        held[f"nodes_{side}nodeids"] = [leaf[k] if k in leaf else number[k] for k in keys]
    tensors = {"nodes_splits": trees.value[inner], "leaf_weights": weights.numbers}
    if members:
        tensors["membership_values"] = np.array(members)
    for name, array in tensors.items():
        held[name] = numpy_helper.from_array(array.astype(dtype), name)
    if trees.missing.any():
        held["nodes_missing_value_tracks_true"] = trees.missing[inner].tolist()
    roots = np.flatnonzero(np.r_[True, np.diff(trees.tree) != 0])
    node = helper.make_node(
        "TreeEnsemble",
        ["x"],
        ["y"],
        name="trees",
        domain="ai.onnx.ml",
        n_targets=targets,
        tree_roots=[number[trees.tree[at], trees.node[at]] for at in roots],
        nodes_modes=numpy_helper.from_array(np.array(modes, np.uint8), "nodes_modes"),
        leaf_targetids=weights.ids.tolist(),
        aggregate_function=aggregate,
        post_transform=link,
        **held,
    )
    outputs = [helper.make_tensor_value_info("y", KINDS[np.dtype(dtype)], ["N", targets])]
    return _model(node, trees.width, dtype, outputs, opsets=(21, 5))


def _attributes(
    trees: Trees, weights: Weights, prefix: str, base: Sequence[float], as_tensors: bool
) -> dict[str, Any]:
    held: dict[str, Any] = {
        "nodes_treeids": trees.tree.tolist(),
        "nodes_nodeids": trees.node.tolist(),
        "nodes_featureids": trees.feature.tolist(),
        "nodes_modes": trees.mode,
        "nodes_truenodeids": trees.true.tolist(),
        "nodes_falsenodeids": trees.false.tolist(),
        f"{prefix}_treeids": weights.leaves[:, 0].tolist(),
        f"{prefix}_nodeids": weights.leaves[:, 1].tolist(),
        f"{prefix}_ids": weights.ids.tolist(),
    }
    if trees.missing.any():
        held["nodes_missing_value_tracks_true"] = trees.missing.tolist()
    numbers = {"nodes_values": trees.value, f"{prefix}_weights": weights.numbers}
    if len(base):
        numbers["base_values"] = np.asarray(base, np.float64)
    for name, array in numbers.items():
        if as_tensors:
            held[f"{name}_as_tensor"] = numpy_helper.from_array(array.astype(np.float64), name)
        else:
            held[name] = [float(number) for number in array.astype(np.float32)]
    return held


def _model(
    node: onnx.NodeProto,
    width: int,
    dtype: Any,
    outputs: list[onnx.ValueInfoProto],
    opsets: tuple[int, int] = (17, 3),
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", KINDS[np.dtype(dtype)], ["N", width])
    graph = helper.make_graph([node], "g", [value], outputs)
    imports = [helper.make_opsetid("", opsets[0]), helper.make_opsetid("ai.onnx.ml", opsets[1])]
    return helper.make_model(graph, opset_imports=imports, ir_version=8 if opsets[1] < 5 else 9)


def evaluate(trees: Trees, rows: Array, dtype: Any) -> Array:
    """[N, trees]: the number of the leaf that each row reaches, by the operator's definition."""
    number = {(t, n): place for place, (t, n) in enumerate(trees.leaves.tolist())}
    place = {key: at for at, key in enumerate(zip(trees.tree, trees.node, strict=True))}
    roots = np.flatnonzero(np.r_[True, np.diff(trees.tree) != 0])
    limits = trees.value.astype(dtype)
    out = np.empty((len(rows), len(roots)), np.int64)
    for r, row in enumerate(rows.astype(dtype)):
        for t, at in enumerate(roots.tolist()):
            while trees.mode[at] != "LEAF":
                x = row[trees.feature[at]]
                passed = COMPARED[trees.mode[at]](x, limits[at])
                if np.isnan(x) and trees.mode[at] != "BRANCH_NEQ":
                    passed = bool(trees.missing[at])
                following = trees.true[at] if passed else trees.false[at]
                at = place[trees.tree[at], following]
            out[r, t] = number[t, int(trees.node[at])]
    return out


def tolerance(y: Array) -> Array:
    """How far sums may differ that are taken in another order."""
    finite = y[np.isfinite(y)]
    size = np.sqrt(np.mean(np.square(finite))) if finite.size else 0.0
    with np.errstate(invalid="ignore"):
        return 1e-5 * np.maximum(np.abs(y), size) + 1e-30


def assert_agree(got: dict[str, Array], expected: dict[str, Array], loosely: bool = False) -> None:
    """Outputs within tolerance, labels wherever the margin between the scores exceeds it.

    A link of low precision is compared loosely.
    """
    tolerated = 100 if loosely else 1
    scores = expected[next(name for name in expected if name != "label")]
    margin = np.full(len(scores), np.inf)
    if scores.shape[1] > 1:
        best = np.sort(scores, axis=1)
        margin = best[:, -1] - best[:, -2]
    for name, y in expected.items():
        assert got[name].shape == y.shape and got[name].dtype == y.dtype, name
        if name == "label":
            differs = got[name] != y
            assert not (differs & (margin > tolerance(scores).max(axis=1))).any()
        else:
            with np.errstate(invalid="ignore"):
                near = np.abs(got[name] - y) <= tolerated * tolerance(y)
            near |= (got[name] == y) | (np.isnan(got[name]) & np.isnan(y))
            assert near.all(), name
