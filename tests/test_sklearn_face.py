"""The tuned estimators: what they learn, say and carry, whatever they wrap."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from pipelines import data_of, exported
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification, make_friedman1, make_multilabel_classification
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

import onnxtune
from onnxtune.errors import ArgumentError, DataError, ModelError, UnsupportedError
from onnxtune.sklearn import TunedClassifier, TunedRegressor, TunedTransformer
from onnxtune.sklearn.predictor import _forget_sessions

QUICK = {"epochs": 4, "random_state": 0}


def bare(model: onnx.ModelProto, X: Any, output: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: np.asarray(X, np.float32)})[output]


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    return make_classification(600, 8, n_informative=5, flip_y=0.1, random_state=0)


@pytest.fixture(scope="module")
def forest(rows: Any) -> TunedClassifier:
    X, y = rows
    own = make_pipeline(StandardScaler(), RandomForestClassifier(5))  # much too sure of itself
    found = TunedClassifier(own, valid=0.5, routing="leaves", epochs=8, random_state=0)
    return found.fit(X[:500], y[:500])


# What a fit brings


def test_a_tuned_forest_says_more_and_answers_as_its_model(forest: Any, rows: Any) -> None:
    X, y = rows[0][500:], rows[1][500:]
    assert forest.report_["accepted"] and forest.report_["kept"] is None
    assert forest.history_ and forest.history_[0]["epoch"] == 1
    np.testing.assert_array_equal(forest.predict(X), bare(forest.onnx_, X, 0))
    np.testing.assert_allclose(forest.predict_proba(X), bare(forest.onnx_, X, 1), atol=1e-6)
    assert forest.score(X, y) == np.mean(forest.predict(X) == y) > 0.8
    assert not np.allclose(forest.predict_proba(X), forest.estimator_.predict_proba(X), atol=0.01)
    assert onnxtune.verify(forest.result_.model(), forest.onnx_, X.astype(np.float32)).agrees


def test_rows_that_judge_are_not_fitted_on(rows: Any) -> None:
    X, y = rows
    # A whole tree knows every row that it was fitted on.
    found = TunedClassifier(DecisionTreeClassifier(), **QUICK).fit(X, y)
    assert found.report_["candidates"][0]["before"] > 1
    assert found.result_ is not None
    assert found.estimator_.tree_.n_node_samples[0] == len(X) - found.report_["validation_rows"]


def test_where_tuning_does_not_help_all_rows_are_fitted_on(rows: Any) -> None:
    X, y = rows
    found = TunedClassifier(LogisticRegression(), **QUICK).fit(X[:40], y[:40])
    assert found.result_ is None and not found.report_["accepted"]
    assert "8 would be left" in found.report_["kept"]
    own = LogisticRegression().fit(X[:40], y[:40])
    np.testing.assert_allclose(found.predict_proba(X), own.predict_proba(X), atol=1e-6)


def test_what_cannot_be_tuned_is_kept(rows: Any, caplog: pytest.LogCaptureFixture) -> None:
    X, y = rows
    found = TunedClassifier(LogisticRegression(), routing="leaves", **QUICK).fit(X, y)
    assert "needs trees" in found.report_["kept"] and "is kept as it was fitted" in caplog.text
    own = LogisticRegression().fit(X, y)
    np.testing.assert_allclose(found.predict_proba(X), own.predict_proba(X), atol=1e-6)


def test_weights_reach_the_fit_and_tuning(rows: Any) -> None:
    X, y = rows
    found = TunedClassifier(LogisticRegression(), class_weight={1: 50.0}, **QUICK).fit(X, y)
    assert found.predict(X).mean() > y.mean() + 0.2
    weight = np.where(y == 1, 50.0, 1.0)
    same = TunedClassifier(LogisticRegression(), **QUICK).fit(X, y, weight)
    np.testing.assert_array_equal(found.predict_proba(X), same.predict_proba(X))
    piped = TunedClassifier(make_pipeline(StandardScaler(), LogisticRegression()), **QUICK)
    assert piped.fit(X, y, weight).predict(X).mean() > y.mean() + 0.2


def test_a_seed_repeats_the_fit_and_is_handed_down(rows: Any) -> None:
    X, y = rows
    first, second = (
        TunedClassifier(RandomForestClassifier(5, max_depth=3), **QUICK).fit(X, y) for _ in "ab"
    )
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert first.estimator_.random_state == 0
    own = TunedClassifier(RandomForestClassifier(5, max_depth=3, random_state=7), **QUICK)
    assert own.fit(X, y).estimator_.random_state == 7


def test_the_parameters_are_tunes_own() -> None:
    names = set(TunedClassifier(LogisticRegression()).get_params(deep=False))
    own = {"estimator", "form", "random_state"}
    import inspect

    assert names - own <= set(inspect.signature(onnxtune.tune).parameters)
    given = inspect.signature(onnxtune.tune).parameters
    for name, parameter in inspect.signature(TunedClassifier).parameters.items():
        if name not in own:
            assert parameter.default == given[name].default, name


def test_arguments_that_are_wrong_are_refused(rows: Any) -> None:
    X, y = rows
    with pytest.raises(ArgumentError, match="epochs"):
        TunedClassifier(LogisticRegression(), epochs=0).fit(X, y)
    with pytest.raises(ArgumentError, match="valid"):
        TunedClassifier(LogisticRegression(), valid=1.5).fit(X, y)
    with pytest.raises(DataError, match="one class"):
        TunedClassifier(LogisticRegression()).fit(X, np.zeros(len(X), int))
    with pytest.raises(DataError, match="one class"):
        TunedClassifier(LogisticRegression()).fit(X, y, sample_weight=y)
    with pytest.raises(NotFittedError):
        TunedClassifier(LogisticRegression()).predict(X)


def test_own_rows_to_judge_by(rows: Any) -> None:
    X, y = rows
    own = TunedRegressor(Ridge(100.0), valid=(X[300:], y[300:] * 1.0), **QUICK)
    assert own.fit(X[:300], y[:300] * 1.0).report_["validation_rows"] == 300
    assert TunedRegressor(Ridge(), valid="last", **QUICK).fit(X, y * 1.0).report_


# Labels


@pytest.mark.parametrize(
    "labels",
    [["spam", "ham"], [3, 7], [1.0, 2.0], [False, True], np.array([4, 9], np.int32)],
    ids=["strings", "integers", "floats", "booleans", "int32"],
)
def test_labels_of_every_kind_come_back(rows: Any, labels: Any) -> None:
    X, y = rows
    target = np.array(labels)[y]
    found = TunedClassifier(LogisticRegression(), **QUICK).fit(X, target)
    own = LogisticRegression().fit(X, target)
    assert list(found.classes_) == list(own.classes_)
    assert np.mean(found.predict(X) == own.predict(X)) > 0.95
    best = found.classes_[found.predict_proba(X).argmax(axis=1)]
    assert list(best) == list(found.predict(X))
    if isinstance(labels, np.ndarray):
        assert found.predict(X).dtype == np.int32


@pytest.mark.parametrize(
    "own",
    [LinearSVC(), SVC(), RidgeClassifier(), LogisticRegression()],
    ids=lambda own: type(own).__name__,
)
@pytest.mark.parametrize("classes", [2, 3])
def test_decisions_agree_with_labels(own: Any, classes: int) -> None:
    X, y = make_classification(
        300, 8, n_informative=5, n_classes=classes, n_clusters_per_class=1, random_state=1
    )
    if isinstance(own, SVC) and classes == 3:
        pytest.skip("skl2onnx exports the scores of pairs")
    found = TunedClassifier(own, **QUICK).fit(X, y)
    scores = found.decision_function(X)
    assert scores.shape == ((300,) if classes == 2 else (300, 3))
    best = (scores > 0).astype(int) if classes == 2 else scores.argmax(axis=1)
    assert np.mean(best == found.predict(X)) > 0.99
    assert hasattr(found, "predict_proba") == hasattr(own, "predict_proba")


def test_several_labels() -> None:
    X, Y = make_multilabel_classification(300, 10, n_classes=3, random_state=0)
    for own in (OneVsRestClassifier(LogisticRegression()), RandomForestClassifier(10, max_depth=4)):
        found = TunedClassifier(own, **QUICK).fit(X, Y)
        assert found.predict(X).shape == Y.shape
        assert np.mean(found.predict(X) == Y) > 0.7
        native = found.estimator_.predict_proba(X)
        said = found.predict_proba(X)
        assert isinstance(said, list) == isinstance(native, list)
        if isinstance(said, list):
            assert [each.shape for each in said] == [each.shape for each in native]
        else:
            np.testing.assert_array_equal(said > 0.5, found.predict(X) == 1)


def test_several_numbers() -> None:
    X, y = make_friedman1(400, random_state=0)
    Y = np.stack([y, -2 * y], axis=1)
    for own in (Ridge(1000.0), RandomForestRegressor(10, max_depth=4)):
        found = TunedRegressor(own, **QUICK).fit(X, Y)
        assert found.predict(X).shape == Y.shape
        assert found.predict(X[:1]).shape == (1, 2)


def test_probabilities_stay_within_one() -> None:
    X, y = make_classification(300, 4, class_sep=5.0, flip_y=0.0, random_state=0)
    own = RandomForestClassifier(10, max_depth=4)
    found = TunedClassifier(own, routing="leaves", **QUICK).fit(X, y)
    said = bare(found.onnx_, X, 1)
    assert said.max() > 1 or found.result_ is not None  # ten tenths in single precision
    assert found.predict_proba(X).min() >= 0 and found.predict_proba(X).max() <= 1
    np.testing.assert_allclose(found.predict_proba(X), said, atol=1e-6)
    assert not np.isnan(found.predict_log_proba(X)).any()


# Rows


def table(rows: int = 300) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "city": rng.choice(["Basel", "Linz", "Graz"], rows),
            "age": rng.integers(18, 80, rows),
            "income": rng.normal(50, 10, rows),
        }
    )
    score = (frame["city"] == "Linz") * 2.0 + frame["income"] / 10 - 6 + rng.normal(size=rows)
    return frame, np.where(score > 0, "yes", "no")


def columns() -> ColumnTransformer:
    return ColumnTransformer(
        [("city", OneHotEncoder(), ["city"]), ("rest", StandardScaler(), ["age", "income"])]
    )


def test_tables_of_words_and_numbers() -> None:
    frame, y = table()
    found = TunedClassifier(make_pipeline(columns(), LogisticRegression()), **QUICK).fit(frame, y)
    assert list(found.feature_names_in_) == list(frame.columns) and found.n_features_in_ == 3
    own = make_pipeline(columns(), LogisticRegression()).fit(frame, y)
    assert np.mean(found.predict(frame) == own.predict(frame)) > 0.9
    assert found.predict(frame.iloc[:1]).shape == (1,)
    with pytest.raises(ValueError, match="feature names"):
        found.predict(frame[["age", "city", "income"]])


def test_a_tuned_estimator_is_a_model_argument() -> None:
    frame, y = table()
    found = TunedClassifier(make_pipeline(columns(), LogisticRegression()), **QUICK)
    with pytest.raises(ModelError, match="not fitted"):
        onnxtune.inspect(found)
    found.fit(frame, y)
    assert onnxtune.to_onnx(found, frame) == onnxtune.to_onnx(found) == found.onnx_
    assert onnxtune.inspect(found).tunable == onnxtune.inspect(found.onnx_).tunable
    assert (onnxtune.Runner(found, "cpu")(frame)["label"] == found.predict(frame)).all()
    assert onnxtune.verify(found, onnxtune.convert(found, "hard"), frame).agrees
    assert [*onnxtune.split(pickle.loads(pickle.dumps(found))).parts] == ["cpu", "gpu", "tail"]


def test_a_step_that_is_tuned_by_itself_is_refused_with_what_to_do(rows: Any) -> None:
    X, y = rows
    tuned = TunedClassifier(LogisticRegression(), **QUICK)
    with pytest.raises(UnsupportedError, match=r"TunedClassifier\(Pipeline\(\.\.\.\)\)"):
        onnxtune.to_onnx(make_pipeline(StandardScaler(), tuned).fit(X, y), X)


def test_tables_of_numbers_keep_their_names(rows: Any) -> None:
    X, y = rows
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(8)])
    found = TunedClassifier(LogisticRegression(), **QUICK).fit(frame, y)
    with pytest.warns(UserWarning, match="feature names"):
        plain = found.predict_proba(X)
    np.testing.assert_array_equal(found.predict_proba(frame), plain)


def test_sparse_rows_answer_as_dense_ones(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy import sparse

    from onnxtune.sklearn import inputs

    X, y = rows
    X = np.where(np.abs(X) > 1, X, 0).astype(np.float32)
    found = TunedClassifier(LogisticRegression(), **QUICK).fit(sparse.csr_matrix(X), y)
    monkeypatch.setattr(inputs, "_UNPACKED", 256)  # in pieces
    for kind in (sparse.csr_matrix, sparse.csc_array, sparse.coo_array):
        np.testing.assert_array_equal(found.predict_proba(kind(X)), found.predict_proba(X))


def test_sparse_rows_are_refused_where_the_estimator_takes_none(rows: Any) -> None:
    from scipy import sparse

    X, y = rows
    with pytest.raises(TypeError, match="parse"):
        TunedClassifier(LinearDiscriminantAnalysis()).fit(sparse.csr_matrix(X), y)


@pytest.mark.parametrize("kind", [np.float64, np.int64, list, np.asfortranarray])
def test_rows_of_every_layout(forest: Any, rows: Any, kind: Any) -> None:
    whole = np.round(rows[0] * 3).astype(np.float32)
    given = {list: whole.tolist(), np.asfortranarray: np.asfortranarray(whole)}.get(
        kind, whole if kind in (list, np.asfortranarray) else whole.astype(kind)
    )
    np.testing.assert_array_equal(forest.predict_proba(given), forest.predict_proba(whole))
    np.testing.assert_array_equal(
        forest.predict_proba(np.repeat(whole, 2, axis=0)[::2]), forest.predict_proba(whole)
    )


def test_rows_that_do_not_fit_are_refused(forest: Any, rows: Any) -> None:
    X = rows[0].astype(np.float32)
    with pytest.raises(ValueError, match="8 features"):
        forest.predict(X[:, :5])
    with pytest.raises(ValueError, match="2D array"):
        forest.predict(X[0])
    with pytest.raises(ValueError, match="0 sample"):
        forest.predict(X[:0])
    for value in (np.nan, np.inf, -np.inf):
        bad = X.copy()
        bad[3, 2] = value
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            forest.predict(bad)
    large = np.full((1, 8), 3e38, np.float32)  # finite, though its square is not
    assert forest.predict(large).shape == (1,)
    with pytest.warns(RuntimeWarning, match="overflow"), pytest.raises(ValueError, match="e\\+"):
        forest.predict(np.full((1, 8), 1e300))


def test_missing_numbers_go_where_the_estimator_takes_them(rows: Any) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    X, y = rows
    X = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    own = HistGradientBoostingClassifier(max_iter=10)
    found = TunedClassifier(own, **QUICK).fit(X, y)
    assert found.score(X, y) > 0.8


# A model that comes as it is


def test_a_model_file(tmp_path: Path) -> None:
    (X, y), (X_more, y_more), _ = data_of("forest")
    path = tmp_path / "forest.onnx"
    onnx.save(exported("forest"), path)
    for given in (str(path), path, path.read_bytes()):
        found = TunedClassifier(given, routing="leaves", **QUICK).fit(X, y)
        assert found.report_["accepted"] and list(found.classes_) == [0, 1]
        assert found.estimator_ is None and found.result_ is not None
    assert hasattr(found, "predict_proba") and found.score(X_more, y_more) > 0.9
    np.testing.assert_allclose(found.predict_proba(X), bare(found.onnx_, X, 1), atol=1e-6)
    few = TunedClassifier(path, **QUICK).fit(X[:6], [0, 1] * 3)
    assert few.report_["kept"] == "10 rows are needed"
    assert few.onnx_ == exported("forest")


def test_a_model_with_a_zip_map() -> None:
    (X, y), _, _ = data_of("logistic of three")
    plain = TunedClassifier(exported("logistic of three").SerializeToString(), **QUICK)
    zipped = TunedClassifier(exported("logistic of three", True).SerializeToString(), **QUICK)
    np.testing.assert_allclose(
        zipped.fit(X, y).predict_proba(X), plain.fit(X, y).predict_proba(X), atol=1e-6
    )
    assert any(node.op_type == "ZipMap" for node in zipped.onnx_.graph.node)


def test_a_regression_file() -> None:
    (X, y), _, _ = data_of("ridge")
    found = TunedRegressor(exported("ridge"), **QUICK).fit(X, y)
    assert found.predict(X).shape == y.shape and found.score(X, y) > 0.3


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_other_forms(rows: Any, form: Any) -> None:
    X, y = rows
    own = RandomForestClassifier(10, max_depth=3)
    found = TunedClassifier(own, form=form, routing="soft", **QUICK).fit(X, y)
    assert {node.domain for node in found.onnx_.graph.node} == {""}
    assert found.score(X, y) > 0.8
    with pytest.raises(UnsupportedError, match="native"):
        found.partial_fit(X, y)


# Further rows


def test_further_rows_go_on_with_the_tuning() -> None:
    X, y = make_friedman1(600, random_state=0)
    found = TunedRegressor(Ridge(3000.0), lr=0.02, **QUICK).fit(X[:200], y[:200])
    before = found.score(X, y)
    for at in range(200, 600, 50):
        assert found.partial_fit(X[at : at + 50], y[at : at + 50]) is found
    assert found.score(X, y) > before
    assert found.report_["online"]["rows"] == 400 and found.report_["online"]["gain"] > 0
    assert found.result_ is None
    again = pickle.loads(pickle.dumps(found)).partial_fit(X[:50], y[:50])
    assert again.report_["online"]["rows"] == 50


def test_the_first_rows_are_fitted_on(rows: Any) -> None:
    X, y = rows
    found = TunedClassifier(LogisticRegression(), **QUICK)
    assert found.partial_fit(X[:100], y[:100], classes=[0, 1]).score(X, y) > 0.6
    found.partial_fit(X[100:], y[100:], sample_weight=np.ones(500))
    with pytest.raises(DataError, match="the class 5"):
        found.partial_fit(X, np.where(y == 1, 5, 0))
    with pytest.raises(DataError, match="every one of the classes"):
        TunedClassifier(LogisticRegression()).partial_fit(X, y, classes=[0, 1, 2])


# Transformers


def test_a_transformer_learns_what_the_target_needs() -> None:
    # What matters lies in a direction of little variance, which a PCA leaves out.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 6)) * [5, 5, 5, 3, 2, 2]
    y = np.sign(X[:, 4] + 0.1 * rng.normal(size=600)).astype(int)
    found = TunedTransformer(PCA(3, random_state=0), lr=0.05, random_state=0).fit(X, y)
    assert found.report_["accepted"]
    plain = (
        make_pipeline(PCA(3), LogisticRegression()).fit(X[:300], y[:300]).score(X[300:], y[300:])
    )
    tuned = LogisticRegression().fit(found.transform(X[:300]), y[:300])
    assert tuned.score(found.transform(X[300:]), y[300:]) > plain + 0.1
    assert [value.name for value in found.onnx_.graph.output] == ["transformed"]
    np.testing.assert_allclose(bare(found.onnx_, X, 0), found.transform(X), atol=1e-5)
    assert not any(node.op_type == "LinearClassifier" for node in found.onnx_.graph.node)
    moved = found.onnx_
    found.partial_fit(X[:100], y[:100])
    assert found.onnx_ != moved


def test_a_transformer_of_which_nothing_moves_is_kept(rows: Any) -> None:
    X, y = rows
    codes = np.round(X[:, :2])
    own = TunedTransformer(OneHotEncoder(handle_unknown="ignore"), lr=0.05, random_state=0)
    found = own.fit(codes, y)
    assert "head/" in found.report_["kept"] or "no gain" in found.report_["kept"]
    plain = OneHotEncoder(handle_unknown="ignore").fit_transform(codes).toarray()
    np.testing.assert_array_equal(found.transform(codes), plain)


def test_without_a_target_a_transformer_is_as_it_was_fitted() -> None:
    X = np.random.default_rng(0).normal(size=(100, 4))
    found = TunedTransformer(PCA(2)).fit(X)
    assert found.report_["kept"] == "there is no y to tune toward"
    np.testing.assert_allclose(found.transform(X), PCA(2).fit_transform(X), atol=1e-5)
    with pytest.raises(DataError, match="without y"):
        found.partial_fit(X, X[:, 0])


def test_a_head_of_ones_own_and_a_transformer_file(rows: Any) -> None:
    X, y = rows
    own = TunedTransformer(StandardScaler(), head=Ridge(), **QUICK).fit(X, y)
    assert own.report_["loss"] == "squared"
    file = onnxtune.to_onnx(PCA(3).fit(X), X).SerializeToString()
    found = TunedTransformer(file, **QUICK).fit(X, y)
    assert found.transform(X).shape == (600, 3)


def test_tables_in_and_out() -> None:
    frame, y = table()
    numbers = frame[["age", "income"]]
    found = TunedTransformer(StandardScaler(), **QUICK).set_output(transform="pandas")
    made = found.fit(numbers, y).transform(numbers)
    assert list(made.columns) == ["age", "income"] and made.index.equals(numbers.index)
    coded = TunedTransformer(columns(), **QUICK).fit(frame, y)
    assert list(coded.get_feature_names_out())[:2] == ["city__city_Basel", "city__city_Graz"]
    assert coded.transform(frame).shape == (300, 5)
    import sklearn

    with sklearn.config_context(transform_output="pandas"):
        assert list(coded.transform(frame).columns) == list(coded.get_feature_names_out())


# Pickles, copies, processes and threads


def test_a_pickle_holds_the_models_bytes(forest: Any, rows: Any, tmp_path: Path) -> None:
    X = rows[0].astype(np.float32)
    said = forest.predict_proba(X)
    content = len(forest.onnx_.SerializeToString())
    for again in (pickle.loads(pickle.dumps(forest)), copy.deepcopy(forest)):
        np.testing.assert_array_equal(again.predict_proba(X), said)
        assert not hasattr(again, "estimator_") and not hasattr(again, "result_")
        assert again.onnx_ == forest.onnx_ and again.report_ == forest.report_
    assert len(pickle.dumps(forest)) <= 1.1 * content + 50_000
    joblib.dump(forest, tmp_path / "forest.joblib")
    assert (tmp_path / "forest.joblib").stat().st_size <= 1.1 * content + 50_000
    np.testing.assert_array_equal(joblib.load(tmp_path / "forest.joblib").predict_proba(X), said)
    assert clone(forest).get_params(deep=False).keys() == forest.get_params(deep=False).keys()


def test_another_process_says_the_same_bits_and_needs_no_torch(
    forest: Any, rows: Any, tmp_path: Path
) -> None:
    X = rows[0].astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    (tmp_path / "forest.pickle").write_bytes(pickle.dumps(forest))
    code = (
        "import pickle, sys, numpy as np; "
        "found = pickle.load(open('forest.pickle', 'rb')); "
        "np.save('said.npy', found.predict_proba(np.load('X.npy'))); "
        "print('torch' in sys.modules, 'skl2onnx' in sys.modules)"
    )
    root = str(Path(onnxtune.__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.split() == ["False", "False"]
    np.testing.assert_array_equal(np.load(tmp_path / "said.npy"), forest.predict_proba(X))


def test_threads_share_one_session(forest: Any, rows: Any) -> None:
    X = rows[0].astype(np.float32)
    fresh = pickle.loads(pickle.dumps(forest))
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(fresh.predict_proba, [X] * 32))
    assert all(np.array_equal(each, said[0]) for each in said)


def test_a_forked_process_makes_a_session_of_its_own(forest: Any, rows: Any) -> None:
    X = rows[0].astype(np.float32)
    said = forest.predict_proba(X)
    before = forest._predictor._run
    _forget_sessions()  # what a fork calls in the child
    np.testing.assert_array_equal(forest.predict_proba(X), said)
    assert forest._predictor._run is not before


def test_loky_workers_answer(forest: Any, rows: Any) -> None:
    X = rows[0].astype(np.float32)
    with joblib.parallel_config("loky", n_jobs=2):
        said = joblib.Parallel()(joblib.delayed(forest.predict_proba)(X) for _ in range(2))
    for each in said:
        np.testing.assert_array_equal(each, forest.predict_proba(X))
