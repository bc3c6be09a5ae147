"""Losses by row against scikit-learn, and the paired comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from onnxtune import metrics
from onnxtune.errors import DataError

random = np.random.default_rng(0)
COUNTS = random.poisson(3, 200).astype(float)
MEANS = random.gamma(3, 1, 200)
TABLE = random.dirichlet(np.ones(4), 200)
CLASSES = random.integers(0, 4, 200)


def test_log_loss() -> None:
    losses = metrics.log_loss(TABLE.astype(np.float32), CLASSES)
    assert losses.shape == (200,) and losses.dtype == np.float64
    assert losses.mean() == pytest.approx(reference.log_loss(CLASSES, TABLE), rel=1e-6)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_log_loss_of_one_column(shape: Any) -> None:
    second, right = TABLE[:, 0], CLASSES % 2
    losses = metrics.log_loss(second.reshape(shape), right)
    assert losses.mean() == pytest.approx(reference.log_loss(right, second))


def test_log_loss_of_an_impossible_class_is_finite() -> None:
    assert metrics.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(
        [16.118], abs=1e-3
    )


def test_errors_of_numbers() -> None:
    for ours, theirs in (
        (metrics.squared_error, reference.mean_squared_error),
        (metrics.absolute_error, reference.mean_absolute_error),
        (metrics.poisson_deviance, reference.mean_poisson_deviance),
    ):
        losses = ours(MEANS[:, None].astype(np.float64), COUNTS)
        assert losses.shape == (200,) and losses.dtype == np.float64
        assert losses.mean() == pytest.approx(theirs(COUNTS, MEANS))


def test_several_outputs_a_row() -> None:
    losses = metrics.squared_error(TABLE, TABLE[::-1])
    assert losses.shape == (200,)
    assert losses.mean() == pytest.approx(reference.mean_squared_error(TABLE[::-1], TABLE))


@pytest.mark.parametrize("kind", [np.int64, str, object])
def test_zero_one_error(kind: Any) -> None:
    label, target = CLASSES.astype(kind), np.roll(CLASSES, 1).astype(kind)
    accuracy = 1 - metrics.zero_one_error(label[:, None], target).mean()
    assert accuracy == pytest.approx(
        reference.accuracy_score(target.astype(str), label.astype(str))
    )


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "problem"),
    [
        (metrics.squared_error, np.ones(3), np.ones(2), r"\[3, 1\], the target \[2, 1\]"),
        (metrics.squared_error, np.ones((3, 2)), np.ones(3), r"\[3, 2\]"),
        (metrics.log_loss, np.ones((3, 2)), np.array([0, 1, 2]), "do not fit"),
        (metrics.log_loss, np.ones((3, 2)), np.array([0, 1]), "the target"),
        (metrics.log_loss, np.ones((3, 2)), np.array([0, -1, 0]), "do not fit"),
        (metrics.poisson_deviance, np.zeros(2), np.ones(2), "above 0"),
        (metrics.poisson_deviance, np.ones(2), -np.ones(2), "from 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    loss: Any, prediction: Any, target: Any, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        loss(prediction, target)


def test_paired_is_students_statistic() -> None:
    first, second = random.normal(size=(2, 50))
    mean, error, z = metrics.paired(first, second)
    difference = second - first
    assert mean == pytest.approx(difference.mean())
    assert error == pytest.approx(difference.std(ddof=1) / 50**0.5)
    assert z == pytest.approx(mean / error)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_paired_turns_its_sign_with_its_arguments(numbers: list[float]) -> None:
    first, second = np.array(numbers), np.zeros(len(numbers))
    there, back = metrics.paired(first, second), metrics.paired(second, first)
    assert there == pytest.approx((-back[0], back[1], -back[2]))


def test_paired_without_spread() -> None:
    same = np.ones(4)
    assert metrics.paired(same, same) == (0, 0, 0)
    assert metrics.paired(same, same + 1) == (1, 0, np.inf)
    assert metrics.paired(same, same - 1)[2] == -np.inf
    assert np.isnan(metrics.paired(same[:1], same[:1])[1:]).all()
    with pytest.raises(DataError, match="Paired losses"):
        metrics.paired(same[:0], same[:0])
    with pytest.raises(DataError, match="Paired losses"):
        metrics.paired(same, same[:2])
