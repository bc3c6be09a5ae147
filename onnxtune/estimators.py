"""A fitted estimator becomes ONNX through skl2onnx, and the export is held against it."""

from __future__ import annotations

from typing import Any

import onnx
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from onnxtune import boosting, converters
from onnxtune.errors import ArgumentError, ModelError
from onnxtune.estimator_conversion import alternatives, check_can_answer, convert
from onnxtune.estimator_rows import inputs_of, inputs_without_rows, rows_of
from onnxtune.export_check import Mismatch, OnMismatch, compare_export, report_mismatch


def to_onnx(
    estimator: Any, sample: Any = None, *, on_mismatch: OnMismatch = "error"
) -> onnx.ModelProto:
    """Export a fitted estimator, and compare the export with it where there are rows.

    A table of numbers gives one input `X` of shape [None, F]. Where columns differ in kind, or a
    ColumnTransformer selects them by name, each column is an input under its own name: strings as
    strings, numbers and booleans as floats, except integers that an encoder looks up, which stay
    int64. A classifier returns its label and a plain tensor of probabilities.

    Up to 1,000 rows are compared, each as it is given. Where float32 changes the answers of some,
    scalers that compute in float64, then inputs of float64 are tried, and the export that differs
    on the fewest rows is taken.

    Args:
        estimator: a scikit-learn, LightGBM, XGBoost or CatBoost estimator, or a Pipeline of them;
            of a TunedClassifier or another of `onnxtune.sklearn` it is the model that it holds.
        sample: rows like those it was fitted on: a DataFrame, a 2-D array, a mapping of column
            name to values, a sequence of strings for text, or the path of a .csv or .parquet file.
            Without rows the model takes floats.
        on_mismatch: what an export is that differs from the estimator on more than 1 % of the
            rows: an "error", or no more than a warning ("warn"), as for fewer rows.

    Raises:
        ModelError: not fitted, rows are needed but not given, or the export is wrong.
        DataError: the rows do not fit the estimator.
        ArgumentError: `on_mismatch` is neither.
        UnsupportedError: a step has no converter, or a setting no right export.
        MissingDependencyError: the converter's package is not installed.
    """
    if on_mismatch not in ("error", "warn"):
        raise ArgumentError(f"on_mismatch '{on_mismatch}' is none of error, warn.")
    held = getattr(estimator, "onnx_", None)  # of a TunedClassifier: it answers by this one
    if isinstance(held, onnx.ModelProto):
        return held
    proto, found = compared_export(estimator, sample)
    if found is not None:
        report_mismatch(estimator, found, on_mismatch)
    return proto


def compared_export(estimator: Any, sample: Any) -> tuple[onnx.ModelProto, Mismatch | None]:
    """The best export, and on which rows it differs; None where there are none to compare on.

    Raises:
        ModelError: not fitted, or rows are needed but not given.
        DataError: the rows do not fit the estimator.
        UnsupportedError: a step has no converter, or a setting no right export.
        MissingDependencyError: the converter's package is not installed.
    """
    make_ready(estimator)
    if sample is None:
        boosting.check_settings(estimator)
        return convert(estimator, inputs_without_rows(estimator)), None
    rows = rows_of(estimator, sample)
    inputs = inputs_of(estimator, rows)
    proto = convert(estimator, inputs)
    if not len(rows.table):
        return proto, None
    found = compare_export(estimator, proto, rows)
    if found.rows:
        for other in alternatives(estimator, inputs, found.rounded):
            try:
                better = compare_export(estimator, other, rows)
            except ModelError:  # few operators of onnxruntime run on doubles
                continue
            if better.rows < found.rows:
                proto, found = other, better
            if not found.rows:
                break
    return proto, found


def make_ready(estimator: Any) -> None:
    """Check that an estimator can be exported, and make its converters known.

    Raises:
        ModelError: not fitted, or it says nothing of new rows.
        UnsupportedError: no export can stand for it.
        MissingDependencyError: the converter's package is not installed.
    """
    name = type(estimator).__name__
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        raise ModelError(f"{name} is not fitted: call fit first.") from None
    except TypeError:
        raise ModelError(
            f"{name} has no fit: pass the fitted estimator (LGBMClassifier, say, and not its "
            "Booster), or an ONNX file."
        ) from None
    check_can_answer(estimator)
    boosting.register(estimator)
    converters.register(estimator)
