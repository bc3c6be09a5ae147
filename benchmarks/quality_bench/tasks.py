"""Losses per row of the four tasks, and the one factor that temperature scaling chooses."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]

# "forest" and "classes" predict probabilities; "numbers" numbers; "rates" rates of counts.
Task = Literal["forest", "classes", "numbers", "rates"]

# A forest gives a class no probability at all where no tree has seen it.
FLOORS = {"forest": 1e-3, "classes": 1e-7}
FACTORS = np.exp(np.linspace(-1.5, 1.5, 61))
_SMALLEST_RATE = 1e-9


def is_classes(task: Task) -> bool:
    """Whether the targets are classes."""
    return task in FLOORS


def row_losses(task: Task, predicted: Array, y: Array) -> Array:
    """Log loss, squared error or Poisson deviance of every row."""
    predicted = np.asarray(predicted, dtype=np.float64)
    if is_classes(task):
        chosen = predicted[np.arange(len(y)), np.asarray(y, dtype=np.int64)]
        return np.asarray(-np.log(np.clip(chosen, FLOORS[task], 1)))
    y = np.asarray(y, dtype=np.float64)
    if task == "numbers":
        return np.asarray((predicted - y) ** 2)
    rate = np.maximum(predicted, _SMALLEST_RATE)
    events = y * np.log(np.where(y > 0, y, 1) / rate)
    return np.asarray(2 * (events - y + rate))


def mean_loss(task: Task, predicted: Array, y: Array) -> float:
    """The mean over the rows."""
    return float(row_losses(task, predicted, y).mean())


def scaled(task: Task, predicted: Array, factor: float) -> Array:
    """Predictions whose logits, or log rates, are multiplied; numbers stay as they are."""
    predicted = np.asarray(predicted, dtype=np.float64)
    if task == "numbers":
        return predicted
    if task == "rates":
        return np.asarray(np.exp(factor * np.log(np.maximum(predicted, _SMALLEST_RATE))))
    logits = factor * np.log(np.clip(predicted, FLOORS[task], 1))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def best_factor(task: Task, predicted: Array, y: Array) -> float:
    """The factor with the least loss on these rows."""
    if task == "numbers":
        return 1.0
    losses = [mean_loss(task, scaled(task, predicted, factor), y) for factor in FACTORS]
    return float(FACTORS[int(np.argmin(losses))])


def paired_z(better: Array, worse: Array) -> float:
    """The mean gain of the first losses over the second, in its standard errors."""
    gain = worse - better
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return float(gain.mean() / error) if error > 0 else 0.0
