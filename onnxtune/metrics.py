"""Losses row by row, and whether two models differ in them by more than chance.

Every loss takes a prediction and a target and gives one float64 number a row, so that the losses
of two models on the same rows can be compared in pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.errors import DataError

Array = np.ndarray[Any, Any]

# Probabilities below this count as this: a forest's exact 0 would cost infinitely much.
SMALLEST_PROBABILITY = 1e-7


def log_loss(probabilities: Array, target: Array) -> Array:
    """Negative logarithm of the probability of the right class: `-ln max(p[target], 1e-7)`.

    The cross entropy of Good, "Rational Decisions", J. R. Stat. Soc. B 14 (1952), clipped below
    as in `sklearn.metrics.log_loss`.

    Args:
        probabilities: [N, K], or [N] or [N, 1] for the probability of class 1 of two.
        target: [N] class indices from 0.

    Returns:
        [N] float64.

    Raises:
        DataError: the shapes do not fit, or an index is no class.
    """
    table = np.asarray(probabilities, np.float64)
    if table.ndim == 1 or table.shape[1:] == (1,):
        second = table.reshape(-1)
        table = np.stack([1 - second, second], axis=1)
    index = np.asarray(target).reshape(-1)
    _check_rows("probabilities", table, index)
    if table.ndim != 2 or (index.size and not (0 <= index.min() <= index.max() < table.shape[1])):
        raise DataError(
            f"The target's class indices do not fit probabilities of shape {list(table.shape)}; "
            "give indices from 0, one column a class."
        )
    chosen = np.take_along_axis(table, index.astype(np.int64)[:, None], axis=1)[:, 0]
    return -np.log(np.clip(chosen, SMALLEST_PROBABILITY, 1))


def squared_error(prediction: Array, target: Array) -> Array:
    """`(prediction - target)^2`, averaged over the outputs of a row.

    Args:
        prediction: [N], [N, 1] or [N, T] numbers.
        target: numbers of the same size.

    Returns:
        [N] float64.

    Raises:
        DataError: the sizes differ.
    """
    return _mean_of_row(np.square(np.subtract(*_numbers(prediction, target))))


def absolute_error(prediction: Array, target: Array) -> Array:
    """`|prediction - target|`, averaged over the outputs of a row; otherwise `squared_error`."""
    return _mean_of_row(np.abs(np.subtract(*_numbers(prediction, target))))


def zero_one_error(label: Array, target: Array) -> Array:
    """1 where the label is wrong, 0 where it is right.

    Args:
        label: [N], [N, 1] or [N, T] numbers or strings; of several a row, all must be right.
        target: the same, of the same kind.

    Returns:
        [N] float64.

    Raises:
        DataError: the sizes differ.
    """
    found, wanted = _rows(label), _rows(target)
    _check_rows("labels", found, wanted)
    wrong: Array = np.any(found != wanted, axis=1)
    return wrong.astype(np.float64)


def poisson_deviance(prediction: Array, target: Array) -> Array:
    """`2 (y ln(y / m) - y + m)` of counts y and their predicted means m, averaged over a row.

    McCullagh and Nelder, "Generalized Linear Models" (1989), section 2.3; the mean over rows is
    `sklearn.metrics.mean_poisson_deviance`.

    Args:
        prediction: [N], [N, 1] or [N, T] numbers above 0.
        target: numbers from 0, of the same size.

    Returns:
        [N] float64.

    Raises:
        DataError: the sizes differ, a prediction is not above 0, or a target is below 0.
    """
    mean, count = _numbers(prediction, target)
    if np.any(mean <= 0) or np.any(count < 0):
        raise DataError(
            "The Poisson deviance needs predictions above 0 and targets from 0; "
            "choose the squared error."
        )
    ratio = np.where(count > 0, count, mean) / mean
    return _mean_of_row(2 * (count * np.log(ratio) - count + mean))


def paired(first: Array, second: Array) -> tuple[float, float, float]:
    """How much `second` exceeds `first` on the same rows, by the paired t statistic.

    Student, "The probable error of a mean", Biometrika 6 (1908): with d = second - first, the mean
    of d, its standard error `sd(d) / sqrt(N)`, and their quotient z. Of losses, a negative mean
    says that the second model is better.

    Args:
        first: [N] numbers.
        second: [N] numbers.

    Returns:
        Mean difference, standard error, z. Below two rows the error and z are NaN; where every
        row differs by the same, z is 0 for no difference and infinite for any.

    Raises:
        DataError: the lengths differ, or there are no rows.
    """
    before, after = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if before.shape != after.shape or before.ndim != 1 or not before.size:
        raise DataError(
            f"Paired losses need one number a row for both models, not shapes "
            f"{list(before.shape)} and {list(after.shape)}."
        )
    difference = after - before
    mean = float(difference.mean())
    if len(difference) < 2:
        return mean, np.nan, np.nan
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    if error == 0:
        return mean, error, float(np.copysign(np.inf, mean)) if mean else 0.0
    return mean, error, mean / error


def _numbers(prediction: Array, target: Array) -> tuple[Array, Array]:
    found, wanted = _rows(prediction).astype(np.float64), _rows(target).astype(np.float64)
    _check_rows("predictions", found, wanted)
    return found, wanted


def _rows(values: Array) -> Array:
    held = np.asarray(values)
    return held.reshape(len(held), -1) if held.size else held.reshape(len(held), 1)


def _check_rows(name: str, found: Array, wanted: Array) -> None:
    same = found.shape == wanted.shape or wanted.ndim == 1
    if len(found) != len(wanted) or not same:
        raise DataError(
            f"The {name} have shape {list(found.shape)}, the target {list(wanted.shape)}; "
            "give one of each a row."
        )


def _mean_of_row(losses: Array) -> Array:
    return np.asarray(losses.mean(axis=1))
