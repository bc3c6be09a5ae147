"""Steps that hold a number for each column: imputers, binarizers."""

from __future__ import annotations

from typing import Any

from onnxtune.sklearn.steps.step import Part, Step, put


def _impute(step: Any, part: Part) -> None:
    step.statistics_ = put(step.statistics_, part.change("Imputer", "imputed_value_floats"))


def _binarize(step: Any, part: Part) -> None:
    step.threshold = float(put(step.threshold, part.change("Binarizer", "threshold")))


STEPS = (
    Step("sklearn", ("SimpleImputer",), _impute),
    Step("sklearn", ("Binarizer",), _binarize),
)
