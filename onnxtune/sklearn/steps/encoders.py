"""Steps that put numbers in the place of categories: target encoders."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.sklearn.steps.step import Part, Step, put


def _write(step: Any, part: Part) -> None:
    count = len(step.encodings_)
    step.encodings_ = [
        put(own, part.change("LabelEncoder", "values_floats", column))
        for column, own in enumerate(step.encodings_)
    ]
    defaults = [part.change("LabelEncoder", "default_float", column) for column in range(count)]
    # One mean stands for what is unknown in every column.
    known = [change for change in defaults if change is not None]
    if len(known) == count and len({float(change.after[0]) for change in known}) == 1:
        step.target_mean_ = np.float64(put(step.target_mean_, known[0]))


STEPS = (Step("sklearn", ("TargetEncoder",), _write),)
