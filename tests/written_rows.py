"""Rows to judge written pipelines on, and the judge."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import onnx
from sklearn.base import is_classifier
from sklearn.datasets import make_classification

from onnxtune.runtime import input_types, run
from onnxtune.sklearn import write_back

_RNG = np.random.default_rng(0)
X, THREE = make_classification(400, 6, n_informative=5, n_redundant=0, n_classes=3, random_state=0)
X = X.astype(np.float32)
TWO = (THREE > 0).astype(int)
WORDS = np.array(["low", "mid", "top"])[THREE]
Y = X @ _RNG.normal(size=6) + np.sin(3 * X[:, 0]) + _RNG.normal(0, 0.3, 400)
BOTH = np.c_[Y, Y**2]
HOLES = np.where(_RNG.random(X.shape) < 0.1, np.nan, X).astype(np.float32)
CODES = X.copy()
CODES[:, 4] = _RNG.integers(0, 8, len(X))
PARITY = ((CODES[:, 4] % 3 == 1) ^ (X[:, 0] > 0)).astype(int)

# The judge's rows: as many of them as may differ in one.
ROWS, MAY_DIFFER = 10_000, 1


def rows_like(table: np.ndarray) -> np.ndarray:
    """Rows around those of a table; what is missing stays so."""
    rng = np.random.default_rng(1)
    drawn = table[rng.integers(len(table), size=ROWS)]
    return (drawn + 0.3 * rng.normal(size=drawn.shape)).astype(np.float32)


def fed(model: onnx.ModelProto, rows: Any) -> dict[str, np.ndarray]:
    """Rows as the inputs of a model."""
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(string)": object}
    inputs = input_types(model)
    if isinstance(rows, np.ndarray):
        return {inputs[0].name: rows.astype(kinds[inputs[0].kind])}
    return {v.name: rows[[v.name]].to_numpy().astype(kinds[v.kind]) for v in inputs}


def rows_that_differ(answers: Any, expected: Any) -> int:
    """Rows beyond 1e-5 of their size; words and whole numbers that are others."""
    answers = answers.toarray() if hasattr(answers, "toarray") else np.asarray(answers)
    expected = np.asarray(expected)
    answers, expected = (a.reshape(len(expected), -1) for a in (answers, expected))
    assert answers.shape == expected.shape
    if expected.dtype.kind != "f":
        return int((answers != expected).any(axis=1).sum())
    size = np.maximum(np.abs(expected), np.sqrt(np.mean(np.square(expected))))
    return int((~(np.abs(answers - expected) <= 1e-5 * size)).any(axis=1).sum())


def check(fitted: Any, model: onnx.ModelProto, tuned: onnx.ModelProto, rows: Any) -> Any:
    """Judge what is written back: against the tuned model, which differs from the untuned one."""
    kept = pickle.dumps(fitted)
    written = write_back(fitted, tuned)
    assert type(written) is type(fitted) and written is not fitted
    assert pickle.dumps(fitted) == kept
    before, after = (list(run(m, fed(m, rows)).values()) for m in (model, tuned))
    assert rows_that_differ(before[-1], after[-1]) > 0.01 * len(after[-1]), "nothing was moved"
    if is_classifier(written):
        assert rows_that_differ(written.predict(rows), after[0]) <= MAY_DIFFER
        if hasattr(written, "predict_proba"):
            assert rows_that_differ(written.predict_proba(rows), after[1]) <= MAY_DIFFER
    elif hasattr(written, "predict"):
        assert rows_that_differ(written.predict(rows), after[0]) <= MAY_DIFFER
    else:
        assert rows_that_differ(written.transform(rows), after[0]) <= MAY_DIFFER
    return written


def fit(estimator: Any, *data: Any, **more: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that few steps were taken, that something will go
        return estimator.fit(*data, **more)
