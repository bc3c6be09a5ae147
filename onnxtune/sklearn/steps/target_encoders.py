"""Encoders that hold a number for each category of each column."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.sklearn.steps.step import Part, Step, put


def _write(step: Any, part: Part) -> None:
    columns = range(len(step.encodings_))  # of several classes each has one for each of these
    step.encodings_ = [
        put(step.encodings_[number], part.change("LabelEncoder", "values_floats", number))
        for number in columns
    ]
    # The mean of the target, which stands for unknown categories of all columns.
    if len(step.encodings_) == 1:
        mean = put(step.target_mean_, part.change("LabelEncoder", "default_float"))
        step.target_mean_ = float(mean) if np.ndim(mean) == 0 else mean


STEPS = (Step("sklearn", ("TargetEncoder",), _write),)
