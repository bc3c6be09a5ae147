"""Tuning: gains where there are some, the original where there are none, and forms that agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from pipelines import data_of, exported, mixed

import onnxtune
from onnxtune.errors import ArgumentError, DataError, UnsupportedError
from onnxtune.export import SAVED_FORMS
from onnxtune.links import Source
from onnxtune.losses import Loss, Output, choose_loss
from onnxtune.parameters import Parameter
from onnxtune.result import Candidate, TuneResult
from onnxtune.runtime import run
from onnxtune.torch_module import OnnxModule
from onnxtune.tuning import tune
from rewrites.core.rewrite import Constraint


def tuned(name: str, **options: object) -> TuneResult:
    train, valid, _ = data_of(name)
    return tune(exported(name), *train, valid=valid, **options)  # type: ignore[arg-type]


def scores(model: onnx.ModelProto, X: object) -> np.ndarray:
    found = run(model, {"X": X})  # type: ignore[dict-item]
    return np.asarray(next(v for v in found.values() if np.asarray(v).dtype.kind == "f"))


def labels(model: onnx.ModelProto, X: object) -> np.ndarray:
    return np.asarray(next(iter(run(model, {"X": X}).values())))  # type: ignore[dict-item]


GAINS = ["forest", "regression forest", "regression boosting", "logistic", "logistic of three",
         "ridge", "poisson"]  # fmt: skip


@pytest.mark.parametrize("name", GAINS)
def test_test_loss_falls_and_forms_agree(name: str) -> None:
    result = tuned(name, lr=0.03)
    assert result.accepted
    (X, y) = data_of(name)[2]
    before, after = scores(exported(name), X), scores(result.model("native"), X)

    def loss(prediction: np.ndarray) -> float:
        if result.report["loss"] == "log":
            return float(-np.log(prediction[np.arange(len(y)), y] + 1e-3).mean())
        if result.report["loss"] == "poisson":
            return float((prediction[:, 0] - y * np.log(prediction[:, 0])).mean())
        return float(np.square(prediction[:, 0] - y).mean())

    assert loss(after) < loss(before)
    # native, hard and torch in hard routing: the same leaves, the same numbers.
    hard = scores(result.model("hard"), X)
    result.module.routing = "hard"
    module = next(iter(result.module.predict(X).values())).detach().numpy()
    for other in (hard, module):
        close = np.isclose(other, after, rtol=1e-4, atol=1e-5 * np.abs(after).max()).all(axis=1)
        # After a matrix product the last bits differ, and a row on a threshold may turn.
        assert (~close).sum() <= 1
    if result.report["loss"] == "log":
        np.testing.assert_array_equal(
            labels(result.model("hard"), X)[close], labels(result.model("native"), X)[close]
        )


@pytest.mark.parametrize("routing", ["soft", "straight-through", "leaves"])
@pytest.mark.parametrize("name", ["forest", "forest of three", "boosting", "boosting of three"])
def test_probabilities_stay_a_distribution_in_every_form(name: str, routing: str) -> None:
    result = tuned(name, lr=0.1, epochs=8, routing=routing)
    X = data_of(name)[2][0]
    # The tuned forest may have moved to logits; the original's leaves are distributions.
    results = [result]
    for module in (result.module, onnxtune.to_torch(exported(name))):
        verdict = result.verdicts["hard"]
        moved = Candidate("moved", "hard", 1, module.prepared, _moved(module), verdict,
                          np.empty(0), None, 0.1)  # fmt: skip
        results.append(replace(result, hard=moved, soft=moved))
    for form in SAVED_FORMS:
        for each in results:
            probabilities = scores(each.model(form), X)
            assert (probabilities >= 0).all()
            assert (probabilities <= 1 + 1e-6).all()
            np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def _moved(module: OnnxModule) -> dict[str, np.ndarray]:
    """Large random steps through the parametrization, as a long training could make them."""
    from onnxtune.parameters import standardised

    parameters = standardised(module.learned, list(module.learned), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters.values():
        with torch.no_grad():
            parameter.delta.normal_(generator=generator)
            if parameter.group == "leaves":
                parameter.delta.mul_(5)
    return {name: p.settled().numpy() for name, p in parameters.items()}


def test_a_distribution_starts_where_it_was_and_can_leave_zero() -> None:
    initial = torch.tensor([[0.0, 0.01, 0.0], [0.005, 0.0025, 0.0025]])
    delta = torch.nn.Parameter(torch.zeros(2, 3))
    parameter = Parameter(initial, torch.tensor(1.0), "leaves", Constraint("simplex"), delta)
    assert torch.equal(parameter.settled(), initial)
    torch.testing.assert_close(parameter.value(), initial)
    (parameter.value()[0, 0] * 100).backward()
    assert delta.grad[0, 0] > 0
    with torch.no_grad():
        delta[0, 0] = 3.0
    value = parameter.settled()
    assert value[0, 0] > 0.001
    torch.testing.assert_close(value.sum(1), initial.sum(1))
    assert torch.equal(value[1], initial[1])


def of(loss: str, link: str, columns: int, labelled: bool) -> Loss:
    """The loss of an output; two sigmoids are mirrored, and what has no link is a distribution."""
    source = Source(link, "z", mirrored=columns == 2)  # type: ignore[arg-type]
    return choose_loss(loss, Output(source, columns, columns * labelled, True))


def test_a_probability_of_zero_has_a_gradient() -> None:
    output = torch.tensor([[0.0, 1.0]], requires_grad=True)
    of("log", "identity", 2, True).rows(output, torch.tensor([0])).sum().backward()
    assert output.grad is not None
    assert output.grad[0, 0] < -100


def test_a_share_stays_within_its_interval() -> None:
    initial = torch.tensor([0.0, 0.05, 0.1])
    delta = torch.nn.Parameter(torch.tensor([9.0, -9.0, 9.0]))
    parameter = Parameter(
        initial, torch.tensor(1.0), "leaves", Constraint("interval", 0.0, 0.1), delta
    )
    value = parameter.settled()
    assert ((value >= 0) & (value <= 0.1 + 1e-7)).all()
    assert value[0] > 0.05
    assert value[1] < 0.05


def test_nothing_to_gain_returns_the_original_bytes(tmp_path: object) -> None:
    """Labels drawn from the model itself: whatever is found on training rows is noise."""
    model = exported("logistic")
    (X, _), (Xv, _), _ = data_of("logistic")
    generator = np.random.default_rng(5)
    y, yv = ((generator.random(len(rows)) < scores(model, rows)[:, 1]) * 1 for rows in (X, Xv))
    result = tune(model, X, y, valid=(Xv, yv), lr=1.0, epochs=3)
    assert not result.accepted
    assert result.tensors == {}
    assert result.report["changed"] == {}
    path = tmp_path / "kept.onnx"  # type: ignore[operator]
    result.save(path)
    assert path.read_bytes() == model.SerializeToString()
    for name, tensor in result.module.tensors().items():
        assert torch.equal(tensor, torch.from_numpy(result.module.learned[name].value.copy()))
    assert "original is kept" in result.text()


def test_metadata_names_the_source_and_the_run(tmp_path: object) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported("ridge"))
    model.metadata_props.add(key="owner", value="somebody")
    train, valid, _ = data_of("ridge")
    result = tune(model, *train, valid=valid, seed=3)
    for form in SAVED_FORMS:
        held = {entry.key: entry.value for entry in result.model(form).metadata_props}
        assert held["owner"] == "somebody"
        assert held["onnxtune.seed"] == "3"
        assert held["onnxtune.loss"] == "squared"
        assert held["onnxtune.rows"] == str(len(train[0]))
        assert held["onnxtune.source_sha256"] == result.prepared.source.fingerprint
        assert held["onnxtune.version"]


def test_one_seed_gives_the_same_bits() -> None:
    first, second = (tuned("forest", epochs=4, seed=7) for _ in range(2))
    assert first.history[0].train == second.history[0].train
    for name in first.tensors:
        np.testing.assert_array_equal(first.tensors[name], second.tensors[name])
    other = tuned("forest", epochs=4, seed=8)
    assert other.history[0].train != first.history[0].train


def test_strings_go_through_the_prefix_once() -> None:
    model, table, y = mixed()
    result = tune(model, table[300:500], y[300:500], valid=(table[500:], y[500:]), lr=0.03)
    assert result.report["prefix"]["nodes"] > 0
    assert result.report["prefix"]["rows"] == 300
    assert result.report["loss"] == "squared"
    X = {
        name: table[name].to_numpy()[:, None].astype(object if name in ("colour", "shape") else "f")
        for name in table
    }
    native, hard = (run(result.model(form), X)["variable"] for form in ("native", "hard"))
    np.testing.assert_allclose(native, hard, rtol=1e-4, atol=1e-5)


def test_target_by_name_and_labels_as_strings() -> None:
    import pandas as pd
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    (X, y), _, _ = data_of("logistic")
    words = np.array(["bad", "good"])[y]
    model = to_onnx(LogisticRegression(C=1e-4, max_iter=10_000).fit(X, words), X[:1])
    table = pd.DataFrame(X, columns=[f"c{i}" for i in range(X.shape[1])]).assign(kind=words)
    result = tune(model, table, "kind", epochs=3)
    assert result.report["loss"] == "log"
    assert result.report["output"] == "output_probability"
    with pytest.raises(DataError, match="ugly"):
        tune(model, table.assign(kind="ugly"), "kind")


def test_frozen_tensors_stay() -> None:
    result = tuned("forest", lr=0.05, epochs=5, freeze=["Scaler/*", "mean", "transform_matrix"])
    assert set(result.report["tensors"]) == {
        "TreeEnsembleClassifier/thresholds",
        "TreeEnsembleClassifier/leaf_values",
    }
    assert set(result.report["changed"]) <= set(result.report["tensors"])
    with pytest.raises(ArgumentError, match="leaves nothing"):
        tuned("forest", freeze="*")


def test_leaves_only_moves_leaves_only() -> None:
    result = tuned("regression boosting", routing="leaves", lr=0.03)
    assert result.accepted
    assert {name.split("/")[1] for name in result.report["changed"]} == {
        "leaf_values",
        "base_values",
    }
    assert result.verdicts["hard"].needed_z == 1.64
    with pytest.raises(UnsupportedError, match="needs trees"):
        tuned("ridge", routing="leaves")


def test_soft_routing_judges_both_forms() -> None:
    result = tuned("regression boosting", routing="soft", lr=0.02)
    assert set(result.verdicts) == {"hard", "soft"}
    X, y = data_of("regression boosting")[2]
    assert result.verdicts["soft"].accepted
    before = np.square(scores(exported("regression boosting"), X)[:, 0] - y).mean()
    after = np.square(scores(result.model("soft"), X)[:, 0] - y).mean()
    assert after < before
    assert all(record.valid_soft is not None for record in result.history)


def test_a_callable_loss() -> None:
    def huber(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.huber_loss(output, target, reduction="none").mean(1)

    result = tuned("ridge", loss=huber, epochs=3)
    assert result.report["loss"] == "huber"
    assert np.isfinite(result.history[-1].train)


@pytest.mark.parametrize(
    ("link", "columns", "labelled", "expected"),
    [
        ("softmax", 3, True, ("log", True)),
        ("sigmoid", 2, True, ("log", True)),
        ("identity", 2, True, ("log", False)),
        ("sigmoid", 1, False, ("log", True)),
        ("exp", 1, False, ("poisson", True)),
        ("identity", 1, False, ("squared", False)),
    ],
)
def test_loss_from_the_graph(
    link: str, columns: int, labelled: bool, expected: tuple[str, bool]
) -> None:
    loss = of("auto", link, columns, labelled)
    assert (loss.name, loss.of_source) == expected


def test_losses_equal_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (50,), generator=generator)
    rows = torch.arange(50)
    expected = -torch.softmax(z, 1)[rows, y].log()
    torch.testing.assert_close(of("log", "softmax", 3, True).rows(z, y), expected)
    pair = torch.stack([-z[:, 0], z[:, 0]], 1)
    kind = y.clamp(max=1)
    expected = -torch.sigmoid(pair)[rows, kind].log()
    torch.testing.assert_close(of("log", "sigmoid", 2, True).rows(pair, kind), expected)
    p = torch.softmax(z, 1)
    expected = -((p[rows, y] + 1e-3) / (1 + 3e-3)).log()
    torch.testing.assert_close(of("log", "identity", 3, True).rows(p, y), expected)
    one_hot = torch.nn.functional.one_hot(y, 3).double()
    s = torch.sigmoid(z)
    expected = -(one_hot * s.log() + (1 - one_hot) * (1 - s).log()).sum(1)
    torch.testing.assert_close(of("log", "sigmoid", 3, True).rows(z, y), expected)
    count = torch.poisson(torch.full((50, 1), 2.0, dtype=torch.float64), generator=generator)
    rate, log_rate = z[:, :1].exp(), z[:, :1]
    deviance = torch.where(count > 0, count * (count / rate).log(), 0 * rate) - count + rate
    for link, value in (("identity", rate), ("exp", log_rate)):
        found = of("poisson", link, 1, False).rows(value, count)
        torch.testing.assert_close(found, deviance[:, 0])
    target = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    squared = of("squared", "identity", 3, False).rows(z, target)
    torch.testing.assert_close(squared, (z - target).square().mean(1))
    absolute = of("absolute", "identity", 3, False).rows(z, target)
    torch.testing.assert_close(absolute, (z - target).abs().mean(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"routing": "round"}, "Routing 'round'"),
        ({"loss": "guess"}, "Loss 'guess'"),
        ({"loss": "log"}, "log loss needs class probabilities"),
        ({"valid": 0.0}, "valid"),
        ({"valid": 1.5}, "valid"),
        ({"epochs": 0}, "epochs"),
        ({"patience": 0}, "patience"),
        ({"batch_size": 0}, "batch_size"),
        ({"lr": -1.0}, "lr"),
        ({"lr": "fast"}, "lr"),
        ({"seed": -1}, "seed"),
        ({"valid": "rows.csv"}, "path, column"),
        ({"temperature": 0.0}, "temperature"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"output": "nothing"}, "'nothing' is no float output"),
        ({"freeze": ["none"]}, "'none' matches no learned tensor"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, object], message: str) -> None:
    (X, y), _, _ = data_of("ridge")
    with pytest.raises(ArgumentError, match=message):
        tune(exported("ridge"), X, y, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: np.where(np.arange(len(y)) == 3, np.nan, y), "NaN|missing|finite"),
        (lambda y: np.stack([y, y], 1), "2 columns"),
        (lambda y: y[:-1], "rows"),
        (lambda y: np.full(len(y), "word", object), "word|number"),
    ],
)
def test_wrong_targets_are_named(change: object, message: str) -> None:
    (X, y), _, _ = data_of("ridge")
    with pytest.raises(DataError, match=message):
        tune(exported("ridge"), X, change(y))  # type: ignore[operator]


def test_negative_counts_are_refused() -> None:
    (X, y), _, _ = data_of("poisson")
    with pytest.raises(DataError, match="negative"):
        tune(exported("poisson"), X, y - 10)


def test_several_outputs_need_a_choice() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
        g (float[N, 2] x) => (float[N, 1] first, float[N, 1] second) {
            first = ai.onnx.ml.LinearRegressor <coefficients = [1.0, 2.0]> (x)
            second = ai.onnx.ml.LinearRegressor <coefficients = [3.0, 4.0]> (x)
        }"""
    )
    X = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    y = X @ [3.0, 3.0]
    with pytest.raises(ArgumentError, match=r"'first', 'second'.*output="):
        tune(model, X, y)
    result = tune(model, X, y, output="second", lr=0.05)
    assert list(result.report["changed"]) == ["second/coefficients"]


def test_a_loss_that_is_no_number_keeps_the_original(caplog: pytest.LogCaptureFixture) -> None:
    (X, y), valid, _ = data_of("poisson")
    result = tune(exported("poisson"), X, y, valid=valid, lr=1e6)
    assert "trained: the loss became inf in epoch 1; what was best before is kept" in caplog.text
    assert result.history == ()
    assert set(result.report["taken"].values()) <= {"scaled"}


def test_a_loss_must_return_one_number_a_row() -> None:
    for wrong in (lambda output, target: output.mean(), lambda output, target: 1.0):
        with pytest.raises(ArgumentError, match="one number a row"):
            tuned("ridge", loss=wrong)


def test_a_share_that_leaves_no_rows() -> None:
    """Of few rows all take turns, whatever the share."""
    for name, times in (("ridge", 2), ("logistic", 4)):
        (X, y), _, _ = data_of(name)
        X, y = np.tile(X, (times, 1)), np.tile(y, times)
        assert len(X) > 1000
        for share in (0.0005, 0.9995):
            with pytest.raises(ArgumentError, match="give a share"):
                tune(exported(name), X, y, valid=share)
            few = tune(exported(name), X[:1000], y[:1000], valid=share, epochs=1)
            assert few.report["folds"] == 5 and few.report["validation_rows"] == 1000


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_ten_rows_take_turns(share: float) -> None:
    (X, y), _, _ = data_of("ridge")
    report = tune(exported("ridge"), X[:10], y[:10], valid=share, epochs=1).report
    assert (report["folds"], report["rows"], report["validation_rows"]) == (5, 8, 10)
    with pytest.raises(DataError, match="9 rows are too few"):
        tune(exported("ridge"), X[:9], y[:9], valid=share)


def test_too_few_rows() -> None:
    (X, y), _, _ = data_of("ridge")
    with pytest.raises(DataError, match="too few"):
        tune(exported("ridge"), X[:5], y[:5])


# Rows to validate on and to report on.


def test_which_rows_are_held_out() -> None:
    """Whatever says it, the original is judged on the very rows."""
    (X, y), _, _ = data_of("ridge")
    X, y = X[:600], y[:600]
    squares = np.square(scores(exported("ridge"), X)[:, 0] - y)
    teams = np.arange(600) // 60
    mask = np.arange(600) % 3 == 0
    for valid, out in (
        ("last", np.arange(600) >= 480),
        (mask, mask),
        (np.arange(100, 250), (np.arange(600) >= 100) & (np.arange(600) < 250)),
        ((X[:50], y[:50]), np.arange(600) < 50),
    ):
        report = tune(exported("ridge"), X, y, valid=valid, epochs=1).report
        assert report["validation_rows"] == out.sum() and report["folds"] == 1
        apart = isinstance(valid, tuple)
        assert report["rows"] == (600 if apart else (~out).sum())
        assert report["verdicts"]["hard"]["before"] == pytest.approx(squares[out].mean(), rel=1e-4)

    import pandas as pd

    frame = pd.DataFrame(X).assign(team=[f"team {n}" for n in teams])
    named = tune(exported("ridge"), frame, y, valid="team", epochs=1)
    given = tune(exported("ridge"), X, y, valid=teams, epochs=1)
    assert given.report["validation_rows"] == 120
    before = given.report["verdicts"]["hard"]["before"]
    pairs = [squares[(teams == a) | (teams == b)].mean() for a in range(10) for b in range(a)]
    assert min(abs(before - pair) for pair in pairs) < 1e-4 * before
    # The groups of a column take turns, as there are few rows.
    assert (named.report["folds"], named.report["validation_rows"]) == (5, 600)
    assert named.report["rows"] == 480
    before = named.report["verdicts"]["hard"]["before"]
    assert before == pytest.approx(squares.mean(), rel=1e-4)


def test_rows_that_are_reported_on_choose_nothing() -> None:
    (X, y), valid, test = data_of("regression boosting")
    options: Any = {"valid": valid, "epochs": 3, "lr": 0.03}
    plain = tune(exported("regression boosting"), X, y, **options)
    assert "test" not in plain.report
    other = test[0], test[1] + 100
    for rows in (test, other):
        result = tune(exported("regression boosting"), X, y, test=rows, **options)
        assert result.model().SerializeToString() == plain.model().SerializeToString()
        assert result.report["taken"] == plain.report["taken"]
        found = result.report["test"]
        assert found["rows"] == len(rows[1])
        for form, model in (("original", exported("regression boosting")),
                            ("hard", result.model()), ("soft", result.model("soft"))):  # fmt: skip
            expected = np.square(scores(model, rows[0])[:, 0] - rows[1]).mean()
            assert found[form] == pytest.approx(expected, rel=1e-3)
        for own, same in zip(result.report["candidates"], plain.report["candidates"], strict=True):
            assert own.pop("test") > 0 and own == same


# Random numbers to start from.


@pytest.mark.parametrize("name", ["ridge", "logistic of three", "boosting of three", "poisson"])
def test_random_numbers_are_handed_out_however_bad(name: str) -> None:
    result, again = (tuned(name, init="random", epochs=2) for _ in range(2))
    assert result.hard is not None and result.report["init"] == "random"
    # It is handed out, and still no better than the original.
    assert not result.accepted and not result.report["accepted"]
    taken = result.report["taken"]["hard"]
    (own,) = (c for c in result.report["candidates"] if c["name"] == taken)
    assert not own["accepted"] and own["after"] > own["before"]
    assert not any(c["name"] == "scaled" for c in result.report["candidates"])
    assert result.tensors
    for key, value in result.tensors.items():
        np.testing.assert_array_equal(value, again.tensors[key])
        assert not np.array_equal(value, _own(name)[key])
    other = tuned(name, init="random", epochs=2, seed=1)
    assert any(not np.array_equal(v, other.tensors[key]) for key, v in result.tensors.items())
    X = data_of(name)[2][0]
    native, hard = (scores(result.model(form), X) for form in ("native", "hard"))
    np.testing.assert_allclose(native, hard, rtol=1e-4, atol=1e-5)
    assert (native != scores(exported(name), X)).any()


def test_random_numbers_that_end_up_better_are_accepted() -> None:
    """Toward another target than the model's own, they do."""
    (X, y), valid, _ = data_of("ridge")
    result = tune(exported("ridge"), X, 100 - 3 * y, valid=(valid[0], 100 - 3 * valid[1]),
                  init="random", lr=0.3, epochs=60)  # fmt: skip
    assert result.verdicts["hard"].accepted
    assert result.accepted and result.report["accepted"]


def _own(name: str) -> dict[str, np.ndarray]:
    learned = onnxtune.to_torch(exported(name)).learned
    return {key: np.asarray(tensor.value) for key, tensor in learned.items()}


def test_training_leads_away_from_random_numbers() -> None:
    result = tuned("logistic", init="random", epochs=30, lr=0.1)
    first, *_, last = result.history
    assert last.valid < first.valid
    after = result.verdicts["hard"].after
    assert after < 0.9 * np.log(2)  # what is said without having learned anything
    frozen = tuned("logistic", init="random", epochs=1, freeze="Scaler/*")
    for key, value in _own("logistic").items():
        moved = not np.array_equal(frozen.module.tensors()[key].detach().numpy(), value)
        assert moved != key.startswith("Scaler/")


# Targets on another scale.


@pytest.mark.parametrize("transform", ["log1p", "asinh"])
def test_predictions_are_in_units_of_the_target(transform: str, tmp_path: object) -> None:
    (X, z), (X_valid, z_valid), (X_test, _) = data_of("regression boosting")
    model = exported("regression boosting")
    forward, back = {"log1p": (np.log1p, np.expm1), "asinh": (np.arcsinh, np.sinh)}[transform]
    y, y_valid = back(z), back(z_valid)
    options: Any = {"epochs": 3, "lr": 0.03, "target_transform": transform}
    result = tune(model, X, y, valid=(X_valid, y_valid), **options)
    assert result.accepted and result.report["target_transform"] == transform
    # It is tuned as with the target that has gone through it.
    plain = tune(model, X, forward(y), valid=(X_valid, forward(y_valid)), epochs=3, lr=0.03)
    for key, value in result.tensors.items():
        np.testing.assert_array_equal(value, plain.tensors[key])
    assert result.verdicts == plain.verdicts
    for form in SAVED_FORMS:
        inner = scores(plain.model(form), X_test)
        found = scores(result.model(form), X_test)
        np.testing.assert_allclose(found, back(inner.astype(np.float64)), rtol=1e-4)
    path = tmp_path / "tuned.onnx"  # type: ignore[operator]
    result.save(path)
    np.testing.assert_array_equal(scores(onnx.load(path), X_test), scores(result.model(), X_test))


def test_an_original_that_is_kept_still_ends_in_the_inverse(tmp_path: object) -> None:
    model = exported("ridge")
    X = np.concatenate([part[0] for part in data_of("ridge")])
    y = np.exp(scores(model, X)[:, 0].astype(np.float64))  # nothing can be gained
    result = tune(model, X, y, epochs=1, target_transform="log")
    assert not result.accepted
    path = tmp_path / "kept.onnx"  # type: ignore[operator]
    result.save(path)
    np.testing.assert_allclose(scores(onnx.load(path), X)[:, 0], y, rtol=1e-4)


@pytest.mark.parametrize("transform", ["log1p", "log", "sqrt", "asinh"])
def test_a_model_of_the_target_itself_has_no_transform(transform: Any) -> None:
    (X, y), (X_valid, y_valid), _ = data_of("ridge")
    assert y.min() > 0
    with pytest.raises(ArgumentError) as caught:
        tune(exported("ridge"), X, y, target_transform=transform)
    text = str(caught.value)
    assert text.startswith(f"target_transform='{transform}' is for a model that was fitted on the ")
    assert "'variable' is nearer to the target itself; leave it out." in text
    back = {"log1p": np.expm1, "log": np.exp, "sqrt": np.square, "asinh": np.sinh}[transform]
    result = tune(exported("ridge"), X, back(y), valid=(X_valid, back(y_valid)), epochs=1,
                  target_transform=transform)  # fmt: skip
    assert result.report["target_transform"] == transform


@pytest.mark.parametrize("loss", ["poisson", "log"])
def test_rates_and_shares_have_no_transform(loss: str) -> None:
    (X, y), _, _ = data_of("ridge")
    link, target = ("Exp", np.round(y)) if loss == "poisson" else ("Sigmoid", y > 14)
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 10] X) => (float[N, 1] share) <float[10, 1] w = {{{", ".join(["0.1"] * 10)}}}>
        {{ z = MatMul (X, w) share = {link} (z) }}"""
    )
    with pytest.raises(ArgumentError, match=f"and 'share' is tuned with the {loss} loss"):
        tune(model, X, target.astype(float), loss=loss, target_transform="log1p")


def test_targets_that_cannot_be_transformed() -> None:
    for name in ("logistic", "boosting of three", "poisson"):
        (X, y), _, _ = data_of(name)
        with pytest.raises(ArgumentError, match="outputs that are plain numbers, and '"):
            tune(exported(name), X, y, target_transform="log1p")
    (X, y), _, _ = data_of("ridge")
    with pytest.raises(DataError, match="target_transform 'log' takes numbers above 0"):
        tune(exported("ridge"), X, y - 100, target_transform="log")
    with pytest.raises(ArgumentError, match="'cube' is none of"):
        tune(exported("ridge"), X, y, target_transform="cube")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="init 'zero' is none of model, random"):
        tune(exported("ridge"), X, y, init="zero")  # type: ignore[arg-type]
    for wrong in (X, (X,), (X, y, y, y)):
        with pytest.raises(ArgumentError, match=r"test must be \(X, y\)"):
            tune(exported("ridge"), X, y, test=wrong)
