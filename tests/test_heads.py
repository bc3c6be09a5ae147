"""A classifier's head for other classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import parse
from pipelines import data_of, exported

import onnxtune
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.runtime import run

CLASSIFIERS = ("boosting", "logistic", "logistic of three", "forest of three", "boosting of three")


def outputs(proto: onnx.ModelProto, X: Any) -> list[Any]:
    return list(run(proto, {proto.graph.input[0].name: np.asarray(X, np.float32)}).values())


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_same_classes_have_the_same_probabilities(name: str, zipmap: bool) -> None:
    model, (X, y) = exported(name, zipmap), data_of(name)[0]
    classes = np.unique(y)
    label, scores = outputs(model, X)
    if zipmap:
        scores = np.array([[row[key] for key in classes] for row in scores])
    new = onnxtune.replace_head(model, classes.tolist())
    onnx.checker.check_model(new, full_check=True)
    assert [o.name for o in new.graph.output] == [o.name for o in model.graph.output]
    found_label, found = outputs(new, X)
    np.testing.assert_allclose(found, scores, atol=1e-5)
    np.testing.assert_array_equal(found_label, label)


@pytest.mark.parametrize(
    ("link", "offsets", "factor"),
    [("LOGISTIC", [-0.5, 0.5], 0.5), ("SOFTMAX", [-0.5, 0.5], 1), ("LOGISTIC", [-0.5, 0.25], 1)],
)
def test_mirrored_rows_are_halved_where_they_end_in_a_sigmoid(
    link: str, offsets: list[float], factor: float
) -> None:
    model = parse(
        f"""g (float[N, 2] x) => (int64[N] label, float[N, 2] p) {{
            label, p = ai.onnx.ml.LinearClassifier <classlabels_ints = [0, 1],
                coefficients = [-1.0, -2.0, 1.0, 2.0], intercepts = {offsets},
                post_transform = "{link}"> (x)
        }}"""
    )
    (head,) = onnxtune.replace_head(model, [0, 1]).graph.node
    held = {a.name: np.array(a.floats) for a in head.attribute if a.floats}
    np.testing.assert_allclose(held["coefficients"], factor * np.array([-1.0, -2.0, 1.0, 2.0]))
    np.testing.assert_allclose(held["intercepts"], factor * np.array(offsets))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_new_classes_are_learned(name: str) -> None:
    (X, _), _, _ = data_of(name)
    y = np.where(X[:, 0] > np.median(X[:, 0]), "high", "low")
    head = onnxtune.replace_head(exported(name), ["low", "high", "never"])
    label, scores = outputs(head, X)
    assert set(label) <= {"low", "high", "never"}
    np.testing.assert_allclose(scores, 1 / 3, atol=1e-6)  # nothing is known of them yet
    result = onnxtune.tune(head, X, y, epochs=4)
    assert result.accepted and "head/coefficients" in result.report["tensors"]
    np.testing.assert_allclose(outputs(result.model(), X)[1].sum(axis=1), 1, atol=1e-5)


def test_a_known_class_keeps_its_odds() -> None:
    model, ((X, _), _, _) = exported("logistic of three"), data_of("logistic of three")
    before = outputs(model, X)[1]
    found = outputs(onnxtune.replace_head(model, [2, 7, 0]), X)[1]
    np.testing.assert_allclose(found[:, 0] / found[:, 2], before[:, 2] / before[:, 0], rtol=1e-4)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([1], "two labels or more"),
        ([1, "b"], "all integers or all strings"),
        ([1.5, 2.5], "all integers or all strings"),
        ([True, False], "all integers"),
        (["a", "b", "a"], "holds 'a' 2 times"),
        ("ab", "sequence of labels"),
        (3, "sequence of labels"),
    ],
)
def test_what_are_no_classes(classes: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        onnxtune.replace_head(exported("logistic"), classes)


def test_a_regressor_has_no_classes() -> None:
    with pytest.raises(UnsupportedError, match="stands on a classifier"):
        onnxtune.replace_head(exported("ridge"), [0, 1])
