"""An estimator's export against its own predictions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import pandas as pd

from onnxtune import boosting
from onnxtune.data import load
from onnxtune.errors import DataError, ModelError, OnnxTuneError
from onnxtune.estimator_conversion import reason
from onnxtune.estimator_rows import Rows
from onnxtune.runtime import input_types, run, session

OnMismatch = Literal["error", "warn"]
_CHECKED_ROWS, _TOLERANCE, _WRONG_SHARE = 1000, 1e-3, 0.01

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Mismatch:
    """Which rows of a sample an export answers in another way than its estimator.

    `wrong`, `no_number` and `no_string` are masks over the rows: those that differ, those with
    missing numbers alone, and those with missing strings. `worst` is the largest difference of a
    number, NaN where labels alone differ. `rounded` tells whether the estimator itself answers some
    of these rows otherwise when their numbers are rounded to float32. `ties` tells whether the
    differences go away when every number is moved by up to 1e-4: values that sit on a threshold do
    so.
    """

    wrong: Array
    no_number: Array
    no_string: Array
    worst: float
    rounded: bool
    ties: bool

    @property
    def rows(self) -> int:
        """How many rows differ that ONNX could have told right."""
        return int((self.wrong & ~self.no_string).sum())


def compare_export(estimator: Any, proto: onnx.ModelProto, rows: Rows) -> Mismatch:
    """Compare on up to 1,000 rows, spread over all; each takes them as they are.

    Numbers count as different beyond 1e-3 of their size, labels where the two best classes are
    further apart than that.

    Raises:
        ModelError: onnxruntime cannot run the export, or it has other outputs.
        DataError: the estimator cannot take the rows.
    """
    name = type(estimator).__name__
    spread = np.unique(np.linspace(0, len(rows.table) - 1, _CHECKED_ROWS).astype(int))
    table = rows.table.iloc[spread]
    inputs = input_types(proto)
    floats = {value.name for value in inputs if value.is_float}
    numeric = np.array([len(inputs) == 1 or str(name) in floats for name in table.columns])
    numeric &= bool(floats)
    try:
        ready = session(proto)
    except ModelError as error:
        raise ModelError(
            f"{name}: exported by {boosting.exporter(estimator)}, but {reason(error)}. Replace the "
            "step in question, or export it by another tool."
        ) from error

    def differences(part: pd.DataFrame) -> tuple[Array, float]:
        expected = _expected(estimator, rows.given(part))
        feed = load(part, inputs).feed
        try:
            found = list(run(ready, feed).values())
        except DataError as error:
            raise ModelError(
                f"{name}: onnxruntime cannot run its export by {boosting.exporter(estimator)}: "
                f"{reason(error)}. Replace the step in question, or export it by another tool."
            ) from error
        return _differ(expected, found, name)

    try:
        wrong, worst = differences(table)
    except OnnxTuneError:
        raise
    except Exception as error:  # whatever the estimator's own validation raises
        raise DataError(f"{name} cannot take these rows: {reason(error)}.") from error
    absent = table.isna()
    no_string = absent.loc[:, ~numeric].any(axis=1).to_numpy()
    no_number = absent.loc[:, numeric].any(axis=1).to_numpy() & ~no_string
    rounded = ties = False
    if wrong.any():
        try:
            plain = _expected(estimator, rows.given(_as_float32(table, numeric)))
            changed, _ = _differ(_expected(estimator, rows.given(table)), plain, name)
            rounded = bool((changed & wrong).any())
            moved = differences(_as_float32(table, numeric, 1e-4))[0]
            ties = not too_many(moved & ~no_string)
        except Exception:  # a step that knows no values in between, an encoder say
            ties = False
    return Mismatch(wrong, no_number, no_string, worst, rounded, ties)


def report_mismatch(estimator: Any, found: Mismatch, on_mismatch: OnMismatch) -> None:
    """Say what differs: a warning for up to 1 % of the rows, past that an error.

    Rows with and without missing numbers are counted apart. Missing strings, which ONNX does not
    have (they are fed as empty strings), never give more than a warning.

    Raises:
        ModelError: the export is wrong, and `on_mismatch` is "error".
    """
    export = f"{type(estimator).__name__}: the export by {boosting.exporter(estimator)}"
    plain = ~found.no_string & ~found.no_number
    said = []
    for group, where in ((plain, ""), (found.no_number, " with missing numbers")):
        count, rows = int(found.wrong[group].sum()), int(group.sum())
        if not count:
            continue
        by = "" if np.isnan(found.worst) else f", by up to {found.worst:.2g}"
        text = (
            f"differs from the estimator on {count} of {rows} rows{where} ({count / rows:.1%}){by}"
        )
        if found.ties:
            text += (
                ": their values sit on a threshold, where float32 arithmetic falls to the other "
                "side"
            )
        if too_many(found.wrong[group]) and on_mismatch == "error":
            raise ModelError(
                f"{export} is wrong: it {text}. Change its settings, export it by another tool, or "
                "take it as it is with onnxtune.to_onnx(estimator, X, on_mismatch='warn')."
            )
        said.append(text)
    if said:
        warnings.warn(f"{export} {', and '.join(said)}.", stacklevel=4)
    if too_many(found.wrong[found.no_string]):
        warnings.warn(
            f"{export} differs from the estimator on rows with missing strings, which "
            "ONNX does not have (they are fed as empty strings). Fill them before fitting.",
            stacklevel=4,
        )


def too_many(wrong: Array) -> bool:
    """More than 1 % of the rows, and more than one."""
    return int(wrong.sum()) > max(1.0, _WRONG_SHARE * len(wrong))


def _expected(estimator: Any, rows: Any) -> list[Any]:
    """What the estimator says, in the order of the export's outputs; None where unknown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not hasattr(estimator, "predict"):
            values = estimator.transform(rows)
            return [values.toarray() if hasattr(values, "toarray") else np.asarray(values)]
        expected: list[Any] = [np.asarray(estimator.predict(rows))]
        if hasattr(estimator, "predict_proba"):
            expected.append(_stacked(estimator.predict_proba(rows)))
        return expected


def _stacked(scores: Any) -> Array | None:
    """[N, K], or [N, targets, K] of several targets; None where these differ in their classes."""
    if isinstance(scores, np.ndarray):
        return scores
    arrays = isinstance(scores, list) and all(isinstance(each, np.ndarray) for each in scores)
    alike = arrays and len({each.shape for each in scores}) == 1
    return np.stack(scores, axis=1) if alike else None


def _differ(expected: list[Any], found: list[Any], name: str) -> tuple[Array, float]:
    """True for each row where an output is not what the estimator says, and the worst number."""
    rows = len(expected[0])
    pairs: list[tuple[Array, Array]] = []
    closest = np.full(rows, np.inf)
    for want, answer in zip(expected, found, strict=False):
        got = _stacked(answer)
        if want is None or got is None or got.size != want.size:
            continue
        if want.ndim == got.ndim == 3 and got is answer:
            got = np.moveaxis(got, 0, 1)  # skl2onnx puts the targets first
        if want.ndim > 1 and want.shape[-1] > 1 and pairs:
            # How much better the best class of a row, or of one of its targets, is.
            best = np.sort(want.reshape(rows, -1, want.shape[-1]), axis=2)
            closest = (best[:, :, -1] - best[:, :, -2]).min(axis=1)
        pairs.append((want.reshape(rows, -1), got.reshape(rows, -1)))
    if not pairs:
        raise ModelError(f"{name}: the export's outputs are not of the estimator's shapes.")
    different = np.stack([_unequal(want, got) for want, got in pairs])
    # A label may be another one where the two best classes are as good as equal.
    different[0] &= closest > _TOLERANCE
    return np.asarray(different.any(axis=0)), _worst(pairs)


def _worst(pairs: list[tuple[Array, Array]]) -> float:
    """The largest difference of scores; NaN where there are labels only."""
    found = [
        np.abs(got.astype(float) - want.astype(float))
        for want, got in pairs
        if want.dtype.kind == got.dtype.kind == "f"
    ]
    finite = [values[np.isfinite(values)] for values in found]
    return max((float(values.max()) for values in finite if values.size), default=float("nan"))


def _unequal(want: Array, got: Array) -> Array:
    if not all(values.dtype.kind in "fiub" for values in (want, got)):
        return np.asarray((want.astype(str) != got.astype(str)).any(axis=1))
    if "f" not in (want.dtype.kind, got.dtype.kind):  # labels: 2020 is not 2021
        return np.asarray((want != got).any(axis=1))
    want, got = want.astype(float), got.astype(float)
    size = np.sqrt(np.mean(want[np.isfinite(want)] ** 2)) if np.isfinite(want).any() else 0.0
    with np.errstate(invalid="ignore"):
        close = np.abs(got - want) <= _TOLERANCE * np.maximum(np.abs(want), size)
    same = close | (got == want) | (np.isnan(got) & np.isnan(want))
    return np.asarray(~same.all(axis=1))


def _as_float32(table: pd.DataFrame, numeric: Array, shift: float = 0.0) -> pd.DataFrame:
    """The numbers as float32, each moved by half to all of the relative shift.

    Away from zero only, so that a reader who truncates category codes still finds the code.
    """
    noise = np.random.default_rng(0)
    columns = {}
    for name, number in zip(table.columns, numeric, strict=True):
        column = table[name]
        if number and not hasattr(column, "cat") and not pd.api.types.is_bool_dtype(column.dtype):
            values = column.to_numpy(dtype=np.float64, na_value=np.nan)
            values = values * (1 + shift * noise.uniform(0.5, 1, len(values)))
            column = pd.Series(values.astype(np.float32), table.index).astype(np.float64)
        columns[name] = column
    return pd.DataFrame(columns)
