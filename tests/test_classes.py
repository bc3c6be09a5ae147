"""Class labels are read off the graphs that the exporters make."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import onnx
import onnxmltools
import pytest
from onnx import TensorProto, helper
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.ensemble import AdaBoostClassifier, GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC, LinearSVC

from onnxtune.classes import class_labels, label_outputs, score_output, zip_map_keys
from onnxtune.runtime import run

X, SPECIES = load_iris(return_X_y=True)
X = X.astype(np.float32)
TARGETS = {
    "integers": SPECIES * 2 + 1,
    "strings": np.array(["c", "a", "b"])[SPECIES],
    "two": np.array(["yes", "no"])[(SPECIES == 1).astype(int)],
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(3, max_depth=3, random_state=0),
        LogisticRegression(max_iter=500),
        GradientBoostingClassifier(n_estimators=2),
        AdaBoostClassifier(n_estimators=3),
        KNeighborsClassifier(3),
        GaussianNB(),
        MLPClassifier((3,), max_iter=20),
        SVC(),
        LinearSVC(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn(estimator: Any, zipmap: bool, target: str) -> None:
    y = TARGETS[target]
    options = {} if isinstance(estimator, LinearSVC) else {"zipmap": zipmap}
    estimator.fit(X, y)
    model = to_onnx(estimator, X[:1], options=options)
    classes = class_labels(model)
    assert classes == tuple(estimator.classes_.tolist())
    assert [type(label) for label in classes] == [int if target == "integers" else str] * len(
        classes
    )
    (label,) = label_outputs(model)
    results = run(model, {"X": X})
    assert set(results[label].ravel().tolist()) <= set(classes)
    score = score_output(model)
    scores = results[score]
    if isinstance(scores, list):
        assert zip_map_keys(model, score) == classes
        scores = np.array([[row[key] for key in classes] for row in scores])
    if scores.shape[1] == len(classes) > 2:
        best = np.array(classes, object)[scores.argmax(axis=1)]
        assert (best == results[label].ravel()).mean() > 0.9


def test_scores_in_an_output_for_each_class() -> None:
    fitted = RandomForestClassifier(3, max_depth=3, random_state=0).fit(X, SPECIES)
    model = to_onnx(fitted, X[:1], options={"zipmap": "columns"})
    assert class_labels(model) == (0, 1, 2)
    assert score_output(model) is None


@pytest.mark.parametrize("target", ["integers", "strings", "two"])
@pytest.mark.parametrize("zipmap", [True, False])
def test_lightgbm(target: str, zipmap: bool) -> None:
    y = TARGETS[target]
    fitted = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(X, y)
    types = [("X", FloatTensorType([None, 4]))]
    model = onnxmltools.convert_lightgbm(
        fitted, initial_types=types, zipmap=zipmap, target_opset=15
    )
    assert class_labels(model) == tuple(fitted.classes_.tolist())
    assert label_outputs(model) == ("label",)
    assert score_output(model) == "probabilities"


@pytest.mark.parametrize("y", [SPECIES, (SPECIES == 1).astype(int)], ids=["three", "two"])
def test_xgboost(y: np.ndarray) -> None:
    xgboost = pytest.importorskip("xgboost")
    fitted = xgboost.XGBClassifier(n_estimators=2).fit(X, y)
    types = [("X", FloatTensorType([None, 4]))]
    model = onnxmltools.convert_xgboost(fitted, initial_types=types, target_opset=15)
    assert class_labels(model) == tuple(range(len(np.unique(y))))
    assert score_output(model) == "probabilities"


def test_no_classes() -> None:
    regressor = to_onnx(LinearRegression().fit(X, SPECIES), X[:1])
    assert class_labels(regressor) is None
    assert label_outputs(regressor) == ()
    clusters = to_onnx(KMeans(3, n_init=1).fit(X), X[:1])
    assert class_labels(clusters) is None
    assert label_outputs(clusters) == ("label",)
    assert score_output(clusters) == "scores"


def test_the_scores_alone_still_tell() -> None:
    model = to_onnx(LogisticRegression(max_iter=500).fit(X, TARGETS["strings"]), X[:1])
    kept = [value for value in model.graph.output if value.name == "output_probability"]
    del model.graph.output[:]
    zipped = kept[0]
    model.graph.output.append(zipped)
    assert class_labels(model) == ("a", "b", "c")
    plain = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3])
    model.graph.output[0].CopyFrom(plain)
    assert class_labels(model) == ("a", "b", "c")
    assert label_outputs(model) == ()
    assert score_output(model) == "probabilities"


def graph_of(
    nodes: list[onnx.NodeProto], held: list[onnx.TensorProto], kind: int
) -> onnx.ModelProto:
    """Scores [N, 2] as input `s`, a label `y` made of them."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [
            helper.make_tensor_value_info("y", kind, None),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [None, 2]),
        ],
        held,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_labels_made_of_standard_operators() -> None:
    softmax = helper.make_node("Softmax", ["x"], ["s"])
    position = helper.make_node("ArgMax", ["s"], ["p"], axis=1, keepdims=0)
    names = helper.make_tensor("names", TensorProto.STRING, [2], [b"no", b"yes"])
    gather = helper.make_node("Gather", ["names", "p"], ["y"])
    model = graph_of([softmax, position, gather], [names], TensorProto.STRING)
    assert class_labels(model) == class_labels(model, "y") == ("no", "yes")
    assert class_labels(model, "s") is None
    encode = helper.make_node(
        "LabelEncoder",
        ["p"],
        ["y"],
        domain="ai.onnx.ml",
        keys_int64s=[1, 0],
        values_strings=["yes", "no"],
    )
    model = graph_of([softmax, position, encode], [], TensorProto.STRING)
    assert class_labels(model) == ("no", "yes")
    position.output[0] = "y"
    model = graph_of([softmax, position], [], TensorProto.INT64)
    assert class_labels(model) == (0, 1)
    assert score_output(model, "y") == "s"


def test_a_threshold_picks_one_of_two_constants() -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["s"]),
        helper.make_node("ReduceMax", ["s"], ["m"], axes=[1], keepdims=0),
        helper.make_node("Greater", ["m", "half"], ["b"]),
        helper.make_node("Where", ["b", "one", "minus"], ["y"]),
    ]
    held = [
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("one", TensorProto.INT64, [], [1]),
        helper.make_tensor("minus", TensorProto.INT64, [], [-1]),
    ]
    assert class_labels(graph_of(nodes, held, TensorProto.INT64)) == (-1, 1)


def test_types_that_are_not_declared_are_asked_for() -> None:
    model = to_onnx(LogisticRegression(max_iter=500).fit(X, SPECIES), X[:1])
    for value in model.graph.output:
        value.ClearField("type")
    assert label_outputs(model) == ("output_label",)
    assert class_labels(model) == (0, 1, 2)
