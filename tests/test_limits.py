"""What a model, its rows or its trees do not allow, said before anything else goes wrong."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from pipelines import data_of, exported
from skl2onnx import to_onnx
from sklearn.ensemble import VotingRegressor
from sklearn.tree import DecisionTreeRegressor

import onnxtune
from onnxtune import candidates
from onnxtune.cli import main
from onnxtune.columns import check_batch
from onnxtune.errors import DataError, UnsupportedError
from onnxtune.runtime import ValueType, run
from onnxtune.torch_module import to_torch
from onnxtune.tuning import tune

FAST: dict[str, Any] = {"routing": "leaves", "epochs": 1}


# --- Validation rows that tell little ---


def test_few_validation_rows_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    (X, y), (X_valid, y_valid), _ = data_of("regression forest")
    model = exported("regression forest")
    tune(model, X, y, valid=(X_valid[:30], y_valid[:30]), **FAST)
    assert not caplog.records
    tune(model, X, y, valid=(X_valid[:29], y_valid[:29]), **FAST)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert "unreliable, as there are only 29 of them" in text and "\n" not in text
    assert "give more rows, or a larger `valid`" in text


def doubts(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was said of the validation rows themselves, and not of the model on them."""
    return [record for record in caplog.records if record.name == "onnxtune.targets"]


@pytest.mark.parametrize("name", ["forest", "forest of three", "boosting"])
def test_validation_rows_of_one_class_are_warned_of(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (X, y), (X_valid, y_valid), _ = data_of(name)
    one = y_valid == 1
    rows = np.tile(X_valid[one], (10, 1))[:40]
    frozen = {"freeze": "Scaler/*"} if name == "boosting" else {}
    tune(exported(name), X, y, valid=(rows, np.ones(40, int)), **FAST, **frozen)
    (record,) = doubts(caplog)
    assert "unreliable, as all are of class 1;" in record.getMessage()
    caplog.clear()
    tune(exported(name), X, y, valid=(rows[:5], np.ones(5, int)), **FAST, **frozen)
    (record,) = doubts(caplog)
    assert "only 5 of them and all are of class 1;" in record.getMessage()


@pytest.mark.parametrize("name", ["forest of three", "boosting"])
def test_rows_that_the_model_was_fitted_on_are_warned_of(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, whether they take turns or not; where one row is wrong, nothing is said."""
    (X, y), _, _ = data_of(name)
    model = exported(name)
    known = next(
        np.asarray(value) for value in run(model, {"X": X}).values()
    ) == y  # fmt: skip
    rows, wrong = X[known], y[known].copy()
    wrong[0] = (wrong[0] + 1) % (wrong.max() + 1)
    for valid in ((rows, y[known]), 0.2):
        for target, times in ((y[known], 1), (wrong, 0)):
            caplog.clear()
            out = (rows, target) if isinstance(valid, tuple) else valid
            tune(model, rows, target, valid=out, **FAST)
            said = [record for record in caplog.records if record.name == "onnxtune.turns"]
            assert len(said) == times
            for record in said:
                assert record.levelno == logging.WARNING
                assert record.getMessage().startswith("The model gets every validation row right. ")
    caplog.clear()
    tune(model, rows, y[known], valid=(rows, y[known]), init="random", **FAST)
    assert not [record for record in caplog.records if record.name == "onnxtune.turns"]


def test_a_share_of_few_rows_is_warned_of(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """All rows take turns there, so that all count."""
    (X, y), _, _ = data_of("forest of three")
    onnx.save(exported("forest of three"), tmp_path / "model.onnx")
    for rows in (30, 29):
        table = np.column_stack([X, y])[:rows]
        np.savetxt(tmp_path / "rows.csv", table, "%.6g", ",", header="a,b,c,d,kind", comments="")
        arguments = ["tune", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "rows.csv"),
                     "--target=kind", "-o", str(tmp_path / "tuned.onnx"), "--epochs=1"]  # fmt: skip
        assert main([*arguments, "--routing=leaves"]) == 0
        assert len(doubts(caplog)) == (rows == 29)
    assert "there are only 29" in doubts(caplog)[0].getMessage()


# --- Models that take batches of one size ---


def fixed(name: str, rows: int) -> onnx.ModelProto:
    """A pipeline for batches of so many rows."""
    model = onnx.ModelProto()
    model.CopyFrom(exported(name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = rows
    return model


@pytest.mark.parametrize("rows", [1, 20])
def test_tuning_needs_a_dynamic_batch(rows: int, tmp_path: Any) -> None:
    (X, y), _, _ = data_of("forest")
    path = tmp_path / "fixed.onnx"
    onnx.save(fixed("forest", rows), path)
    unit = "1 row " if rows == 1 else "20 rows "
    expected = rf"fixed\.onnx: input 'X' takes batches of exactly {unit}\(.*dynamic batch"
    for data in ((X, y), (X[:rows], y[:rows])):
        with pytest.raises(DataError, match=expected):
            tune(path, *data)
        with pytest.raises(DataError, match=expected):
            tune(path, *data, valid=(X[:rows], y[:rows]))


def test_batches_of_one_size_are_compared_and_timed(tmp_path: Any) -> None:
    X = data_of("forest")[0][0]
    path = tmp_path / "fixed.onnx"
    onnx.save(fixed("forest", 5), path)
    expected = r"fixed\.onnx: input 'X' takes batches of exactly 5 rows .*dynamic batch"
    with pytest.raises(DataError, match=expected):
        onnxtune.verify(path, path, X)
    assert onnxtune.verify(path, path, X[:5]).agrees
    assert onnxtune.verify(path, path).agrees
    verdict = onnxtune.verify(exported("forest"), path, X)
    assert not verdict.agrees and "fails: " in verdict.problems[0]
    assert "takes batches of exactly 5 rows" in verdict.problems[0]
    assert onnxtune.verify(exported("forest"), path, X[:5]).agrees
    for data in (X, X[:5], None):
        report = onnxtune.bench(path, data, batch_sizes=(1, 5), repeats=2, seconds=0.1)
        assert [row.error is None for row in report.rows] == [False, True]


def test_spreads_and_prefixes_need_as_many_rows(tmp_path: Any) -> None:
    X = data_of("forest")[0][0]
    path = tmp_path / "fixed.onnx"
    onnx.save(fixed("forest", 5), path)
    with pytest.raises(DataError, match="takes batches of exactly 5 rows"):
        onnxtune.convert(path, "soft", data=X)
    assert onnxtune.convert(path, "soft", data=X[:5]).graph.node
    # Nothing stands before its core, and so nothing is run with fixed sizes.
    assert len(to_torch(path).predict(X[:7])["probabilities"]) == 7


def test_sizes_that_some_exporters_write_for_none() -> None:
    (X, y), _, _ = data_of("forest of three")
    assert tune(fixed("forest of three", -1), X, y, **FAST).report["rows"] > 0
    check_batch([ValueType("x", "tensor(float)", (0, 3)), ValueType("y", "tensor(float)")], {}, "")


# --- Tables of another separator ---


@pytest.mark.parametrize(("mark", "shown"), [(";", "';'"), ("\t", "a tab"), ("|", "'|'")])
def test_another_separator_is_named(mark: str, shown: str, tmp_path: Any) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"a,b,c,d,kind\n{','.join('12345')}\n".replace(",", mark))
    for target in ("kind", None):
        with pytest.raises(DataError) as caught:
            onnxtune.verify(exported("forest of three"), exported("forest of three"), path, target)
        text = str(caught.value)
        assert text.startswith(f"{path}: ") and f"one column with {shown} in it" in text
        assert "save the file with commas" in text
    path.write_text("a\n1\n")
    with pytest.raises(DataError, match="has 1 column") as caught:
        onnxtune.verify(exported("forest of three"), exported("forest of three"), path)
    assert "commas" not in str(caught.value)


# --- What is tried, and what can be left out ---


def planned(task: Any, module: Any, routing: Any) -> list[tuple[str, float]]:
    """Routings and factors of the learning rates."""
    return [(plan.routing, plan.speed) for plan in candidates._trainings(task, module, routing)]


@pytest.mark.parametrize(
    ("rows", "epochs", "turns", "soft"),
    [
        (2000, 30, 1, True),
        (2001, 30, 1, False),
        (1, 60_000, 1, True),
        (1, 60_001, 1, False),
        (400, 30, 5, True),
        (401, 30, 5, False),
    ],
)
def test_auto_tries_soft_routing_within_a_minute_by_forecast(
    rows: int, epochs: int, turns: int, soft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "step_cost", lambda shape, routing: 5e5)
    monkeypatch.setattr(candidates, "tree_shapes", lambda prepared, names: ["one", "other"])
    task: Any = SimpleNamespace(
        split=SimpleNamespace(table=SimpleNamespace(rows=rows)),
        court=SimpleNamespace(settings=SimpleNamespace(epochs=epochs)),
        own_rate=False,
        turns=turns,
    )
    own: Any = SimpleNamespace(**{**vars(task), "own_rate": True})
    module: Any = SimpleNamespace(prepared=None, cut=SimpleNamespace(roles={}))
    for given, speed in ((task, 2.0), (own, 1.0)):
        steps = [("straight-through", speed)]
        # Leaves alone cost next to nothing.
        tried = [("hard", 1.0), *([("soft", 1.0)] if soft else steps)]
        assert planned(given, module, "auto") == tried
        # Whoever asks for one gets it.
        assert planned(given, module, "soft") == [("soft", 1.0)]
        assert planned(given, module, "straight-through") == steps
        assert planned(given, module, "leaves") == [("hard", 1.0)]
    monkeypatch.setattr(candidates, "tree_shapes", lambda prepared, names: [])
    for routing in ("auto", "soft"):
        slow, *fast = planned(task, module, routing)
        assert slow == ("straight-through", 1.0)
        assert [mode for mode, _ in fast] == (["straight-through"] if task is not own else [])
        assert planned(own, module, routing) == [slow]


def test_single_trees_cannot_be_left_out() -> None:
    (X, y), _, _ = data_of("regression forest")
    trees = [(f"{i}", DecisionTreeRegressor(max_depth=3, random_state=i)) for i in range(4)]
    model = to_onnx(VotingRegressor(trees).fit(X, y), X[:1])
    with pytest.raises(UnsupportedError, match=r"trees sit in 4 nodes of one tree each"):
        tune(model, X, y, max_size=0.5)
    model = to_onnx(DecisionTreeRegressor(max_depth=3).fit(X, y), X[:1])
    with pytest.raises(UnsupportedError, match=r"fewer trees, and its only tree cannot"):
        tune(model, X, y, max_size=0.5)
