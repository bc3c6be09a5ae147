"""Rows sampled from a graph reach its thresholds, categories and odd values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler

from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.flow import attributes_of
from onnxtune.runtime import run
from onnxtune.sampling import sample

X, Y = load_breast_cancer(return_X_y=True)
X = X.astype(np.float32)


def forest(trees: int = 5, depth: int | None = 4) -> RandomForestClassifier:
    return RandomForestClassifier(trees, max_depth=depth, random_state=0)


def exported(estimator: Any, table: Any = X, **options: Any) -> onnx.ModelProto:
    return to_onnx(estimator, table[:1], options={"zipmap": False}, **options)


def tree_node(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type.startswith("TreeEnsemble"))


def splits(model: onnx.ModelProto) -> list[tuple[int, float]]:
    held = attributes_of(tree_node(model))
    branch = np.array(held["nodes_modes"]) != "LEAF"
    pairs = zip(held["nodes_featureids"][branch], held["nodes_values"][branch], strict=True)
    return sorted({(int(feature), float(limit)) for feature, limit in pairs})


def value_of(model: onnx.ModelProto, name: str, feed: dict[str, np.ndarray]) -> np.ndarray:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.add().name = name
    return run(probe, feed, [name])[name]


def tree_model(
    modes: list[str],
    features: list[int],
    values: list[float],
    missing: bool = False,
    kind: int = TensorProto.FLOAT,
    width: int | None = 2,
    before: tuple[onnx.NodeProto, ...] = (),
    held: tuple[onnx.TensorProto, ...] = (),
) -> onnx.ModelProto:
    """One tree whose branches form a chain: each true side a leaf, each false side the next."""
    if kind == TensorProto.INT64:  # onnxruntime's regressor takes no integers
        before = (helper.make_node("Cast", ["x"], ["t"], to=TensorProto.FLOAT),)
    count = len(modes)
    size = 2 * count + 1
    nodes = list(range(size))
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["t" if before else "x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0] * size,
        nodes_nodeids=nodes,
        nodes_modes=[*modes, *["LEAF"] * (count + 1)],
        nodes_featureids=[*features, *[0] * (count + 1)],
        nodes_values=[*values, *[0.0] * (count + 1)],
        nodes_truenodeids=[*range(count, 2 * count), *[0] * (count + 1)],
        nodes_falsenodeids=[*range(1, count), 2 * count, *[0] * (count + 1)],
        nodes_missing_value_tracks_true=[int(missing)] * size,
        target_treeids=[0] * (count + 1),
        target_nodeids=nodes[count:],
        target_ids=[0] * (count + 1),
        target_weights=[float(i) for i in range(count + 1)],
    )
    graph = helper.make_graph(
        [*before, node],
        "g",
        [helper.make_tensor_value_info("x", kind, [None, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        list(held),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_rows_are_of_the_inputs_type_and_repeat_with_the_seed() -> None:
    model = exported(forest().fit(X, Y))
    first, again, other = (sample(model, 50, seed)["X"] for seed in (1, 1, 2))
    assert first.shape == (50, 30)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_any_number_of_rows(rows: int) -> None:
    model = exported(make_pipeline(StandardScaler(), forest()).fit(X, Y))
    feed = sample(model, rows)
    assert feed["X"].shape == (rows, 30)
    assert run(model, feed)["probabilities"].shape == (rows, 2)


def test_raw_thresholds_are_hit_exactly_and_from_the_next_floats() -> None:
    model = exported(forest().fit(X, Y))
    rows = sample(model, 4000)["X"]
    for feature, limit in splits(model):
        near = np.float32(limit)
        for value in (near, np.nextafter(near, -np.inf), np.nextafter(near, np.inf)):
            assert np.any(rows[:, feature] == value)


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler()])
def test_thresholds_behind_a_scaler_are_met_from_both_sides(scaler: Any) -> None:
    model = exported(make_pipeline(scaler, forest()).fit(X, Y))
    feed = sample(model, 4000)
    scaled = value_of(model, tree_node(model).input[0], feed).astype(np.float64)
    for feature, limit in splits(model):
        distance = scaled[:, feature] - limit
        # a float of the input is the finest step that there is; the constants cancel in part
        x = feed["X"][:, feature]
        factor = np.ptp(scaled[:, feature]) / np.ptp(x.astype(np.float64))
        finest = max(np.spacing(np.abs(x).max()) * factor, np.spacing(np.float32(abs(limit))))
        for close in (distance[distance <= 0].max(), distance[distance > 0].min()):
            assert abs(close) <= 4 * finest
        assert np.any(np.abs(distance) <= 2 * finest)


def test_every_leaf_of_deep_trees_is_reached() -> None:
    fitted = make_pipeline(StandardScaler(), forest(8, None)).fit(X, Y)
    trees = fitted[-1].estimators_
    model = exported(fitted)
    count = sum(tree.tree_.node_count for tree in trees)
    scaled = value_of(model, tree_node(model).input[0], sample(model, 2 * count))
    for tree in trees:
        leaves = np.flatnonzero(tree.tree_.children_left < 0)
        np.testing.assert_array_equal(np.unique(tree.apply(scaled)), leaves)


@pytest.mark.parametrize("mode", ["LEQ", "LT", "GT", "GTE", "EQ", "NEQ"])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT64])
def test_all_leaves_of_every_mode(mode: str, kind: int) -> None:
    rising = mode in ("LEQ", "LT")
    values = [1.0, 3.0, 5.5] if rising else [5.5, 3.0, 1.0]
    if mode in ("EQ", "NEQ"):
        values = [3.0]
    model = tree_model([f"BRANCH_{mode}"] * len(values), [1] * len(values), values, kind=kind)
    leaves = run(model, sample(model, 200))["y"]
    assert len(np.unique(leaves)) == len(values) + 1


def test_missing_and_infinite_values_only_where_the_graph_has_a_place_for_them() -> None:
    plain = sample(tree_model(["BRANCH_LEQ"], [0], [1.0]), 400)["x"]
    assert not np.isnan(plain).any()
    assert np.isposinf(plain[:, 0]).any() and np.isneginf(plain[:, 0]).any()
    assert np.isfinite(plain[:, 1]).all()
    routed = sample(tree_model(["BRANCH_LEQ"], [0], [1.0], missing=True), 400)["x"]
    assert 0 < np.isnan(routed[:, 0]).mean() < 0.1
    assert not np.isnan(routed[:, 1]).any()


def test_an_imputer_gets_missing_values_and_nobody_else() -> None:
    holes = X.copy()
    holes[::7, :3] = np.nan
    filled = make_pipeline(SimpleImputer(), StandardScaler(), LinearRegression()).fit(holes, Y)
    rows = sample(to_onnx(filled, X[:1]), 400)["X"]
    assert np.isnan(rows).any(axis=0).all()
    straight = make_pipeline(StandardScaler(), LinearRegression()).fit(X, Y)
    assert np.isfinite(sample(to_onnx(straight, X[:1]), 400)["X"]).all()


def test_no_infinities_behind_a_scaler() -> None:
    model = exported(make_pipeline(StandardScaler(), forest()).fit(X, Y))
    assert np.isfinite(sample(model, 400)["X"]).all()


def test_data_before_a_projection_are_centred_as_the_scaler_expects() -> None:
    model = exported(make_pipeline(StandardScaler(), PCA(4), forest()).fit(X, Y))
    feed = sample(model, 3000)
    scaled = value_of(model, "variable", feed)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=0.1)
    alone = to_onnx(PCA(2).fit(X), X[:1])
    np.testing.assert_allclose(sample(alone, 3000)["X"].mean(axis=0), X.mean(axis=0), atol=0.1)


def test_thresholds_beside_a_projection_are_still_found() -> None:
    union = make_union(PCA(2), StandardScaler())
    model = exported(make_pipeline(union, forest()).fit(X, Y))
    feed = sample(model, 3000)
    joined = value_of(model, tree_node(model).input[0], feed)
    for feature, limit in splits(model):
        assert (joined[:, feature] <= limit).any() and (joined[:, feature] > limit).any()


def mixed(handle_unknown: str = "ignore") -> tuple[onnx.ModelProto, pd.DataFrame]:
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": random.integers(20, 60, 300).astype(np.float32),
            "pay": random.normal(50, 9, 300).astype(np.float32),
            "job": random.choice(["clerk", "cook", "pilot", "smith"], 300),
            "town": random.choice(["Bern", "Rome"], 300),
        }
    )
    encode = OneHotEncoder(handle_unknown=handle_unknown, sparse_output=False)
    columns = [("n", StandardScaler(), ["age", "pay"]), ("c", encode, ["job", "town"])]
    trees = GradientBoostingRegressor(n_estimators=8, random_state=0)
    target = table["age"] * (table["job"] == "cook") + table["pay"]
    fitted = make_pipeline(ColumnTransformer(columns), trees).fit(table, target)
    kinds = [FloatTensorType([None, 1])] * 2 + [StringTensorType([None, 1])] * 2
    return to_onnx(fitted, initial_types=list(zip(table.columns, kinds, strict=True))), table


def test_categories_an_unknown_one_and_the_empty_string() -> None:
    model, _ = mixed()
    feed = sample(model, 300)
    assert feed["job"].dtype == object and feed["job"].shape == (300, 1)
    seen = set(feed["job"].ravel())
    assert seen > {"clerk", "cook", "pilot", "smith", ""}
    assert len(seen) == 6
    run(model, feed)


def test_an_encoder_that_refuses_unknown_categories_gets_none() -> None:
    model, _ = mixed("error")
    feed = sample(model, 300)
    assert set(feed["town"].ravel()) == {"Bern", "Rome"}
    run(model, feed)


def test_thresholds_are_followed_through_columns_that_are_picked_and_joined() -> None:
    model, _ = mixed()
    feed = sample(model, 2000)
    joined = value_of(model, tree_node(model).input[0], feed)
    for feature, limit in splits(model):
        assert (joined[:, feature] <= limit).any() and (joined[:, feature] > limit).any()
    picked = ColumnTransformer([("s", StandardScaler(), [7, 2]), ("p", "passthrough", [11])])
    fitted = make_pipeline(picked, forest()).fit(X, Y)
    model = exported(fitted)
    rows = sample(model, 3000)["X"]
    for feature, limit in splits(model):
        if feature == 2:
            assert np.any(rows[:, 11] == np.float32(limit))


def test_integer_categories_and_an_unknown_one() -> None:
    table = np.array([[3, 10], [5, 20], [7, 10]], np.int64)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(table)
    model = to_onnx(encoder, initial_types=[("x", Int64TensorType([None, 2]))])
    rows = sample(model, 100)["x"]
    assert rows.dtype == np.int64
    assert set(rows[:, 0]) == {3, 5, 7, 8}
    assert set(rows[:, 1]) == {10, 20, 21}


def test_ordinal_codes_keep_their_categories() -> None:
    table = np.array([["a"], ["b"], ["c"]], object)
    model = to_onnx(OrdinalEncoder().fit(table), initial_types=[("x", StringTensorType([None, 1]))])
    assert {"a", "b", "c", ""} < set(sample(model, 50)["x"].ravel())


@pytest.mark.parametrize(
    ("before", "held", "width"),
    [
        ((), (), 2),  # the trees read the second column and none after it
        (
            (helper.make_node("Scaler", ["x"], ["t"], domain="ai.onnx.ml", offset=[1.0, 2, 3]),),
            (),
            3,
        ),
        (
            (helper.make_node("Sub", ["x", "c"], ["t"]),),
            (helper.make_tensor("c", TensorProto.FLOAT, [1, 4], [1.0, 2, 3, 4]),),
            4,
        ),
    ],
)
def test_a_width_that_is_not_declared(before: Any, held: Any, width: int) -> None:
    for node in before:
        if node.op_type == "Scaler":
            node.attribute.append(helper.make_attribute("scale", [1.0, 1, 1]))
    model = tree_model(["BRANCH_LEQ"], [1], [0.5], width=None, before=before, held=held)
    feed = sample(model, 20)
    assert feed["x"].shape == (20, width)
    assert len(np.unique(run(model, feed)["y"])) == 2


@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Div"])
def test_plain_arithmetic_is_undone(op: str) -> None:
    node = helper.make_node(op, ["x", "c"], ["t"])
    held = helper.make_tensor("c", TensorProto.FLOAT, [2], [4.0, 8.0])
    model = tree_model(["BRANCH_LEQ"], [1], [3.0], before=(node,), held=(held,))
    threshold = {"Mul": 0.375, "Add": -5, "Sub": 11, "Div": 24}[op]
    rows = sample(model, 50)["x"][:, 1]
    assert (rows == threshold).any()
    assert (rows < threshold).any() and (rows > threshold).any()


def test_a_subtraction_from_a_constant_turns_the_sides() -> None:
    node = helper.make_node("Sub", ["c", "x"], ["t"])
    held = helper.make_tensor("c", TensorProto.FLOAT, [], [10.0])
    chain = ["BRANCH_LEQ"] * 3
    model = tree_model(chain, [0] * 3, [1.0, 2.0, 3.0], before=(node,), held=(held,))
    feed = sample(model, 100)
    assert (feed["x"][:, 0] == 8).any()
    assert len(np.unique(run(model, feed)["y"])) == 4


def test_a_fixed_batch_keeps_its_size() -> None:
    model = tree_model(["BRANCH_LEQ"], [1], [0.5])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    assert sample(model, 50)["x"].shape == (3, 2)


def test_doubles_reach_double_steps() -> None:
    model = tree_model(["BRANCH_LEQ"], [1], [0.1], kind=TensorProto.DOUBLE)
    rows = sample(model, 200)["x"]
    assert rows.dtype == np.float64
    limit = float(np.float32(0.1))
    assert (rows[:, 1] == limit).any() and (rows[:, 1] == np.nextafter(limit, 1)).any()


def test_extreme_thresholds_do_no_harm() -> None:
    values = [float("-inf"), -3.4e38, 1e-45, 3.4e38, float("inf")]
    model = tree_model(["BRANCH_LEQ"] * 5, [1] * 5, values)
    rows = sample(model, 300)["x"]
    assert rows.dtype == np.float32
    assert not np.isnan(rows).any()


def test_what_cannot_be_sampled_is_refused() -> None:
    model = tree_model(["BRANCH_LEQ"], [0], [1.0])
    with pytest.raises(ArgumentError, match="rows is -1"):
        sample(model, -1)
    key = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    node = helper.make_node(
        "DictVectorizer", ["m"], ["y"], domain="ai.onnx.ml", string_vocabulary=["a"]
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_value_info("m", key)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(UnsupportedError, match="Input 'm' is a map"):
        sample(helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)]), 1)


def test_widths_that_no_node_tells_and_graphs_without_inputs() -> None:
    opsets = [helper.make_opsetid("", 17)]
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 2], [1.0] * 6)
    product = helper.make_node("MatMul", ["x", "w"], ["p"])
    cast = helper.make_node("Cast", ["p"], ["y"], to=TensorProto.DOUBLE)
    model = helper.make_model(
        helper.make_graph([product, cast], "g", [x], [y], [weight]), opset_imports=opsets
    )
    assert sample(model, 4)["x"].shape == (4, 3)
    cast.input[0] = "x"
    model = helper.make_model(helper.make_graph([cast], "g", [x], [y]), opset_imports=opsets)
    assert sample(model, 4)["x"].shape == (4, 1)
    cast.input[0] = "w"
    alone = helper.make_graph([cast], "g", [], [y], [weight])
    assert sample(helper.make_model(alone, opset_imports=opsets), 4) == {}


def test_text_that_is_cast_to_numbers_can_be() -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    graph = helper.make_graph(
        [cast],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    assert np.isfinite(run(model, sample(model, 20))["y"]).all()
