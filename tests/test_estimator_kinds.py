"""Which kinds of estimators go all the way, and what is said of those that do not."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import make_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge, SGDClassifier
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestCentroid
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, OneClassSVM

import onnxtune
from onnxtune.errors import ModelError, UnsupportedError

X, CLASSES = make_classification(
    200, 6, n_informative=5, n_redundant=0, n_classes=3, random_state=0
)
Y = make_regression(200, 6, random_state=0, noise=5)[1]
BOTH = np.c_[Y, np.abs(Y)]
HOLES = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
RNG = np.random.default_rng(1)
FRAME = pd.DataFrame(
    {
        "Age (years)": RNG.integers(18, 80, 200),
        "mean radius": X[:, 0],
        "city": RNG.choice(["a b", "c", "d"], 200),
        "code": RNG.integers(0, 4, 200),
    }
)
ANSWER = ((FRAME["Age (years)"] > 40) ^ (FRAME["city"] == "c")).astype(int).to_numpy()


def forest() -> Any:
    return RandomForestClassifier(5, max_depth=4, random_state=0)


def linear() -> Any:
    return LogisticRegression(max_iter=500)


def mixed(final: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    encoder = OneHotEncoder(handle_unknown="ignore")
    parts = [("n", numbers, ["Age (years)", "mean radius"]), ("s", encoder, ["city"])]
    return make_pipeline(ColumnTransformer([*parts, ("c", encoder, ["code"])]), final)


def boosted(name: str) -> Any:
    """An estimator of a boosting library, by its name; the test is skipped without it."""
    library = {"LGBM": "lightgbm", "XGB": "xgboost", "CatBoost": "catboost"}
    prefix = next(start for start in library if name.startswith(start))
    module = pytest.importorskip(library[prefix])
    settings = {
        "LGBM": {"n_estimators": 5, "verbose": -1, "n_jobs": 1},
        "XGB": {"n_estimators": 5, "n_jobs": 1},
        "CatBoost": {"iterations": 5, "verbose": 0, "thread_count": 1},
    }[prefix]
    if prefix == "CatBoost":
        settings["allow_writing_files"] = False
    else:
        pytest.importorskip("onnxmltools")
    return getattr(module, name)(**settings)


class Kind(NamedTuple):
    """An estimator to be fitted; a name starts a boosting library's, a function makes a mixture."""

    make: Any
    rows: Any
    answer: Any
    # Of the learned numbers: whether all or some can be tuned.
    tuned: str = "all"


def pair(first: str, second: str) -> list[tuple[str, Any]]:
    return [("a", boosted(first)), ("b", boosted(second))]


WORKING = {
    "logistic regression": Kind(linear, X, CLASSES),
    "Poisson regression": Kind(PoissonRegressor, X, np.abs(Y)),
    "SGDClassifier": Kind(lambda: SGDClassifier(random_state=0), X, CLASSES),
    "forest": Kind(forest, X, CLASSES),
    "extra trees": Kind(lambda: ExtraTreesClassifier(5, random_state=0), X, CLASSES),
    "forest of two targets": Kind(lambda: RandomForestRegressor(5, random_state=0), X, BOTH),
    "gradient boosting": Kind(lambda: GradientBoostingRegressor(n_estimators=5), X, Y),
    "histogram classifier": Kind(lambda: HistGradientBoostingClassifier(max_iter=5), X, CLASSES),
    "histogram regressor": Kind(lambda: HistGradientBoostingRegressor(max_iter=5), X, Y),
    "histogram with NaN": Kind(lambda: HistGradientBoostingRegressor(max_iter=5), HOLES, Y),
    "bagging": Kind(lambda: BaggingClassifier(n_estimators=3, random_state=0), X, CLASSES),
    "soft vote": Kind(
        lambda: VotingClassifier([("a", forest()), ("b", linear())], voting="soft"), X, CLASSES
    ),
    "vote of regressors": Kind(lambda: VotingRegressor([("a", Ridge()), ("b", SVR())]), X, Y),
    "stack": Kind(lambda: StackingClassifier([("a", forest()), ("b", linear())], cv=2), X, CLASSES),
    "stack of regressors": Kind(
        lambda: StackingRegressor([("a", Ridge()), ("b", SVR())], cv=2), X, Y
    ),
    "one against the rest": Kind(lambda: OneVsRestClassifier(forest()), X, CLASSES),
    "several targets": Kind(lambda: MultiOutputRegressor(Ridge()), X, BOTH),
    "grid search": Kind(
        lambda: GridSearchCV(
            make_pipeline(StandardScaler(), linear()), {"logisticregression__C": [1]}, cv=2
        ),
        X,
        CLASSES,
    ),
    "random search": Kind(
        lambda: RandomizedSearchCV(forest(), {"max_depth": [3]}, n_iter=1, cv=2), X, CLASSES
    ),
    "log of the target": Kind(
        lambda: TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
        X,
        np.abs(Y),
    ),
    "scaled target": Kind(
        lambda: TransformedTargetRegressor(SVR(), transformer=StandardScaler()), X, Y
    ),
    "bins": Kind(lambda: make_pipeline(KBinsDiscretizer(4), linear()), X, CLASSES, "some"),
    "Gaussian process": Kind(lambda: GaussianProcessRegressor(alpha=0.1), X, Y, "some"),
    "naive Bayes": Kind(GaussianNB, X, CLASSES),
    "Bernoulli Bayes": Kind(BernoulliNB, X, CLASSES),
    "multinomial Bayes": Kind(MultinomialNB, np.abs(X), CLASSES),
    "network": Kind(lambda: MLPClassifier((8,), max_iter=20, random_state=0), X, CLASSES),
    "network of a regressor": Kind(
        lambda: MLPRegressor(hidden_layer_sizes=(8,), max_iter=20, random_state=0), X, Y
    ),
    "SVC": Kind(SVC, X, CLASSES > 0),
    "SVR": Kind(SVR, X, Y),
    "LinearSVC": Kind(LinearSVC, X, CLASSES),
    "one class": Kind(OneClassSVM, X, None),
    "LDA": Kind(LinearDiscriminantAnalysis, X, CLASSES),
    "QDA": Kind(QuadraticDiscriminantAnalysis, X, CLASSES),
    "k-means": Kind(lambda: KMeans(3, n_init=1, random_state=0), X, None),
    "Gaussian mixture": Kind(lambda: GaussianMixture(2, random_state=0), X, None),
    "PCA": Kind(lambda: make_pipeline(StandardScaler(), PCA(3), forest()), X, CLASSES),
    "union": Kind(
        lambda: make_pipeline(FeatureUnion([("a", PCA(3)), ("b", StandardScaler())]), linear()),
        X,
        CLASSES,
    ),
    "polynomial": Kind(lambda: make_pipeline(PolynomialFeatures(2), Ridge()), X, Y),
    "power transform": Kind(lambda: make_pipeline(PowerTransformer(), Ridge()), X, Y, "some"),
    "selection": Kind(lambda: make_pipeline(SelectKBest(k=3), linear()), X, CLASSES),
    "neighbours fill holes": Kind(
        lambda: make_pipeline(KNNImputer(), linear()), HOLES, CLASSES, "some"
    ),
    "LightGBM": Kind("LGBMClassifier", X, CLASSES),
    "LightGBM with NaN": Kind("LGBMRegressor", HOLES, Y),
    "XGBoost": Kind("XGBClassifier", X, CLASSES),
    "XGBoost with NaN": Kind("XGBRegressor", HOLES, Y),
    "CatBoost": Kind("CatBoostClassifier", X, CLASSES),
    "CatBoost with NaN": Kind("CatBoostRegressor", HOLES, Y),
    "columns, logistic regression": Kind(lambda: mixed(linear()), FRAME, ANSWER, "some"),
    "columns, forest": Kind(lambda: mixed(forest()), FRAME, ANSWER, "some"),
    "columns, LightGBM": Kind(lambda: mixed(boosted("LGBMClassifier")), FRAME, ANSWER, "some"),
    "columns, XGBoost": Kind(lambda: mixed(boosted("XGBClassifier")), FRAME, ANSWER, "some"),
    "columns, CatBoost": Kind(lambda: mixed(boosted("CatBoostClassifier")), FRAME, ANSWER, "some"),
    "columns, vote of libraries": Kind(
        lambda: mixed(VotingClassifier(pair("LGBMClassifier", "XGBClassifier"), voting="soft")),
        FRAME,
        ANSWER,
        "some",
    ),
    "columns, ordinal, LightGBM": Kind(
        lambda: make_pipeline(
            ColumnTransformer([("o", OrdinalEncoder(), ["city"])], remainder="passthrough"),
            boosted("LGBMClassifier"),
        ),
        FRAME,
        ANSWER,
        "some",
    ),
    "columns, search": Kind(
        lambda: GridSearchCV(mixed(forest()), {"randomforestclassifier__max_depth": [3]}, cv=2),
        FRAME,
        ANSWER,
        "some",
    ),
    "stack of libraries": Kind(
        lambda: StackingRegressor(pair("LGBMRegressor", "CatBoostRegressor"), cv=2), X, Y
    ),
    "text": Kind(
        lambda: make_pipeline(TfidfVectorizer(lowercase=False), linear()),
        ["to be or not", "that is it", "to be that", "not that"] * 10,
        np.array([0, 1, 0, 1] * 10),
        "some",
    ),
}


def fitted(kind: Kind) -> Any:
    made = boosted(kind.make) if isinstance(kind.make, str) else kind.make()
    return made.fit(kind.rows) if kind.answer is None else made.fit(kind.rows, kind.answer)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", WORKING)
def test_the_whole_way(name: str) -> None:
    kind = WORKING[name]
    model = fitted(kind)
    report = onnxtune.inspect(model, sample=kind.rows)
    assert 0 < report.tunable <= report.learned
    if kind.tuned == "all":
        assert report.tunable == report.learned
    hard = onnxtune.convert(model, "hard", sample=kind.rows)
    verdict = onnxtune.verify(model, hard, kind.rows, rtol=1e-4)
    assert verdict.agrees, verdict.text()
    module = onnxtune.to_torch(model, sample=kind.rows)
    rows = kind.rows[:5]
    assert all(tensor.requires_grad for tensor in module.predict(rows).values())


def wrongly(kind: Any, **settings: Any) -> Any:
    return lambda: boosted(kind).set_params(**settings)


# What cannot be exported right: the error, and the end of its advice.
REFUSED: dict[str, tuple[Kind, type[Exception], str]] = {
    "forest with NaN": (
        Kind(forest, HOLES, CLASSES),
        ModelError,
        r"rows with missing numbers .* on_mismatch='warn'",
    ),
    "indicator of holes": (
        Kind(lambda: make_pipeline(SimpleImputer(add_indicator=True), linear()), HOLES, CLASSES),
        ModelError,
        "is wrong: it differs",
    ),
    "isotonic": (
        Kind(lambda: CalibratedClassifierCV(forest(), method="isotonic", cv=2), X, CLASSES),
        ModelError,
        "is wrong: it differs",
    ),
    "LightGBM rf": (
        Kind(wrongly("LGBMRegressor", boosting_type="rf", subsample_freq=1, subsample=0.5), X, Y),
        ModelError,
        "is wrong: it differs from the estimator on 200 of 200 rows",
    ),
    "XGBoost linear": (
        Kind(wrongly("XGBRegressor", booster="gblinear"), X, Y),
        UnsupportedError,
        "only booster='gbtree' has an export",
    ),
    "unknown step": (
        Kind(NearestCentroid, X, CLASSES),
        UnsupportedError,
        "no converter for it. Replace NearestCentroid, register a converter",
    ),
    "chain": (
        Kind(lambda: ClassifierChain(linear()), X, np.c_[CLASSES > 0, CLASSES > 1]),
        UnsupportedError,
        "no conv",
    ),
    "threshold": (
        Kind(lambda: FixedThresholdClassifier(linear(), threshold=0.3), X, CLASSES > 0),
        UnsupportedError,
        "Pass its estimator_",
    ),
    "columns inside": (
        Kind(lambda: CalibratedClassifierCV(mixed(linear()), cv=2), FRAME, ANSWER),
        UnsupportedError,
        r"make_pipeline\(columns, CalibratedClassifierCV\(\.\.\.\)\)",
    ),
    "inverse of a target": (
        Kind(
            lambda: TransformedTargetRegressor(Ridge(), func=np.cbrt, inverse_func=np.positive),
            X,
            Y,
        ),
        UnsupportedError,
        "inverse_func positive has no ONNX form; use one of np.exp",
    ),
    "a function of one's own": (
        Kind(lambda: make_pipeline(FunctionTransformer(np.abs), linear()), X, CLASSES),
        UnsupportedError,
        "FunctionTransformer is not supported",
    ),
    "Gaussian process of classes": (
        Kind(GaussianProcessClassifier, X, CLASSES > 0),
        ModelError,
        "onnxruntime refuses the model.*Replace the step",
    ),
    "no answer for new rows": (
        Kind(DBSCAN, X, None),
        ModelError,
        "DBSCAN has neither predict nor transform",
    ),
}


@pytest.mark.filterwarnings("ignore:y_pred values do not sum")
@pytest.mark.filterwarnings("ignore:The provided functions")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_what_to_do(name: str) -> None:
    kind, error, message = REFUSED[name]
    model = fitted(kind)
    with pytest.raises(error, match=message):
        onnxtune.inspect(model, sample=kind.rows)


# Exported right, and converted; nothing of it is tuned by the operators that there are.
CONVERTED = {
    "isolation forest": Kind(lambda: IsolationForest(n_estimators=5, random_state=0), X, None),
    "neighbours": Kind(KNeighborsClassifier, X, CLASSES),
    "neighbours of a regressor": Kind(KNeighborsRegressor, X, Y),
    "AdaBoost": Kind(lambda: AdaBoostClassifier(n_estimators=3), X, CLASSES),
    "calibrated": Kind(lambda: CalibratedClassifierCV(forest(), cv=2), X, CLASSES),
    "hard vote": Kind(lambda: VotingClassifier([("a", forest()), ("b", linear())]), X, CLASSES),
    "one against one": Kind(lambda: OneVsOneClassifier(linear()), X, CLASSES),
    "several labels": Kind(lambda: MultiOutputClassifier(linear()), X, np.c_[CLASSES, CLASSES > 0]),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_converted(name: str) -> None:
    kind = CONVERTED[name]
    model = fitted(kind)
    report = onnxtune.inspect(model, sample=kind.rows)
    assert report.learned > 0
    hard = onnxtune.convert(model, "hard", sample=kind.rows)
    verdict = onnxtune.verify(model, hard, kind.rows, rtol=1e-4)
    assert verdict.agrees, verdict.text()
    if not report.tunable:
        with pytest.raises(UnsupportedError, match=type(model).__name__):
            onnxtune.to_torch(model, sample=kind.rows)
