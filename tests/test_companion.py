"""A small network beside the model: what is written is what was judged."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from courts import court_for, losing
from forests import Array
from graphs import parse
from onnx import helper
from skl2onnx import to_onnx
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import onnxtune
from onnxtune import companion
from onnxtune.companion_graph import Port, with_companion
from onnxtune.companion_net import Inputs, Networks, measured, trained
from onnxtune.data import load as load_data
from onnxtune.errors import UnsupportedError
from onnxtune.metrics import paired
from onnxtune.model import load
from onnxtune.output import progress
from onnxtune.preparation import prepare
from onnxtune.problem import splits
from onnxtune.result import TuneResult
from onnxtune.runtime import run
from onnxtune.tune_report import COMPANION as NAME
from onnxtune.tuning import tune
from onnxtune.validation import given_tables


@pytest.fixture(autouse=True)
def _few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxtune.companion_net._EPOCHS", 20)


@cache
def rows(kind: str) -> tuple[Array, Array]:
    """Rows with a smooth target that a few small trees cannot follow."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1600, 3)).astype(np.float32)
    hidden = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2]
    noisy = hidden + rng.normal(size=len(X)) / 5
    if kind == "numbers":
        return X, noisy
    if kind == "two numbers":
        return X, np.stack([noisy, 3 * X[:, 0] ** 2 + 10], axis=1)
    if kind == "counts":
        return X, rng.poisson(np.exp(hidden)).astype(float)
    if kind == "words":
        return X, np.array(["low", "mid", "top"])[np.digitize(noisy, [-0.5, 0.5])]
    return X, 3 + 2 * np.digitize(noisy, [0.0] if kind == "two" else [-0.5, 0.5])


TRAIN, VALID, TEST = slice(0, 700), slice(700, 1300), slice(1300, 1600)
KINDS = ["numbers", "two numbers", "counts", "two", "three", "words"]


@cache
def model_of(kind: str) -> onnx.ModelProto:
    X, y = rows(kind)
    X, y = X[TRAIN], y[TRAIN]
    if kind == "counts":
        return parse(
            "g (float[N, 3] X) => (float[N, 1] rate) { z = MatMul (X, w) rate = Exp (z) }",
            w=np.float32([[0.1], [0.05], [-0.05]]),
        )
    if kind == "two numbers":
        return to_onnx(RandomForestRegressor(4, max_depth=2, random_state=0).fit(X, y), X[:1])
    if kind == "numbers":
        fitted: Any = GradientBoostingRegressor(n_estimators=5, max_depth=2, random_state=0)
        return to_onnx(make_pipeline(StandardScaler(), fitted).fit(X, y), X[:1])
    fitted = GradientBoostingClassifier(n_estimators=4, max_depth=2, random_state=0)
    if kind == "three":
        fitted = RandomForestClassifier(5, max_depth=2, random_state=0)
    return to_onnx(fitted.fit(X, y), X[:1], options={"zipmap": False})


@cache
def tuned(kind: str, **options: Any) -> TuneResult:
    X, y = rows(kind)
    given: dict[str, Any] = {"epochs": 1, "routing": "leaves", "test": (X[TEST], y[TEST])}
    if kind == "counts":
        del given["routing"]
    return tune(
        model_of(kind), X[TRAIN], y[TRAIN], valid=(X[VALID], y[VALID]), companion=True,
        **(given | options),
    )  # fmt: skip


def outputs(model: onnx.ModelProto, X: Array) -> dict[str, Array]:
    return {name: np.asarray(value) for name, value in run(model, {"X": X}).items()}


def value(model: onnx.ModelProto, X: Array) -> Array:
    return next(v for v in outputs(model, X).values() if v.dtype.kind == "f")


def loss_of(kind: str, found: Array, y: Array) -> float:
    found = found.astype(np.float64)
    if kind in ("numbers", "two numbers"):
        return float(np.square(found - y.reshape(len(y), -1)).mean())
    if kind == "counts":
        rate, log_y = found[:, 0], np.where(y > 0, np.log(np.maximum(y, 1)), 0)
        return float((rate - y - y * np.log(rate) + y * log_y).mean())
    classes = np.unique(rows(kind)[1])
    return float(-np.log(found[np.arange(len(y)), np.searchsorted(classes, y)]).mean())


def constant(model: onnx.ModelProto, role: str) -> Array:
    (found,) = (i for i in model.graph.initializer if i.name == f"companion/{role}")
    return onnx.numpy_helper.to_array(found)


def strange_rows() -> Array:
    """Far outside of the rows that were met, and with numbers that are none."""
    rng = np.random.default_rng(1)
    X = (1e4 * rng.standard_cauchy(size=(200, 3))).astype(np.float32)
    X[:3] = [[np.inf, 0, 0], [-np.inf, np.inf, 1], [3e38, -3e38, 3e38]]
    X[3:6] = np.nan
    X[6:12, 1] = np.nan
    return X


@pytest.mark.parametrize("kind", KINDS)
def test_a_smooth_target_is_followed_better(kind: str) -> None:
    result = tuned(kind)
    assert result.report["taken"]["hard"] == NAME
    assert result.report["candidates"][-1]["name"] == NAME
    X, y = rows(kind)
    after = loss_of(kind, value(result.model(), X[TEST]), y[TEST])
    assert after < 0.9 * loss_of(kind, value(model_of(kind), X[TEST]), y[TEST])
    # What the report says of the test rows is what the file does there.
    assert result.report["test"]["hard"] == pytest.approx(after, rel=1e-3)
    assert result.report["test"]["rows"] == len(y[TEST])


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_the_blend(kind: str) -> None:
    """In onnxruntime, in torch and in the hard form, for any rows."""
    result = tuned(kind)
    written = result.model()
    onnx.checker.check_model(written)
    X = np.concatenate([rows(kind)[0][TEST], strange_rows()])
    if kind == "counts":
        X = X[:300]  # a rate of a line is infinite far away
    found = value(written, X)
    assert found.dtype == np.float32 and found.shape == value(model_of(kind), X).shape
    hard = value(result.model("hard"), X)
    np.testing.assert_allclose(hard, found, rtol=1e-4, atol=1e-5)
    module = onnxtune.to_torch(written, "hard")
    own = next(iter(module.predict(X).values())).detach().numpy()
    np.testing.assert_allclose(own, found, rtol=1e-4, atol=1e-5)
    again = onnxtune.convert(written, "hard")
    np.testing.assert_allclose(value(again, X), found, rtol=1e-4, atol=1e-5)
    ours, theirs = (float(constant(written, f"{who}_share")) for who in ("model", "network"))
    assert 0 <= ours < 1 and ours + theirs == pytest.approx(1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "counts"])
def test_far_away_it_stays_within_what_was_seen(kind: str) -> None:
    result = tuned(kind)
    written = result.model()
    X = strange_rows()
    found = value(written, X)
    assert np.isfinite(found).all()
    if kind in ("two", "three", "words"):
        assert (found >= 0).all() and (found <= 1 + 1e-6).all()
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
        return
    share = float(constant(written, "model_share"))
    low, high = constant(written, "least_score"), constant(written, "largest_score")
    bare = np.concatenate([value(_without(written), X), value(_without(written), rows(kind)[0])])
    least = share * bare.min(axis=0) + (1 - share) * low.min(axis=0)[0]
    most = share * bare.max(axis=0) + (1 - share) * high.max(axis=0)[0]
    assert (found >= least - 1e-4).all() and (found <= most + 1e-4).all()
    # Of the networks' own rows: not much further than the target goes.
    y = rows(kind)[1].reshape(len(bare) - len(X), -1)
    assert (low.min(axis=(0, 1)) > y.min(axis=0) - np.ptp(y, axis=0)).all()
    assert (high.max(axis=(0, 1)) < y.max(axis=0) + np.ptp(y, axis=0)).all()


def _without(model: onnx.ModelProto) -> onnx.ModelProto:
    """What the model beside the networks says."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.node.append(helper.make_node("Identity", ["companion/model"], ["alone"]))
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info("alone", 1, None))
    return made


def test_a_row_with_missing_numbers_has_their_means() -> None:
    written = tuned("numbers").model()
    X = rows("numbers")[0][TEST].copy()
    X[:, 1] = np.nan
    filled = X.copy()
    filled[:, 1] = constant(written, "mean")[1]
    # The networks read what comes behind the scaler only where that is not tuned.
    networks = [node for node in written.graph.node if node.op_type == "IsNaN"]
    assert [list(node.input) for node in networks] == [["X"]]
    share = float(constant(written, "model_share"))
    model = value(_without(written), X), value(_without(written), filled)
    parts = [value(written, each) - share * own for each, own in zip((X, filled), model,
                                                                     strict=True)]  # fmt: skip
    np.testing.assert_allclose(parts[0], parts[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["two", "three", "words"])
def test_labels_follow_the_blended_probabilities(kind: str) -> None:
    result, (X, y) = tuned(kind), rows(kind)
    classes = np.unique(y)
    before = outputs(model_of(kind), X)
    names = list(before)
    for form in ("native", "hard"):
        found = outputs(result.model(form), X)  # type: ignore[arg-type]
        assert list(found) == names
        share = found[names[1]]
        np.testing.assert_array_equal(found[names[0]], classes[share.argmax(axis=1)])
        assert found[names[0]].dtype == before[names[0]].dtype
        assert (found[names[0]] != before[names[0]]).any()
        assert (found[names[0]][TEST] == y[TEST]).mean() > (
            before[names[0]][TEST] == y[TEST]
        ).mean()


def test_a_single_probability() -> None:
    rng = np.random.default_rng(0)
    X, y = rows("two")
    y = (y > 3).astype(np.int64)
    model = parse(
        """g (float[N, 3] X) => (float[N, 1] p) {
            z = MatMul (X, w)
            p = Sigmoid (z)
        }""",
        w=rng.normal(size=(3, 1)).astype(np.float32) / 10,
    )
    result = tune(model, X[TRAIN], y[TRAIN], valid=(X[VALID], y[VALID]), companion=True, epochs=1)
    assert result.report["loss"] == "log" and result.report["taken"]["hard"] == NAME
    found = value(result.model(), X[TEST])
    assert found.shape == (300, 1) and (found >= 0).all() and (found <= 1).all()
    right = np.where(y[TEST] == 1, found[:, 0], 1 - found[:, 0])
    assert -np.log(right).mean() < 0.45 < np.log(2)


@pytest.mark.parametrize("kind", ["numbers", "three"])
def test_where_nothing_can_be_learned_the_model_stays_alone(kind: str) -> None:
    """Its rows say nothing, so neither does the network."""
    X, _ = rows(kind)
    rng = np.random.default_rng(5)
    model = model_of(kind)
    found = value(model, X)
    if kind == "numbers":
        y: Any = found[:, 0] + rng.normal(size=len(X))
    else:
        y = 3 + 2 * (rng.random((len(X), 1)) > found.astype(float).cumsum(axis=1)[:, :-1]).sum(1)
    result = tune(model, X[TRAIN], y[TRAIN], valid=(X[VALID], y[VALID]), companion=True,
                  epochs=1, routing="leaves")  # fmt: skip
    (beside,) = (c for c in result.report["candidates"] if c["name"] == NAME)
    assert result.report["taken"].get("hard") != NAME
    assert beside["after"] < 1.05 * beside["before"]  # its share is small
    if not result.accepted:
        assert result.model().SerializeToString() == model.SerializeToString()


def judged(kind: str, taken: Any = None, y: Any = None) -> Any:
    """The court, and the companion with whether it helps."""
    X = rows(kind)[0]
    y = rows(kind)[1] if y is None else y
    valid = X[VALID], y[VALID]
    problem, court = court_for(model_of(kind), X[TRAIN], y[TRAIN], valid)
    given, apart = given_tables(problem.prepared, X[TRAIN], y[TRAIN], valid)
    (split,) = splits(problem, given, apart, valid, 0)
    made = None if taken is None else taken(problem, court)
    return court, *companion.accompanied(problem, split, court, made)


def fixed(proto: onnx.ModelProto) -> Any:
    """A candidate with this model, whatever its losses."""
    return lambda problem, court: replace(
        losing(court, court.original), prepared=prepare(load(proto))
    )


def shifted(proto: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """The model with so much added to its number."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    (name,) = (output.name for output in proto.graph.output)
    for node in made.graph.node:
        node.output[:] = ["before" if each == name else each for each in node.output]
    made.graph.node.append(helper.make_node("Add", ["before", "by"], [name], name="shift"))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([[by]]), "by"))
    return made


def test_it_must_gain_on_what_is_taken_without_it() -> None:
    court, found, helps = judged("numbers")
    assert helps and found.name == NAME
    for key, number in asdict(court.verdict(found.losses, found.size)).items():
        own = asdict(found.verdict)[key]
        assert own is number is None or own == pytest.approx(number, rel=1e-4)
    better = tuned("numbers").model()
    _, beside, helps = judged("numbers", fixed(better))
    # Beside one that has a companion already there is little left to gain.
    assert beside.verdict.accepted and beside.verdict.after < 1.1 * found.verdict.after
    gain, _, z = paired(beside.losses, squared_of(better))
    assert helps == (gain > 0 and z > 1.64)
    # However much it gains on what is taken, it must on the original, too.
    exact = value(model_of("numbers"), rows("numbers")[0])[:, 0].astype(np.float64)
    _, beside, helps = judged("numbers", fixed(shifted(model_of("numbers"), 5.0)), y=exact)
    assert beside.verdict.after < 1 and not beside.verdict.accepted and not helps


def squared_of(model: onnx.ModelProto) -> Array:
    X, y = rows("numbers")
    return np.square(value(model, X[VALID])[:, 0] - y[VALID]).astype(np.float64)


@pytest.mark.parametrize("kind", ["three", "counts", "two"])
def test_all_are_judged_by_what_their_outputs_hold(kind: str) -> None:
    """The original's loss is taken of its output, as the companion's is, not of its scores."""
    _, found, _ = judged(kind)
    X, y = rows(kind)
    before = loss_of(kind, value(model_of(kind), X[VALID]), y[VALID])
    assert found.verdict.before == pytest.approx(before, rel=1e-4)
    assert found.verdict.after == pytest.approx(found.losses.mean())
    assert found.verdict.gain == pytest.approx(before - found.losses.mean(), rel=1e-3)


def test_the_share_is_the_best_one() -> None:
    X, y = rows("numbers")
    problem, _ = court_for(model_of("numbers"), X[TRAIN], y[TRAIN], (X[VALID], y[VALID]))
    kind = companion._kind(problem, (np.zeros(1), np.ones(1)))
    rng = np.random.default_rng(0)
    target, noise, other = (torch.from_numpy(rng.normal(size=(400, 1))) for _ in range(3))
    some = np.arange(200)

    def share(model: torch.Tensor, network: torch.Tensor) -> float:
        return companion._share(kind, model, network, target, np.ones(400), some)

    assert share(target, noise) == 1 and share(noise, target) == 0
    # Of two that are wrong on their own, twice as far: four times the weight.
    assert share(target + noise, target + 2 * other) == pytest.approx(0.8, abs=0.06)
    # Rows that are not among those say nothing.
    wrong = target.clone()
    wrong[200:] += 100
    assert share(wrong, noise) == 1


def test_beside_few_rows_that_take_turns() -> None:
    X, y = rows("numbers")
    options: Any = {"companion": True, "routing": "leaves", "lr": 0.05, "epochs": 3}
    result = tune(model_of("numbers"), X[700:1200], y[700:1200], **options)
    report = result.report
    assert report["folds"] == 5 and report["validation_rows"] == 500
    assert report["candidates"][-1]["name"] == NAME
    assert any(c["accepted"] for c in report["candidates"][:-1])
    if report["taken"]["hard"] == NAME:
        after = loss_of("numbers", value(result.model(), X[TEST]), y[TEST])
        assert after < loss_of("numbers", value(model_of("numbers"), X[TEST]), y[TEST])


@pytest.mark.parametrize(("count", "enough"), [(99, False), (100, True)])
def test_of_few_validation_rows_none_is_taken(count: int, enough: bool) -> None:
    """However much it seems to gain."""
    X, y = rows("numbers")
    few = slice(700, 700 + count)
    result = tune(model_of("numbers"), X[TRAIN], y[TRAIN], valid=(X[few], y[few]), epochs=1,
                  routing="leaves", companion=True)  # fmt: skip
    beside = result.report["candidates"][-1]
    assert beside["name"] == NAME and beside["accepted"] and beside["z"] > 4
    assert (result.report["taken"].get("hard") == NAME) == enough


def test_seeds_repeat() -> None:
    X, y = rows("numbers")
    options: Any = {"valid": (X[VALID], y[VALID]), "companion": True, "routing": "leaves",
                    "epochs": 1}  # fmt: skip
    first, again, other = (
        tune(model_of("numbers"), X[TRAIN], y[TRAIN], seed=seed, **options).model()
        for seed in (3, 3, 4)
    )
    for one, two in zip(first.graph.initializer, again.graph.initializer, strict=True):
        assert one == two
    assert (constant(first, "weight_0") != constant(other, "weight_0")).any()


def test_a_callable_loss() -> None:
    def huber(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.huber_loss(output, target, reduction="none").mean(1)

    result = tuned("numbers", loss=huber)
    assert result.report["loss"] == "huber" and result.report["taken"]["hard"] == NAME
    X, y = rows("numbers")
    parts = [
        float(huber(torch.from_numpy(found), torch.from_numpy(y[TEST, None])).mean())
        for found in (value(result.model(), X[TEST]), value(model_of("numbers"), X[TEST]))
    ]
    assert parts[0] < parts[1]
    assert result.report["test"]["hard"] == pytest.approx(parts[0], rel=1e-3)


def test_a_callable_loss_sees_targets_in_their_own_units() -> None:
    """One that asks for positive targets gets them, though networks learn standardised numbers."""
    X, y = rows("numbers")
    y = 100 + 5 * y
    seen = []

    def relative(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append((float(target.min()), float(target.max())))
        return ((output - target) / target).square().mean(1)

    fitted = GradientBoostingRegressor(n_estimators=5, max_depth=2, random_state=0)
    model = to_onnx(fitted.fit(X[TRAIN], y[TRAIN]), X[:1])
    result = tune(model, X[TRAIN], y[TRAIN], valid=(X[VALID], y[VALID]), companion=True, epochs=1,
                  routing="leaves", loss=relative)  # fmt: skip
    assert result.report["taken"]["hard"] == NAME
    low, high = y.min() - 1e-3, y.max() + 1e-3
    assert all(low <= least and most <= high for least, most in seen)
    off = [
        np.square(value(each, X[TEST])[:, 0] / y[TEST] - 1).mean()
        for each in (result.model(), model)
    ]
    assert off[0] < 0.9 * off[1]


def test_what_has_no_probabilities_is_refused() -> None:
    X, y = rows("three")
    scores = LinearSVC().fit(X[TRAIN], y[TRAIN])
    model = to_onnx(scores, X[:1], options={"raw_scores": True})
    with pytest.raises(UnsupportedError, match="a companion needs probabilities, and '"):
        tune(model, X, y, companion=True, epochs=1)
    assert tune(model, X, y, epochs=1).report["loss"] == "log"

    def brier(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (1 - output.gather(1, target[:, None])[:, 0]).square()

    with pytest.raises(
        UnsupportedError, match="needs the log or focal loss, and 'brier' is asked for"
    ):
        tune(model_of("three"), X, y, companion=True, epochs=1, loss=brier)


def test_columns_behind_a_prefix_and_of_several_inputs() -> None:
    """Words go through the prefix; the networks read what enters the tuned part."""
    from pipelines import mixed

    model, table, y = mixed()
    given = table[300:], y[300:]
    result = tune(
        model,
        *given,
        valid=np.arange(300) % 2 == 0,
        companion=True,
        epochs=1,
        routing="leaves",
        lr=1e-6,
    )
    assert result.report["candidates"][-1]["name"] == NAME
    assert result.report["taken"]["hard"] == NAME
    feed = load_data(table, onnxtune.runtime.input_types(model)).feed
    found = run(result.model(), feed)["variable"]
    hard = run(result.model("hard"), feed)["variable"]
    np.testing.assert_allclose(hard, found, rtol=1e-4, atol=1e-5)
    before = run(model, feed)["variable"]
    assert found.shape == before.shape
    assert np.square(found[300:, 0] - y[300:]).mean() < np.square(before[300:, 0] - y[300:]).mean()


def test_words_that_are_looked_up_in_a_learned_table() -> None:
    """The networks read their places, which the file has no name for before."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>
        g (string[N, 1] word, float[N, 1] size) => (float[N, 1] y) {
            [table] mean = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"],
                values_floats = [0.5, -0.5]> (word)
            x = Concat <axis = 1> (mean, size)
            y = ai.onnx.ml.LinearRegressor <coefficients = [1.0, 0.1]> (x)
        }"""
    )
    rng = np.random.default_rng(0)
    words = rng.choice(np.array(["a", "b", "c"], object), (1200, 1))
    size = rng.normal(size=(1200, 1)).astype(np.float32)
    y = np.sin(2 * size[:, 0]) * (words[:, 0] == "b")
    feed = {"word": words, "size": size}
    result = tune(model, feed, y, companion=True, epochs=1, lr=1e-6)
    assert result.report["taken"]["hard"] == NAME
    found = {form: run(result.model(form), feed)["y"][:, 0] for form in ("native", "hard", "soft")}
    assert np.mean((found["native"] - y) ** 2) < 0.5 * np.mean(
        (run(model, feed)["y"][:, 0] - y) ** 2
    )
    for other in ("hard", "soft"):
        np.testing.assert_allclose(found[other], found["native"], rtol=1e-4, atol=1e-5)


def test_with_a_transformed_target() -> None:
    X, y = rows("numbers")
    y = np.exp(y)
    fitted = GradientBoostingRegressor(n_estimators=5, max_depth=2, random_state=0)
    model = to_onnx(fitted.fit(X[TRAIN], np.log(y[TRAIN])), X[:1])
    result = tune(model, X[TRAIN], y[TRAIN], valid=(X[VALID], y[VALID]), companion=True, epochs=1,
                  routing="leaves", target_transform="log")  # fmt: skip
    assert result.report["taken"]["hard"] == NAME
    found = value(result.model(), X[TEST])
    plain = np.exp(value(model, X[TEST]))
    assert (found > 0).all()
    off = [np.square(np.log(each[:, 0]) - np.log(y[TEST])).mean() for each in (found, plain)]
    assert off[0] < off[1]
    np.testing.assert_allclose(value(result.model("hard"), X[TEST]), found, rtol=1e-4, atol=1e-5)


GRAPHS = {
    "doubles": """g (double[N, 3] X) => (double[N, 1] y) { y = MatMul (X, w) }""",
    "one number a row": """g (float[N, 3] X) => (float[N] y) {
        z = MatMul (X, w)
        rows = Constant <value = int64[1] {-1}> ()
        y = Reshape (z, rows)
    }""",
    "two inputs": """g (float[N, 2] a, double[N, 1] b) => (float[N, 1] y) {
        c = Cast <to = 1> (b)
        X = Concat <axis = 1> (a, c)
        y = MatMul (X, w)
    }""",
}


@pytest.mark.parametrize("name", GRAPHS)
def test_other_types_and_shapes(name: str) -> None:
    X, y = rows("numbers")
    kind = np.float64 if name == "doubles" else np.float32
    model = parse(GRAPHS[name], w=np.array([[0.3], [0.1], [-0.1]], kind))
    feed: Any = {"X": X.astype(kind)}
    if name == "two inputs":
        feed = {"a": X[:, :2], "b": X[:, 2:].astype(np.float64)}

    def part(of: slice) -> Any:
        return {key: array[of] for key, array in feed.items()}, y[of]

    result = tune(model, *part(TRAIN), valid=part(VALID), companion=True, epochs=1)
    assert result.report["taken"]["hard"] == NAME
    written = result.model()
    onnx.checker.check_model(written, full_check=True)
    before, found = (run(each, part(TEST)[0])["y"] for each in (model, written))
    assert found.shape == before.shape and found.dtype == before.dtype
    off = [np.square(each.ravel() - y[TEST]).mean() for each in (found, before)]
    assert off[0] < 0.9 * off[1]
    hard = run(result.model("hard"), part(TEST)[0])["y"]
    np.testing.assert_allclose(hard, found, rtol=1e-4, atol=1e-5)


def refused(model: onnx.ModelProto, y: Array, match: str) -> None:
    """Before anything is trained."""
    X, _ = rows("numbers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxtune.turns.candidates", never)
        with pytest.raises(UnsupportedError, match=match):
            tune(model, X, y, companion=True)


def never(*_: Any) -> None:
    raise AssertionError("something was trained")


def test_what_can_have_no_companion_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = rows("numbers")
    three = """g (float[N, 3] X) => (float[N, 1, 1] y) {
        z = MatMul (X, w)
        shape = Constant <value = int64[3] {-1, 1, 1}> ()
        y = Reshape (z, shape)
    }"""
    w = np.float32([[0.3], [0.1], [-0.1]])
    refused(parse(three, w=w), y, r"one row of numbers a row, and 'y' has shape \[320, 1, 1\]")
    line = "g (float[N, 3] X) => (float[N, 1] y) { y = MatMul (X, w) }"
    refused(parse(line, opset=8, w=w), y, "needs opset 9 or newer, and the model has 8")
    scores = LinearSVC().fit(X, rows("three")[1])
    refused(to_onnx(scores, X[:1], options={"raw_scores": True}), rows("three")[1],
            "needs probabilities, and '")  # fmt: skip
    monkeypatch.setattr(companion, "memory_at_hand", lambda: 6 * 4 * 3 * len(X) - 1)
    refused(parse(line, w=w), y, r"companion of 3 columns would take about 0.00012 GB.*fewer rows")
    monkeypatch.setattr(companion, "memory_at_hand", lambda: 6 * 4 * 3 * len(X))
    result = tune(parse(line, w=w), X, y, companion=True, epochs=1)
    assert result.report["candidates"][-1]["name"] == NAME


@pytest.mark.parametrize("max_size", [0.5, 1])
def test_a_part_that_is_refused_has_no_companion(
    max_size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxtune.tuning.ALLOWED_LOSS", -0.99)
    X, y = rows("numbers")
    result = tune(model_of("numbers"), X[TRAIN], y[TRAIN], valid=(X[VALID], y[VALID]), epochs=1,
                  routing="leaves", companion=True, max_size=max_size)  # fmt: skip
    names = [candidate["name"] for candidate in result.report["candidates"]]
    assert (NAME in names) == (max_size == 1)
    if max_size < 1:
        assert result.hard is None
        assert result.model().SerializeToString() == model_of("numbers").SerializeToString()


def test_a_companion_beside_a_part_of_the_trees() -> None:
    result = tuned("numbers", max_size=0.6)
    assert result.report["taken"]["hard"] in [c["name"] for c in result.report["candidates"]]
    if result.report["taken"]["hard"] == NAME:
        assert result.report["size"] == 0.6


def test_labels_that_are_cast_afterwards() -> None:
    """What reads the label comes behind the nodes that make it anew."""
    X, y = rows("three")
    model = onnx.ModelProto()
    model.CopyFrom(model_of("three"))
    label, share = (output.name for output in model.graph.output)
    model.graph.node.append(
        helper.make_node("Cast", [label], ["short"], name="cast", to=onnx.TensorProto.INT32)
    )
    model.graph.output.append(helper.make_tensor_value_info("short", onnx.TensorProto.INT32, ["N"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([5]), "five"))
    model.graph.node.append(helper.make_node("Equal", [label, "five"], ["mid"], name="equal"))
    model.graph.output.append(helper.make_tensor_value_info("mid", onnx.TensorProto.BOOL, ["N"]))
    result = tune(model, X[TRAIN], y[TRAIN], valid=(X[VALID], y[VALID]), companion=True, epochs=1,
                  routing="leaves")  # fmt: skip
    assert result.report["taken"]["hard"] == NAME
    written = result.model()
    onnx.checker.check_model(written, full_check=True)
    found = run(written, {"X": X})
    chosen = np.unique(y)[found[share].argmax(axis=1)]
    assert (chosen != run(model, {"X": X})[label]).any()
    for name in (label, "short"):
        np.testing.assert_array_equal(found[name], chosen)
    assert found["short"].dtype == np.int32
    np.testing.assert_array_equal(found["mid"], chosen == 5)


def test_labels_that_are_made_from_the_probabilities() -> None:
    X, y = rows("three")
    rng = np.random.default_rng(0)
    model = parse(
        """g (float[N, 3] X) => (int64[N] label, float[N, 3] p) {
            z = Gemm (X, w, b)
            p = Softmax <axis = 1> (z)
            label = ArgMax <axis = 1, keepdims = 0> (p)
        }""",
        w=rng.normal(size=(3, 3)).astype(np.float32) / 9,
        b=np.zeros(3, np.float32),
    )
    y = (y - 3) // 2
    result = tune(model, X[TRAIN], y[TRAIN], valid=(X[VALID], y[VALID]), companion=True, epochs=1)
    assert result.report["taken"]["hard"] == NAME
    found = run(result.model(), {"X": X[TEST]})
    np.testing.assert_array_equal(found["label"], found["p"].argmax(axis=1))
    assert [node.op_type for node in result.model().graph.node].count("ArgMax") == 1


def test_probabilities_in_maps() -> None:
    X, y = rows("words")
    fitted = GradientBoostingClassifier(n_estimators=4, max_depth=2, random_state=0)
    model = to_onnx(fitted.fit(X[TRAIN], y[TRAIN]), X[:1])
    result = tune(model, X[TRAIN], y[TRAIN], valid=(X[VALID], y[VALID]), companion=True, epochs=1,
                  routing="leaves")  # fmt: skip
    assert result.report["taken"]["hard"] == NAME
    found = run(result.model(), {"X": X[TEST]})
    maps, labels = found["output_probability"], found["output_label"]
    plain = value(tuned("words").model(), X[TEST])
    for row, label, share in zip(maps, labels, plain, strict=True):
        assert label == max(row, key=row.get)
        np.testing.assert_allclose(list(row.values()), share, rtol=1e-3, atol=1e-4)


# The networks.


def networks(inputs: int, outputs_count: int, seed: int = 0) -> Networks:
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> Array:
        return rng.normal(size=shape).astype(np.float32)

    how = Inputs(
        low=np.full(inputs, -2, np.float32),
        high=np.full(inputs, 2, np.float32),
        mean=drawn(inputs) / 4,
        spread=1 + drawn(inputs) ** 2,
    )
    sizes = [(inputs, 7), (7, 5), (5, outputs_count)]
    weights = tuple(drawn(4, *size) for size in sizes)
    biases = tuple(drawn(4, 1, size[1]) for size in sizes)
    limits = np.sort(drawn(2, 4, 1, outputs_count) * 3, axis=0)
    return Networks(how, weights, biases, limits[0], limits[1])


@pytest.mark.parametrize("link", ["softmax", "sigmoid", "exp", "identity"])
@pytest.mark.parametrize("opset", [9, 12, 13, 17, 18, 21])
def test_networks_in_a_graph(opset: int, link: Any) -> None:
    columns = 3
    made = networks(4, columns)
    text = "g (float[N, 4] x) => (float[N, 3] y) { y = MatMul (x, w) }"
    model = parse(text, opset=opset, w=np.eye(4, 3, dtype=np.float32))
    read, blended = Port("x", np.dtype(np.float32), 2), Port("y", np.dtype(np.float32), 2)
    new = with_companion(model, [read], blended, made, link, 0.3, None, model)
    onnx.checker.check_model(new, full_check=True)
    x = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32) * 2
    x[0] = np.nan
    x[1, 2] = np.inf
    scores = torch.from_numpy(made.scores(x)).double()
    value_of = {
        "softmax": lambda z: torch.softmax(z, -1), "sigmoid": torch.sigmoid,
        "exp": torch.exp, "identity": lambda z: z,
    }[link]  # fmt: skip
    expected = 0.3 * x[:, :3] + 0.7 * value_of(scores).mean(0).numpy()
    found = run(new, {"x": x})["y"]
    finite = np.isfinite(x).all(axis=1)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=1e-4, atol=1e-4)
    assert (scores.numpy() >= made.low).all() and (scores.numpy() <= made.high).all()


def test_too_old_an_opset() -> None:
    model = parse("g (float[N, 4] x) => (float[N, 3] y) { y = MatMul (x, w) }", opset=8,
                  w=np.eye(4, 3, dtype=np.float32))  # fmt: skip
    port = Port("x", np.dtype(np.float32), 2)
    with pytest.raises(UnsupportedError, match="opset 9 or newer, and the model has 8"):
        with_companion(
            model, [port], Port("y", port.dtype, 2), networks(4, 3), "exp", 0.5, None, model
        )
    newer = parse("g (float[N, 4] x) => (float[N, 4] y) { y = Neg (x) }")
    with pytest.raises(UnsupportedError, match="needs a node that makes 'z'"):
        with_companion(
            newer, [port], Port("z", port.dtype, 2), networks(4, 3), "exp", 0.5, None, newer
        )


def test_rows_are_filled_cut_and_standardised() -> None:
    columns = np.array([[0, 5, np.nan], [2, 5, np.nan], [np.nan, 5, np.inf], [4, 5, np.nan]])
    found = measured(columns)
    np.testing.assert_allclose(found.mean, [2, 5, 0])
    np.testing.assert_allclose(found.spread, [np.std([0, 2, 4]), 1, 1])
    np.testing.assert_allclose(found.low, [0, 5, 0])
    np.testing.assert_allclose(found.high, [4, 5, 0])
    far = np.array([[np.nan, 9, 3], [-np.inf, -9, np.nan], [1e9, np.inf, -3]])
    unit = 2 / np.std([0, 2, 4])
    np.testing.assert_allclose(found.apply(far), [[0, 0, 0], [-unit, 0, 0], [unit, 0, 0]],
                               rtol=1e-6)  # fmt: skip


def test_each_network_sees_its_own_rows() -> None:
    """One that was shown other targets says so."""
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(400, 2)).astype(np.float32)
    target = torch.from_numpy(columns[:, :1] * np.where(np.arange(400) < 200, 1, -1)[:, None])

    def squared(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return (scores - wanted).square().mean(-1)

    halves = [np.arange(150), np.arange(200, 350)]
    stops = [np.arange(150, 200), np.arange(350, 400)]
    found = trained(columns, target, 1, squared, halves, stops, 16, 0).scores(columns)
    for number, sign in enumerate((1, -1)):
        error = np.square(found[number, :, 0] - sign * columns[:, 0]).mean()
        assert error < 0.1


def test_steps_are_limited_whatever_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = []

    def shown(count: int, title: str) -> Any:
        epochs.append(count)
        return progress(count, title)

    monkeypatch.setattr("onnxtune.companion_net.progress", shown)
    monkeypatch.setattr("onnxtune.companion_net._PATIENCE", 1)
    columns = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    parts = [np.arange(320)], [np.arange(320, 400)]
    for steps in (1, 99, 100, 10_000):
        monkeypatch.setattr("onnxtune.companion_net._STEPS", steps)
        trained(columns, torch.zeros(400, 1), 1, lambda z, y: (z - y).square().mean(-1), *parts,
                32, 0)  # fmt: skip
    # An epoch takes 10 steps, and there are 20 epochs at most.
    assert epochs == [1, 9, 10, 20]


@pytest.mark.parametrize("lr", [0.05, 1e-9])
def test_the_report_says_what_has_changed_beneath(lr: float) -> None:
    """Of the model beside the networks, which may be the original."""
    result = tuned("numbers", lr=lr, epochs=2)
    assert result.report["taken"]["hard"] == NAME and result.report["size"] == 1
    others = [c for c in result.report["candidates"] if c["name"] != NAME and c["accepted"]]
    assert bool(others) == (lr > 1e-3)
    assert bool(result.report["changed"]) == bool(others)


def test_models_that_are_read_again() -> None:
    """A companion's file is a model like others: it can be inspected, tuned and timed."""
    result, (X, y) = tuned("three"), rows("three")
    written = result.model()
    again = tune(written, X[TRAIN], y[TRAIN], valid=(X[VALID], y[VALID]), epochs=1,
                 routing="leaves")  # fmt: skip
    found = value(again.model(), X[TEST])
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-4)
    session = onnxruntime.InferenceSession(written.SerializeToString(),
                                           providers=["CPUExecutionProvider"])  # fmt: skip
    assert [o.name for o in session.get_outputs()] == [o.name for o in written.graph.output]


@pytest.mark.parametrize("estimator", [LogisticRegression(), LinearRegression()])
def test_linear_models_have_companions_too(estimator: Any) -> None:
    X, y = rows("three" if isinstance(estimator, LogisticRegression) else "numbers")
    fitted = estimator.fit(X[TRAIN], y[TRAIN])
    options = {"zipmap": False} if isinstance(estimator, LogisticRegression) else None
    model = to_onnx(fitted, X[:1], options=options)
    result = tune(model, X[TRAIN], y[TRAIN], valid=(X[VALID], y[VALID]), companion=True, epochs=1)
    assert result.report["taken"]["hard"] == NAME
    kind = "three" if options else "numbers"
    found, before = (value(each, X[TEST]) for each in (result.model(), model))
    assert loss_of(kind, found, y[TEST]) < 0.9 * loss_of(kind, before, y[TEST])
