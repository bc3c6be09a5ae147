"""Tuning online, and going on from a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from pipelines import data_of, exported
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, OneHotEncoder

import onnxtune
from onnxtune.errors import ArgumentError, DataError
from onnxtune.metrics import paired
from onnxtune.runtime import run
from onnxtune.tuner import Tuner


def predictions(proto: onnx.ModelProto, X: Any) -> np.ndarray:
    feed = {proto.graph.input[0].name: np.asarray(X, np.float32)}
    return np.asarray(list(run(proto, feed).values())[-1])


def batches(name: str, size: int = 60) -> list[tuple[Any, Any]]:
    (X, y), _, _ = data_of(name)
    return [(X[at : at + size], y[at : at + size]) for at in range(0, len(X), size)]


def test_before_any_rows_it_is_the_model(tmp_path: Path) -> None:
    model = exported("ridge")
    tuner = Tuner(model)
    assert tuner.model().SerializeToString() == model.SerializeToString()
    assert tuner.rows == 0 and math.isnan(tuner.gain) and math.isnan(tuner.z)
    assert tuner.tensors() == {}
    tuner.save(tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == model.SerializeToString()


def test_rows_are_tested_on_before_they_teach() -> None:
    model, differences = exported("ridge"), []
    tuner = Tuner(model)
    for X, y in batches("ridge"):
        now = tuner.model()
        before, after = (np.square(predictions(m, X)[:, 0] - y) for m in (model, now))
        differences.append(before - after)
        assert tuner.partial_fit(X, y) is tuner
    gains = np.concatenate(differences)
    mean, _, z = paired(np.zeros(len(gains)), gains)
    assert tuner.rows == len(gains)
    assert tuner.gain == pytest.approx(mean, rel=1e-3) and mean > 0
    assert tuner.z == pytest.approx(z, rel=1e-3) and z > 3


@pytest.mark.parametrize("name", ["boosting", "regression boosting", "forest of three"])
def test_leaves_alone_move(name: str, tmp_path: Path) -> None:
    tuner = Tuner(exported(name), batch_size=16, clip=5.0, lr={"*": 0.01})
    for X, y in batches(name):
        tuner.partial_fit(X, y, sample_weight=np.ones(len(X)))
    assert all(key.endswith(("/leaf_values", "/base_values")) for key in tuner.tensors())
    module = onnxtune.to_torch(tuner.model(), routing="hard")
    own = onnxtune.to_torch(exported(name), routing="hard").tensors()
    for key, value in module.tensors().items():
        same = np.array_equal(value.detach().numpy(), own[key].detach().numpy())
        assert same != (key in tuner.tensors()), key
    tuner.save(tmp_path / "tuned.onnx", form="hard")
    X = batches(name)[0][0]
    hard = predictions(onnx.load(tmp_path / "tuned.onnx"), X)
    np.testing.assert_allclose(hard, predictions(tuner.model(), X), rtol=1e-4, atol=1e-5)


def test_an_estimator_of_named_columns_is_written_without_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"kind": rng.choice(["a", "b"], 60), "size": rng.normal(size=60)})
    y = X["size"] * 2 + (X["kind"] == "a")
    columns = ColumnTransformer([("kind", OneHotEncoder(), ["kind"])], remainder="passthrough")
    tuner = Tuner(make_pipeline(columns, Ridge()).fit(X, y)).partial_fit(X, y)
    tuner.save(tmp_path / "tuned.onnx")
    assert onnx.load(tmp_path / "tuned.onnx") == tuner.model()


@pytest.mark.parametrize("routing", ["leaves", "straight-through"])
def test_steps_without_trees_move(routing: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)).astype(np.float32)
    y = X @ np.array([2.0, -1.0, 1.0])
    model = to_onnx(make_pipeline(Binarizer(threshold=0.1), Ridge()).fit(X, y), X[:1])
    tuner = Tuner(model, routing=routing, lr=0.01).partial_fit(X, y)
    before = tuner.tensors()
    tuner.partial_fit(X, y)
    assert any(name.endswith("threshold") for name in before)
    for name, value in tuner.tensors().items():
        assert not np.array_equal(value, before[name]), name


def test_votes_of_neighbours_are_trained() -> None:
    X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    model = to_onnx(KNeighborsClassifier(3).fit(X, y), X[:1], options={"zipmap": False})
    assert Tuner(model).partial_fit(X, y).rows == 60


def test_rows_without_weight_teach_nothing_but_are_tested_on() -> None:
    (X, y), *_ = batches("ridge")
    half = np.arange(len(X)) % 2 == 0
    weighted, alone = (Tuner(exported("ridge"), batch_size=len(X)) for _ in range(2))
    weighted.partial_fit(X, y, sample_weight=half)
    alone.partial_fit(X[half], y[half])
    assert weighted.rows == len(X) and alone.rows == half.sum()


def test_rows_without_weight_are_no_part_of_the_gain() -> None:
    first, second, *_ = batches("ridge")
    model, (X, y) = exported("ridge"), second
    half = np.arange(len(X)) % 2 == 0
    weighted, alone = (Tuner(model).partial_fit(*first) for _ in range(2))
    weighted.partial_fit(X, y, sample_weight=half)
    alone.partial_fit(X[half], y[half])
    assert weighted.gain == pytest.approx(alone.gain, rel=1e-4)
    assert weighted.z == pytest.approx(alone.z, rel=1e-4)
    held = weighted.tensors(), weighted.gain, weighted.z
    weighted.partial_fit(X, y, sample_weight=np.zeros(len(X)))
    np.testing.assert_equal((weighted.tensors(), weighted.gain, weighted.z), held)
    assert weighted.rows == 3 * len(X)


def test_weights_count_from_batch_to_batch() -> None:
    first, (X, y), *_ = batches("ridge")
    found = []
    for heavy in (1.0, 1000.0):
        tuner = Tuner(exported("ridge")).partial_fit(*first)
        for at in range(20):
            tuner.partial_fit(X[[at]], y[[at]], sample_weight=[heavy if at % 2 else 1.0])
        found.append(tuner.tensors())
    assert any(not np.allclose(found[0][name], found[1][name]) for name in found[0])


def test_what_it_refuses() -> None:
    with pytest.raises(ArgumentError, match="Routing 'soft'"):
        Tuner(exported("ridge"), routing="soft")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="batch_size"):
        Tuner(exported("ridge"), batch_size=0)
    tuner = Tuner(exported("ridge"))
    with pytest.raises(ArgumentError, match="give ten or more"):
        tuner.partial_fit(np.zeros((1, 10)), [1.0])
    with pytest.raises(DataError):
        tuner.partial_fit(np.zeros((20, 3)), np.zeros(20))


def test_a_run_goes_on_with_its_arguments() -> None:
    (X, y), valid, test = data_of("ridge")
    first = onnxtune.tune(exported("ridge"), X, y, valid=valid, freeze="Scaler/*", epochs=2)
    second = first.continue_(X[:200], y[:200], test=test, epochs=3)
    assert first.accepted
    assert set(second.report["tensors"]) == set(first.report["tensors"])
    assert second.report["epochs"] <= 2 * 3 and second.report["folds"] == 5
    before = np.square(predictions(first.model(), test[0])[:, 0] - test[1]).mean()
    assert second.report["test"]["original"] == pytest.approx(before, rel=1e-4)


def test_a_run_toward_a_transformed_target_goes_on_toward_it() -> None:
    (X, y), _, _ = data_of("ridge")
    model, target = exported("ridge"), np.expm1(np.asarray(y) / 3)
    first = onnxtune.tune(model, X, target, target_transform="log1p", epochs=2)
    second = first.continue_(X, target)
    assert second.transform == "log1p"
    assert [n.op_type for n in second.model().graph.node].count("Exp") == [
        n.op_type for n in first.model().graph.node
    ].count("Exp")


def test_a_run_goes_on_from_what_came_of_it() -> None:
    (X, y), valid, _ = data_of("ridge")
    first = onnxtune.tune(
        exported("ridge"), X, y, valid=valid, epochs=1, init="random",
        freeze=iter(["Scaler/*"]), metrics=iter(["r2"]),
    )  # fmt: skip
    second = first.continue_(X[:200], y[:200])
    assert second.report["init"] == "model"
    assert set(second.report["tensors"]) == set(first.report["tensors"])
    assert "r2" in second.report["metrics"]["validation"]["original"]


def test_a_smaller_model_stays_as_it_is() -> None:
    (X, y), valid, test = data_of("regression boosting")
    model = exported("regression boosting")
    first = onnxtune.tune(model, X, y, valid=valid, epochs=1, routing="leaves", max_size=0.9)
    second = first.continue_(*test, valid=0.5)
    assert second.report["max_size"] == 1


def test_a_soft_form_alone_cannot_go_on() -> None:
    (X, y), valid, _ = data_of("ridge")
    result = onnxtune.tune(exported("ridge"), X, y, valid=valid, epochs=1)
    soft = replace(result, hard=None, soft=result.hard)
    with pytest.raises(ArgumentError, match="Only the soft form was taken"):
        soft.continue_(X, y)


# Toward a target of an inner value.


def test_an_inner_value_is_tuned_toward_its_own_target(tmp_path: Path) -> None:
    model, ((X, _), _, _) = exported("boosting"), data_of("boosting")
    inner = model.graph.node[0].output[0]
    wanted = 1.5 * np.asarray(X) + 0.2
    result = onnxtune.tune(model, X, wanted, output=inner, epochs=10)
    assert result.accepted and result.report["output"] == inner
    assert all(name.startswith("Scaler/") for name in result.report["tensors"])
    for form in ("native", "hard", "soft"):
        names = [o.name for o in result.model(form).graph.output]  # type: ignore[arg-type]
        assert names == [o.name for o in model.graph.output]
    again = result.continue_(X, wanted)
    assert again.report["output"] == inner
    # What it already is cannot be bettered: the original's bytes are kept.
    feed = {model.graph.input[0].name: np.asarray(X, np.float32)}
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    probe.graph.output.add().name = inner
    same = onnxtune.tune(model, X, run(probe, feed, [inner])[inner], output=inner, epochs=1)
    assert not same.accepted
    same.save(tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == model.SerializeToString()


def test_an_inner_value_that_is_no_float() -> None:
    model, ((X, y), _, _) = exported("boosting", True), data_of("boosting")
    with pytest.raises(ArgumentError, match="choose a float tensor"):
        onnxtune.tune(model, X, y, output="label")
    with pytest.raises(ArgumentError, match="no float output"):
        onnxtune.tune(model, X, y, output="nothing")


def test_nodes_that_are_called_like_the_inner_value_stay() -> None:
    """Nothing is added to the graph for a single inner value."""
    body = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g (float[N, 2] x) => (float[N, 2] y) {
        [sc] sc = ai.onnx.ml.Scaler <offset = [0.5, 0.0], scale = [1.0, 2.0]> (x)
        [sc_then] h = Mul(sc, w)
        [out] y = Relu(h)
    }"""
    model = onnx.parser.parse_model(body)
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "w")
    )
    model.graph.node[1].name = "sc/then"
    X = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    result = onnxtune.tune(model, X, 3 * X + 1, output="sc", epochs=5)
    assert result.accepted
    for form in ("native", "hard", "soft"):
        made = result.model(form)  # type: ignore[arg-type]
        onnx.checker.check_model(made, full_check=True)
        assert [o.name for o in made.graph.output] == ["y"]
    with pytest.raises(ArgumentError, match="target_transform is for an output of its own"):
        onnxtune.tune(model, X, 3 * X + 1, output="sc", target_transform="asinh")
