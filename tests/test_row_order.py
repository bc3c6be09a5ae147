"""Which rows an epoch trains on, and what is done to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pipelines import data_of, exported, mixed

from onnxtune.augmentation import Augmentation
from onnxtune.errors import ArgumentError
from onnxtune.result import TuneResult
from onnxtune.row_order import RowOrder
from onnxtune.tuning import tune


def tuned(name: str = "logistic", **options: Any) -> TuneResult:
    train, valid, _ = data_of(name)
    given = {"valid": valid, "epochs": 2, "threads": 1, "lr": 0.01} | options
    return tune(exported(name), *train, **given)


def rows(order: Any, numbers: Any, epoch: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return RowOrder(np.asarray(numbers), order).rows(epoch, generator).tolist()


# Orders


def test_shuffled_and_given() -> None:
    assert rows("given", range(10, 20)) == list(range(10))
    shuffled = rows("shuffle", range(10, 20))
    assert sorted(shuffled) == list(range(10)) != shuffled


def test_a_callable_says_numbers_of_rows() -> None:
    assert rows(lambda epoch, numbers, rng: numbers[::-1], [3, 5, 8]) == [2, 1, 0]
    assert rows(lambda epoch, numbers, rng: [8, 8, 3], [3, 5, 8]) == [2, 2, 0]
    assert rows(lambda epoch, numbers, rng: numbers[:epoch], [3, 5, 8], 2) == [0, 1]


def test_what_it_draws_hangs_on_the_epoch_alone() -> None:
    def drawn(epoch: int, numbers: Any, rng: np.random.Generator) -> Any:
        return rng.permutation(numbers)

    assert rows(drawn, range(50), 2) == rows(drawn, range(50), 2) != rows(drawn, range(50), 3)


def test_it_cannot_change_the_numbers() -> None:
    order = RowOrder(np.arange(3), lambda epoch, numbers, rng: np.multiply(numbers, 0, out=numbers))
    generator = torch.Generator()
    assert order.rows(1, generator).tolist() == order.rows(2, generator).tolist() == [0, 0, 0]
    assert order.numbers.tolist() == [0, 1, 2]


def named(found: Any) -> Any:
    def mine(epoch: int, numbers: Any, rng: Any) -> Any:
        return found

    return mine


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], r"'mine' returned float64 of shape \[0\] in epoch 1; it must return the numbers"),
        (np.zeros(0, int), r"returned int64 of shape \[0\] in epoch 1"),
        ([1.0, 3.0], r"returned float64 of shape \[2\]"),
        ([[3, 5]], r"returned int64 of shape \[1, 2\]"),
        ([True, False, True], r"returned bool of shape \[3\]"),
        (None, r"returned object of shape \[\]"),
        ([3, 4], "returned row 4 in epoch 1, which is none of the training rows"),
        ([9], "returned row 9 in epoch 1"),
        ([-1], "returned row -1 in epoch 1"),
    ],
)
def test_what_is_no_order_is_named(found: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        rows(named(found), [3, 5, 8])


def test_a_curriculum_gets_the_numbers_that_rows_have_in_x() -> None:
    seen: list[tuple[int, Any]] = []

    def easy_first(epoch: int, numbers: Any, rng: Any) -> Any:
        seen.append((epoch, numbers))
        return numbers[: 50 * epoch]

    (X, _), _, _ = data_of("logistic")
    held = np.arange(3, 103)
    result = tuned(order=easy_first, valid=held, batch_size=10)
    assert [epoch for epoch, _ in seen] == [1, 2]
    expected = np.setdiff1d(np.arange(len(X)), held)
    for _, numbers in seen:
        np.testing.assert_array_equal(numbers, expected)
    # The first epoch knows the first 50 rows alone: the others may be of any class.
    (X, y), _, _ = data_of("logistic")
    other = y.copy()
    other[expected[50:]] = 1 - other[expected[50:]]
    again = tune(exported("logistic"), X, other, valid=held, epochs=2, threads=1, lr=0.01,
                 order=easy_first, batch_size=10)  # fmt: skip
    assert again.history[0].train == result.history[0].train
    assert again.history[0].valid == result.history[0].valid
    assert again.history[1].train != result.history[1].train


def test_every_fold_has_numbers_of_its_own() -> None:
    seen: list[Any] = []

    def order(epoch: int, numbers: Any, rng: Any) -> Any:
        seen.append(numbers)
        return numbers

    (X, _), _, _ = data_of("logistic")
    assert tuned(order=order, valid=0.2, epochs=1).report["folds"] == 5
    counts = np.bincount(np.concatenate(seen), minlength=len(X))
    assert len(seen) == 5
    np.testing.assert_array_equal(counts, 4)


def test_an_unknown_order_is_named() -> None:
    with pytest.raises(ArgumentError, match="order 'backwards' is none of shuffle, given"):
        tuned(order="backwards")


# Noise and augmentation


def feed(count: int = 2000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "numbers": (rng.standard_normal((count, 2)) * [1, 100] + 5).astype(np.float32),
        "counts": rng.integers(0, 9, (count, 1)),
        "words": rng.choice(np.array(["a", "b"], object), (count, 1)),
    }


def test_noise_is_in_standard_deviations_of_each_column() -> None:
    before = feed()
    after = Augmentation(0.1, None, 0).apply(before, 1)
    spread = np.std(after["numbers"] - before["numbers"], axis=0)
    np.testing.assert_allclose(spread, [0.1, 10], rtol=0.1)
    assert after["numbers"].dtype == np.float32
    for name in ("counts", "words"):
        np.testing.assert_array_equal(after[name], before[name])


def test_missing_values_and_constants_stay() -> None:
    array = np.array([[1.0, np.nan, np.inf, 7.0], [2.0, np.nan, 1.0, 7.0], [4.0, np.nan, 3.0, 7.0]])
    after = Augmentation(0.5, None, 0).apply({"x": array}, 1)["x"]
    assert np.isnan(after[:, 1]).all()
    assert after[0, 2] == np.inf
    np.testing.assert_array_equal(after[:, 3], 7)
    assert (after[:, 0] != array[:, 0]).all()
    assert np.isfinite(after[1:, 2]).all()
    flat = Augmentation(0.5, None, 0).apply({"x": array[:, 0]}, 1)["x"]
    assert flat.shape == (3,)


@pytest.mark.parametrize(("kind", "size"), [(np.float16, 1e3), (np.float32, 1e20)])
def test_noise_of_columns_whose_squares_overflow(kind: Any, size: float) -> None:
    array = (size * np.random.default_rng(0).uniform(-1, 1, (200, 2))).astype(kind)
    after = Augmentation(0.1, None, 0).apply({"x": array}, 1)["x"]
    assert after.dtype == kind and np.isfinite(after).all()
    moved = (after.astype(float) - array).std(axis=0)
    np.testing.assert_allclose(moved, 0.1 * array.astype(float).std(axis=0), rtol=0.2)


def test_one_seed_makes_the_same_noise() -> None:
    first = Augmentation(0.1, None, 3).apply(feed(), 2)["numbers"]
    np.testing.assert_array_equal(first, Augmentation(0.1, None, 3).apply(feed(), 2)["numbers"])
    for seed, epoch in ((4, 2), (3, 1)):
        other = Augmentation(0.1, None, seed).apply(feed(), epoch)["numbers"]
        assert (first != other).any()


def test_the_rows_themselves_are_never_changed() -> None:
    def worst(given: dict[str, Any], rng: Any) -> Any:
        for array in given.values():
            array[:] = array[0]
        return given

    before = feed()
    after = Augmentation(0.0, worst, 0).apply(before, 1)
    for name, array in feed().items():
        np.testing.assert_array_equal(before[name], array)
        assert (after[name] == array[0]).all()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "'mine' must return a mapping of the inputs counts, numbers, words to arrays"),
        ({}, "'mine' must return a mapping of the inputs"),
        ({"numbers": np.zeros((3, 2), "f4")}, r"returned float32 of shape \[3, 2\] for input 'num"),
        ({"words": np.zeros((2000, 1))}, r"returned float64 of shape \[2000, 1\] for input 'words"),
        ({"numbers": np.full((2000, 2), "x", object)}, "returned object of shape"),
    ],
)
def test_what_is_no_augmentation_is_named(found: Any, message: str) -> None:
    def mine(given: dict[str, Any], rng: Any) -> Any:
        return given | found if found else found

    with pytest.raises(ArgumentError, match=message):
        Augmentation(0.0, mine, 0).apply(feed(), 1)


def test_training_rows_alone_are_changed() -> None:
    """Whatever becomes of the training rows, the original's loss is that of untouched rows."""
    (X, _), _, _ = data_of("logistic")
    shapes: list[tuple[int, ...]] = []

    def zeros(given: dict[str, Any], rng: Any) -> Any:
        shapes.append(given["X"].shape)
        return {"X": np.zeros_like(given["X"])}

    plain, blank = tuned(), tuned(augment=zeros)
    assert blank.report["candidates"][0] == plain.report["candidates"][0]  # scaled, not trained
    assert set(shapes) == {X.shape}
    assert len(shapes) == 2
    assert blank.history[0].train != plain.history[0].train


def test_noise_of_nothing_is_none() -> None:
    plain, same = tuned(), tuned(augment=lambda given, rng: given)
    assert [r.valid for r in plain.history] == [r.valid for r in same.history]


def test_noise_is_the_same_in_two_runs() -> None:
    runs = [tuned(noise=0.3, seed=seed) for seed in (0, 0, 1)]
    losses = [[record.train for record in run.history] for run in runs]
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] != [record.train for record in tuned().history]


def test_columns_of_strings_may_be_augmented() -> None:
    model, table, y = mixed()

    def blank(given: dict[str, Any], rng: np.random.Generator) -> Any:
        gone = rng.random(len(given["colour"])) < 0.2
        return given | {"colour": np.where(gone[:, None], "", given["colour"])}

    result = tune(model, table, y, valid=0.3, augment=blank, noise=0.05, epochs=1,
                  routing="leaves", threads=1, seed=1)  # fmt: skip
    assert len(result.history) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": -1}, "noise must be a number from 0, not -1"),
        ({"noise": float("nan")}, "noise must be"),
        ({"noise": "much"}, "noise must be"),
        ({"augment": "mirror"}, "augment must be a callable, not 'mirror'"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        tuned(**options)
