"""Pipelines that skl2onnx alone refuses: idle steps, and a LinearSVC at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import onnxtune
from onnxtune.sklearn import write_back

X, Y = make_classification(300, 6, n_informative=4, flip_y=0.1, random_state=0)
X = X.astype(np.float32)


def logistic() -> LogisticRegression:
    return LogisticRegression(C=1e-3)


CASES = {
    "LinearSVC": make_pipeline(PCA(4), LinearSVC(C=1e-3)),
    "passthrough": Pipeline([("s", StandardScaler()), ("n", "passthrough"), ("l", logistic())]),
    "None": Pipeline([("n", None), ("l", logistic())]),
    "nothing": make_pipeline(make_pipeline("passthrough"), logistic()),
    "dropped": make_pipeline(
        FeatureUnion([("p", "passthrough"), ("d", "drop"), ("s", StandardScaler())]), logistic()
    ),
    "columns": make_pipeline(
        ColumnTransformer([("a", make_pipeline(StandardScaler(), "passthrough"), [0, 1, 2])]),
        logistic(),
    ),
    "in a stack": StackingClassifier(
        [("a", make_pipeline("passthrough", logistic())), ("b", logistic())], cv=2
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_exported_tuned_and_written_back(name: str) -> None:
    own: Any = CASES[name].fit(X[:150], Y[:150])
    result = onnxtune.tune(own, X[150:], Y[150:], epochs=3, lr=0.05)
    assert onnxtune.verify(own, onnxtune.to_onnx(own, X), X).agrees
    assert onnxtune.verify(write_back(own, result), result.model("native"), X).agrees


def test_an_idle_last_step_is_no_output_of_its_own() -> None:
    own = Pipeline([("s", StandardScaler()), ("n", "passthrough")]).fit(X)
    assert onnxtune.verify(own, onnxtune.to_onnx(own, X), X).agrees
