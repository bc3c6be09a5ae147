"""Scalers: offsets and factors."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.sklearn.steps.step import Part, Step, put


def _divisor(own: Any, part: Part) -> Any:
    """`scale_`, by which is divided: the reciprocal of what the Scaler node holds."""
    change = part.change("Scaler", "scale")
    if change is not None:
        with np.errstate(divide="ignore"):
            return put(own, change, 1.0 / change.after.astype(np.float64))
    return put(own, part.change("Div", "input 1"))


def _standard(step: Any, part: Part) -> None:
    if step.with_mean:
        offset = part.first(("Scaler", "offset"), ("Sub", "input 1"))
        step.mean_ = put(step.mean_, offset)
    step.scale_ = _divisor(step.scale_, part)


def _robust(step: Any, part: Part) -> None:
    if step.with_centering:
        offset = part.first(("Scaler", "offset"), ("Sub", "input 1"))
        step.center_ = put(step.center_, offset)
    step.scale_ = _divisor(step.scale_, part)


def _largest(step: Any, part: Part) -> None:
    step.scale_ = _divisor(step.scale_, part)


def _range(step: Any, part: Part) -> None:
    step.scale_ = put(step.scale_, part.change("Mul", "input 1"))
    step.min_ = put(step.min_, part.change("Add", "input 1"))


STEPS = (
    Step("sklearn", ("StandardScaler",), _standard),
    Step("sklearn", ("RobustScaler",), _robust),
    Step("sklearn", ("MaxAbsScaler",), _largest),
    Step("sklearn", ("MinMaxScaler",), _range),
)
