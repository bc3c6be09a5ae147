"""Which rows are held out: by share, order, groups, masks and numbers; and folds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pipelines import data_of, exported, mixed, splits

import onnxtune
from onnxtune import validation
from onnxtune.data import Table, load
from onnxtune.errors import ArgumentError, DataError
from onnxtune.folds import folds
from onnxtune.model import load as load_model
from onnxtune.preparation import Prepared, prepare
from onnxtune.runtime import ValueType
from onnxtune.validation import features, given_tables, hold_out, split_rows

MATRIX = [ValueType("X", "tensor(float)", (None, 2))]
NAMED = [ValueType("a", "tensor(float)", (None, 1)), ValueType("b", "tensor(string)", (None, 1))]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def held(valid: Any, rows: int = 50, groups: Any = None, seed: int = 0) -> np.ndarray:
    """The rows held out of so many, the two parts checked."""
    table = Table({}, None, rows, None if groups is None else np.asarray(groups))
    kept, out = hold_out(table, np.zeros((rows, 1)), False, valid, rng(seed))
    assert sorted([*kept, *out]) == list(range(rows))
    assert (np.diff(kept) > 0).all() and (np.diff(out) > 0).all()
    return out


def ridge() -> Prepared:
    return prepare(load_model(exported("ridge")))


def message(error: type[Exception], call: Any) -> str:
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


# Rows held out.


def test_every_class_is_split_alike() -> None:
    target = np.array([0] * 100 + [1] * 20 + [2] * 10)
    kept, out = split_rows(target, True, 0.2, rng())
    assert sorted([*kept, *out]) == list(range(130))
    assert np.bincount(target[out]).tolist() == [20, 4, 2]
    table = Table({}, None, 130)
    again = hold_out(table, target[:, None], True, np.float32(0.2), rng())
    np.testing.assert_array_equal(target[again[1]], target[out])


def test_a_share() -> None:
    assert len(held(0.3)) == 15
    assert not np.array_equal(held(0.3, seed=0), held(0.3, seed=1))
    np.testing.assert_array_equal(held(0.3, seed=2), held(0.3, seed=2))


def test_the_last_rows() -> None:
    np.testing.assert_array_equal(held("last"), np.arange(40, 50))
    np.testing.assert_array_equal(held("last", 11), [9, 10])


@pytest.mark.parametrize(
    "values",
    [
        np.repeat(np.arange(10), 5),
        np.tile(np.arange(10), 5),
        np.repeat(["a", "b", "c", "d", "e"], 10),
        pd.Series(np.repeat(["a", "b", "c", "d", "e"], 10), dtype="category"),
        np.repeat(np.array(["2020", "2021", "2022", "2023", "2024"], "M8[Y]"), 10).tolist(),
        [*(["x"] * 25), *([3] * 25)],
        np.repeat([1.5, 2.5], 25)[:, None],
    ],
)
def test_whole_groups(values: Any) -> None:
    plain = np.asarray(values, object).ravel()
    parts = [held(values, seed=seed) for seed in range(8)]
    for out in parts:
        inside = {plain[row] for row in out}
        assert len(out) >= 10 and len(inside) < len(set(plain))
        assert not inside & {plain[row] for row in range(50) if row not in set(out.tolist())}
    assert len({tuple(out) for out in parts}) > 1


def test_groups_of_a_column() -> None:
    values = np.repeat(np.arange(10), 5)
    np.testing.assert_array_equal(held("team", groups=values), held(values))
    text = message(ArgumentError, lambda: held("team"))
    assert "valid='team'" in text


def test_groups_end_at_a_fifth() -> None:
    for seed in range(20):
        assert len(held(np.repeat(np.arange(25), 2), seed=seed)) == 10


def test_a_group_with_most_rows_is_trained_on() -> None:
    values = np.array([0] * 40 + [1] * 5 + [2] * 5)
    for seed in range(10):
        assert held(values, seed=seed).min() >= 40
    for seed in range(10):
        assert len(held(np.array([0] * 45 + [1] * 5), seed=seed)) == 5


def test_a_mask() -> None:
    mask = np.arange(50) % 7 == 0
    np.testing.assert_array_equal(held(mask), np.flatnonzero(mask))
    np.testing.assert_array_equal(held(mask.tolist()), np.flatnonzero(mask))
    np.testing.assert_array_equal(held(pd.Series(mask, dtype="boolean")), np.flatnonzero(mask))
    np.testing.assert_array_equal(held(mask.astype(object)), np.flatnonzero(mask))


def test_row_numbers() -> None:
    np.testing.assert_array_equal(held([7, 3, 49]), [3, 7, 49])
    np.testing.assert_array_equal(held([0, 5]), [0, 5])
    np.testing.assert_array_equal(held(np.array([4, 2], np.uint8)), [2, 4])


@pytest.mark.parametrize(
    ("valid", "words"),
    [
        ([1, 1, 2], "row 1 is there 2 times"),
        ([3, 50], "no row 50"),
        ([-1, 3], "no row -1"),
        ([1.5, 2.5, 3.5], "whole numbers"),
        (np.zeros((50, 2)), "shape"),
        ([True, False, True], "3 booleans"),
        (np.ones(50), "one group"),
        (["a"] * 50, "one group"),
        (np.zeros(50, bool), "0 to validate on"),
        (np.ones(50, bool), "leaves 0 rows to train on"),
        (np.arange(49), "leaves 1 rows to train on"),
        ([4], "1 to validate on"),
        (0.001, "give a share that leaves two"),
        (0.999, "give a share that leaves two"),
    ],
)
def test_what_nothing_can_be_held_out_by(valid: Any, words: str) -> None:
    assert words in message(ArgumentError, lambda: held(valid))


def test_a_missing_group() -> None:
    values = [*(["a"] * 25), None, *(["b"] * 24)]
    assert "None in row 25" in message(DataError, lambda: held(values))
    numbers = np.repeat([1.0, 2.0], 25)
    numbers[30] = np.nan
    text = message(DataError, lambda: held("team", groups=numbers))
    assert "column 'team' holds nan in row 30" in text
    assert "'' in row 0" in message(DataError, lambda: held(["", *values[:24], *values[:25]]))
    odd = np.empty(50, object)
    odd[:] = [{row} for row in range(50)]
    assert "no groups" in message(DataError, lambda: held(odd))


# What may be given.


def test_pairs_are_loaded() -> None:
    (X, y), valid, _ = splits("friedman")
    for pair in (valid, list(valid)):
        given, out = given_tables(ridge(), X, y, pair)
        assert out is not None and (given.rows, out.rows) == (len(X), len(valid[0]))


def test_a_list_of_two_paths_is_a_pair(tmp_path: Path) -> None:
    (X, y), _, _ = splits("friedman")
    pd.DataFrame(X).assign(y=y).to_csv(tmp_path / "valid.csv", index=False)
    _, out = given_tables(ridge(), X, y, [str(tmp_path / "valid.csv"), "y"])
    assert out is not None and out.rows == len(X)


@pytest.mark.parametrize("valid", [0.5, "last", [1, 2], np.zeros(3), [True, False], [5.0, 6.0]])
def test_all_else_is_held_out_later(valid: Any) -> None:
    (X, y), _, _ = splits("friedman")
    given, out = given_tables(ridge(), X, y, valid)
    assert out is None and given.groups is None


@pytest.mark.parametrize(
    "valid", [0, 1, 1.5, -0.2, True, None, object(), float("nan"), {}, "rows.csv"]
)
def test_what_is_no_way_to_hold_out(valid: Any) -> None:
    (X, y), _, _ = splits("friedman")
    text = message(ArgumentError, lambda: given_tables(ridge(), X, y, valid))
    assert text.startswith("valid must be a share between 0 and 1, (X, y)")


def test_four_are_no_pair() -> None:
    (X, y), _, _ = splits("friedman")
    for valid in ((X, y, y, y), (X,)):
        message(ArgumentError, lambda valid=valid: given_tables(ridge(), X, y, valid))  # type: ignore[misc]
    with pytest.raises(ArgumentError, match="test must be"):
        validation.reported_table(ridge(), X, 0.2)
    assert validation.reported_table(ridge(), (X, y), 0.2).rows == len(X)


def test_rows_to_report_on_may_have_the_groups(tmp_path: Path) -> None:
    (X, y), _, _ = splits("friedman")
    frame = pd.DataFrame(X)
    frame.insert(3, "team", np.arange(len(X)) % 7)
    path = tmp_path / "test.csv"
    frame.assign(y=y).to_csv(path, index=False)
    for test in ((frame, y), (path, "y"), (pd.DataFrame(X), y), (X, y)):
        found = validation.reported_table(ridge(), test, "team")
        np.testing.assert_allclose(next(iter(found.feed.values())), X, rtol=1e-6)
        np.testing.assert_allclose(np.ravel(found.target), y)
    for valid in (0.2, "last", np.arange(20)):
        text = message(DataError, lambda v=valid: validation.reported_table(ridge(), (frame, y), v))  # type: ignore[misc]
        assert "the test data" in text


def test_few_rows() -> None:
    (X, y), _, _ = splits("friedman")
    with pytest.raises(DataError, match="too few"):
        given_tables(ridge(), X[:9], y[:9], "last")


def test_what_a_fitted_model_is_exported_by() -> None:
    """A DataFrame without what is no feature."""
    frame = pd.DataFrame({"a": [1.0, 2], "team": ["x", "y"], "y": [0, 1]})
    assert list(features(frame, "y", "team")) == ["a"]
    assert list(features(frame, "y", 0.2)) == ["a", "team"]
    assert list(features(frame, np.zeros(2), "team")) == ["a", "y"]
    named = frame.rename(columns={"a": "last"})
    assert list(features(named, "y", "last")) == ["last", "team"]
    for other in (frame, frame.to_numpy(), {"a": frame["a"]}, "rows.csv"):
        assert features(other, np.zeros(2), 0.2) is other


# A column with groups.


def test_a_column_beside_the_features(tmp_path: Path) -> None:
    (X, y), _, _ = splits("friedman")
    teams = np.array([f"00{row % 7}" for row in range(len(X))])
    frame = pd.DataFrame(X)
    frame.insert(3, "team", teams)
    path = tmp_path / "rows.csv"
    frame.assign(y=y).to_csv(path, index=False)
    np.savez(tmp_path / "rows.npz", data=X, y=y, team=teams)
    for data, target in (
        (frame, y),
        (frame.assign(y=y), "y"),
        ({"X": X, "team": teams}, y),
        (path, "y"),
        (tmp_path / "rows.npz", "y"),
    ):
        given, _ = given_tables(ridge(), data, target, "team")
        assert given.groups is not None and given.groups.tolist() == teams.tolist()
        np.testing.assert_allclose(next(iter(given.feed.values())), X, rtol=1e-6)
        np.testing.assert_allclose(np.ravel(given.target), y)


def test_a_column_that_is_an_input() -> None:
    model, table, y = mixed()
    prepared = prepare(load_model(model))
    given, _ = given_tables(prepared, table, y, "colour")
    assert given.groups is not None and given.groups.tolist() == table["colour"].tolist()
    assert given.feed["colour"][:, 0].tolist() == table["colour"].tolist()
    out = hold_out(given, y, False, "colour", rng())[1]
    assert len(set(table["colour"].iloc[out])) == 1
    beside = table.assign(team=np.arange(len(table)) // 3)
    given, _ = given_tables(prepared, beside, y, "team")
    assert given.groups is not None and "team" not in given.feed
    arrays = {name: table[[name]].to_numpy() for name in table}
    given, _ = given_tables(prepared, arrays, y, "shape")
    assert given.groups is not None and given.groups.tolist() == table["shape"].tolist()


def test_a_column_among_the_features() -> None:
    frame = pd.DataFrame({"team": [1, 1, 2], "x": [3.0, 4, 5]})
    table = load(frame, MATRIX, groups="team")
    assert table.groups is not None and table.groups.tolist() == [1, 1, 2]
    np.testing.assert_array_equal(table.feed["X"], [[1, 3], [1, 4], [2, 5]])
    open_width = [ValueType("X", "tensor(float)", (None, None))]
    np.testing.assert_array_equal(load(frame, open_width, groups="team").feed["X"], [[3], [4], [5]])


def test_a_column_that_is_not_there() -> None:
    frame = pd.DataFrame({"a": [1.0, 2], "b": ["x", "y"], "t": [0, 1]})
    text = message(DataError, lambda: load(frame, NAMED, "t", groups="team"))
    assert "column 'team', to hold out groups of rows by, is not there" in text
    text = message(DataError, lambda: load(frame, NAMED, "t", groups="t"))
    assert "is the target" in text
    text = message(DataError, lambda: load(np.zeros((3, 2)), MATRIX, groups="team"))
    assert "no column named 'team'" in text
    twice = pd.DataFrame([[1.0, 2, 3, 4]], columns=["x", "z", "g", "g"])
    assert "2 times" in message(DataError, lambda: load(twice, MATRIX, groups="g"))
    wide = {"X": np.zeros((3, 2)), "g": np.zeros((3, 2))}
    assert "one entry a row" in message(DataError, lambda: load(wide, MATRIX, groups="g"))


# Folds.


def test_folds_are_alike() -> None:
    target = rng().integers(0, 3, 100)
    parts = folds(target, True, 5, rng())
    assert sorted(np.concatenate(parts)) == list(range(100))
    counts = np.array([np.bincount(target[part], minlength=3) for part in parts])
    assert (np.ptp(counts, axis=0) <= 1).all() and (counts.sum(axis=1) == 20).all()
    assert all((np.diff(part) > 0).all() for part in parts)


def test_folds_of_numbers() -> None:
    parts = folds(np.zeros((23, 2)), False, 3, rng())
    assert sorted(np.concatenate(parts)) == list(range(23))
    assert sorted(map(len, parts)) == [7, 8, 8]
    other = folds(np.zeros((23, 2)), False, 3, rng(1))
    assert not np.array_equal(parts[0], other[0])


def test_folds_of_whole_groups() -> None:
    groups = np.repeat(list("abcdefghij"), rng().integers(1, 20, 10))
    parts = folds(np.zeros(len(groups)), True, 3, rng(), groups)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    inside = [set(groups[part]) for part in parts]
    assert not inside[0] & inside[1] and not inside[0] & inside[2] and not inside[1] & inside[2]
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 19


def test_folds_that_cannot_be() -> None:
    assert "2 or more" in message(ArgumentError, lambda: folds(np.zeros(9), False, 1, rng()))
    assert "9 rows" in message(ArgumentError, lambda: folds(np.zeros(9), False, 5, rng()))
    one = np.zeros(20)
    text = message(ArgumentError, lambda: folds(np.zeros(20), False, 3, rng(), one))
    assert "All rows are of one group" in text


def test_as_many_folds_as_groups() -> None:
    groups = np.array([7] * 14 + [8] * 4 + [9] * 2)
    parts = folds(np.zeros(20), False, 5, rng(), groups)
    # What is trained on all but the first is handed out, and so the first is the smallest.
    assert [set(groups[part]) for part in parts] == [{9}, {8}, {7}]


def test_a_group_column_that_is_a_feature_beside_a_weight_column_that_is_none() -> None:
    frame = pd.DataFrame({"a": [1.0, 2, 3], "g": [0.0, 1, 1], "w": [1.0, 2, 3]})
    two = [ValueType("X", "tensor(float)", ("N", 2))]
    named = load(frame.rename(columns={"g": "b"}).assign(g=0.0), two, groups="g", weights="w")
    np.testing.assert_array_equal(named.feed["X"], [[1, 0], [2, 1], [3, 1]])
    # One of both must be a feature, and nothing says which.
    text = message(DataError, lambda: load(frame, two, groups="g", weights="w"))
    assert "one of 'g', 'w' is among them" in text
    three = [ValueType("X", "tensor(float)", ("N", 3))]
    whole = load(frame, three, groups="g", weights="w")
    np.testing.assert_array_equal(whole.feed["X"], frame.to_numpy())
    both = load(frame, two, groups="w", weights="w")
    np.testing.assert_array_equal(both.feed["X"], frame[["a", "g"]].to_numpy())
    assert both.groups is not None and both.weights is not None


def test_weights_of_rows_that_come_apart() -> None:
    (X, y), _, (Xt, yt) = data_of("ridge")
    columns = [f"x{i}" for i in range(X.shape[1])]
    train = pd.DataFrame(X, columns=columns).assign(w=1.0, y=y)
    held = pd.DataFrame(Xt, columns=columns).assign(w=2.0, y=yt)
    given = {"sample_weight": "w", "epochs": 1}
    own = np.arange(len(held)) + 1.0
    result = onnxtune.tune(exported("ridge"), train, "y", valid=(held, "y", own), **given)
    assert result.report["validation_rows"] == len(held)
    with pytest.raises(DataError, match="'no_such'"):
        onnxtune.tune(exported("ridge"), train, "y", valid=(held, "y", "no_such"), **given)


def test_an_estimator_keeps_the_columns_that_it_was_fitted_with() -> None:
    frame = pd.DataFrame({"a": [1.0, 2], "g": [0, 1], "y": [1, 2]})
    model = SimpleNamespace(feature_names_in_=["a", "g"])
    assert list(features(frame, "y", "g", None, model).columns) == ["a", "g"]
    assert list(features(frame, "y", "g").columns) == ["a"]
