"""Fitted estimators become ONNX models that say what the estimator says."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import (
    load_iris,
    make_classification,
    make_multilabel_classification,
    make_regression,
)
from sklearn.ensemble import (
    BaggingRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingRegressor,
    VotingRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
)
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

import onnxtune
from onnxtune import converters
from onnxtune.errors import (
    ArgumentError,
    DataError,
    MissingDependencyError,
    ModelError,
    UnsupportedError,
)
from onnxtune.estimator_conversion import convert
from onnxtune.estimator_rows import inputs_of, rows_of
from onnxtune.estimators import to_onnx
from onnxtune.export_check import compare_export, report_mismatch
from onnxtune.members import members
from onnxtune.model import load
from onnxtune.runtime import ValueType

X, CLASSES = make_classification(300, 8, n_informative=5, n_classes=3, random_state=0)
X = X.astype(np.float32)
Y = make_regression(300, 8, random_state=0, noise=5)[1]


def table(rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "hours-per-week": rng.integers(1, 80, rows),
            "mean radius": rng.normal(0.5, 1, rows),
            "label": rng.choice(["a", "b", "c"], rows),
            "member": rng.random(rows) < 0.5,
            "code": rng.integers(0, 4, rows),
        }
    )


def target(frame: pd.DataFrame) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 0.3, len(frame))
    plain = frame["hours-per-week"] * 0.05 + frame["mean radius"] + (frame["label"] == "a")
    return (plain + (frame["code"] == 2) + noise).to_numpy()


def mixed_pipeline(final: Any) -> Any:
    columns = ColumnTransformer(
        [
            # Integers beside floats, and a mean that is no integer: as int64 neither would convert.
            (
                "numbers",
                make_pipeline(SimpleImputer(), StandardScaler()),
                ["hours-per-week", "mean radius"],
            ),
            ("strings", OneHotEncoder(handle_unknown="ignore"), ["label"]),
            ("codes", OneHotEncoder(handle_unknown="ignore"), ["code"]),
        ],
        remainder="passthrough",
    )
    return make_pipeline(columns, final)


def inputs(proto: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            value.type.tensor_type.shape.dim[1].dim_value,
        )
        for value in proto.graph.input
    }


def outputs(proto: onnx.ModelProto, feed: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)


FLOAT, INT64, STRING = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.STRING


@pytest.mark.parametrize(
    "classifier",
    [
        RandomForestClassifier(5, random_state=0),
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), LogisticRegression())),
        GridSearchCV(make_pipeline(LogisticRegression()), {"logisticregression__C": [1]}, cv=2),
        HistGradientBoostingClassifier(max_iter=5),
    ],
    ids=["forest", "pipeline", "nested", "search", "histogram"],
)
@pytest.mark.parametrize(
    "labels", [None, np.array(["low", "mid", "high"])], ids=["ints", "strings"]
)
def test_classifiers_return_a_label_and_a_tensor(classifier: Any, labels: Any) -> None:
    classes = CLASSES if labels is None else labels[CLASSES]
    classifier.fit(X, classes)
    proto = to_onnx(classifier, X)
    onnx.checker.check_model(proto)
    label, probabilities = outputs(proto, {"X": X})
    np.testing.assert_allclose(probabilities, classifier.predict_proba(X), atol=1e-5)
    assert (label == classifier.predict(X)).mean() > 0.99


@pytest.mark.parametrize(
    "regressor",
    [
        LinearRegression(),
        GradientBoostingRegressor(n_estimators=5),
        make_pipeline(StandardScaler(), RandomForestRegressor(5, random_state=0)),
        HistGradientBoostingRegressor(max_iter=5),
    ],
    ids=["linear", "boosting", "pipeline", "histogram"],
)
def test_regressors(regressor: Any) -> None:
    regressor.fit(X, Y)
    (found,) = outputs(to_onnx(regressor, X), {"X": X})
    np.testing.assert_allclose(found.ravel(), regressor.predict(X), rtol=1e-3, atol=1e-3)


def test_transformers_and_classifiers_without_probabilities() -> None:
    (scaled,) = outputs(to_onnx(StandardScaler().fit(X), X), {"X": X})
    np.testing.assert_allclose(scaled, (X - X.mean(0)) / X.std(0), atol=1e-5)
    classifier = LinearSVC(random_state=0).fit(X, CLASSES)
    assert (outputs(to_onnx(classifier, X), {"X": X})[0] == classifier.predict(X)).all()


def test_versions_are_fixed_and_exports_repeat() -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, CLASSES)
    proto = to_onnx(model, X)
    versions = [(opset.domain, opset.version) for opset in proto.opset_import]
    assert ("", 17) in versions
    assert len(versions) == len(dict(versions))
    assert proto.SerializeToString() == to_onnx(model, X).SerializeToString()


def test_columns_keep_their_names_and_kinds() -> None:
    frame = table()
    model = mixed_pipeline(GradientBoostingRegressor(n_estimators=20)).fit(frame, target(frame))
    proto = to_onnx(model, frame.assign(target=0.0))
    onnx.checker.check_model(proto)
    assert inputs(proto) == {
        "hours-per-week": (FLOAT, 1),
        "mean radius": (FLOAT, 1),
        "label": (STRING, 1),
        "member": (FLOAT, 1),
        "code": (INT64, 1),
    }
    feed = {
        name: frame[[name]].to_numpy(
            {FLOAT: np.float32, INT64: np.int64, STRING: object}[inputs(proto)[name][0]]
        )
        for name in inputs(proto)
    }
    (found,) = outputs(proto, feed)
    np.testing.assert_allclose(found.ravel(), model.predict(frame), rtol=1e-3)


def test_a_column_may_be_named_like_an_output() -> None:
    frame = table()
    model = mixed_pipeline(LogisticRegression()).fit(frame, target(frame) > 2)
    proto = to_onnx(model, frame)
    assert [value.name for value in proto.graph.output] == ["label_output", "probabilities"]
    assert "label" in inputs(proto)


def test_names_that_look_alike_stay_apart() -> None:
    frame = pd.DataFrame(X[:, :3], columns=["a b", "a-b", "a_b"])
    columns = ColumnTransformer(
        [("all", StandardScaler(), ["a-b", "a b"])], remainder="passthrough"
    )
    model = make_pipeline(columns, LinearRegression()).fit(frame, Y)
    assert list(inputs(to_onnx(model, frame))) == ["a b", "a-b", "a_b"]


def test_a_table_of_numbers_is_one_input() -> None:
    frame = table().drop(columns="label")
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(frame, target(table()))
    assert inputs(to_onnx(model, frame)) == {"X": (FLOAT, 4)}
    assert inputs(to_onnx(model, frame.to_numpy())) == {"X": (FLOAT, 4)}
    assert inputs(to_onnx(model)) == {"X": (FLOAT, 4)}


def test_integers_that_an_encoder_looks_up_stay_integers() -> None:
    codes = np.random.default_rng(0).integers(0, 4, (300, 2))
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(codes, CLASSES)
    assert inputs(to_onnx(model, codes)) == {"X": (INT64, 2)}
    frame = pd.DataFrame({"code": codes[:, 0], "city": np.array(["x", "y"])[codes[:, 1] % 2]})
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    model = make_pipeline(encoder, LogisticRegression()).fit(frame, CLASSES)
    assert inputs(to_onnx(model, frame)) == {"code": (INT64, 1), "city": (STRING, 1)}


def test_other_forms_of_data() -> None:
    frame = table()
    model = mixed_pipeline(GradientBoostingRegressor(n_estimators=5)).fit(frame, target(frame))
    expected = to_onnx(model, frame).SerializeToString()
    mapping = {name: frame[name].to_numpy() for name in frame}
    assert to_onnx(model, mapping).SerializeToString() == expected
    column = {name: values.reshape(-1, 1) for name, values in mapping.items()}
    assert to_onnx(model, column).SerializeToString() == expected
    linear = LinearRegression().fit(X, Y)
    assert to_onnx(linear, {"X": X}) == to_onnx(linear, X)
    assert to_onnx(linear, X[:0]) == to_onnx(linear, X)
    assert to_onnx(linear, X.astype(object)) == to_onnx(linear, X)


def test_polars() -> None:
    polars = pytest.importorskip("polars")
    frame = table()
    model = mixed_pipeline(GradientBoostingRegressor(n_estimators=5)).fit(frame, target(frame))
    data = polars.DataFrame({name: frame[name].to_list() for name in frame})
    assert inputs(to_onnx(model, data)) == inputs(to_onnx(model, frame))


def test_text() -> None:
    text = ["to be or not to be", "that is the question", "to be that"] * 20
    words = CountVectorizer(lowercase=False)  # onnxruntime needs a locale to lower words
    model = make_pipeline(words, LogisticRegression()).fit(text, [0, 1, 1] * 20)
    assert inputs(to_onnx(model, text)) == {"X": (STRING, 1)}


def test_model_load_takes_estimators() -> None:
    model = load(LinearRegression().fit(X, Y), X)
    assert model.origin == "LinearRegression"
    assert inputs(model.proto) == {"X": (FLOAT, 8)}


@pytest.mark.parametrize("selector", [["label"], make_column_selector(dtype_exclude="number")])
def test_columns_by_name_need_rows(selector: Any) -> None:
    frame = table()[["label", "mean radius"]]
    columns = ColumnTransformer([("strings", OneHotEncoder(), selector)])
    model = make_pipeline(columns, LinearRegression()).fit(frame, target(table()))
    with pytest.raises(ModelError, match=r"selects columns by name: pass sample=X"):
        to_onnx(model)


def test_unfitted_and_other_objects() -> None:
    with pytest.raises(ModelError, match=r"RandomForestClassifier is not fitted: call fit first\."):
        to_onnx(RandomForestClassifier())
    with pytest.raises(ModelError, match=r"Pipeline is not fitted: call fit first\."):
        to_onnx(make_pipeline(StandardScaler(), LogisticRegression()), X)
    with pytest.raises(ModelError, match="has no fit"):
        to_onnx(object())


def test_what_has_no_converter_is_named() -> None:
    model = make_pipeline(SplineTransformer(), LinearRegression()).fit(X, Y)
    message = "Pipeline: skl2onnx cannot export its step SplineTransformer: there is no converter"
    with pytest.raises(UnsupportedError, match=message) as caught:
        to_onnx(model, X)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    with pytest.raises(ModelError, match="LocalOutlierFactor has neither predict nor transform"):
        load(LocalOutlierFactor().fit(X), X)


def test_rows_that_do_not_fit() -> None:
    frame = table()
    model = mixed_pipeline(GradientBoostingRegressor(n_estimators=5)).fit(frame, target(frame))
    with pytest.raises(DataError, match="needs column 'code'"):
        to_onnx(model, frame.drop(columns="code"))
    linear = LinearRegression().fit(X, Y)
    with pytest.raises(DataError, match="a DataFrame or a 2-D array"):
        to_onnx(linear, X[0])
    with pytest.raises(DataError, match="LinearRegression cannot take these rows"):
        to_onnx(linear, X[:, :5])
    with pytest.raises(DataError, match="one column under each name"):
        to_onnx(linear, {"a": X, "b": X})
    with pytest.raises(DataError, match="same name"):
        to_onnx(linear, pd.DataFrame(X, columns=list("aabcdefg")))
    with pytest.raises(DataError, match="mixes kinds"):
        to_onnx(linear, np.array([[1, "a"]] * 3, dtype=object))
    with pytest.raises(DataError, match="Column 'when' is of type datetime"):
        to_onnx(linear, pd.DataFrame({"when": pd.date_range("2020-01-01", periods=3)}))


def test_a_wrong_export_is_refused() -> None:
    forest = RandomForestRegressor(5, random_state=0).fit(X, Y)
    other = RandomForestRegressor(5, random_state=1).fit(X, Y[::-1])
    rows = rows_of(forest, X)
    assert not compare_export(forest, to_onnx(forest), rows).wrong.any()
    found = compare_export(forest, to_onnx(other), rows)
    assert found.rows > 250 and found.worst > 10 and not found.ties
    figures = rf"differs from the estimator on {found.rows} of 300 rows \(\d+\.\d%\), by up to \d"
    with pytest.raises(ModelError, match=figures):
        report_mismatch(forest, found, "error")
    with pytest.warns(UserWarning, match=figures):
        report_mismatch(forest, found, "warn")


def test_whole_labels_are_the_same_or_another() -> None:
    years = np.where(np.median(Y) < Y, 2021, 2020)
    forest = RandomForestClassifier(5, random_state=0).fit(X, years)
    proto = to_onnx(forest)
    for attribute in proto.graph.node[0].attribute:
        if attribute.name == "classlabels_int64s":
            attribute.ints[:] = [2021, 2020]
    assert compare_export(forest, proto, rows_of(forest, X)).rows > 290


def test_a_forest_that_met_missing_numbers_is_refused() -> None:
    # skl2onnx sends NaN to the right; scikit-learn to the side that it learnt.
    holes = X.copy()
    holes[np.random.default_rng(0).random(X.shape) < 0.01] = np.nan
    forest = RandomForestRegressor(5, random_state=0).fit(holes, Y)
    with pytest.raises(ModelError, match=r"is wrong: .* of 29 rows with missing numbers"):
        to_onnx(forest, holes)


def test_histogram_boosting_keeps_its_missing_numbers() -> None:
    holes = X.copy()
    holes[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    model = HistGradientBoostingClassifier(max_iter=5).fit(holes, CLASSES)
    probabilities = outputs(to_onnx(model, holes), {"X": holes})[1]
    np.testing.assert_allclose(probabilities, model.predict_proba(holes), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (HistGradientBoostingRegressor(max_iter=3, loss="poisson"), "loss='poisson'"),
        (HistGradientBoostingRegressor(max_iter=3, categorical_features=[0]), "categorical"),
    ],
)
def test_histogram_boosting_that_skl2onnx_gets_wrong(model: Any, reason: str) -> None:
    rows = np.c_[np.arange(300) % 4, X]
    model.fit(rows, np.abs(Y))
    with pytest.raises(UnsupportedError, match=reason):
        to_onnx(model)


def on_thresholds() -> tuple[Any, pd.DataFrame]:
    """Deep trees split between 38 and 40, and 39 lies exactly there: float32 arithmetic of a
    scaler makes it fall to either side."""
    frame = table().drop(columns="label")
    model = make_pipeline(StandardScaler(), RandomForestRegressor(5, random_state=0))
    return model.fit(frame, target(table())), frame


def test_values_on_a_threshold_get_a_scaler_in_float64() -> None:
    model, frame = on_thresholds()
    rows = rows_of(model, frame)
    plain = convert(model, inputs_of(model, rows))
    found = compare_export(model, plain, rows)
    assert found.rows > 3 and found.ties and not found.rounded
    with pytest.raises(ModelError, match=r"on \d of 300 rows .*: their values sit on a threshold"):
        report_mismatch(model, found, "error")
    proto = to_onnx(model, frame)
    assert inputs(proto) == {"X": (FLOAT, 4)}
    assert [node.op_type for node in proto.graph.node][:4] == ["Cast", "Sub", "Div", "Cast"]
    (answers,) = outputs(proto, {"X": frame.to_numpy(np.float32)})
    np.testing.assert_allclose(answers.ravel(), model.predict(frame), rtol=1e-5)


@pytest.mark.parametrize(
    "scaler", [MinMaxScaler(clip=True), RobustScaler(), MaxAbsScaler(), MaxAbsScaler(clip=True)]
)
def test_scalers_in_float64(scaler: Any) -> None:
    scaler.fit(X[:200])
    proto = convert(scaler, [ValueType("X", "tensor(float)", (None, 8))], exact="float64")
    (answers,) = outputs(proto, {"X": X})
    assert (answers == scaler.transform(X.astype(np.float64)).astype(np.float32)).all()


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), MaxAbsScaler()])
def test_scalers_in_float32(scaler: Any) -> None:
    scaler.fit(X[:200])
    proto = convert(scaler, [ValueType("X", "tensor(float)", (None, 8))], exact="float32")
    assert (outputs(proto, {"X": X})[0] == scaler.transform(X)).all()


def test_values_on_a_threshold_of_histograms() -> None:
    """Their thresholds are often values of rows that they were fitted on: a last bit decides."""
    model = make_pipeline(StandardScaler(), HistGradientBoostingRegressor(max_leaf_nodes=15))
    for rows in (X, np.random.default_rng(0).random((300, 8))):
        model.fit(rows, Y)
        (answers,) = outputs(to_onnx(model, rows), {"X": rows})
        np.testing.assert_allclose(answers.ravel(), model.predict(rows), rtol=1e-4, atol=1e-4)


def test_a_scaler_in_float64_takes_all_of_its_inputs() -> None:
    frame = pd.DataFrame(X[:, :2].astype(np.float64), columns=["a", "b"])
    passed = ColumnTransformer([("same", "passthrough", ["a"])])
    union = FeatureUnion([("scaled", StandardScaler()), ("passed", passed)]).fit(frame)
    proto = convert(union, inputs_of(union, rows_of(union, frame)), exact="float64")
    (found,) = outputs(proto, {name: X[:, [n]] for n, name in enumerate(frame)})
    np.testing.assert_allclose(found, union.transform(frame), rtol=1e-6)


def test_an_alternative_that_fails_leaves_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    model, frame = on_thresholds()

    def fail(*arguments: Any) -> None:
        raise AttributeError("no such setting")

    monkeypatch.setattr(converters, "_convert_scaler", fail)
    with pytest.warns(UserWarning, match="their values sit on a threshold"):
        assert to_onnx(model, frame, on_mismatch="warn").graph.node[0].op_type == "Scaler"


def test_numbers_that_float32_cannot_hold_are_fed_as_float64() -> None:
    # Seconds since 1970: float32 knows every 128th.
    seconds = 1.7e9 + np.arange(600.0)
    rows = np.c_[seconds, np.random.default_rng(0).normal(size=600)]
    model = HistGradientBoostingRegressor(max_iter=20).fit(rows, np.sin(seconds / 20))
    proto = to_onnx(model, rows)
    assert inputs(proto) == {"X": (onnx.TensorProto.DOUBLE, 2)}
    (answers,) = outputs(proto, {"X": rows})
    np.testing.assert_allclose(answers.ravel(), model.predict(rows), atol=1e-5)
    hard = onnxtune.convert(model, "hard", sample=rows)
    assert onnxtune.verify(model, hard, rows).agrees
    module = onnxtune.to_torch(model, "hard", sample=rows)
    answers = module.predict(rows)["variable"].detach().numpy()
    np.testing.assert_allclose(answers.ravel(), model.predict(rows), atol=1e-5)


def test_lightgbm_on_numbers_that_float32_cannot_hold() -> None:
    seconds = 1.7e9 + np.arange(600.0).reshape(-1, 1)
    model = boosted("lightgbm", "LGBMRegressor").fit(seconds, np.sin(seconds[:, 0] / 20))
    (answers,) = outputs(to_onnx(model, seconds), {"X": seconds})
    np.testing.assert_allclose(answers.ravel(), model.predict(seconds), atol=1e-5)


def test_few_rows_that_differ_warn() -> None:
    forest = RandomForestRegressor(5, random_state=0).fit(X, Y)
    export = to_onnx(forest)
    rows = rows_of(forest, X)
    found = compare_export(forest, export, rows)
    wrong = found.wrong.copy()
    wrong[:3] = True
    found = dataclasses.replace(found, wrong=wrong)
    with pytest.warns(UserWarning, match=r"differs from the estimator on 3 of 300 rows \(1\.0%\)"):
        report_mismatch(forest, found, "error")


def test_missing_strings_warn() -> None:
    frame = table()[["label", "mean radius"]]
    frame["label"] = frame["label"].where(np.arange(300) % 3 != 0, None)
    encoder = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=9
    )
    columns = ColumnTransformer([("strings", encoder, ["label"])], remainder="passthrough")
    model = make_pipeline(columns, LinearRegression()).fit(frame, target(table()))
    with pytest.warns(UserWarning, match="missing strings"):
        to_onnx(model, frame)


def boosted(library: str, kind: str, **settings: Any) -> Any:
    module = pytest.importorskip(library)
    if library != "catboost":
        pytest.importorskip("onnxmltools")
    defaults = {
        "lightgbm": {"n_estimators": 5, "verbose": -1, "n_jobs": 1},
        "xgboost": {"n_estimators": 5, "n_jobs": 1},
        "catboost": {
            "iterations": 5,
            "verbose": 0,
            "thread_count": 1,
            "allow_writing_files": False,
        },
    }
    return getattr(module, kind)(**defaults[library] | settings)


@pytest.mark.parametrize("pipeline", [False, True], ids=["alone", "pipeline"])
@pytest.mark.parametrize(
    ("library", "kind"),
    [("lightgbm", "LGBM"), ("xgboost", "XGB"), ("catboost", "CatBoost")],
)
def test_boosting_libraries(library: str, kind: str, pipeline: bool) -> None:
    # Data between the thresholds: XGBoost's are values of the training data.
    rows = X + 1e-3
    for name, answer in (("Classifier", CLASSES), ("Classifier", CLASSES > 0), ("Regressor", Y)):
        model = boosted(library, kind + name)
        if pipeline:
            model = make_pipeline(StandardScaler(), model)
        if name == "Classifier":
            answer = answer.astype(int)
        model.fit(X, answer)
        found = outputs(to_onnx(model, rows), {"X": rows})
        if name == "Regressor":
            np.testing.assert_allclose(found[0].ravel(), model.predict(rows), rtol=1e-3)
        else:
            np.testing.assert_allclose(found[1], model.predict_proba(rows), atol=1e-4)
            assert (found[0] == model.predict(rows).ravel()).all()


@pytest.mark.parametrize(
    ("library", "kind"),
    [("lightgbm", "LGBMRegressor"), ("xgboost", "XGBRegressor"), ("catboost", "CatBoostRegressor")],
)
def test_boosting_libraries_fitted_on_named_columns(library: str, kind: str) -> None:
    frame = pd.DataFrame(X, columns=[f"column {index}" for index in range(8)])
    model = boosted(library, kind).fit(frame, Y)
    assert inputs(to_onnx(model, frame)) == {"X": (FLOAT, 8)}
    assert inputs(to_onnx(model, X)) == {"X": (FLOAT, 8)}
    assert inputs(to_onnx(model)) == {"X": (FLOAT, 8)}
    if library == "xgboost":
        assert model.get_booster().feature_names == list(frame.columns)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_boosting_in_a_mixed_pipeline(library: str) -> None:
    frame = table()
    kind = {"lightgbm": "LGBMClassifier", "xgboost": "XGBClassifier"}[library]
    model = mixed_pipeline(boosted(library, kind)).fit(frame, (target(frame) > 2).astype(int))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "XGB.*|Pipeline: the export differs", UserWarning)
        assert len(inputs(to_onnx(model, frame))) == 5


def test_lightgbm_forests_are_refused() -> None:
    model = boosted("lightgbm", "LGBMRegressor", boosting_type="rf", bagging_freq=1, subsample=0.5)
    with pytest.raises(ModelError, match="skl2onnx with onnxmltools is wrong: it differs"):
        to_onnx(model.fit(X, Y), X)
    with pytest.raises(UnsupportedError, match="onnxmltools exports boosting=rf wrong"):
        to_onnx(model)
    with pytest.warns(UserWarning, match="of 300 rows"):
        to_onnx(model, X, on_mismatch="warn")
    with pytest.raises(ArgumentError, match="none of error, warn"):
        to_onnx(model, X, on_mismatch="ignore")


@pytest.mark.parametrize(
    "setting", [{"linear_tree": True}, {"zero_as_missing": True}, {"objective": "multiclassova"}]
)
def test_settings_of_lightgbm_that_need_rows(setting: dict[str, Any]) -> None:
    kind, answer = ("Classifier", CLASSES) if "objective" in setting else ("Regressor", Y)
    model = make_pipeline(boosted("lightgbm", f"LGBM{kind}", **setting)).fit(X, answer)
    with pytest.raises(UnsupportedError, match=f"exports {next(iter(setting))}=.* wrong"):
        to_onnx(model)


@pytest.mark.parametrize(
    "around",
    [
        lambda model: VotingRegressor([("one", model)]),
        lambda model: make_pipeline(StandardScaler(), BaggingRegressor(model, 2)),
        lambda model: StackingRegressor([("one", Ridge())], model, cv=2),
        lambda model: MultiOutputRegressor(model),
    ],
    ids=["voting", "bagging", "stacking", "outputs"],
)
def test_settings_of_lightgbm_inside_another_estimator(around: Any) -> None:
    model = around(boosted("lightgbm", "LGBMRegressor", linear_tree=True))
    answers = np.column_stack([Y, Y]) if isinstance(model, MultiOutputRegressor) else Y
    with pytest.raises(UnsupportedError, match=r"LGBMRegressor: .* exports linear_tree=.* wrong"):
        to_onnx(model.fit(X, answers))


def test_members_of_a_calibrated_classifier() -> None:
    model = CalibratedClassifierCV(LogisticRegression(), cv=2).fit(X, np.median(Y) < Y)
    found = [member for member in members(model) if isinstance(member, LogisticRegression)]
    assert len(found) == 3 and sum(hasattr(member, "coef_") for member in found) == 2


def test_lightgbm_with_zeros_as_missing_is_refused() -> None:
    sparse = np.where(np.abs(X) < 1, 0, X)
    model = boosted("lightgbm", "LGBMRegressor", zero_as_missing=True).fit(sparse, Y)
    with pytest.raises(ModelError, match="is wrong"):
        to_onnx(model, sparse)


def test_xgboost_without_trees_is_unsupported() -> None:
    model = boosted("xgboost", "XGBRegressor", booster="gblinear").fit(X, Y)
    with pytest.raises(UnsupportedError, match="cannot export it: KeyError"):
        to_onnx(model, X)


def test_a_missing_converter_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    model = boosted("lightgbm", "LGBMRegressor").fit(X, Y)
    from onnxtune import boosting

    boosting._register.cache_clear()
    converter = "onnxmltools.convert.lightgbm.operator_converters.LightGbm"
    monkeypatch.setitem(sys.modules, converter, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxtune\[boosting\]'"):
        to_onnx(model, X)


def test_every_function_takes_an_estimator(tmp_path: Path) -> None:
    frame = table()
    frame["y"] = (target(frame) > 2).astype(int)
    rows = frame.drop(columns="y")
    model = mixed_pipeline(LogisticRegression()).fit(rows, frame["y"])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    for data in (frame, str(tmp_path / "rows.csv")):
        result = onnxtune.tune(model, data, "y", epochs=2)
        assert {value.name for value in result.model().graph.input} == set(rows)
    verdict = onnxtune.verify(model, result.model(), str(tmp_path / "rows.csv"), "y")
    assert [metric.name for metric in verdict.metrics or ()] == ["log loss", "accuracy"]
    timed = onnxtune.bench(model, rows, batch_sizes=10, repeats=1)
    assert [row.error for row in timed.rows] == [None, None]  # as ONNX, and by scikit-learn
    sampled = onnxtune.bench({"mine": model}, batch_sizes=10, repeats=1, sample=rows)
    assert sampled.rows[0].model == "mine"


def test_a_wrong_export_is_refused_by_every_function() -> None:
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    forest = RandomForestClassifier(3, random_state=0).fit(holes, CLASSES)
    for call in (
        lambda: onnxtune.inspect(forest, sample=holes),
        lambda: onnxtune.convert(forest, data=holes),
        lambda: onnxtune.to_torch(forest, sample=holes),
        lambda: onnxtune.tune(forest, holes, CLASSES),
        lambda: onnxtune.verify(forest, to_onnx(forest), holes),
        lambda: onnxtune.bench(forest, holes),
    ):
        with pytest.raises(ModelError, match=r"is wrong: .* by up to [\d.]+ Change its settings"):
            call()
    with pytest.warns(UserWarning, match="rows with missing numbers"):
        proto = to_onnx(forest, holes, on_mismatch="warn")
    assert onnxtune.inspect(proto).tunable > 0


def test_values_on_a_grid_keep_their_side_of_a_threshold() -> None:
    X, y = load_iris(return_X_y=True)
    X = X - X.mean()
    own = make_pipeline(StandardScaler(), RandomForestClassifier(10, max_depth=4, random_state=0))
    proto = to_onnx(own.fit(X, y), X)  # no warning, and no error
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(session.run(None, {"X": X})[0], own.predict(X))


def test_probabilities_of_several_labels_are_compared() -> None:
    X, Y = make_multilabel_classification(60, 10, n_classes=3, random_state=0)
    forest = RandomForestClassifier(10, max_depth=4, random_state=0).fit(X, Y)
    assert to_onnx(forest, X).graph.output[1].name == "probabilities"
    tree = DecisionTreeClassifier(max_depth=4, random_state=0).fit(X, Y)
    with pytest.raises(ModelError, match="is wrong"):  # its labels are right
        to_onnx(tree, X)
