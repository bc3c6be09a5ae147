"""How much rows count: in training, in the verdict, by class, and by drawing them more often."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pipelines import data_of, exported
from sklearn.utils.class_weight import compute_class_weight

from onnxtune.errors import ArgumentError
from onnxtune.result import TuneResult
from onnxtune.row_order import RowOrder
from onnxtune.tuning import tune
from onnxtune.weights import class_weights, row_weights, sample_weights


def tuned(X: Any, y: Any, name: str = "logistic", **options: Any) -> TuneResult:
    return tune(exported(name), X, y, **{"epochs": 2, "threads": 1} | options)


def figures(result: TuneResult) -> list[tuple[float, ...]]:
    return [(c["before"], c["after"], c["z"]) for c in result.report["candidates"]] + [
        (record.train, record.valid) for record in result.history
    ]


def table(X: Any, y: Any, weights: Any) -> pd.DataFrame:
    columns = {f"c{k}": X[:, k] for k in range(X.shape[1])}
    return pd.DataFrame({**columns, "benign": y, "weight": weights})


def some_weights(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 2, count)


# Weights of rows


def test_an_array_a_column_and_a_triple_say_the_same() -> None:
    (X, y), (Xv, yv), _ = data_of("logistic")
    own, held = some_weights(len(X)), some_weights(len(Xv))
    arrays = tuned(X, y, sample_weight=own, valid=(Xv, yv, held))
    columns = tuned(
        table(X, y, own), "benign", sample_weight="weight", valid=(table(Xv, yv, held), "benign")
    )
    third = tuned(X, y, sample_weight=own[:, None], valid=(table(Xv, yv, held), "benign", "weight"))
    plain = tuned(X, y, valid=(Xv, yv))
    assert figures(arrays) == figures(columns) == figures(third)
    assert figures(arrays) != figures(plain)


def test_weights_of_one_change_nothing() -> None:
    (X, y), (Xv, yv), _ = data_of("logistic")
    ones = tuned(X, y, sample_weight=np.full(len(X), 3), valid=(Xv, yv, np.full(len(Xv), 7)))
    np.testing.assert_allclose(figures(ones)[0], figures(tuned(X, y, valid=(Xv, yv)))[0], rtol=1e-6)


def test_rows_of_weight_zero_are_as_left_out() -> None:
    (X, y), (Xv, yv), _ = data_of("logistic")
    counts, held = np.arange(len(X)) % 3 > 0, np.arange(len(Xv)) % 4 > 0
    wrong, wrong_held = np.where(counts, y, 1 - y), np.where(held, yv, 1 - yv)
    zero = tuned(X, wrong, sample_weight=counts * 2.0, valid=(Xv, wrong_held, 1.0 * held))
    out = tuned(X[counts], y[counts], valid=(Xv[held], yv[held]))
    assert zero.report["rows"] == counts.sum()
    assert zero.report["validation_rows"] == held.sum()
    # What is not trained is the same to the bit, what is trained but for its step sizes.
    assert figures(zero)[0] == figures(out)[0]
    for record, same in zip(zero.history, out.history, strict=True):
        assert record.train == pytest.approx(same.train, rel=0.02)
        assert record.valid == pytest.approx(same.valid, rel=0.02)


def test_a_class_of_weight_zero_is_as_left_out() -> None:
    (X, y), (Xv, yv), _ = data_of("logistic of three")
    result = tuned(X, y, "logistic of three", valid=(Xv, yv), class_weight={2: 0})
    assert result.report["validation_rows"] == (yv != 2).sum()
    assert result.report["rows"] == (y != 2).sum()


def test_folds_take_the_weights_of_their_rows() -> None:
    (X, y), _, _ = data_of("logistic")
    weights = some_weights(len(X))
    array = tuned(X, y, sample_weight=weights)
    column = tuned(table(X, y, weights), "benign", sample_weight="weight")
    assert array.report["folds"] == 5
    assert figures(array) == figures(column)
    assert figures(array) != figures(tuned(X, y))


def test_test_rows_have_weights_too() -> None:
    (X, y), valid, (Xt, yt) = data_of("logistic")
    weights = 1.0 * (np.arange(len(Xt)) % 2)
    odd = tuned(X, y, valid=valid, test=(Xt, yt, weights)).report["test"]
    out = tuned(X, y, valid=valid, test=(Xt[1::2], yt[1::2])).report["test"]
    assert odd["original"] == pytest.approx(out["original"], rel=1e-5)


def test_a_companion_is_judged_by_the_same_weights() -> None:
    (X, y), (Xv, yv), (Xt, yt) = data_of("logistic")
    weights = {0: 5.0, 1: 1.0}
    plain, found = (
        tuned(X, y, valid=(Xv, yv), test=(Xt, yt), companion=True, epochs=1, class_weight=given)
        for given in (None, weights)
    )
    names = [one["name"] for one in found.report["candidates"]]
    assert names[-1] == "with companion"
    first, last = found.report["candidates"][0], found.report["candidates"][-1]
    assert last["before"] == pytest.approx(first["before"], rel=1e-4)
    assert last["before"] != pytest.approx(plain.report["candidates"][-1]["before"], rel=0.02)
    assert last["test"] != pytest.approx(plain.report["candidates"][-1]["test"], rel=0.02)
    unit = tuned(X, y, valid=(Xv, yv), companion=True, epochs=1, class_weight={0: 1, 1: 1})
    assert unit.report["candidates"][-1]["after"] == pytest.approx(
        plain.report["candidates"][-1]["after"], rel=1e-4
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), r"has shape \[3\]; give one number for each of the 278 rows"),
        (np.ones((278, 2)), r"has shape \[278, 2\]"),
        (np.zeros(278), "is 0 in every row"),
        (["heavy"] * 278, "holds values that are no numbers"),
        (np.r_[-1.0, np.ones(277)], r"holds -1 in row 0 \(counting from 0\)"),
        (np.r_[np.ones(277), np.nan], "holds nan in row 277"),
        (np.r_[1.0, np.inf, np.ones(276)], "holds inf in row 1"),
    ],
)
def test_wrong_weights_are_named(weights: Any, message: str) -> None:
    (X, y), valid, _ = data_of("logistic")
    assert len(X) == 278
    with pytest.raises(ArgumentError, match=message):
        tuned(X, y, valid=valid, sample_weight=weights)


def test_a_part_without_weight_is_named() -> None:
    with pytest.raises(ArgumentError, match="leave a part of the rows without any"):
        row_weights(np.zeros(3), None, np.zeros(3))
    (X, y), _, _ = data_of("logistic")
    with pytest.raises(ArgumentError, match="leave a part of the rows without any"):
        # The validation rows are the last ones.
        tuned(X, y, valid="last", sample_weight=1.0 * (np.arange(len(X)) < 100))


def test_weights_are_one_on_average() -> None:
    found = row_weights(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0]), np.array([0, 1, 0]))
    np.testing.assert_allclose(found, np.array([1, 8, 3]) / 4)
    assert row_weights(None, None, np.zeros(3)) is None


def test_weights_are_numbers() -> None:
    np.testing.assert_array_equal(sample_weights([True, False], 2), [1.0, 0.0])
    np.testing.assert_array_equal(sample_weights(pd.Series([1, 2]), 2), [1.0, 2.0])


# Weights of classes


def test_balanced_is_that_of_scikit_learn() -> None:
    y = np.random.default_rng(0).choice(3, 200, p=[0.1, 0.3, 0.6])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
    np.testing.assert_allclose(class_weights("balanced", ["a", "b", "c"], y, 3), expected)
    np.testing.assert_allclose(class_weights("balanced", [0, 1, 2], y[:, None], 3), expected)


def test_a_class_without_rows_weighs_one() -> None:
    found = class_weights("balanced", [0, 1], np.zeros(4, int), 2)
    np.testing.assert_array_equal(found, [0.5, 1])
    (X, y), valid, test = data_of("logistic of three")
    seen = y != 2
    result = tuned(X[seen], y[seen], "logistic of three", valid=valid, test=test,
                   class_weight="balanced")  # fmt: skip
    assert result.report["validation_rows"] == len(valid[1])
    assert result.report["test"]["rows"] == len(test[1])


@pytest.mark.parametrize("name", ["logistic", "logistic of three"])
def test_class_weights_are_those_of_rows(name: str) -> None:
    (X, y), (Xv, yv), _ = data_of(name)
    labels = np.unique(y)
    given = {int(label): 1.0 + 2 * int(label) for label in labels}
    by_class = tuned(X, y, name, valid=(Xv, yv), class_weight=given)
    by_row = tuned(X, y, name, sample_weight=1.0 + 2 * y, valid=(Xv, yv, 1.0 + 2 * yv))
    np.testing.assert_allclose(figures(by_class)[0], figures(by_row)[0], rtol=1e-6)
    assert figures(by_class)[-1] == pytest.approx(figures(by_row)[-1], rel=1e-6)
    balanced = tuned(X, y, name, valid=(Xv, yv), class_weight="balanced")
    own = compute_class_weight("balanced", classes=labels, y=y)
    same = tuned(X, y, name, valid=(Xv, yv), class_weight=dict(zip(labels, own, strict=True)))
    for one, other in zip(figures(balanced), figures(same), strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_other_classes_weigh_one() -> None:
    found = class_weights({"b": 3}, ["a", "b"], np.zeros(1), 2)
    np.testing.assert_array_equal(found, [1, 3])


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("logistic", "even", "must be 'balanced' or a mapping of labels to weights, not 'even'"),
        ("logistic", [1, 2], "must be 'balanced' or a mapping of labels to weights, not list"),
        ("logistic", {7: 1.0}, "there is no class 7; the classes are 0, 1"),
        ("logistic", {1: -1.0}, "1 has -1.0; weights are numbers from 0"),
        ("logistic", {1: "much"}, "1 has 'much'; weights are numbers from 0"),
        ("logistic", {1: float("nan")}, "1 has nan"),
        ("ridge", "balanced", "class_weight is for classifiers"),
    ],
)
def test_wrong_class_weights_are_named(name: str, given: Any, message: str) -> None:
    train, valid, _ = data_of(name)
    with pytest.raises(ArgumentError, match=message):
        tuned(*train, name, valid=valid, class_weight=given)


# Sampling


@pytest.mark.parametrize(("sampling", "each"), [("over", 6), ("under", 1)])
def test_as_many_rows_of_each_class(sampling: Any, each: int) -> None:
    classes = np.array([2, 0, 0, 0, 0, 1, 1, 0, 0])
    order = RowOrder(np.arange(9), sampling=sampling, classes=classes)
    generator = torch.Generator().manual_seed(0)
    draws = [order.rows(epoch, generator) for epoch in (1, 2, 3, 4)]
    for rows in draws:
        np.testing.assert_array_equal(np.bincount(classes[rows]), [each] * 3)
        if sampling == "over":  # every row comes once at least
            assert set(rows.tolist()) == set(range(9))
    assert len({tuple(rows.tolist()) for rows in draws}) > 1


def test_sampling_in_the_given_order() -> None:
    order = RowOrder(np.arange(4), "given", "over", np.array([0, 0, 0, 1]))
    rows = order.rows(1, torch.Generator().manual_seed(0)).tolist()
    assert rows == [0, 1, 2, 3, 3, 3]


def test_sampling_trains_on_other_rows() -> None:
    train, valid, _ = data_of("logistic")
    plain, over, under = (
        tuned(*train, valid=valid, sampling=sampling) for sampling in (None, "over", "under")
    )
    assert len({result.history[0].train for result in (plain, over, under)}) == 3
    assert {result.report["candidates"][0]["before"] for result in (plain, over, under)} == {
        plain.report["candidates"][0]["before"]
    }


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ridge", {"sampling": "over"}, "sampling is for classes"),
        ("logistic", {"sampling": "both"}, "sampling 'both' is none of over, under"),
        (
            "logistic",
            {"sampling": "over", "order": lambda epoch, rows, rng: rows},
            "sampling and an order of one's own exclude each other",
        ),
    ],
)
def test_wrong_sampling_is_named(name: str, options: dict[str, Any], message: str) -> None:
    train, valid, _ = data_of(name)
    with pytest.raises(ArgumentError, match=message):
        tuned(*train, name, valid=valid, **options)


@pytest.mark.parametrize("options", [{"sampling": "over"}, {"class_weight": "balanced"}])
def test_classes_of_trees(options: dict[str, Any]) -> None:
    train, valid, _ = data_of("boosting")
    assert tuned(*train, "boosting", valid=valid, routing="leaves", **options).history
