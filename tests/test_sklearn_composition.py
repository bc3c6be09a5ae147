"""The tuned estimators inside searches, pipelines and ensembles, and these inside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import rv_continuous
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    ParameterSampler,
    RandomizedSearchCV,
)
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.sklearn import TunedClassifier, TunedTransformer, search_space

QUICK: dict[str, Any] = {"epochs": 2, "random_state": 0, "threads": 1}


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    return make_classification(240, 6, n_informative=4, flip_y=0.1, random_state=0)


def logistic() -> TunedClassifier:
    return TunedClassifier(LogisticRegression(), **QUICK)


def tree() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_depth=3, random_state=0)


# Searches


def test_a_grid_over_both_on_two_workers(rows: Any) -> None:
    grid = {"estimator__C": [1e-6, 1.0], "lr": [0.01]}
    found = [
        GridSearchCV(logistic(), grid, cv=2, scoring="neg_log_loss", n_jobs=jobs).fit(*rows)
        for jobs in (1, 2)
    ]
    assert found[0].best_params_ == found[1].best_params_
    np.testing.assert_allclose(*(each.cv_results_["mean_test_score"] for each in found), rtol=1e-3)
    assert found[0].best_params_["estimator__C"] == 1.0
    assert found[1].best_estimator_.predict(rows[0]).shape == (240,)


def test_random_and_halving_searches(rows: Any) -> None:
    space = search_space("lr", "noise") | {"estimator__C": [0.1, 1.0]}
    drawn = RandomizedSearchCV(logistic(), space, n_iter=2, cv=2, random_state=0).fit(*rows)
    assert set(drawn.best_params_) == {"lr", "noise", "estimator__C"}
    halved = HalvingGridSearchCV(logistic(), {"estimator__C": [0.1, 1.0]}, cv=2, random_state=0)
    assert halved.fit(*rows).n_iterations_ >= 1


def test_the_space_holds_values_that_tuning_takes() -> None:
    names = ("lr", "epochs", "batch_size", "noise", "clip", "patience", "valid", "companion",
             "routing", "max_size", "temperature")  # fmt: skip
    space = search_space(*names)
    assert isinstance(space["lr"].dist, rv_continuous)
    assert set(search_space()) < set(space) <= set(logistic().get_params(deep=False))
    for drawn in ParameterSampler(space, 20, random_state=0):
        assert 1e-4 <= drawn["lr"] <= 3e-2 and 10 <= drawn["epochs"] <= 60
        assert drawn["routing"] in ("auto", "leaves", "straight-through", "soft")
        assert 0 < drawn["valid"] < 0.5 and 0 <= drawn["noise"] <= 0.1
    assert set(search_space("lr", prefix="tuned__")) == {"tuned__lr"}
    with pytest.raises(ArgumentError, match="'lrate' has no range"):
        search_space("lrate")


def test_what_the_space_draws_can_be_tuned_with(rows: Any) -> None:
    (drawn,) = ParameterSampler(search_space("lr", "batch_size", "temperature", "valid"), 1,
                                random_state=0)  # fmt: skip
    own = TunedClassifier(tree(), **QUICK).set_params(**drawn)
    assert own.fit(*rows).report_["candidates"]


# Inside others


@pytest.mark.parametrize(
    "whole",
    [
        make_pipeline(StandardScaler(), logistic()),
        make_pipeline(make_pipeline(StandardScaler(), PCA(3)), logistic()),
        make_pipeline(TunedTransformer(PCA(3), **QUICK), LogisticRegression()),
        make_pipeline(
            FeatureUnion([("a", TunedTransformer(StandardScaler(), **QUICK)), ("b", PCA(2))]),
            LogisticRegression(),
        ),
        make_pipeline(
            ColumnTransformer([("a", TunedTransformer(StandardScaler(), **QUICK), [0, 1, 2])]),
            logistic(),
        ),
        StackingClassifier([("a", logistic()), ("b", tree())], cv=2),
        VotingClassifier([("a", logistic()), ("b", tree())], voting="soft"),
        CalibratedClassifierCV(logistic(), cv=2),
    ],
    ids=["step", "nested", "transformer", "union", "columns", "stack", "vote", "calibrated"],
)
def test_inside_others(whole: Any, rows: Any) -> None:
    X, y = rows
    words = np.array(["no", "yes"])[y]
    assert whole.fit(X, words).score(X, words) > 0.55
    np.testing.assert_allclose(whole.predict_proba(X).sum(axis=1), 1, rtol=1e-5)


# Others inside


@pytest.mark.parametrize(
    "inner",
    [
        make_pipeline(make_pipeline(StandardScaler(), PCA(4)), LogisticRegression()),
        make_pipeline(FeatureUnion([("a", StandardScaler()), ("b", PCA(2))]), LogisticRegression()),
        make_pipeline(
            ColumnTransformer([("a", StandardScaler(), [0, 1, 2])], remainder="passthrough"), tree()
        ),
        StackingClassifier([("a", LogisticRegression()), ("b", tree())], cv=2),
        VotingClassifier([("a", LogisticRegression()), ("b", tree())], voting="soft"),
    ],
    ids=["nested", "union", "columns", "stack", "vote"],
)
def test_others_inside(inner: Any, rows: Any) -> None:
    X, y = rows
    found = TunedClassifier(inner, **QUICK).fit(X, y)
    assert found.report_["candidates"]
    assert found.score(X, y) > clone(inner).fit(X, y).score(X, y) - 0.1


def test_a_tuned_one_inside_a_tuned_one_has_no_export(rows: Any) -> None:
    with pytest.raises(UnsupportedError, match="TunedClassifier"):
        TunedClassifier(logistic(), **QUICK).fit(*rows)


def test_sparse_rows_of_the_step_before() -> None:
    rng = np.random.default_rng(0)
    words = rng.choice(["a", "b", "c"], (200, 2)).astype(object)
    y = (words[:, 0] == words[:, 1]).astype(int) | (words[:, 0] == "a")
    coded = make_pipeline(OneHotEncoder(), logistic()).fit(words, y)
    inside = TunedClassifier(make_pipeline(OneHotEncoder(), LogisticRegression()), **QUICK)
    inside.fit(words, y)
    for found in (coded, inside):
        assert found.score(words, y) > 0.7
    texts = [" ".join(pair) * 2 for pair in words]
    letters = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), lowercase=False)
    outside = make_pipeline(letters, logistic()).fit(texts, y)
    within = TunedClassifier(make_pipeline(letters, LogisticRegression()), **QUICK).fit(texts, y)
    assert not hasattr(within, "n_features_in_")
    for found in (outside, within):
        assert found.score(texts, y) > 0.7 and found.predict(texts[:1]).shape == (1,)
    np.testing.assert_array_equal(within.predict(np.array(texts)), within.predict(texts))
