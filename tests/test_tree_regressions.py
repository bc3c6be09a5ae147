"""Faults of tree ensembles that were found once, each by a model that showed it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier

from onnxtune.conversion import convert
from onnxtune.errors import UnsupportedError
from onnxtune.export import as_held, native, written
from onnxtune.model import load
from onnxtune.preparation import prepare
from onnxtune.resizing import resized, tree_nodes
from onnxtune.runtime import run
from rewrites.core.ensembles import EnsembleShape
from rewrites.core.rewrite import Serving
from rewrites.trees.costs import choose

Array = np.ndarray


def stumps(thresholds: Array, opset: int = 21, **attributes: int) -> onnx.ModelProto:
    """TreeEnsemble: a tree for each threshold, on the first of three columns."""
    count = len(thresholds)
    places = range(count)
    kind = helper.np_dtype_to_tensor_dtype(thresholds.dtype)
    values = np.linspace(-1, 1, 2 * count).astype(thresholds.dtype)
    trees = helper.make_node(
        "TreeEnsemble", ["z"], ["y"], "trees", domain="ai.onnx.ml",
        nodes_modes=numpy_helper.from_array(np.zeros(count, np.uint8)),
        nodes_splits=numpy_helper.from_array(thresholds),
        leaf_weights=numpy_helper.from_array(values),
        leaf_targetids=[0] * (2 * count), n_targets=1, nodes_featureids=[0] * count,
        tree_roots=list(places), nodes_trueleafs=[1] * count, nodes_falseleafs=[1] * count,
        nodes_truenodeids=[2 * place for place in places],
        nodes_falsenodeids=[2 * place + 1 for place in places], **attributes,
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("twice", ["x"], ["w"], domain="own"),
         helper.make_node("Identity", ["w"], ["z"]), trees],
        "g", [helper.make_tensor_value_info("x", kind, ["N", 3])],
        [helper.make_tensor_value_info("y", kind, ["N", 1])],
    )  # fmt: skip
    own = helper.make_opsetid("", opset)
    twice = helper.make_function(
        "own", "twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [own]
    )
    imports = [own, helper.make_opsetid("ai.onnx.ml", 5), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=[twice], ir_version=10)


def test_double_thresholds_stay_double() -> None:
    thresholds = 1.6e9 + np.array([1.25, 100.5, 300.75])
    prepared = prepare(load(stumps(thresholds)))
    moved = {"trees/thresholds": thresholds + np.array([0.5, 0, 7.125])}
    held = as_held(prepared, moved)
    np.testing.assert_array_equal(held["trees/thresholds"], moved["trees/thresholds"])
    trees = native(prepared, held).proto.graph.node[2]
    kept = next(a for a in trees.attribute if a.name == "nodes_splits")
    np.testing.assert_array_equal(numpy_helper.to_array(kept.t), moved["trees/thresholds"])


@pytest.mark.parametrize("form", ["traversal", "level-wise", "gemm"])
@pytest.mark.parametrize("aggregate", [2, 3])
def test_the_least_of_trees_in_a_model_that_keeps_a_new_opset(form: str, aggregate: int) -> None:
    limits = np.array([0.5, -0.25, 0.75], np.float32)
    model = stumps(limits, aggregate_function=aggregate)
    rows = {"x": np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)}
    hard = convert(model, "hard", trees=form)  # type: ignore[arg-type]
    assert max(o.version for o in hard.opset_import if o.domain == "") == 21
    np.testing.assert_array_equal(run(hard, rows)["y"], run(model, rows)["y"])
    run(convert(model, "soft"), rows)


def test_labels_go_by_the_sign_where_only_positive_trees_are_kept() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 3)).astype(np.float32)
    y = (rng.random(1000) < np.where(X[:, 0] > 1, 0.9, 0.6)).astype(int)
    boosted = GradientBoostingClassifier(
        n_estimators=12, max_depth=1, init="zero", learning_rate=0.3, random_state=0
    ).fit(X, y)
    model = to_onnx(
        boosted, X[:1], target_opset={"": 17, "ai.onnx.ml": 3}, options={"zipmap": False}
    )
    prepared = prepare(load(model))
    (name,) = tree_nodes(prepared, [node.name for node in prepared.proto.graph.node])
    new = resized(prepared, {name: np.arange(2)}).prepared
    assert boosted.estimators_[:2, 0][0].tree_.value.min() > 0
    for form in ("native", "hard"):
        found = run(written(new, {}, form, 0.1, {}, ["probabilities"]), {"X": X})
        likelier = np.asarray(found["probabilities"]).argmax(1)
        np.testing.assert_array_equal(found["label"], likelier)


def test_the_soft_form_of_a_replaced_node_is_soft() -> None:
    # onnxruntime joins the two categories, for it compares their first weights alone.
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
        g (float[N, 3] x) => (float[N, 2] y) {
            [trees] y = ai.onnx.ml.TreeEnsembleRegressor <
                n_targets = 2, nodes_treeids = [0, 0, 0, 0, 0, 1, 1, 1],
                nodes_nodeids = [0, 1, 2, 3, 4, 0, 1, 2],
                nodes_featureids = [0, 0, 0, 0, 0, 2, 0, 0],
                nodes_values = [1.0, 2.0, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0],
                nodes_truenodeids = [2, 3, 0, 0, 0, 1, 0, 0],
                nodes_falsenodeids = [1, 4, 0, 0, 0, 2, 0, 0],
                nodes_modes = ["BRANCH_EQ", "BRANCH_EQ", "LEAF", "LEAF", "LEAF",
                "BRANCH_LEQ", "LEAF", "LEAF"],
                target_treeids = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
                target_nodeids = [2, 2, 3, 3, 4, 4, 1, 1, 2, 2],
                target_ids = [0, 1, 0, 1, 0, 1, 0, 1, 0, 1],
                target_weights = [1.0, -2.0, 1.0, 3.0, 0.5, 0.1, 0.2, 0.0, 0.0, 0.3]> (x)
        }"""
    )
    prepared = prepare(load(model))
    values = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.float32)
    tensors = {"trees/leaf_values": values}
    assert native(prepared, tensors).replaced
    soft, hard = (written(prepared, tensors, form, 0.5, {}, ["y"]) for form in ("soft", "hard"))
    rows = {"x": np.tile(np.array([[0, 0, 0.3]], np.float32), (4, 1))}
    rows["x"][:, 2] = [-9, 0.2, 0.4, 9]
    (soft_y, hard_y) = (run(form, rows)["y"] for form in (soft, hard))
    np.testing.assert_allclose(soft_y[[0, 3]], hard_y[[0, 3]], atol=1e-3)
    assert (np.abs(soft_y[1:3] - hard_y[1:3]) > 0.1).all()


def test_products_of_large_trees_are_refused_where_no_file_holds_them() -> None:
    count = 150
    shape = EnsembleShape(np.full(count, 30), np.full(count, 3800), 1, 10)
    with pytest.raises(UnsupportedError, match="gemm holds"):
        choose(shape, Serving("gemm", "cpu", 1), "trees")
    assert choose(shape, Serving("auto", "cuda", 10**6), "trees").form != "gemm"
