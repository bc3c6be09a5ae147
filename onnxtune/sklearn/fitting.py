"""An estimator is fitted and tuned: on which rows each, and what comes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import has_fit_parameter

from onnxtune.errors import DataError, UnsupportedError
from onnxtune.export import SavedForm
from onnxtune.members import members
from onnxtune.sklearn.holding_out import LEAST, held_out, valid_among
from onnxtune.sklearn.inputs import rows_for_tuning

_log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rows:
    """Checked rows with a target as models hold it, and weights.

    `X` is what an estimator is fitted on; `y` is None only where there is nothing to tune toward.
    `valid` tells which of them judge, as of `onnxtune.tune`, or is `Rows` that do.
    """

    X: Any
    y: Array | None
    weight: Array | None
    valid: Any = None

    def __len__(self) -> int:
        return int(self.X.shape[0]) if hasattr(self.X, "shape") else len(self.X)

    def take(self, rows: Array) -> Rows:
        """Some of the rows, without `valid`."""
        y, weight = (None if each is None else each[rows] for each in (self.y, self.weight))
        return Rows(_safe_indexing(self.X, rows), y, weight)

    def counting(self) -> Rows:
        """Those that count for something; all where none does, for the estimator to refuse."""
        if self.weight is None or self.weight.all() or not self.weight.any():
            return self
        kept = np.flatnonzero(self.weight)
        own = isinstance(self.valid, Rows)
        valid = self.valid if own else valid_among(self.valid, kept, len(self))
        return replace(self.take(kept), valid=valid)

    def as_valid(self) -> tuple[Any, ...]:
        """(X, y) or (X, y, weights), for `onnxtune.tune` to validate on."""
        pair = (rows_for_tuning(self.X), self.y)
        return pair if self.weight is None else (*pair, self.weight)


@dataclass(frozen=True)
class Fitted:
    """What came of a fit.

    Attributes:
        content: the model.
        estimator: what it was exported from; None for a file.
        result: of tuning, where the model is what was tuned.
        history: a record per epoch.
        report: of tuning, and with `kept` why the original is kept, if it is.
    """

    content: bytes
    estimator: Any
    result: Any = None
    history: list[dict[str, Any]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


# A fitted estimator and rows like those that it takes -> its model.
Export = Callable[[Any, Rows], onnx.ModelProto]


def exported(estimator: Any, rows: Rows) -> onnx.ModelProto:
    """A fitted estimator's model, held against it.

    Rows that sit on a threshold may fall to its other side: of few rows they are soon many, and
    the model is judged by what it says itself.

    Raises:
        OnnxTuneError: it has no right export.
    """
    from onnxtune.estimators import compared_export
    from onnxtune.export_check import report_mismatch

    proto, found = compared_export(estimator, rows_for_tuning(rows.X))
    if found is not None and not found.ties:
        report_mismatch(estimator, found, "error")
    return proto


def fit_and_tune(
    estimator: Any,
    rows: Rows,
    classes: bool,
    form: SavedForm,
    arguments: Mapping[str, Any],
    export: Export = exported,
    beside: str | None = None,
) -> Fitted:
    """Fit a clone on a part of the rows and tune it, judged on the others.

    Where that does not help, or cannot be done, an estimator fitted on all rows is exported as it
    is: what there would be without tuning.

    Args:
        estimator: to clone.
        rows: to fit and tune on.
        classes: whether the target holds classes.
        form: in which the model is to run.
        arguments: further ones of `onnxtune.tune`.
        export: of a fitted clone.
        beside: how the tensors begin that are no part of what answers.
    """
    kept: str | None = None
    found: Fitted | None = None
    if rows.y is None:
        kept = "there is no y to tune toward"
    else:
        parts = _parts(rows, classes, int(arguments["seed"]))
        if isinstance(parts, str):
            kept = parts
        else:
            found, kept = _tuned(estimator, *parts, form, arguments, export)
    if found is not None and kept is None:
        if beside is None or not all(name.startswith(beside) for name in found.report["changed"]):
            return found
        kept = f"tuning moved nothing but {beside}*, which does not answer"
    whole = fitted(estimator, rows)
    model = export(whole, rows)
    _log.warning("%s is kept as it was fitted: %s.", type(estimator).__name__, kept)
    return _untuned(model, whole, form, found, str(kept))


def tune_file(
    model: onnx.ModelProto, rows: Rows, form: SavedForm, arguments: Mapping[str, Any]
) -> Fitted:
    """Tune a model that comes as it is, none of whose rows these are."""
    from onnxtune.tuning import tune

    if rows.y is None or (isinstance(rows.valid, float) and len(rows) < LEAST):
        kept = "there is no y to tune toward" if rows.y is None else f"{LEAST} rows are needed"
        return _untuned(model, None, form, None, kept)
    try:
        result = tune(
            model,
            rows_for_tuning(rows.X),
            rows.y,
            valid=rows.valid.as_valid() if isinstance(rows.valid, Rows) else rows.valid,
            sample_weight=rows.weight,
            **arguments,
        )
    except UnsupportedError as error:
        return _untuned(model, None, form, None, str(error))
    found = _of_result(result, None, form)
    return found if found.result is not None else _untuned(model, None, form, found, _NO_GAIN)


_NO_GAIN = "tuning brought no gain on the validation rows beyond chance"


def _parts(rows: Rows, classes: bool, seed: int) -> tuple[Rows, Rows] | str:
    """Rows to fit and train on, and rows to judge by."""
    assert rows.y is not None
    if isinstance(rows.valid, Rows):
        return rows, rows.valid
    found = held_out(rows.y, classes, rows.valid, seed)
    return found if isinstance(found, str) else (rows.take(found[0]), rows.take(found[1]))


def _tuned(
    estimator: Any,
    rest: Rows,
    judges: Rows,
    form: SavedForm,
    arguments: Mapping[str, Any],
    export: Export,
) -> tuple[Fitted | None, str | None]:
    """A tuned clone, and why it is not to be taken."""
    from onnxtune.tuning import tune

    try:
        part = fitted(estimator, rest)
    except Exception as error:  # an estimator raises anything; all rows together may do
        return None, f"it could not be fitted without the validation rows ({error})"
    try:
        result = tune(
            export(part, rest),
            rows_for_tuning(rest.X),
            rest.y,
            valid=judges.as_valid(),
            sample_weight=rest.weight,
            **arguments,
        )
    except (UnsupportedError, DataError) as error:
        return None, str(error).rstrip(".")
    found = _of_result(result, part, form)
    return found, None if found.result is not None else _NO_GAIN


def _of_result(result: Any, estimator: Any, form: SavedForm) -> Fitted:
    """What tuning brought; `result` stays None where the model in this form is the original."""
    taken = result.soft if form == "soft" else result.hard
    content = result.model(form).SerializeToString()
    history = [epoch.to_dict() for epoch in result.history]
    report = result.report | {"kept": None}
    return Fitted(content, estimator, None if taken is None else result, history, report)


def _untuned(
    model: onnx.ModelProto, estimator: Any, form: SavedForm, tried: Fitted | None, why: str
) -> Fitted:
    """The original in the form that was asked for, with what was tried."""
    if form != "native":
        from onnxtune.conversion import convert

        model = convert(model, form)
    report = {"accepted": False} if tried is None else tried.report
    history = [] if tried is None else tried.history
    return Fitted(
        model.SerializeToString(),
        estimator,
        None,
        history,
        report | {"accepted": False, "kept": why},
    )


def seeded(estimator: Any, seed: int | None) -> Any:
    """A clone that draws its random numbers from a seed, but where it has seeds of its own."""
    own = clone(estimator)
    if seed is not None:
        given = own.get_params(deep=True)
        names = [name for name in given if name.rpartition("__")[2] == "random_state"]
        own.set_params(**{name: seed for name in names if given[name] is None})
    return own


def fitted(estimator: Any, rows: Rows) -> Any:
    """A clone fitted on rows, with their weights where it takes weights."""
    own = clone(estimator)
    arguments: dict[str, Any] = {}
    if rows.weight is not None:
        name = _weight_argument(own)
        if name is None:
            _log.warning(
                "%s takes no weights: it is fitted without, and tuned with them.",
                type(own).__name__,
            )
        else:
            arguments[name] = rows.weight
    # XGBoost takes for missing what a sparse matrix does not hold, and a model reads zeros.
    zeros = any(type(member).__module__.startswith("xgboost") for member in members(own))
    X = rows_for_tuning(rows.X) if zeros else rows.X
    return own.fit(X, **arguments) if rows.y is None else own.fit(X, rows.y, **arguments)


def _weight_argument(estimator: Any) -> str | None:
    """What `fit` calls the weights of rows; None where it takes none."""
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        inner = None if isinstance(last, str) or last is None else _weight_argument(last)
        return None if inner is None else f"{name}__{inner}"
    return "sample_weight" if has_fit_parameter(estimator, "sample_weight") else None
