"""Equal models agree; whatever is changed in one is found, named and located."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper
from skl2onnx import convert_sklearn, to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn import metrics as reference
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from onnxtune.agreement import as_values, compare
from onnxtune.errors import ArgumentError, DataError, ModelError
from onnxtune.verification import Verdict, verify

X, SPECIES = load_iris(return_X_y=True)
X = X.astype(np.float32)
NAMES = np.array(["c", "a", "b"])[SPECIES]


def exported(estimator: Any, y: Any = SPECIES, zipmap: bool = False, table: Any = X) -> Any:
    fitted = estimator.fit(table, y)
    options = {"zipmap": zipmap} if hasattr(estimator, "predict_proba") else None
    return to_onnx(fitted, table[:1], options=options)


def forest(trees: int = 5) -> RandomForestClassifier:
    return RandomForestClassifier(trees, max_depth=4, random_state=0)


def changed(model: onnx.ModelProto, change: Callable[[onnx.ModelProto], Any]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy)
    return copy


def attribute(model: onnx.ModelProto, name: str) -> Any:
    return next(held for node in model.graph.node for held in node.attribute if held.name == name)


def output(verdict: Verdict, name: str) -> Any:
    return next(held for held in verdict.outputs if held.name == name)


@pytest.mark.parametrize(
    "model",
    [
        exported(forest()),
        exported(forest(), NAMES, zipmap=True),
        exported(make_pipeline(StandardScaler(), LogisticRegression()), NAMES),
        exported(LinearRegression()),
        exported(KMeans(3, n_init=1, random_state=0)),
    ],
)
@pytest.mark.parametrize("data", [None, X, X[:1]])
def test_a_model_agrees_with_itself(model: onnx.ModelProto, data: Any) -> None:
    verdict = verify(model, model.SerializeToString(), data)
    assert verdict.agrees and not verdict.problems
    assert verdict.rows == (1000 if data is None else len(data))
    assert [held.name for held in verdict.outputs] == [held.name for held in model.graph.output]
    for held in verdict.outputs:
        assert held.agrees and held.rows_past == 0
        if held.kind == "float":
            assert held.worst_absolute == held.worst_relative == 0 and held.worst_row is None
        else:
            assert held.label_agreement == 1 and held.ties == 0


def test_a_perturbed_weight_is_caught_and_located() -> None:
    model = exported(GradientBoostingRegressor(n_estimators=5, random_state=0), SPECIES * 1.0)

    def heavier(copy: onnx.ModelProto) -> None:
        attribute(copy, "target_weights").floats[3] *= 1.01

    verdict = verify(model, changed(model, heavier), X)
    (held,) = verdict.outputs
    assert not verdict.agrees and held.problem is None
    assert 0 < held.rows_past < len(X)
    results = [
        as_values(model, {"y": run_numpy(proto)})["y"].numbers
        for proto in (model, changed(model, heavier))
    ]
    distance = np.abs(results[1] - results[0])[:, 0]
    assert held.worst_absolute == pytest.approx(distance.max())
    assert distance[held.worst_row] == distance.max()
    assert held.rows_past == (distance > 1e-6).sum()
    sampled = verify(model, changed(model, heavier))
    assert not sampled.agrees
    assert verify(model, changed(model, heavier), X, atol=1.0).agrees
    assert verify(model, changed(model, heavier), X, rtol=1.0).agrees


def run_numpy(model: onnx.ModelProto) -> Any:
    from onnxtune.runtime import run

    return next(iter(run(model, {"X": X}).values()))


def test_a_moved_threshold_is_caught_by_sampled_rows() -> None:
    model = exported(make_pipeline(StandardScaler(), forest(20)))
    for index in (0, 5, 40):

        def move(copy: onnx.ModelProto, index: int = index) -> None:
            branches = [m != b"LEAF" for m in attribute(copy, "nodes_modes").strings]
            node = np.flatnonzero(branches)[index]
            attribute(copy, "nodes_values").floats[node] += 1e-4

        assert not verify(model, changed(model, move)).agrees


@pytest.mark.parametrize("zipmap", [True, False])
def test_a_swapped_label_is_caught(zipmap: bool) -> None:
    model = exported(forest(), NAMES, zipmap=zipmap)

    def swap(copy: onnx.ModelProto) -> None:
        for node in copy.graph.node:
            for held in node.attribute:
                if held.name == "classlabels_strings" and node.op_type != "ZipMap":
                    held.strings[:] = [held.strings[1], held.strings[0], held.strings[2]]

    verdict = verify(model, changed(model, swap), X)
    label, scores = verdict.outputs
    assert not verdict.agrees and scores.agrees
    assert label.label_agreement == pytest.approx(1 / 3, abs=0.02)
    assert label.rows_past == 100 and label.worst_row == 50  # 'c' stays


def scorer(threshold: float, width: int = 1) -> onnx.ModelProto:
    """A binary decision over x[:, 0] with its score beside it, in one column or two."""
    weights = [1.0] if width == 1 else [-0.5, 0.5]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["score"]),
            helper.make_node("Greater", ["x", "t"], ["over"]),
            helper.make_node("Cast", ["over"], ["label"], to=TensorProto.INT64),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None, 1]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, width]),
        ],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [1, width], weights),
            helper.make_tensor("t", TensorProto.FLOAT, [], [threshold]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_labels_may_differ_only_at_the_threshold(width: int, threshold: float) -> None:
    near = np.float32(threshold + 2e-6)
    x = np.array([[-1.0], [-0.3], [near], [0.9], [threshold / 2 - 0.01]], np.float32)
    model = scorer(threshold, width)
    tie = verify(model, scorer(threshold + 1e-5, width), x)
    assert tie.agrees
    assert output(tie, "label").ties == 1 and output(tie, "label").label_agreement == 0.8
    x[2] = threshold + 0.01
    x = np.concatenate([x, [[threshold + 0.002]]]).astype(np.float32)
    real = verify(model, scorer(threshold + 0.1, width), x)
    assert not real.agrees
    assert output(real, "label").rows_past >= 1


def test_a_turned_label_beside_one_score_is_no_tie() -> None:
    fitted = LinearSVC().fit(X, SPECIES == 1)
    model = to_onnx(fitted, X[:1])

    def turn(copy: onnx.ModelProto) -> None:
        held = attribute(copy, "classlabels_ints")
        held.ints[:] = held.ints[::-1]

    verdict = verify(model, changed(model, turn), X)
    label = verdict.outputs[0]
    assert label.label_agreement == 0 and label.rows_past > 140
    assert "threshold" in label.note


def values(model: onnx.ModelProto, **results: Any) -> Any:
    return as_values(model, results)


def test_nan_and_infinities() -> None:
    model = scorer(0)
    y = np.array([[np.nan], [np.inf], [-np.inf], [1.0], [0.0]], np.float32)
    (same,) = compare(model, values(model, s=y), values(model, s=y.copy()), 5, 1e-5, 0)
    assert same.agrees and same.worst_absolute == 0
    for row, other in ((0, 1.0), (1, -np.inf), (1, 3e38), (2, np.nan), (3, np.nan), (4, np.inf)):
        wrong = y.copy()
        wrong[row] = other
        (held,) = compare(model, values(model, s=y), values(model, s=wrong), 5, 1e-5, 0)
        assert (held.rows_past, held.worst_row, held.worst_absolute) == (1, row, np.inf)


def test_the_tolerance_is_relative_to_the_root_mean_square() -> None:
    model = scorer(0)
    y = np.array([[1000.0], [-1000.0], [0.0]])
    other = y + np.array([[0], [0], [0.008]])
    (held,) = compare(model, values(model, s=y), values(model, s=other), 3, 1e-5, 0)
    assert held.agrees and held.worst_row == 2
    assert held.worst_relative == pytest.approx(0.008 / np.sqrt(2e6 / 3))
    (held,) = compare(model, values(model, s=y), values(model, s=other), 3, 1e-6, 0)
    assert held.rows_past == 1


def test_a_zip_map_against_the_tensor_of_its_values() -> None:
    zipped, plain = exported(forest(), NAMES, zipmap=True), exported(forest(), NAMES)
    for value in (*plain.graph.output, *zipped.graph.output):
        assert value.name in ("label", "probabilities", "output_label", "output_probability")

    def rename(copy: onnx.ModelProto) -> None:
        for name in ("label", "probabilities"):
            renamed = {"label": "output_label", "probabilities": "output_probability"}[name]
            copy.graph.node.append(helper.make_node("Identity", [name], [renamed]))
            next(v for v in copy.graph.output if v.name == name).name = renamed

    same = changed(plain, rename)
    for pair in ((zipped, same), (same, zipped), (zipped, zipped)):
        assert verify(*pair, X).agrees
        assert verify(*pair).agrees

    def reverse(copy: onnx.ModelProto) -> None:
        node = next(node for node in copy.graph.node if node.op_type == "ZipMap")
        node.attribute[0].strings[:] = node.attribute[0].strings[::-1]

    assert not verify(zipped, changed(zipped, reverse), X).agrees

    def other_keys(copy: onnx.ModelProto) -> None:
        node = next(node for node in copy.graph.node if node.op_type == "ZipMap")
        node.attribute[0].strings[0] = b"z"

    assert "keys" in verify(zipped, changed(zipped, other_keys), X).outputs[1].problem


def test_a_missing_output_is_named() -> None:
    model = exported(forest())
    verdict = verify(model, changed(model, lambda copy: copy.graph.output.pop()), X)
    assert not verdict.agrees
    assert verdict.outputs[1].problem == "is missing from the candidate."
    assert "probabilities: is missing" in verdict.text()
    assert verdict.text().endswith("The models do not agree (150 rows compared).")
    assert verify(changed(model, lambda copy: copy.graph.output.pop()), model, X).agrees


def test_another_shape_or_type_is_named() -> None:
    model = scorer(0)

    def flat(copy: onnx.ModelProto) -> None:
        copy.graph.node[0].output[0] = "wide"
        copy.graph.node.append(helper.make_node("Flatten", ["wide"], ["score"], axis=0))
        copy.graph.output[1].CopyFrom(
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [1, None])
        )

    verdict = verify(model, changed(model, flat))
    assert "has shape [1000, 1] in the original" in verdict.outputs[1].problem

    def text(copy: onnx.ModelProto) -> None:
        copy.graph.node[2].attribute[0].i = TensorProto.STRING
        copy.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING

    verdict = verify(model, changed(model, text))
    assert "integers in the original, strings" in verdict.outputs[0].problem


def test_one_row_and_no_rows() -> None:
    model = scorer(0)

    def fixed(rows: int) -> Callable[[onnx.ModelProto], None]:
        def reshape(copy: onnx.ModelProto) -> None:
            copy.graph.node[0].output[0] = "free"
            shape = helper.make_tensor("to", TensorProto.INT64, [2], [rows, 1])
            copy.graph.initializer.append(shape)
            copy.graph.node.append(helper.make_node("Reshape", ["free", "to"], ["score"]))

        return reshape

    verdict = verify(model, changed(model, fixed(1000)))
    assert not verdict.agrees and all(held.agrees for held in verdict.outputs)
    assert [problem.split(":")[0] for problem in verdict.problems] == ["One row", "No rows"]
    # the original's own failure is not the candidate's
    assert verify(changed(model, fixed(1000)), changed(model, fixed(1000))).agrees


def test_a_candidate_that_cannot_run_or_asks_for_more() -> None:
    model = scorer(0)

    def wide(copy: onnx.ModelProto) -> None:
        copy.graph.initializer[0].CopyFrom(
            helper.make_tensor("w", TensorProto.FLOAT, [3, 1], [1.0] * 3)
        )
        copy.graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_value")

    verdict = verify(model, changed(model, wide))
    assert not verdict.agrees and verdict.problems[0].startswith("The candidate fails")
    assert verdict.outputs == ()

    def more(copy: onnx.ModelProto) -> None:
        copy.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None]))

    assert "input 'z'" in verify(model, changed(model, more)).problems[0]


def test_metrics_of_classifiers() -> None:
    table, y = load_breast_cancer(return_X_y=True)
    names = np.where(y == 1, "benign", "malign")
    table = table.astype(np.float32)
    small, large = forest(2).fit(table, names), forest(30).fit(table, names)
    models = [to_onnx(fitted, table[:1]) for fitted in (small, large)]
    verdict = verify(*models, table, names)
    assert verdict.metrics is not None
    loss, accuracy = verdict.metrics
    assert (loss.name, accuracy.name) == ("log loss", "accuracy")
    for figure, fitted in ((loss.original, small), (loss.candidate, large)):
        clipped = np.clip(fitted.predict_proba(table), 1e-7, 1)
        right = clipped[np.arange(len(y)), np.searchsorted(fitted.classes_, names)]
        assert figure == pytest.approx(-np.log(right).mean(), rel=1e-4)
    expected = [reference.accuracy_score(names, fitted.predict(table)) for fitted in (small, large)]
    assert [accuracy.original, accuracy.candidate] == pytest.approx(expected)
    assert loss.difference == pytest.approx(loss.candidate - loss.original)
    assert loss.z == pytest.approx(loss.difference / loss.standard_error)
    assert loss.z < 0 < accuracy.z
    with pytest.raises(DataError, match="labels"):
        verify(*models, table, np.where(y == 1, "benign", "other"))


def test_metrics_of_regressors() -> None:
    table, y = load_diabetes(return_X_y=True)
    table = table.astype(np.float32)
    first = LinearRegression().fit(table, y)
    second = GradientBoostingRegressor(n_estimators=10).fit(table, y)
    verdict = verify(to_onnx(first, table[:1]), to_onnx(second, table[:1]), table, y)
    assert verdict.metrics is not None
    for metric, function in zip(
        verdict.metrics,
        (reference.mean_squared_error, reference.mean_absolute_error, reference.r2_score),
        strict=True,
    ):
        expected = [function(y, fitted.predict(table)) for fitted in (first, second)]
        assert [metric.original, metric.candidate] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(DataError, match="no output of the model fits"):
        verify(to_onnx(first, table[:1]), to_onnx(second, table[:1]), table, np.ones((len(y), 2)))


def test_a_verdict_as_text_and_json() -> None:
    model = exported(forest(), NAMES, zipmap=True)
    verdict = verify(model, model, X, NAMES)
    text = verdict.text()
    assert text.endswith("The models agree on 150 rows.")
    assert "output_probability" in text and "log loss" in text and "100.0000%" in text
    plain = verdict.to_dict()
    assert plain["agrees"] is True and plain["rows"] == 150
    assert plain["outputs"][0]["label_agreement"] == 1
    assert [metric["name"] for metric in plain["metrics"]] == ["log loss", "accuracy"]
    json.dumps(plain)
    assert verify(model, model, X[:1]).text().endswith("on 1 row.")


def test_wrong_arguments() -> None:
    model = scorer(0)
    with pytest.raises(ArgumentError, match="data"):
        verify(model, model, target=[1, 2])
    with pytest.raises(ArgumentError, match="rtol=-1"):
        verify(model, model, rtol=-1)
    with pytest.raises(ArgumentError, match="rows is 0"):
        verify(model, model, rows=0)
    with pytest.raises(ModelError, match="no such file"):
        verify("missing.onnx", model)


def test_an_estimator_and_its_own_file() -> None:
    """skl2onnx makes identifiers of column names, and has names of its own for outputs."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "Age (years)": rng.integers(18, 80, 300),
            "mean radius": rng.normal(size=300),
            "city": rng.choice(["a", "b"], 300),
        }
    )
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["Age (years)", "mean radius"]),
            ("strings", OneHotEncoder(), ["city"]),
        ]
    )
    wanted = (frame["mean radius"] > 0).astype(int)
    model = make_pipeline(columns, LogisticRegression()).fit(frame, wanted)
    types: list[Any] = [("Age (years)", FloatTensorType([None, 1]))]
    types += [("mean radius", FloatTensorType([None, 1])), ("city", StringTensorType([None, 1]))]
    for options in ({"zipmap": False}, None):
        file = convert_sklearn(model, initial_types=types, target_opset=17, options=options)
        assert "Age__years_" in {value.name for value in file.graph.input}
        for pair in ((model, file), (file, model)):
            verdict = verify(*pair, frame.assign(y=wanted), "y", sample=frame)
            assert verdict.agrees, verdict.text()
            assert len(verdict.outputs) == 2 and verdict.metrics is not None
    verdict = verify(model, file, sample=frame)  # sampled rows
    assert not verdict.problems


def test_a_matrix_may_stand_against_columns() -> None:
    X = np.random.default_rng(0).normal(size=(50, 2))
    frame = pd.DataFrame(X, columns=["a b", "c"])
    columns = ColumnTransformer([("all", "passthrough", [0, 1])])
    model = make_pipeline(columns, LinearRegression()).fit(frame, X.sum(axis=1))
    types = [(name, FloatTensorType([None, 1])) for name in frame]
    file = convert_sklearn(model, initial_types=types, target_opset=17)
    assert len(file.graph.input) == 2
    assert verify(model, file, frame).agrees
    assert verify(file, model, frame).agrees
    matrix: list[Any] = [("m", FloatTensorType([None, 2]))]
    other = convert_sklearn(model, initial_types=matrix, target_opset=17)
    assert verify(model, other).agrees


def test_a_new_input_is_no_counterpart() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N] x{more}) => (float[N] y) {{ y = {body} }}"""
    first = onnx.parser.parse_model(text.format(more="", body="Identity (x)"))
    second = onnx.parser.parse_model(text.format(more=", float[N] z", body="Add (x, z)"))
    verdict = verify(first, second, {"x": np.ones(3)})
    assert verdict.problems == ("The candidate has an input 'z' that the original has not.",)


def test_inputs_of_several_lengths() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> '
        "g (float[N, 2] x, float[M, 2] y) => (float[N, 2] z) { z = Sub(x, y) }"
    )
    data = {"x": X[:3, :2], "y": X[:1, :2]}
    assert verify(model, model, data).agrees
    with pytest.raises(DataError, match="input 'x' has 3 rows, but 'y' has 1"):
        verify(model, model, data, np.zeros(3))
