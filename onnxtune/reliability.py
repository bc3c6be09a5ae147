"""How often the predicted probabilities come true: the points of a reliability curve."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.judging import Held
from onnxtune.problem import Problem
from onnxtune.rows import hard_output
from onnxtune.smaller import as_target
from onnxtune.torch_module import OnnxModule
from rewrites.core.rewrite import Array

# Bins of equally many rows.
_BINS = 10


def reliability(problem: Problem, held: Held, tuned: OnnxModule | None) -> dict[str, Any] | None:
    """Points of the original's curve and of the tuned model's; None for no classifier.

    Of two classes they are for the probability of the second one, of more for that of the class
    with the highest.
    """
    labels = problem.labels
    if labels is None or problem.loss.target == "numbers":
        return None
    two = len(labels) == 2
    found: dict[str, Any] = {"of": f"class {labels[1]}" if two else "the top class"}
    modules = {"original": problem.original, "tuned": tuned}
    for name, module in modules.items():
        if module is not None:
            found[name] = curve(*_predicted(problem, held, module))
    return found


def curve(predicted: Array, right: Array) -> list[dict[str, float | int]]:
    """The mean prediction, the share that came true and the rows of bins of equally many rows.

    Args:
        predicted: [N] probabilities.
        right: [N] whether each came true.
    """
    known = np.flatnonzero(np.isfinite(predicted))
    order = known[np.argsort(predicted[known], kind="stable")]
    return [
        {
            "predicted": float(predicted[rows].mean()),
            "observed": float(right[rows].mean()),
            "count": len(rows),
        }
        for rows in np.array_split(order, min(_BINS, max(1, len(order))))
        if len(rows)
    ]


def _predicted(problem: Problem, held: Held, module: OnnxModule) -> tuple[Array, Array]:
    """[N] probabilities, and whether they came true."""
    # A companion reads other values than the original does, so its prefix runs again.
    made = hard_output(module, held.table.feed, problem.output)
    scores = made.reshape(len(made), -1)
    share = as_target(scores, problem.loss, problem.scored).double().cpu().numpy()
    target = np.asarray(held.target).reshape(len(share)).astype(np.int64)
    if share.shape[1] > 2:
        return share.max(axis=1), share.argmax(axis=1) == target
    return share[:, -1], target == 1
