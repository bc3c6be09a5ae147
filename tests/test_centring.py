"""Thresholds in the gaps beside repeated values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from courts import court_for
from forests import (
    Array,
    Trees,
    indexed,
    leaf_numbers,
    random_rows,
    random_trees,
    regressor,
)
from pipelines import data_of, exported
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onnxtune import candidates
from onnxtune.calibration import feed_spreads
from onnxtune.centring import centred
from onnxtune.data import load as load_data
from onnxtune.export import native
from onnxtune.model import load
from onnxtune.partition import partition
from onnxtune.preparation import prepare
from onnxtune.row_order import RowOrder
from onnxtune.runtime import input_types, run
from onnxtune.torch_module import OnnxModule
from onnxtune.tuning import tune

LEQ, LT, GT, GTE = (f"BRANCH_{word}" for word in ("LEQ", "LT", "GT", "GTE"))


def module_of(model: onnx.ModelProto, X: Any) -> tuple[OnnxModule, dict[str, Array]]:
    prepared = prepare(load(model))
    feed = load_data(X, input_types(prepared.source.proto)).feed
    return OnnxModule(
        prepared, partition(prepared), feed_spreads(prepared, feed), "hard", 0.1
    ), feed


def stump(thresholds: list[float], feature: int = 0, mode: str = LEQ) -> onnx.ModelProto:
    """A tree for each threshold, all of one feature of three; each puts out its own column."""
    count = len(thresholds)
    trees = Trees(
        tree=np.repeat(np.arange(count), 3),
        node=np.tile([0, 1, 2], count),
        feature=np.tile([feature, 0, 0], count),
        value=np.array([n for t in thresholds for n in (t, 0.0, 0.0)]),
        mode=[mode, "LEAF", "LEAF"] * count,
        true=np.tile([1, 0, 0], count),
        false=np.tile([2, 0, 0], count),
        missing=np.zeros(3 * count, np.int64),
        leaves=np.array([(t, n) for t in range(count) for n in (1, 2)]),
        width=3,
    )
    return regressor(trees, leaf_numbers(trees), count)


def moved(thresholds: list[float], column: Any, mode: str = LEQ) -> list[float]:
    X = np.random.default_rng(0).normal(size=(len(column), 3)).astype(np.float32)
    X[:, 0] = column
    model = stump(thresholds, mode=mode)
    module, feed = module_of(model, X)
    (value,) = centred(module, feed, module.learned).values()
    return [float(number) for number in value]


@pytest.mark.parametrize("mode", [LEQ, LT, GT, GTE])
def test_a_threshold_between_zeros_and_ones(mode: str) -> None:
    column = np.arange(100) % 2
    near = [1e-35, 0.3, 0.5, 0.999]
    assert moved(near, column, mode) == [0.5] * 4
    # Nothing lies on one side of these, and there is no gap to be in the middle of.
    outside = np.float32([-1.0, -1e-35, 1.5, 7.0]).tolist()
    # A threshold that is not passed itself is kept as the number right below it.
    assert moved(outside, column, mode) == pytest.approx(outside, rel=1e-6)


def test_the_gap_beside_a_value_that_repeats() -> None:
    """Counts: most are zero, and few are large."""
    column = np.r_[np.zeros(90), np.linspace(3, 9, 10)]
    found = moved([1e-35, 2.9, 5.1, 8.5], column)
    assert found == np.float32([1.5, 1.5, 5.1, 8.5]).tolist()
    # Where missing numbers are among them, they are no values.
    column[::7] = np.nan
    column[1] = np.inf
    assert moved([0.25], column)[0] == np.nanmin(column[column > 0]) / 2


@pytest.mark.parametrize(("ones", "repeats"), [(4, False), (5, True)])
def test_what_repeats(ones: int, repeats: bool) -> None:
    column = np.r_[np.linspace(-4, -1, 60), np.full(ones, 1.0)]
    (found,) = moved([0.5], column)
    assert found == (0.0 if repeats else 0.5)
    # Of many rows a share.
    column = np.r_[np.linspace(-4, -1, 1000), np.full(10, 1.0)]
    assert moved([0.5], column) == [0.5]


def test_continuous_columns_infinite_and_lonely_thresholds_stay() -> None:
    rng = np.random.default_rng(0)
    column = rng.normal(size=200)
    some = np.float32([-0.5, 0.0, 0.7]).tolist()
    assert moved(some, column) == some
    endless = [np.inf, -np.inf]
    zeros = np.arange(200) % 2
    assert moved([*endless, 0.1], zeros) == [*endless, 0.5]
    assert moved([0.1, 0.2], np.ones(200)) == np.float32([0.1, 0.2]).tolist()
    assert moved([0.1], np.full(200, np.nan)) == np.float32([0.1]).tolist()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("operator", ["regressor", "indexed"])
def test_no_row_is_routed_otherwise(operator: str, seed: int) -> None:
    """Rows lie on thresholds, right beside them, and repeat; every tree tells its leaf."""
    rng = np.random.default_rng(seed)
    trees = random_trees(
        rng, count=6, depth=4, shape="balanced", modes=(LEQ, LT, GT, GTE), missing=True,
        infinite=True, whole=bool(seed % 2),
    )  # fmt: skip
    weights = leaf_numbers(trees)
    model = (
        regressor(trees, weights, 6) if operator == "regressor"
        else indexed(rng, trees, weights, 6, aggregate=1)
    )  # fmt: skip
    X = random_rows(rng, trees, 300)
    X[:, 1] = np.round(X[:, 1])
    X[:, 2] = X[:, 2] > 0
    module, feed = module_of(model, X)
    found = centred(module, feed, module.learned)
    (name,) = found
    old = module.learned[name].value
    assert found[name].dtype == old.dtype and found[name].shape == old.shape
    assert (found[name] != old).sum() > 3
    written = native(module.prepared, found).proto
    np.testing.assert_array_equal(run(written, {"x": X})["y"], run(model, {"x": X})["y"])


def test_values_behind_a_scaler() -> None:
    """What counts is what the trees meet, not what comes in."""
    rng = np.random.default_rng(0)
    X = np.c_[rng.integers(0, 2, 400), rng.normal(size=400)].astype(np.float32)
    y = X[:, 0] + X[:, 1]
    fitted = make_pipeline(StandardScaler(), GradientBoostingRegressor(n_estimators=5)).fit(X, y)
    model = to_onnx(fitted, X[:1])
    module, feed = module_of(model, X)
    (name,) = (n for n in module.learned if n.endswith("thresholds"))
    low, high = (np.unique(fitted[0].transform(X)[:, 0])).astype(np.float32)
    spoiled = module.learned[name].value.copy()
    own = np.isclose(spoiled, (low + high) / 2, atol=1e-3)
    assert own.any() and not own.all()
    spoiled[own] = low + 1e-3
    spoilt = native(module.prepared, {name: spoiled}).proto
    again, feed = module_of(spoilt, X)
    found = centred(again, feed, [name])[name]
    np.testing.assert_allclose(found[own], (low + high) / 2, atol=1e-5)
    np.testing.assert_array_equal(found[~own], spoiled[~own])
    np.testing.assert_array_equal(
        run(native(again.prepared, {name: found}).proto, {"X": X})["variable"],
        run(spoilt, {"X": X})["variable"],
    )


def test_models_without_trees_have_none() -> None:
    module, feed = module_of(exported("ridge"), data_of("ridge")[0][0])
    assert centred(module, feed, module.learned) == {}


def started(freeze: bool) -> tuple[Any, Any]:
    """A model with a threshold on a column of zeros and ones, and its start of training."""
    X = np.zeros((60, 3), np.float32)
    X[::2, 0] = 1
    y = np.tile(X[:, :1], 2)
    model = stump([1e-35, 0.75])
    problem, court = court_for(model, X, y, (X, y))
    (split,) = candidates_split(problem, X, y)
    trained = [n for n in problem.original.learned if not (freeze and "thresholds" in n)]
    task = candidates.Task(
        problem,
        split,
        trained,
        court,
        None,
        fold=1,
        turns=1,
        random=False,
        order=RowOrder(split.numbers),
    )
    return candidates._started(task, problem.original, trained)


def candidates_split(problem: Any, X: Array, y: Array) -> list[Any]:
    from onnxtune.problem import splits
    from onnxtune.validation import given_tables

    given, apart = given_tables(problem.prepared, X, y, (X, y))
    return splits(problem, given, apart, (X, y), 0)


def test_training_starts_from_there() -> None:
    module, learned = started(freeze=False)
    np.testing.assert_array_equal(learned["trees/thresholds"].value, [0.5, 0.5])
    np.testing.assert_array_equal(module.tensors()["trees/thresholds"].detach(), [0.5, 0.5])


def test_frozen_thresholds_stay() -> None:
    module, learned = started(freeze=True)
    wanted = np.float32([1e-35, 0.75])
    np.testing.assert_array_equal(learned["trees/thresholds"].value, wanted)
    np.testing.assert_array_equal(module.tensors()["trees/thresholds"].detach(), wanted)


@pytest.mark.parametrize("init", ["model", "random"])
@pytest.mark.parametrize("routing", ["auto", "straight-through"])
def test_judged_with_the_thresholds_that_were_trained_upon(routing: Any, init: Any) -> None:
    """What a candidate loses is what its best epoch lost, and what the file does."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, (300, 3)).astype(np.float32)
    y = (3 * X[:, 0] + X[:, 1] + rng.normal(size=300) / 5)[:, None]
    # Between the values of the training rows there are others to validate on.
    valid = (X[:100] + rng.uniform(-0.4, 0.4, (100, 3))).astype(np.float32), y[:100]
    result = tune(stump([1e-35]), X, y, valid=valid, epochs=4, routing=routing, init=init, lr=0.1)
    after = {one["name"]: one["after"] for one in result.report["candidates"]}
    names = {"hard": "leaves", "soft": "soft, thresholds kept"}
    seen = {epoch.routing for epoch in result.history}
    assert seen == ({"hard", "soft"} if routing == "auto" else {"straight-through"})
    for mode in seen:
        best = min(epoch.valid for epoch in result.history if epoch.routing == mode)
        assert after[names.get(mode, mode)] == pytest.approx(best, rel=1e-6)
    found = run(result.model(), {"x": valid[0]})["y"]
    taken = after[result.report["taken"]["hard"]]
    assert np.square(found - valid[1]).mean() == pytest.approx(taken, rel=1e-4)


def test_only_tensors_that_are_trained_move() -> None:
    module, feed = module_of(stump([1e-35]), np.tile(np.arange(2), (3, 20)).T.astype(np.float32))
    assert centred(module, feed, ["trees/leaf_values"]) == {}
    assert centred(module, feed, []) == {}
    assert list(centred(module, feed, list(module.learned))) == ["trees/thresholds"]
    # Names of a model whose trees were left out since are no matter.
    assert list(centred(module, feed, ["gone", "trees/thresholds"])) == ["trees/thresholds"]


def test_what_nothing_was_gained_with_is_not_centred() -> None:
    """Only a model that is taken has other thresholds."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (400, 3)).astype(np.float32)
    model = stump([1e-35])
    y = run(model, {"x": X})["y"]
    result = tune(model, X, y, valid=(X, y), epochs=2, routing="straight-through")
    assert not result.accepted
    assert result.model().SerializeToString() == model.SerializeToString()
