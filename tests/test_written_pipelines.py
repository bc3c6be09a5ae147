"""Whole pipelines with tuned numbers: what goes back, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from moved_numbers import moved
from skl2onnx import to_onnx as skl2onnx_to_onnx
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA, KernelPCA, TruncatedSVD
from sklearn.ensemble import (
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    LogisticRegression,
    RANSACRegressor,
    Ridge,
)
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from written_rows import (
    BOTH,
    HOLES,
    MAY_DIFFER,
    ROWS,
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
from onnxtune.errors import ArgumentError, ModelError, UnsupportedError
from onnxtune.export import native
from onnxtune.runtime import input_types, run
from onnxtune.sklearn import write_back
from onnxtune.tuner import Tuner


def logistic() -> Any:
    return LogisticRegression(max_iter=500)


def forest() -> Any:
    return RandomForestClassifier(5, max_depth=4, random_state=0)


# Pipelines

PIPELINES = {
    "nested": (
        make_pipeline(StandardScaler(), make_pipeline(PCA(4), StandardScaler()), logistic()),
        X, WORDS),
    "imputed": (make_pipeline(SimpleImputer(), RobustScaler(), Ridge()), HOLES, Y),
    "polynomials": (make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge()), X, Y),
    "scaled forest": (make_pipeline(StandardScaler(), PCA(4), forest()), X, WORDS),
    "scaled boosting": (
        make_pipeline(MinMaxScaler(), HistGradientBoostingClassifier(max_iter=5)), X, WORDS),
    "columns": (
        ColumnTransformer(
            [("a", StandardScaler(), [0, 1]),
             ("b", make_pipeline(MinMaxScaler(), PCA(2)), [2, 3, 4])],
            remainder="passthrough"),
        X, None),
    "union": (
        make_pipeline(
            FeatureUnion([("a", PCA(2)), ("b", make_pipeline(StandardScaler(), TruncatedSVD(2)))]),
            logistic()),
        X, TWO),
    # skl2onnx keeps their equal numbers once.
    "twice the same": (
        make_pipeline(FeatureUnion([("a", PCA(2)), ("b", PCA(2))]), logistic()), X, TWO),
    "twice the same scaler": (
        make_pipeline(FeatureUnion([("a", StandardScaler()), ("b", StandardScaler())]), logistic()),
        X, TWO),
    "stacking": (
        StackingClassifier(
            [("a", logistic()), ("b", make_pipeline(StandardScaler(), forest()))], logistic()),
        X, WORDS),
    "stacking, passed through": (
        StackingRegressor(
            [("a", Ridge()), ("b", RandomForestRegressor(3, max_depth=3))], Ridge(),
            passthrough=True),
        X, Y),
    "voting": (
        VotingClassifier(
            [("a", logistic()), ("b", HistGradientBoostingClassifier(max_iter=3))], voting="soft",
            weights=np.array([1.0, 2.0])),
        X, WORDS),
    "voting on numbers": (
        VotingRegressor([("a", Ridge()), ("b", GradientBoostingRegressor(n_estimators=3))]), X, Y),
    "calibrated": (CalibratedClassifierCV(forest(), cv=3), X, TWO),
    "one against the rest": (OneVsRestClassifier(logistic()), X, WORDS),
    "several numbers": (
        MultiOutputRegressor(GradientBoostingRegressor(n_estimators=3)), X, BOTH),
    "a search": (
        GridSearchCV(make_pipeline(StandardScaler(), logistic()), {"logisticregression__C": [1]}),
        X, WORDS),
    "bags": (BaggingRegressor(make_pipeline(StandardScaler(), Ridge()), 3, random_state=0), X, Y),
    "bags of trees": (
        BaggingClassifier(n_estimators=3, max_features=0.5, random_state=0), X, WORDS),
    "weighted medians": (AdaBoostRegressor(n_estimators=3, random_state=0), X, Y),
    "the best rows": (RANSACRegressor(random_state=0), X, Y),
    "a target's logarithm": (
        TransformedTargetRegressor(
            make_pipeline(StandardScaler(), Ridge()), func=np.log1p, inverse_func=np.expm1),
        X, np.exp(Y / 4)),
    "a scaled target": (
        TransformedTargetRegressor(Ridge(), transformer=StandardScaler()), X, Y),
}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_answer_as_the_tuned_model(name: str) -> None:
    pipeline, rows, target = PIPELINES[name]
    fitted = fit(pipeline, rows, target)
    model = onnxtune.to_onnx(fitted)
    check(fitted, model, moved(model), rows_like(rows))


def test_columns_of_a_table_by_their_names() -> None:
    rng = np.random.default_rng(2)
    count = 400
    table = pd.DataFrame(
        {
            "home-town": rng.choice(["Basel", "Linz", "Graz"], count),
            "code": rng.choice(["x", "y"], count),
            "age": rng.normal(40, 10, count).astype(np.float32),
        }
    )
    target = ((table["age"] > 42) ^ (table["home-town"] == "Linz")).to_numpy()
    columns = ColumnTransformer(
        [
            ("towns", OneHotEncoder(sparse_output=False), ["home-town"]),
            ("codes", TargetEncoder(target_type="binary"), ["code"]),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
        ]
    )
    fitted = make_pipeline(columns, forest()).fit(table, target.astype(int))
    model = onnxtune.to_onnx(fitted, table)
    large = table.iloc[rng.integers(count, size=ROWS)].reset_index(drop=True)
    large["age"] += rng.normal(0, 1, ROWS).astype(np.float32)
    check(fitted, model, moved(model), large)


DOUBLES = {
    "a forest": (make_pipeline(StandardScaler(), forest()), ["Sub", "Div", "Cast"]),
    "linear": (make_pipeline(StandardScaler(), Ridge()), ["Sub", "Div", "Cast"]),
}


@pytest.mark.parametrize("name", DOUBLES)
def test_pipelines_that_need_doubles(name: str) -> None:
    """Dates in seconds, of which float32 holds every 128th."""
    pipeline, operators = DOUBLES[name]
    rng = np.random.default_rng(2)
    rows = np.c_[1.7e9 + rng.integers(0, 300, 400), rng.normal(size=400)]
    target = ((rows[:, 0] % 300 > 140) ^ (rows[:, 1] > 0)).astype(int)
    fitted = clone(pipeline).fit(rows, target)
    model = onnxtune.to_onnx(fitted, rows)
    assert input_types(model)[0].kind == "tensor(double)"
    assert [node.op_type for node in model.graph.node][: len(operators)] == operators
    check(fitted, model, moved(model, 0.01), rows)


def test_weights_of_words() -> None:
    rng = np.random.default_rng(2)
    texts = np.array([" ".join(rng.choice(["ab", "cd", "ef", "gh", "ij"], 4)) for _ in range(200)])
    target = np.array(["ab" in text for text in texts]).astype(int)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), lowercase=False)
    fitted = make_pipeline(vectorizer, logistic()).fit(texts, target)
    model = onnxtune.to_onnx(fitted, texts)
    tuned = moved(model, 0.3)
    written = write_back(fitted, tuned)
    answers = run(tuned, {"X": texts.reshape(-1, 1).astype(object)})["probabilities"]
    assert rows_that_differ(written.predict_proba(texts), answers) == 0
    assert rows_that_differ(fitted.predict_proba(texts), answers) > 100
    assert not np.array_equal(written[0].idf_, fitted[0].idf_)


def towns(columns: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    table = rng.choice(np.array(["Basel", "Linz", "Graz"], object), (400, columns))
    return table, (table == "Linz").sum(axis=1) + rng.normal(0, 0.3, 400)


@pytest.mark.parametrize("columns", [1, 2])
def test_tables_of_words(columns: int) -> None:
    """As many unknown words as others; what stands for them is one number in the encoder."""
    table, target = towns(columns)
    fitted = make_pipeline(TargetEncoder(), Ridge()).fit(table, target)
    model = onnxtune.to_onnx(fitted, table)
    module = onnxtune.to_torch(model)
    change = {"values": np.float32([0.5, -0.25, 1.0]), "default": np.float32(-0.5)}
    tensors = {
        name: tensor.value + change.get(name.split("/")[1], np.float32(0.1))
        for name, tensor in module.learned.items()
    }
    large = np.where(np.random.default_rng(3).random(table.shape) < 0.5, table, "Wien")
    check(fitted, model, native(module.prepared, tensors).proto, large)


def test_unknown_words_that_two_columns_see_differently() -> None:
    table, target = towns(2)
    fitted = make_pipeline(TargetEncoder(), Ridge()).fit(table, target)
    module = onnxtune.to_torch(onnxtune.to_onnx(fitted, table))
    tensors = {name: tensor.value for name, tensor in module.learned.items()}
    (name,) = (name for name in tensors if name.endswith("LabelEncoder1/default"))
    tensors[name] = tensors[name] + 1
    tuned = native(module.prepared, tensors).proto
    with pytest.raises(UnsupportedError, match=r"freeze=\['LabelEncoder1/default'\]"):
        write_back(fitted, tuned)
    module.freeze(name)  # what the message says can be done


def test_edges_out_of_order() -> None:
    fitted = fit(KBinsDiscretizer(4, encode="ordinal"), X)
    module = onnxtune.to_torch(onnxtune.to_onnx(fitted))
    tensors = {name: tensor.value[::-1] for name, tensor in module.learned.items()}
    with pytest.raises(UnsupportedError, match="edges of its column 0 out of order"):
        write_back(fitted, native(module.prepared, tensors).proto)


# What is tuned


def test_what_tune_returns_goes_back() -> None:
    pipeline = make_pipeline(StandardScaler(), Ridge(500.0)).fit(X[:200], Y[:200])
    result = onnxtune.tune(pipeline, X, Y, epochs=5, threads=1)
    assert result.accepted
    written = write_back(pipeline, result)
    rows = rows_like(X)
    answers = run(result.model("native"), {"X": rows})["variable"]
    assert rows_that_differ(written.predict(rows), answers) <= MAY_DIFFER
    assert rows_that_differ(pipeline.predict(rows), answers) > 0.5 * ROWS


def test_a_file_that_another_call_exported(tmp_path: Path) -> None:
    """With a ZipMap, and another opset."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3)).fit(X[:200], WORDS[:200])
    path = tmp_path / "model.onnx"
    onnx.save(skl2onnx_to_onnx(pipeline, X[:1], target_opset=15), path)
    result = onnxtune.tune(path, X, WORDS, epochs=5, threads=1)
    assert result.accepted
    written = write_back(pipeline, result)
    rows = rows_like(X)
    model = result.model("native")
    label, probabilities = run(model, {model.graph.input[0].name: rows}).values()
    assert rows_that_differ(written.predict(rows), label) <= MAY_DIFFER
    by_class = pd.DataFrame(list(probabilities))[list(written.classes_)].to_numpy(np.float32)
    assert rows_that_differ(written.predict_proba(rows), by_class) <= MAY_DIFFER


def test_the_saved_file_and_an_online_tuner(tmp_path: Path) -> None:
    pipeline = make_pipeline(StandardScaler(), Ridge(500.0)).fit(X[:200], Y[:200])
    tuner = Tuner(pipeline).partial_fit(X, Y)
    path = tmp_path / "tuned.onnx"
    tuner.save(path)
    rows = rows_like(X)
    answers = run(onnx.load(path), {"X": rows})["variable"]
    for model in (path, path.read_bytes(), tuner.model()):
        assert rows_that_differ(write_back(pipeline, model).predict(rows), answers) <= MAY_DIFFER
    tuner.save(tmp_path / "hard.onnx", form="hard")
    with pytest.raises(UnsupportedError, match="hard"):
        write_back(pipeline, tmp_path / "hard.onnx")


def test_without_a_gain_it_is_the_same_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), Ridge()).fit(X, Y)
    result = onnxtune.tune(pipeline, X, np.random.default_rng(1).normal(size=400) * 1e-3 + Y,
                           epochs=1, lr=1e-9, threads=1)  # fmt: skip
    assert not result.accepted
    written = write_back(pipeline, result)
    assert written is not pipeline and pickle.dumps(written) == pickle.dumps(pipeline)


def test_a_forest_goes_back_where_only_numbers_were_tuned() -> None:
    table, classes = make_classification(1500, 6, n_informative=5, n_redundant=0, random_state=0)
    noisy = classes[:100] ^ (np.random.default_rng(0).random(100) < 0.3)
    fitted = make_pipeline(StandardScaler(), forest()).fit(table[:100], noisy)
    tune = {"epochs": 5, "threads": 1, "valid": (table[900:], classes[900:])}
    data = table[100:900], classes[100:900]
    result = onnxtune.tune(fitted, *data, **tune)
    assert result.accepted
    with pytest.raises(UnsupportedError, match=r"RandomForestClassifier 'randomforestclassifier': "
                       r"its probabilities became logits.* only_numbers=True"):  # fmt: skip
        write_back(fitted, result)
    result = onnxtune.tune(fitted, *data, **tune, only_numbers=True)
    assert result.accepted
    assert not any("scaled" in c["name"] for c in result.report["candidates"])
    written = write_back(fitted, result)
    rows = rows_like(table)
    label, probabilities = run(result.model(), {"X": rows}).values()
    assert rows_that_differ(written.predict_proba(rows), probabilities) <= MAY_DIFFER
    assert rows_that_differ(written.predict(rows), label) <= MAY_DIFFER


@pytest.mark.parametrize("more", [{"max_size": 4}, {"max_size": 0.5}, {"companion": True}])
def test_only_numbers_excludes_what_changes_more(more: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="only_numbers keeps the graph"):
        onnxtune.tune(Ridge().fit(X, Y), X, Y, only_numbers=True, **more)


# What does not go back


def refusal(fitted: Any, tuned: Any) -> str:
    with pytest.raises(UnsupportedError) as raised:
        write_back(fitted, tuned)
    return str(raised.value)


def test_every_step_that_does_not_map_is_named() -> None:
    union = FeatureUnion([("far", MaxAbsScaler()), ("kernel", KernelPCA(2, kernel="rbf"))])
    fitted = make_pipeline(union, StandardScaler(with_mean=False), GaussianNB()).fit(X, TWO)
    model = onnxtune.to_onnx(fitted)
    said = refusal(fitted, moved(model, 0.01))
    assert "MaxAbsScaler 'featureunion__far' holds no such numbers for 'Scaler/offset'" in said
    assert "StandardScaler 'standardscaler' holds no such numbers for 'Scaler1/offset'" in said
    assert "KernelPCA 'featureunion__kernel' has no known way back" in said
    assert "GaussianNB 'gaussiannb' has no known way back for 'theta'" in said
    assert "RobustScaler" not in said


@pytest.mark.parametrize("scaler", [MaxAbsScaler(), StandardScaler(with_mean=False)])
def test_the_advice_to_freeze_helps(scaler: Any) -> None:
    fitted = make_pipeline(scaler, Ridge(500.0)).fit(X[:200], Y[:200])
    result = onnxtune.tune(fitted, X, Y, epochs=5, threads=1)
    assert "tune with freeze=['Scaler/offset']" in refusal(fitted, result)
    result = onnxtune.tune(fitted, X, Y, epochs=5, threads=1, freeze=["Scaler/offset"])
    assert result.accepted
    rows = rows_like(X)
    answers = run(result.model(), {"X": rows})["variable"]
    assert rows_that_differ(write_back(fitted, result).predict(rows), answers) <= MAY_DIFFER


def test_copies_of_trees_and_added_nodes() -> None:
    fitted = RandomForestRegressor(4, max_depth=4, random_state=0).fit(X[:200], Y[:200] / 2)
    result = onnxtune.tune(fitted, X, Y, epochs=3, threads=1, max_size=0.5)
    assert result.accepted and result.report["size"] < 1
    assert "other trees in the tuned model, more or fewer; tune with max_size=1" in refusal(
        fitted, result
    )
    logged = make_pipeline(StandardScaler(), Ridge(500.0)).fit(X[:200], Y[:200] / 4)
    result = onnxtune.tune(logged, X, np.exp(Y / 4), epochs=2, threads=1, target_transform="log")
    assert "no step holds it" in refusal(logged, result)


def test_another_pipeline_than_the_tuned_one() -> None:
    fitted = make_pipeline(StandardScaler(), Ridge(500.0)).fit(X[:200], Y[:200])
    result = onnxtune.tune(fitted, X, Y, epochs=3, threads=1)
    other = make_pipeline(StandardScaler(), Ridge(500.0)).fit(X[100:], Y[100:])
    said = refusal(other, result)
    assert "it is not what was tuned" in said and "'Scaler/offset'" in said
    said = refusal(PCA(2).fit(X), result.model())
    assert "was replaced" in said or "was added" in said


def test_a_start_that_cannot_move() -> None:
    fitted = GradientBoostingClassifier(init="zero", n_estimators=3).fit(X, TWO)
    said = refusal(fitted, moved(onnxtune.to_onnx(fitted)))
    assert "for 'TreeEnsembleClassifier/base_values'" in said and "leaf_values" not in said


def test_trees_that_the_operator_could_not_carry() -> None:
    """Votes that lose their last negative sign would be read as shares: the node is replaced."""
    fitted = HistGradientBoostingClassifier(max_iter=2, random_state=0).fit(X, TWO)
    module = onnxtune.to_torch(onnxtune.to_onnx(fitted))
    votes = "TreeEnsembleClassifier/leaf_values"
    tuned = native(module.prepared, {votes: np.abs(module.learned[votes].value)})
    assert tuned.replaced
    said = refusal(fitted, tuned.proto)
    assert "node 'TreeEnsembleClassifier' was replaced by other nodes; tune with freeze=" in said
    assert "was added" not in said


def test_a_start_that_a_softmax_would_not_see() -> None:
    """Shares of classes lack what all scores have in common, and a calibrator reads scores."""
    boosting = GradientBoostingClassifier(n_estimators=2, random_state=0)
    fitted = CalibratedClassifierCV(boosting, cv=2).fit(X, WORDS)
    said = refusal(fitted, moved(onnxtune.to_onnx(fitted)))
    assert "GradientBoostingClassifier holds no such numbers" in said
    assert "freeze=['TreeEnsembleClassifier/base_values', 'TreeEnsembleClassifier1/base" in said


def test_a_pipeline_that_is_not_fitted() -> None:
    model = onnxtune.to_onnx(Ridge().fit(X, Y))
    with pytest.raises(ModelError, match="Ridge is not fitted"):
        write_back(Ridge(), model)
