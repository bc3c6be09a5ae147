"""Rows to judge by, targets of several columns, and what is refused before anything is fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import onnxtune
from onnxtune.errors import ArgumentError, DataError
from onnxtune.sklearn import TunedClassifier, TunedRegressor, TunedTransformer, write_back

QUICK: dict[str, Any] = {"epochs": 2, "random_state": 0, "threads": 1}

X, Y = make_classification(300, 6, n_informative=4, flip_y=0.1, random_state=0)


def logistic(**settings: Any) -> TunedClassifier:
    return TunedClassifier(LogisticRegression(), **(QUICK | settings))


def forest() -> TunedClassifier:
    return TunedClassifier(RandomForestClassifier(5, max_depth=4), **QUICK)


# Rows to judge by


@pytest.mark.parametrize("labels", [["u", "v"], [False, True], [1.0, 2.0]], ids=str)
@pytest.mark.parametrize("kind", [tuple, list])
def test_rows_of_their_own_judge_whatever_the_labels(labels: Any, kind: Any) -> None:
    target = np.array(labels)[Y]
    own = kind((X[200:].tolist(), target[200:].tolist()))
    found = logistic(valid=own).fit(X[:200], target[:200])
    assert found.report_["validation_rows"] == 100 and found.report_["candidates"]
    sparsely = logistic(valid=(sparse.csr_matrix(X[200:]), target[200:]))
    assert sparsely.fit(X[:200], target[:200]).report_["validation_rows"] == 100


@pytest.mark.parametrize(
    ("own", "match"),
    [
        ((X[:50, :3], Y[:50]), "valid: X has 3 features, but .* 6 features"),
        ((X[:50], Y[:50] + 7), "valid: y holds the class 7"),
        ((X[:50], Y[:40]), r"valid: Found input variables with inconsistent .* \[50, 40\]"),
        ((X[:50], Y[:50], np.ones(3)), "valid: sample_weight.shape"),
        ((np.where(X > 0, X, np.nan)[:50], Y[:50]), "valid: Input X contains NaN"),
        ((X[:50], np.stack([Y, Y], axis=1)[:50]), "valid: y has 2 columns, and the model has 1 t"),
    ],
    ids=["columns", "classes", "lengths", "weights", "missing", "targets"],
)
def test_rows_of_their_own_that_do_not_fit_are_refused(own: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        logistic(valid=own).fit(X, Y)


@pytest.mark.parametrize(
    "valid",
    [np.arange(200, 300), np.arange(300) >= 200, np.arange(300) // 100],
    ids=["numbers", "booleans", "groups"],
)
def test_rows_that_judge_are_told_by_their_number_among_all(valid: Any) -> None:
    weight = np.ones(300)
    weight[:100] = 0
    found = logistic(valid=valid).fit(X, Y, weight)
    assert found.report_["validation_rows"] == 100
    assert logistic(valid=[[3.0]]).valid == [[3.0]]
    with pytest.raises(ArgumentError, match="no row 300"):
        logistic(valid=[299, 300]).fit(X, Y, weight)


# Several targets


def test_each_target_has_probabilities_of_its_own_classes() -> None:
    target = np.stack([Y + 1, Y + (X[:, 0] > 1)], axis=1)
    for own in (forest(), TunedClassifier(MultiOutputClassifier(LogisticRegression()), **QUICK)):
        found = own.fit(X, target)
        native = found.estimator_.predict_proba(X)
        assert [each.shape for each in found.predict_proba(X)] == [(300, 2), (300, 3)]
        for said, own_said in zip(found.predict_proba(X), native, strict=True):
            np.testing.assert_allclose(said, own_said, atol=1e-5)
        best = [known[p.argmax(axis=1)] for known, p in zip(found.classes_, native, strict=True)]
        np.testing.assert_array_equal(np.stack(best, axis=1), found.predict(X))


def test_several_labels_may_be_words() -> None:
    target = np.stack([np.array(["n", "y"])[Y], np.array(["a", "b"])[(X[:, 0] > 0) * 1]], axis=1)
    found = forest().fit(X, target)
    assert [list(known) for known in found.classes_] == [["n", "y"], ["a", "b"]]
    assert np.mean(found.predict(X) == target) > 0.8
    with pytest.raises(DataError, match="y has 1 column, and the model has 2 targets"):
        found.partial_fit(X, Y)


def test_sparse_rows_in_pieces_are_put_together_by_target(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxtune.sklearn import inputs

    target = np.stack([Y, 1 - Y], axis=1)
    for own in (forest(), TunedClassifier(MultiOutputClassifier(LogisticRegression()), **QUICK)):
        found = own.fit(sparse.csr_matrix(X), target)
        whole = found.predict_proba(X.astype(np.float32))
        with monkeypatch.context() as patched:
            patched.setattr(inputs, "_UNPACKED", 256)
            pieces = found.predict_proba(sparse.csr_matrix(X))
        for said, each in zip(pieces, whole, strict=True):
            np.testing.assert_array_equal(said, each)


# What is refused


@pytest.mark.parametrize(
    ("tuned", "match"),
    [
        (TunedRegressor(LogisticRegression()), "a classifier: TunedClassifier wraps it"),
        (TunedClassifier(Ridge()), "a regressor: TunedRegressor wraps it"),
        (TunedTransformer(Ridge()), "has `transform`, .* not Ridge"),
        (TunedClassifier(LogisticRegression), "not LogisticRegression itself: call it"),
        (TunedClassifier(None), "not NoneType"),
    ],
    ids=["classifier", "regressor", "transformer", "class", "None"],
)
def test_what_cannot_be_wrapped_is_refused(tuned: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        tuned.fit(X, Y)


def test_a_classifiers_file_is_no_regressor() -> None:
    file = onnxtune.to_onnx(LogisticRegression().fit(X, Y), X)
    with pytest.raises(ArgumentError, match="a classifier"):
        TunedRegressor(file, **QUICK).fit(X, Y)


def test_rows_and_labels_that_do_not_fit_are_named() -> None:
    frame = pd.DataFrame(X, columns=list("abcdef"))
    found = logistic().fit(frame, np.array(["u", "v"])[Y])
    with pytest.raises(ValueError, match="NaN or infinity in column 'c'"):
        found.predict(frame.assign(c=np.nan))
    with pytest.raises(DataError, match="the class 'w', which"):
        found.partial_fit(frame[:2], ["u", "w"])
    with pytest.raises(DataError, match="the classes are not those of the fit"):
        found.partial_fit(frame[:2], ["u", "v"], classes=["u", "v", "w"])
    with pytest.raises(ArgumentError, match="holds -1 in row 0"):
        logistic().fit(X, Y, sample_weight=np.where(np.arange(300) == 0, -1.0, 1.0))


# Missing numbers


def test_pipelines_that_fill_in_take_missing_numbers() -> None:
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    frame = pd.DataFrame(holes, columns=list("abcdef")).assign(g=np.where(X[:, 0] > 0, "u", "v"))
    filling = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer([("g", OneHotEncoder(), ["g"]), ("n", filling, list("abcdef"))])
    for first, rows in ((filling, holes), (columns, frame)):
        found = TunedClassifier(make_pipeline(first, LogisticRegression()), **QUICK).fit(rows, Y)
        own = make_pipeline(first, LogisticRegression()).fit(rows, Y)
        assert np.mean(found.predict(rows) == own.predict(rows)) > 0.9
    # Filled in when they come later, too, where the estimator itself answers them.
    later = TunedClassifier(make_pipeline(filling, LogisticRegression()), **QUICK).fit(X, Y)
    assert np.isfinite(later.predict_proba(holes)).all()


def test_missing_numbers_are_refused_where_the_estimator_or_its_export_cannot() -> None:
    holes = np.where(X > 1, np.nan, X)
    scaled = make_pipeline(StandardScaler(), LogisticRegression())  # a scaler takes them
    with pytest.raises(ValueError, match="NaN"):
        TunedClassifier(scaled, **QUICK).fit(holes, Y)
    # And so do forests, whose export sends them elsewhere than scikit-learn.
    for own in (scaled, RandomForestClassifier(5, max_depth=4)):
        found = TunedClassifier(own, **QUICK).fit(X, Y)
        for rows in (holes, pd.DataFrame(holes)):
            with pytest.raises(ValueError, match="NaN"):
                found.predict(rows)


# Back into the pipeline


def test_a_transformers_numbers_go_back() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(600, 6)) * [5, 5, 5, 3, 2, 2]).astype(np.float32)
    y = np.sign(rows[:, 4]).astype(int)
    own = make_pipeline(StandardScaler(), PCA(3, random_state=0))
    tuned = TunedTransformer(own, lr=0.05, freeze="head/*", random_state=0).fit(rows, y)
    assert tuned.report_["accepted"]
    for result in (tuned.onnx_, tuned.result_):
        written = write_back(tuned.estimator_, result)
        np.testing.assert_allclose(written.transform(rows), tuned.transform(rows), atol=1e-5)


def test_a_forests_numbers_go_back_where_nothing_else_may_change() -> None:
    tuned = TunedClassifier(RandomForestClassifier(5, max_depth=4), only_numbers=True, **QUICK)
    tuned.fit(X, Y)
    assert tuned.report_["candidates"]
    own = write_back(tuned.estimator_, tuned.onnx_)
    np.testing.assert_allclose(own.predict_proba(X), tuned.predict_proba(X), atol=1e-5)


def test_it_is_said_what_goes_back() -> None:
    kept = logistic().fit(X[:40], Y[:40])
    for given in ((kept.estimator_, kept.result_), (kept, kept.onnx_), (kept.estimator_, kept)):
        with pytest.raises(ArgumentError, match=r"write_back\(tuned.estimator_, tuned.onnx_\)"):
            write_back(*given)
    own = write_back(kept.estimator_, kept.onnx_)
    np.testing.assert_array_equal(own.coef_, kept.estimator_.coef_)


# Rows that are not stored


def test_what_a_sparse_matrix_does_not_hold_is_zero_to_xgboost_too() -> None:
    rows = sparse.random(300, 30, 0.1, random_state=0, format="csr", dtype=np.float32)
    y = (rows[:, :3].sum(axis=1) > 0).astype(int)
    y = np.asarray(y).ravel()
    xgboost = pytest.importorskip("xgboost")
    boosting = xgboost.XGBClassifier(n_estimators=5)
    found = TunedClassifier(boosting, valid=0.01, **QUICK).fit(rows, y)
    own = xgboost.XGBClassifier(n_estimators=5, random_state=0).fit(rows.toarray(), y)
    np.testing.assert_allclose(found.predict_proba(rows), own.predict_proba(rows.toarray()), 1e-4)
