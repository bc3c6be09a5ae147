"""Metrics of a tuning run: of the original and of what was taken; nothing is chosen by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxtune.classes import Labels
from onnxtune.judging import Held
from onnxtune.problem import Problem
from onnxtune.result import TuneResult
from onnxtune.scorers import Scorer, scores
from onnxtune.target_transforms import with_inverse
from onnxtune.tune_report import COMPANION

Figures = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Measured:
    """The original's metrics, and what else is to be measured on.

    Attributes:
        scorers: by name.
        problem: what is tuned toward.
        held: "validation" and, where there are such rows, "test".
        figures: by rows, model and metric.
    """

    scorers: Mapping[str, Scorer]
    problem: Problem
    held: Mapping[str, Held]
    figures: Figures


def measured(
    scorers: Mapping[str, Scorer], problem: Problem, valid: Held, test: Held | None
) -> Measured:
    """Measure the original, before anything is trained: what cannot be computed is told at once.

    Args:
        scorers: by name.
        problem: what is tuned toward.
        valid: the validation rows, of folds the first one's; their targets as they came.
        test: rows that are only reported on.

    Raises:
        ArgumentError: a metric that cannot be computed of this model.
        DataError: the target does not fit.
    """
    held = {"validation": valid} | ({} if test is None else {"test": test})
    proto = problem.prepared.source.proto
    if problem.transform is not None:
        proto = with_inverse(proto, problem.output, problem.transform)
    found = Measured(scorers, problem, held, {})
    figures: Figures = {
        name: {"original": _figures(found, proto, rows)} for name, rows in held.items()
    }
    return replace(found, figures=figures)


def with_metrics(result: TuneResult, before: Measured) -> TuneResult:
    """The result with "metrics" in its report: rows -> model -> metric -> figure.

    A metric that cannot be computed of a tuned model is NaN, and a warning says why.
    """
    figures = {name: dict(models) for name, models in before.figures.items()}
    for form, taken in (("hard", result.hard), ("soft", result.soft)):
        if taken is None or result.report["taken"].get(form) != taken.name:
            continue
        proto = result.model("native" if form == "hard" else "soft")
        for name, held in before.held.items():
            # Of validation rows the networks of a companion have learned, and the mean of folds.
            if name == "test" or (taken.name != COMPANION and result.report["folds"] == 1):
                figures[name][form] = _figures(before, proto, held, lenient=True)
    return replace(result, report=result.report | {"metrics": figures})


def _figures(
    before: Measured, proto: onnx.ModelProto, held: Held, *, lenient: bool = False
) -> dict[str, float]:
    problem, table = before.problem, held.table
    assert table.target is not None
    labels = _labels(problem, held)
    return scores(
        before.scorers, proto, table.feed, table.target, labels, problem.output, lenient=lenient
    )


def _labels(problem: Problem, held: Held) -> Labels | None:
    """The classes; also 0 and 1 of a share that is tuned toward them. None for numbers."""
    loss = problem.loss
    if loss.target != "numbers":
        return problem.labels
    single = loss.of_classes and problem.scored.columns == 1
    return (0, 1) if single and np.isin(held.target, (0, 1)).all() else None
