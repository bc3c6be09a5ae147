"""scikit-learn's scorers on an ONNX model say what they say of the estimator it was made of."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from graphs import parse
from pipelines import data_of, exported
from skl2onnx import to_onnx
from sklearn import metrics as reference
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import GradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import SVC, LinearSVC

from onnxtune.classes import class_labels, scored_labels
from onnxtune.cli import main
from onnxtune.errors import ArgumentError, DataError
from onnxtune.runtime import run
from onnxtune.scorers import ServedScores, _served, named_scorers, scores
from onnxtune.tuning import tune

COUNTED = ["accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "precision_macro",
           "recall_micro", "matthews_corrcoef", "jaccard_macro"]  # fmt: skip
OF_PROBABILITIES = ["neg_log_loss", "roc_auc_ovr", "roc_auc_ovo_weighted", "d2_log_loss_score"]
OF_NUMBERS = ["r2", "neg_mean_squared_error", "neg_root_mean_squared_error",
              "neg_mean_absolute_error", "explained_variance",
              "neg_median_absolute_error"]  # fmt: skip
OF_SINGLE = ["neg_max_error", "d2_absolute_error_score", "neg_mean_absolute_percentage_error"]

ESTIMATORS: dict[str, Any] = {
    "logistic": lambda: LogisticRegression(),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=5, max_depth=2),
    "linear margins": lambda: LinearSVC(),
    "margins": lambda: SVC(kernel="linear"),
}


@cache
def fitted(kind: str, classes: int, words: bool) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Estimator, model, and rows that it has not seen, some of them labelled wrong."""
    X, y = make_classification(600, 6, n_informative=5, n_redundant=0, n_classes=classes,
                               flip_y=0.2, random_state=0)  # fmt: skip
    X = X.astype(np.float32)
    # The order of the words is not that of the numbers.
    labels = np.array([["sour", "bitter", "sweet"], [7, 3, 12]][not words], object)[y]
    y = labels.astype(str) if words else labels.astype(np.int64)
    estimator = ESTIMATORS[kind]().fit(X[:300], y[:300])
    options: dict[str, Any] = {"raw_scores": True} if "margins" in kind else {}
    options |= {} if kind == "linear margins" else {"zipmap": False}
    return estimator, to_onnx(estimator, X[:1], options=options), X[300:], y[300:]


def output_of(proto: Any) -> str:
    return str(proto.graph.output[-1].name)


def ours(metrics: Any, proto: Any, X: Any, y: Any) -> dict[str, float]:
    output = output_of(proto)
    labels = scored_labels(proto, output, class_labels(proto))
    return scores(metrics, proto, {proto.graph.input[0].name: X}, y, labels, output)


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize(
    ("kind", "classes"),
    # Of three classes the columns of support vectors' margins are pairs.
    [(kind, n) for kind in ESTIMATORS for n in (2, 3) if (kind, n) != ("margins", 3)],
)
@pytest.mark.filterwarnings("ignore:Attribute `prob:FutureWarning:sklearn")
def test_of_a_classifier(kind: str, classes: int, words: bool) -> None:
    estimator, proto, X, y = fitted(kind, classes, words)
    names = [*COUNTED, *(["roc_auc"] if classes == 2 else [])]
    if "margins" not in kind:
        names += OF_PROBABILITIES if classes == 3 else ["neg_log_loss"]
    # The scorers of these names take the class 1 for granted.
    positive = np.unique(y)[1]
    made = {
        "precision": reference.make_scorer(reference.fbeta_score, beta=0.5, pos_label=positive),
        "average": reference.make_scorer(
            reference.average_precision_score,
            response_method=("decision_function", "predict_proba"),
            pos_label=positive,
        ),
    }
    metrics: dict[str, Any] = {name: name for name in names} | (made if classes == 2 else {})
    assert len(metrics) > 7
    found = ours(metrics, proto, X, y)
    assert list(found) == list(metrics)
    for name, metric in metrics.items():
        scorer = reference.get_scorer(metric) if metric == name else metric
        assert found[name] == pytest.approx(scorer(estimator, X, y), rel=1e-4), name
        assert 0 < abs(found[name]) < 10


@pytest.mark.parametrize("columns", [1, 2])
def test_of_a_regressor(columns: int) -> None:
    X, y = make_regression(400, 5, n_targets=columns, noise=20.0, random_state=0)
    X = X.astype(np.float32)
    for estimator in (LinearRegression(), RandomForestRegressor(5, random_state=0)):
        estimator.fit(X[:200], y[:200])
        names = OF_NUMBERS + (OF_SINGLE if columns == 1 else [])
        proto = to_onnx(estimator, X[:1])
        target = y[200:]
        found = scores(names, proto, {"X": X[200:]}, target, None, output_of(proto))
        for name in names:
            expected = reference.get_scorer(name)(estimator, X[200:], target)
            assert found[name] == pytest.approx(expected, rel=1e-3), name


def test_own_scorers() -> None:
    estimator, proto, X, y = fitted("logistic", 3, True)
    seen: list[Any] = []

    def mine(model: Any, rows: Any, target: Any) -> float:
        seen.append((model, rows, target))
        return float((model.predict(rows[:50]) == target[:50]).mean())

    made = reference.make_scorer(reference.fbeta_score, beta=2, average="macro")
    found = ours([mine, made, "accuracy"], proto, X, y)
    assert list(found) == ["mine", "fbeta_score", "accuracy"]
    assert found["mine"] == pytest.approx((estimator.predict(X[:50]) == y[:50]).mean())
    assert found["fbeta_score"] == pytest.approx(made(estimator, X, y))
    named = ours({"F2": made, "A": "accuracy"}, proto, X, y)
    assert named == {"F2": found["fbeta_score"], "A": found["accuracy"]}
    assert (
        ours("accuracy", proto, X, y) == ours(["accuracy"], proto, X, y) == {"accuracy": named["A"]}
    )
    (model, rows, target), *_ = seen
    assert np.array_equal(rows, X) and np.array_equal(target, y)
    assert list(model.classes_) == ["bitter", "sour", "sweet"]
    np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(X), atol=1e-5)
    assert not hasattr(model, "decision_function")


def test_scores_are_a_decision_function() -> None:
    for classes in (2, 3):
        estimator, proto, X, y = fitted("linear margins", classes, False)
        labels = class_labels(proto)
        model, _ = _served(proto, {"X": X}, y, labels, output_of(proto))
        assert isinstance(model, ServedScores) and not hasattr(model, "predict_proba")
        found, expected = model.decision_function(X), estimator.decision_function(X)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_hinge_of_the_scores() -> None:
    estimator, proto, X, y = fitted("linear margins", 3, False)
    scorer = reference.make_scorer(reference.hinge_loss, response_method="decision_function")
    assert ours(scorer, proto, X, y)["hinge_loss"] == pytest.approx(
        scorer(estimator, X, y), rel=1e-4
    )


def test_a_model_of_several_inputs_and_of_no_label() -> None:
    proto = parse(
        """g (float[N, 1] a, float[N, 1] b) => (float[N, 1] p)
        { s = Sub (a, b) p = Sigmoid (s) }"""
    )
    rng = np.random.default_rng(0)
    feed = {name: rng.normal(size=(9000, 1)).astype(np.float32) for name in "ab"}
    y = (feed["a"] - feed["b"])[:, 0] + rng.normal(size=9000) > 0
    y_as_words = np.where(y, "1", "0")
    found = scores(["roc_auc", "accuracy"], proto, feed, y_as_words, (0, 1), "p")
    distance = (feed["a"] - feed["b"])[:, 0]
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(y, distance))
    assert found["accuracy"] == pytest.approx(((distance > 0) == y).mean())
    turned = scores(["roc_auc", "accuracy"], proto, feed, y.astype(int), (1, 0), "p")
    for name, figure in found.items():
        assert turned[name] == pytest.approx(1 - figure)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("acuracy", "Metric 'acuracy' is unknown: near it are accuracy"),
        (["r2", "auc"], "Metric 'auc' is unknown: near it are .*roc_auc"),
        ("zzzz", "'zzzz' is unknown: give another"),
        (["r2", "r2"], "'r2' is there twice"),
        ([3], "Metric 3 is neither a name .* nor a scorer"),
        (3, "Metric 3 is neither"),
        ({"mine": 3}, "Metric 3 is neither"),
    ],
)
def test_what_is_no_metric_is_refused(metrics: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        named_scorers(metrics)


def test_what_cannot_be_computed_is_named() -> None:
    _, proto, X, y = fitted("linear margins", 3, True)
    with pytest.raises(ArgumentError, match=r"'neg_log_loss' cannot be .* here: .*predict_proba"):
        ours("neg_log_loss", proto, X, y)
    with pytest.raises(ArgumentError, match="'text' returned str; a scorer must return one number"):
        ours({"text": lambda *_: "good"}, proto, X, y)
    with pytest.raises(DataError, match="labels that the model does not know: 'salty'"):
        ours("accuracy", proto, X, np.full(len(y), "salty"))
    _, _, (X, y) = data_of("ridge")
    with pytest.raises(DataError, match=r"shape \[450, 2\], and output 'variable' \[450, 1\]"):
        ours("r2", exported("ridge"), X, np.stack([y, y], 1))


def test_no_metrics_are_no_run() -> None:
    assert scores((), None, {}, np.empty(0), None, "y") == {}  # type: ignore[arg-type]


# In a tuning run


def test_they_are_reported_and_choose_nothing() -> None:
    train, valid, test = data_of("logistic")
    names = ["accuracy", "roc_auc", "neg_log_loss"]
    options: Any = {"valid": valid, "test": test, "epochs": 4, "lr": 0.03}
    plain = tune(exported("logistic"), *train, **options)
    result = tune(exported("logistic"), *train, metrics=names, **options)
    assert "metrics" not in plain.report and result.report["taken"] == plain.report["taken"]
    found = result.report["metrics"]
    assert list(found) == ["validation", "test"]
    for part, (X, y) in (("validation", valid), ("test", test)):
        assert list(found[part]) == ["original", "hard"]
        for form, model in (("original", exported("logistic")), ("hard", result.model())):
            share = run(model, {"X": X})["probabilities"]
            figures = found[part][form]
            assert list(figures) == names
            assert figures["roc_auc"] == pytest.approx(reference.roc_auc_score(y, share[:, 1]))
            assert figures["accuracy"] == pytest.approx((share.argmax(axis=1) == y).mean())
            double = share.astype(np.float64)
            expected = -reference.log_loss(y, double / double.sum(axis=1, keepdims=True))
            assert figures["neg_log_loss"] == pytest.approx(expected)
    assert found["test"]["hard"]["neg_log_loss"] > found["test"]["original"]["neg_log_loss"]
    lines = result.text().splitlines()
    (head,) = (n for n, line in enumerate(lines) if line.startswith("metric "))
    assert lines[head].split() == ["metric", "rows", "original", "native,", "hard"]
    assert [line.split()[:2] for line in lines[head + 2 :]] == [
        [name, part] for name in names for part in ("validation", "test")
    ]


def test_soft_forms_where_they_are_judged() -> None:
    train, (X, y), _ = data_of("forest")
    result = tune(exported("forest"), *train, valid=(X, y), metrics="neg_log_loss", routing="soft",
                  epochs=4)  # fmt: skip
    found = result.report["metrics"]["validation"]
    assert set(found) == {"original", *result.report["taken"]} and "soft" in found
    share = run(result.model("soft"), {"X": X})["probabilities"].astype(np.float64)
    expected = np.log(share[np.arange(len(y)), y] / share.sum(axis=1)).mean()
    assert found["soft"]["neg_log_loss"] == pytest.approx(expected, rel=1e-5)
    assert "soft" in result.text().splitlines()[-3]


def test_of_folds_the_first() -> None:
    train, _, _ = data_of("ridge")
    result = tune(exported("ridge"), *train, metrics=["r2", "neg_mean_squared_error"], epochs=3)
    assert result.report["folds"] == 5
    found = result.report["metrics"]["validation"]
    sizes: list[int] = []

    def count(model: Any, X: Any, y: Any) -> int:
        sizes.append(len(y))
        return len(X)

    again = tune(exported("ridge"), *train, metrics={"rows": count, "r2": "r2"}, epochs=3)
    assert set(sizes) == {len(train[1]) // 5}
    assert again.report["metrics"]["validation"]["original"]["r2"] == found["original"]["r2"]


def test_of_a_transformed_target_in_its_own_units() -> None:
    (X, y), (V, w), _ = data_of("ridge")
    result = tune(exported("ridge"), X, np.sinh(y), valid=(V, np.sinh(w)), epochs=2, lr=0.05,
                  target_transform="asinh", metrics="neg_median_absolute_error")  # fmt: skip
    found = result.report["metrics"]["validation"]
    before = np.sinh(run(exported("ridge"), {"X": V})["variable"][:, 0].astype(np.float64))
    expected = -np.median(np.abs(before - np.sinh(w)))
    assert found["original"]["neg_median_absolute_error"] == pytest.approx(expected, rel=1e-4)


def test_of_a_share_without_labels() -> None:
    proto = parse(
        "g (float[N, 2] x) => (float[N, 1] p) { z = MatMul (x, w) p = Sigmoid (z) }",
        w=np.array([[1.0], [0.1]], np.float32),
    )
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2)).astype(np.float32)
    y = (X[:, 0] - X[:, 1] + rng.normal(size=400) > 0).astype(float)
    result = tune(proto, X[:200], y[:200], valid=(X[200:], y[200:]), metrics=["roc_auc"], epochs=9)
    found = result.report["metrics"]["validation"]
    assert found["hard"]["roc_auc"] > found["original"]["roc_auc"] > 0.5


def test_networks_are_not_measured_on_rows_that_they_learned() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1800, 2)).astype(np.float32)
    y = np.sin(3 * X[:, 0]) * X[:, 1] + 0.1 * rng.normal(size=1800)
    model = to_onnx(LinearRegression().fit(X[:200], y[:200]), X[:1])
    result = tune(model, X[200:1000], y[200:1000], valid=(X[1000:1400], y[1000:1400]), epochs=1,
                  test=(X[1400:], y[1400:]), companion=True, metrics="r2")  # fmt: skip
    assert result.report["taken"]["hard"] == "with companion"
    found = result.report["metrics"]
    assert list(found["validation"]) == ["original"]
    assert found["test"]["hard"]["r2"] > 0.5 > found["test"]["original"]["r2"]
    assert result.text().splitlines()[-2].split()[-1] == "-"


def test_what_cannot_be_computed_stops_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("trained")

    monkeypatch.setattr("onnxtune.turns.candidates", never)
    (X, y), valid, _ = data_of("ridge")
    with pytest.raises(ArgumentError, match="'roc_auc' cannot be computed here"):
        tune(exported("ridge"), X, y, valid=valid, metrics="roc_auc")
    with pytest.raises(ArgumentError, match="'accurate' is unknown: near it are accuracy"):
        tune(exported("ridge"), None, None, metrics="accurate")


def test_what_cannot_be_computed_of_the_tuned_model_keeps_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []

    def fussy(model: Any, X: Any, y: Any) -> float:
        calls.append(len(y))
        if len(calls) > 1:
            raise ValueError("negative predictions")
        return 1.0

    (X, y), valid, _ = data_of("ridge")
    metrics = {"fussy": fussy, "r2": "r2"}
    result = tune(exported("ridge"), X, y, valid=valid, epochs=2, lr=0.05, metrics=metrics)
    assert result.accepted
    found = result.report["metrics"]["validation"]
    assert found["original"]["fussy"] == 1 and np.isnan(found["hard"]["fussy"])
    assert found["hard"]["r2"] > found["original"]["r2"]
    assert "'fussy' cannot be computed here: negative predictions" in caplog.text
    assert "fussy" in result.text()


def test_on_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (X, y), _, _ = data_of("ridge")
    np.savez(tmp_path / "rows.npz", X=X, y=y)
    (tmp_path / "model.onnx").write_bytes(exported("ridge").SerializeToString())
    options = ["tune", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "rows.npz"),
               "--target", "y", "--epochs", "1", "-o", str(tmp_path / "tuned.onnx")]  # fmt: skip
    assert main([*options, "--json", "--metrics", "r2", "neg_max_error"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["metrics"]["validation"]["original"]) == ["r2", "neg_max_error"]
    assert main([*options, "--metrics", "r3"]) == 2
    assert "Metric 'r3' is unknown: near it are r2" in capsys.readouterr().err
