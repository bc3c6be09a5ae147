"""Tuned numbers in a copy of the fitted pipeline: it answers as the native model does."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moved_numbers import moved
from repeatable import examples
from sklearn.base import is_classifier
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
)
from sklearn.linear_model import (
    LogisticRegression,
    SGDClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, NuSVC
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils import all_estimators
from written_rows import (
    BOTH,
    CODES,
    HOLES,
    MAY_DIFFER,
    PARITY,
    ROWS,
    THREE,
    TWO,
    WORDS,
    X,
    Y,
    check,
    fit,
    rows_like,
    rows_that_differ,
)

import onnxtune
from onnxtune.runtime import input_types, run
from onnxtune.sklearn import write_back
from onnxtune.sklearn.steps.registry import all_steps
from onnxtune.sklearn.steps.tree_walk import widest

# Every kind of step that is known

SETTINGS: dict[str, dict[str, Any]] = {
    "Binarizer": {"threshold": 0.2},
    "GradientBoostingClassifier": {"n_estimators": 5},
    "GradientBoostingRegressor": {"n_estimators": 5},
    "HistGradientBoostingClassifier": {"max_iter": 5},
    "HistGradientBoostingRegressor": {"max_iter": 5},
    "IncrementalPCA": {"n_components": 3},
    "KBinsDiscretizer": {"encode": "onehot-dense", "quantile_method": "averaged_inverted_cdf"},
    "LGBMClassifier": {"n_estimators": 5, "verbose": -1, "n_jobs": 1},
    "LGBMRanker": {"n_estimators": 5, "verbose": -1, "n_jobs": 1},
    "LGBMRegressor": {"n_estimators": 5, "verbose": -1, "n_jobs": 1},
    "LassoLarsIC": {"criterion": "bic"},
    "MLPClassifier": {"hidden_layer_sizes": (7, 5), "max_iter": 30},
    "MLPRegressor": {"hidden_layer_sizes": (7,), "max_iter": 30, "activation": "tanh"},
    "PCA": {"n_components": 3},
    "SGDClassifier": {"loss": "log_loss"},
    "TheilSenRegressor": {"max_subpopulation": 50},
    "TruncatedSVD": {"n_components": 3},
    "TweedieRegressor": {"power": 1.5},
    **{
        name: {"n_estimators": 5, "n_jobs": 1}
        for name in ("XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor")
    },
    **{
        name: {"n_estimators": 7, "max_depth": 6}
        for name in (
            "ExtraTreesClassifier",
            "ExtraTreesRegressor",
            "RandomForestClassifier",
            "RandomForestRegressor",
        )
    },
}
# No rows are like numbers, or an offset that is not theirs is moved: they have tests of their own.
APART = {"TfidfVectorizer", "TfidfTransformer", "MaxAbsScaler", "TargetEncoder"}
KINDS = [(library, name) for library, name in sorted(all_steps()) if name not in APART]


def made(library: str, name: str) -> Any:
    if library == "sklearn":
        kind = dict(all_estimators()).get(name)
        if kind is None:
            pytest.skip(f"this scikit-learn has no {name}")
    else:
        kind = getattr(pytest.importorskip(library), name)
        pytest.importorskip("onnxmltools")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some will go
        settings = {"random_state": 0} if "random_state" in kind().get_params() else {}
        return kind(**settings, **SETTINGS.get(name, {}))


@pytest.mark.filterwarnings("ignore:Class PassiveAggressive:FutureWarning")
@pytest.mark.parametrize(("library", "name"), KINDS, ids=[name for _, name in KINDS])
def test_every_step_answers_as_the_tuned_model(library: str, name: str) -> None:
    estimator = made(library, name)
    rows, more = X, {}
    if name == "SimpleImputer":
        rows = HOLES
    if is_classifier(estimator):
        targets = [TWO, THREE if library == "xgboost" else WORDS]
        # Where the export itself is wrong: XGBoost's of three classes, skl2onnx's of two.
        targets = {"XGBRFClassifier": targets[:1], "LinearDiscriminantAnalysis": targets[1:]}.get(
            name, targets
        )
    elif name == "LGBMRanker":
        targets, more = [THREE], {"group": [40] * 10}
    elif name.startswith("MultiTask"):
        targets = [BOTH]
    else:
        targets = [np.exp(Y / 4) if "ammaReg" in name or "PoissonReg" in name else Y]
        if name == "TweedieRegressor":
            targets = [np.exp(Y / 4)]
        if name in ("LinearRegression", "DecisionTreeRegressor", "RandomForestRegressor"):
            targets.append(BOTH)
    for target in targets:
        fitted = fit(estimator, rows, target, **more)
        model = onnxtune.to_onnx(fitted)
        check(fitted, model, moved(model), rows_like(rows))


VARIANTS = {
    "a clipped range": (MinMaxScaler(clip=True), X, None),
    "whitening": (PCA(3, whiten=True), X, None),
    "no intercept": (LogisticRegression(fit_intercept=False), X, TWO),
    "margins": (make_pipeline(StandardScaler(), SGDClassifier(random_state=0)), X, TWO),
    "boosting, exponential loss": (
        GradientBoostingClassifier(loss="exponential", n_estimators=5), X, TWO),
    "boosting, a robust loss": (GradientBoostingRegressor(loss="huber", n_estimators=5), X, Y),
    "boosting with missing values": (HistGradientBoostingRegressor(max_iter=5), HOLES, Y),
    "probabilities": (SVC(probability=True, random_state=0), X, WORDS),
    "probabilities of two": (NuSVC(probability=True, kernel="linear", random_state=0), X, TWO),
    # Of a regressor's sums in float32 the untuned export has as many rows apart.
    "a polynomial": (SVC(kernel="poly"), X, WORDS),
    "a linear kernel": (SVR(kernel="linear"), X, Y),
    "trees of two numbers": (DecisionTreeRegressor(max_depth=5), X, BOTH),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*`probability` parameter:FutureWarning")
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_steps(name: str) -> None:
    estimator, rows, target = VARIANTS[name]
    fitted = fit(estimator, rows, target)
    model = onnxtune.to_onnx(fitted)
    check(fitted, model, moved(model), rows_like(rows))


# Other libraries


def test_lightgbm_with_categories_missing_values_and_an_early_end() -> None:
    rng = np.random.default_rng(2)
    lightgbm = pytest.importorskip("lightgbm")
    pytest.importorskip("onnxmltools")
    settings = {"n_estimators": 40, "verbose": -1, "n_jobs": 1, "min_child_samples": 5}
    grouped = lightgbm.LGBMClassifier(**settings, min_data_per_group=5, cat_smooth=1)
    grouped.fit(CODES, PARITY, categorical_feature=[4])
    model = onnxtune.to_onnx(grouped)
    rows = rows_like(CODES)
    rows[:, 4] = rng.integers(0, 8, ROWS)
    check(grouped, model, moved(model), rows)
    stopped = lightgbm.LGBMClassifier(**settings, learning_rate=1.0)
    until = {"callbacks": [lightgbm.early_stopping(2, verbose=False)]}
    fit(stopped, HOLES[:200], TWO[:200], eval_set=[(HOLES[200:], TWO[200:])], **until)
    assert stopped.best_iteration_ < 40
    model = onnxtune.to_onnx(stopped)
    written = check(stopped, model, moved(model), rows_like(HOLES))
    assert written.best_iteration_ == stopped.best_iteration_


def test_a_probability_of_about_a_half_in_xgboost() -> None:
    """It is held in float32, of which a logit near 0 has few digits; the answers have all."""
    xgboost = pytest.importorskip("xgboost")
    pytest.importorskip("onnxmltools")
    fitted = xgboost.XGBClassifier(n_estimators=5, base_score=0.501, n_jobs=1).fit(X, TWO)
    model = onnxtune.to_onnx(fitted)
    tuned = moved(model, 0.01)
    base = {a.name: a.floats for a in tuned.graph.node[0].attribute}["base_values"]
    assert abs(base[0]) < 0.05
    check(fitted, model, tuned, rows_like(X))


def test_lightgbm_in_doubles() -> None:
    """Dates in seconds, of which float32 holds every 128th."""
    lightgbm = pytest.importorskip("lightgbm")
    pytest.importorskip("onnxmltools")
    rng = np.random.default_rng(2)
    rows = np.c_[1.7e9 + rng.integers(0, 300, 400), rng.normal(size=400)]
    target = ((rows[:, 0] % 300 > 140) ^ (rows[:, 1] > 0)).astype(int)
    fitted = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(rows, target)
    model = onnxtune.to_onnx(fitted, rows)
    assert input_types(model)[0].kind == "tensor(double)"
    check(fitted, model, moved(model), rows)


def test_missing_values_go_where_they_went_in_lightgbm() -> None:
    """It takes them for 0 where it met none; a threshold that moves past 0 may not change that."""
    rng = np.random.default_rng(2)
    lightgbm = pytest.importorskip("lightgbm")
    pytest.importorskip("onnxmltools")
    fitted = lightgbm.LGBMRegressor(n_estimators=10, verbose=-1, n_jobs=1).fit(X, Y)
    model = onnxtune.to_onnx(fitted)
    tuned = moved(model, 1.0)
    rows = np.where(rng.random((ROWS, 6)) < 0.3, np.nan, rows_like(X)).astype(np.float32)
    answers = run(tuned, {"X": rows})["variable"]
    assert rows_that_differ(write_back(fitted, tuned).predict(rows), answers) <= MAY_DIFFER


def test_xgboost_with_categories_and_a_start_of_its_own() -> None:
    xgboost = pytest.importorskip("xgboost")
    pytest.importorskip("onnxmltools")
    table = pd.DataFrame({"a": CODES[:, 0], "c": pd.Categorical(CODES[:, 4].astype(int))})
    fitted = xgboost.XGBClassifier(
        n_estimators=10, enable_categorical=True, max_cat_to_onehot=1, base_score=0.3, n_jobs=1
    ).fit(table, PARITY)
    model = onnxtune.to_onnx(fitted)
    tuned = moved(model)
    answers = run(tuned, {"X": table.astype(np.float32).to_numpy()})["probabilities"]
    assert rows_that_differ(write_back(fitted, tuned).predict_proba(table), answers) == 0
    assert rows_that_differ(fitted.predict_proba(table), answers) > 100


# The parts


@examples(300)
@given(st.floats(-(2.0**100), 2.0**100, width=32), st.floats(-4, 4))
def test_the_widest_double_of_a_threshold(limit: float, ulps: float) -> None:
    threshold = np.array([limit], np.float32)
    with np.errstate(over="ignore"):
        row = threshold.astype(np.float64) + ulps * np.spacing(np.abs(threshold)).astype(np.float64)
        rounded = row.astype(np.float32)
    assert (row <= widest(threshold)) == (rounded <= threshold)


def test_the_widest_double_of_special_thresholds() -> None:
    special = np.array([np.inf, 0.0, -0.0, 0.0, 1e-45], np.float32)
    rows = np.array([1e308, 1e-46, 1e-46, 1e-45, 1e-45])
    with np.errstate(over="ignore"):
        rounded = rows.astype(np.float32)
    assert ((rows <= widest(special)) == (rounded <= special)).all()
    doubles = np.array([0.1, 1.7e9])
    assert widest(doubles) is doubles


def test_the_steps_are_found_by_their_files() -> None:
    assert len(all_steps()) > 60
    assert ("sklearn", "StandardScaler") in all_steps()
