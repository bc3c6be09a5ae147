"""scikit-learn's own checks of an estimator, on the tuned ones, with the default recipe.

Every check passes, but for those listed below with what a reader can check. Two wrapped
estimators are checked by default, three more with `pytest -m slow`, and nine with
`pytest -m exhaustive`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lightgbm import LGBMClassifier
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from onnxtune.sklearn import TunedClassifier, TunedRegressor, TunedTransformer

_DRAWN = "a forest draws rows: twice as heavy is not there twice (scikit-learn lists it, too)"
_MISSING = "skl2onnx sends missing numbers of a forest to one side, and the export is refused"
_SINGLE = "the model answers in float32, as onnxruntime does; the check wants float64"


def weights(reason: str, *kinds: str) -> dict[str, str]:
    names = [f"check_sample_weight_equivalence_on_{kind}_data" for kind in kinds]
    return dict.fromkeys(names, reason)


MULTI = {"check_regressor_multioutput": _SINGLE}
MISSING = {"check_estimators_pickle": _MISSING}
LABELS = dict.fromkeys(
    (
        "check_classifier_multioutput",
        "check_classifiers_multilabel_representation_invariance",
        "check_classifiers_multilabel_output_format_predict",
        "check_classifiers_multilabel_output_format_predict_proba",
        "check_classifiers_multilabel_output_format_decision_function",
    ),
    "skl2onnx gets a tree's probabilities of several labels wrong, and the export is refused",
)

QUICK = [
    (TunedClassifier(LogisticRegression()), {}),
    (TunedTransformer(StandardScaler()), {}),
]
MORE = [
    (TunedRegressor(Ridge()), MULTI),
    (
        TunedClassifier(RandomForestClassifier(10, max_depth=4)),
        MISSING | weights(_DRAWN, "dense", "sparse"),
    ),
    (
        TunedTransformer(PCA(1)),
        weights("PCA takes no weights: fit says so in a log", "dense", "sparse"),
    ),
]
REST = [
    (
        TunedClassifier(make_pipeline(StandardScaler(), LogisticRegression())),
        weights("a Pipeline hands weights to its last step alone: the scaler has none", "dense"),
    ),
    # The check would set this least weight itself, were the tree not inside.
    (TunedClassifier(DecisionTreeClassifier(max_depth=4, min_weight_fraction_leaf=0.01)), LABELS),
    (TunedClassifier(GaussianNB()), {}),
    (TunedClassifier(RidgeClassifier()), {}),
    (TunedClassifier(LGBMClassifier(n_estimators=10, verbose=-1)), {}),
    (TunedRegressor(DecisionTreeRegressor(max_depth=4)), MULTI),
    (
        TunedRegressor(RandomForestRegressor(10, max_depth=4)),
        MULTI | MISSING | weights(_DRAWN, "dense", "sparse"),
    ),
    (TunedRegressor(HistGradientBoostingRegressor(max_iter=10)), {}),
    (TunedTransformer(MinMaxScaler()), {}),
]


def expected(listed: list[tuple[Any, dict[str, str]]]) -> Callable[[Any], dict[str, str]]:
    by_name = {repr(estimator): failing for estimator, failing in listed}
    return lambda estimator: by_name[repr(estimator)]


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([kind for kind, _ in QUICK], expected_failed_checks=expected(QUICK))
def test_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([kind for kind, _ in MORE], expected_failed_checks=expected(MORE))
def test_more_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([kind for kind, _ in REST], expected_failed_checks=expected(REST))
def test_all_checks(estimator: Any, check: Any) -> None:
    check(estimator)
