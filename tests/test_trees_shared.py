"""Categories and shared nodes: chains, cycles, what onnxruntime takes for one, real exports."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from forests import Array, Trees, Weights, indexed, regressor

import onnxtune
from onnxtune.errors import ModelError, UnsupportedError
from onnxtune.export import native
from onnxtune.learned import ir_node
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.runtime import run
from rewrites import tree_ensemble_regressor
from rewrites.trees.ensemble import Ensemble, ensemble_of
from rewrites.trees.listed import read_listed

LEQ, EQ, LEAF = "BRANCH_LEQ", "BRANCH_EQ", "LEAF"


def tree(*nodes: tuple[str, int, float, int, int], missing: Any = None) -> Trees:
    """One tree of (mode, feature, value, true, false), its nodes numbered as they come."""
    modes, features, values, true, false = (list(part) for part in zip(*nodes, strict=True))
    leaves = [(0, at) for at, mode in enumerate(modes) if mode == LEAF]
    return Trees(
        tree=np.zeros(len(nodes), np.int64),
        node=np.arange(len(nodes)),
        feature=np.array(features),
        value=np.array(values, float),
        mode=modes,
        true=np.array(true),
        false=np.array(false),
        missing=np.array(missing if missing is not None else [0] * len(nodes)),
        leaves=np.array(leaves),
        width=max(features) + 1,
    )


def leaf() -> tuple[str, int, float, int, int]:
    return (LEAF, 0, 0.0, 0, 0)


def weights(trees: Trees, *numbers: float, ids: Any = None) -> Weights:
    kept = trees.leaves[: len(numbers)]
    return Weights(kept, np.array(ids or [0] * len(numbers)), np.array(numbers, float))


def read(model: onnx.ModelProto) -> Ensemble:
    prepared = prepare(load(model))
    node = ir_node(prepared, prepared.proto.graph.node[0])
    return ensemble_of(read_listed(node, "target", 1, np.float32), np.arange(1))


def assert_three_forms(model: onnx.ModelProto, rows: Array) -> None:
    expected = run(model, {"x": rows})["y"]
    hard = onnxtune.convert(model, form="hard")
    assert {node.domain for node in hard.graph.node} == {""}
    np.testing.assert_array_equal(run(hard, {"x": rows})["y"], expected)
    for routing in ("hard", "straight-through"):
        module = onnxtune.to_torch(model, routing)
        np.testing.assert_array_equal(module.predict(rows)["y"].detach().numpy(), expected)


def chain(values: list[float], missing: Any = None) -> Trees:
    """`x in values`, as exporters write it."""
    size = len(values)
    nodes = [(EQ, 0, value, size, at + 1 + (at + 1 == size)) for at, value in enumerate(values)]
    return tree(*nodes, leaf(), leaf(), missing=missing)


@pytest.mark.parametrize("values", [[1, 2], [2.5, 1, 64], list(range(300)), [-1, 1e10, np.inf]])
@pytest.mark.parametrize("flagged", [None, 0, 1])
def test_a_chain_of_categories_is_one_gate(values: list[float], flagged: int | None) -> None:
    size = len(values)
    missing = [int(at == flagged) for at in range(size + 2)]
    trees = chain(values, missing)
    model = regressor(trees, weights(trees, 1, 2), 1)
    ensemble = read(model)
    assert len(ensemble.features) == ensemble.depth == 1
    rows = np.array([*values[:50], 0, 0.5, 7, -3, np.nan, np.inf, -np.inf], np.float32)
    assert_three_forms(model, rows[:, None])


def test_a_shared_node_has_one_threshold() -> None:
    trees = tree(
        (LEQ, 0, 0.0, 3, 1), (LEQ, 0, 1.0, 3, 2), leaf(), (LEQ, 1, 0.5, 4, 5), leaf(), leaf()
    )  # fmt: skip
    model = regressor(trees, weights(trees, 1, 2, 3), 1)
    rows = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    assert_three_forms(model, rows)
    module = onnxtune.to_torch(model, "hard")
    tuned = {name: value.detach().numpy().copy() for name, value in module.tensors().items()}
    assert tuned["trees/thresholds"].shape == (3,) and tuned["trees/leaf_values"].shape == (3, 1)
    tuned["trees/thresholds"] += np.float32(0.25)
    tuned["trees/leaf_values"] *= 2
    module.load_tensors(tuned)
    written = native(prepare(load(model)), tuned)
    assert not written.replaced
    expected = module.predict(rows)["y"].detach().numpy()
    np.testing.assert_array_equal(run(written.proto, {"x": rows})["y"], expected)


@pytest.mark.parametrize("mode", [LEQ, EQ])
def test_a_cycle_is_an_error(mode: str) -> None:
    trees = tree((mode, 0, 1.0, 2, 1), (mode, 0, 2.0, 2, 3), leaf(), leaf())
    model = regressor(trees, weights(trees, 1, 2), 1)
    prepared = prepare(load(model))
    proto = onnx.NodeProto()
    proto.CopyFrom(prepared.proto.graph.node[0])
    back = next(a for a in proto.attribute if a.name == "nodes_falsenodeids")
    back.ints[1] = 0
    with pytest.raises(ModelError, match=r"'trees'.*its own ancestor"):
        tree_ensemble_regressor.REWRITE.tensors(ir_node(prepared, proto), None)


def test_too_many_ways_are_refused() -> None:
    nodes = [(LEQ, 0, float(at), at + 1, at + 1) for at in range(40)]
    trees = tree(*nodes, leaf())
    model = regressor(trees, weights(trees, 1), 1)
    prepared = prepare(load(model))
    node = ir_node(prepared, prepared.proto.graph.node[0])
    with pytest.raises(UnsupportedError, match=r"41 nodes.*10164"):
        tree_ensemble_regressor.REWRITE.tensors(node, None)


def test_branches_that_onnxruntime_takes_for_one() -> None:
    # It looks at a leaf's weight alone, not at its target.
    trees = tree((EQ, 0, 1.0, 2, 1), (EQ, 0, 2.0, 3, 4), leaf(), leaf(), leaf())
    held = weights(trees, 1, 1, -1, ids=[0, 1, 0])
    rows = np.array([[1], [2], [3], [np.nan]], np.float32)
    rng = np.random.default_rng(0)
    for model in (regressor(trees, held, 2), indexed(rng, trees, held, 2)):
        expected = run(model, {"x": rows})["y"]
        np.testing.assert_array_equal(expected, [[1, 0], [1, 0], [-1, 0], [-1, 0]])
        assert_three_forms(model, rows)
        # Tuned apart, they are two to it again: another node keeps what was tuned.
        module = onnxtune.to_torch(model, "hard")
        tuned = {name: value.detach().numpy() + 1 for name, value in module.tensors().items()}
        module.load_tensors(tuned)
        written = native(prepare(load(model)), tuned)
        assert set(written.replaced) == {"trees"}
        expected = module.predict(rows)["y"].detach().numpy()
        np.testing.assert_array_equal(run(written.proto, {"x": rows})["y"], expected)


def test_categories_of_lightgbm() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    onnxmltools = pytest.importorskip("onnxmltools")
    from onnxmltools.convert.common.data_types import FloatTensorType

    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, 40, 2000), rng.normal(size=2000)]).astype(np.float32)
    y = (rng.normal(size=40)[X[:, 0].astype(int)] + 0.5 * X[:, 1] > 0).astype(int)
    fitted = lightgbm.LGBMClassifier(
        n_estimators=10, num_leaves=15, min_data_per_group=1, max_cat_to_onehot=1, verbose=-1
    ).fit(X, y, categorical_feature=[0])
    types = [("x", FloatTensorType([None, 2]))]
    model = onnxmltools.convert_lightgbm(fitted, initial_types=types, zipmap=False)
    words = {a.name: a for a in model.graph.node[0].attribute}["nodes_modes"].strings
    assert b"BRANCH_EQ" in words
    rows = np.r_[X, np.array([[np.nan, 1], [2.5, 0], [100, 0], [-1, 0]], np.float32)]
    expected = run(model, {"x": rows})
    got = run(onnxtune.convert(model, form="hard"), {"x": rows})
    np.testing.assert_array_equal(got["label"], expected["label"])
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], atol=1e-6)
