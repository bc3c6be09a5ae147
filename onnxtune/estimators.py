"""A fitted estimator becomes ONNX through skl2onnx, and the export is held against it."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np
import onnx
import pandas as pd
from skl2onnx import convert_sklearn
from skl2onnx.common import data_types
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from onnxtune import boosting, tables
from onnxtune.data import load
from onnxtune.errors import DataError, ModelError, OnnxTuneError, UnsupportedError
from onnxtune.runtime import ValueType, input_types, one_line, run, session

TARGET_OPSET = {"": 17, "ai.onnx.ml": 3}  # old enough for the runtimes in use

_FLOAT, _INT64, _STRING = "tensor(float)", "tensor(int64)", "tensor(string)"
_TENSOR_TYPES = {
    _FLOAT: data_types.FloatTensorType,
    _INT64: data_types.Int64TensorType,
    _STRING: data_types.StringTensorType,
}
_CHECKED_ROWS, _TOLERANCE, _WRONG_SHARE = 1000, 1e-3, 0.01

Array = np.ndarray[Any, Any]


def to_onnx(estimator: Any, data: Any = None) -> onnx.ModelProto:
    """Export a fitted estimator, and compare the export with it where there are rows.

    A table of numbers gives one input `X` of shape [None, F]. Where columns differ in kind, or a
    ColumnTransformer selects them by name, each column is an input under its own name: strings as
    strings, numbers and booleans as floats, except integers that an encoder looks up, which stay
    int64. A classifier returns its label and a plain tensor of probabilities.

    Args:
        estimator: a scikit-learn, LightGBM, XGBoost or CatBoost estimator, or a Pipeline of them.
        data: rows like those it was fitted on: a DataFrame, a 2-D array, a mapping of column name
            to values, or a sequence of strings for text. Without rows the model takes floats.

    Raises:
        ModelError: not fitted, rows are needed but not given, or the export is wrong.
        DataError: the rows do not fit the estimator.
        UnsupportedError: a step has no converter.
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
    inputs = _inputs_without_rows(estimator) if data is None else _inputs(estimator, data)
    boosting.register(estimator)
    proto = _convert(estimator, inputs)
    if data is not None:
        check_export(estimator, proto, data)
    return proto


def check_export(estimator: Any, proto: onnx.ModelProto, data: Any) -> None:
    """Compare an export with its estimator on up to 1,000 rows, both fed the same float32 numbers.

    Rows count as different beyond 1e-3 of their size. A few may be: onnxruntime computes in
    float32, and a value that sits on a threshold can fall to the other side. Where more than 1%
    are, every number is moved by up to 1e-4 for a second look: that removes the ties, and leaves
    a wrong export wrong. Ties give a warning, and so do missing strings, which ONNX does not have
    (they are fed as empty strings).

    Raises:
        ModelError: the export is wrong.
        DataError: the estimator or the export cannot take the rows.
    """
    name = type(estimator).__name__
    sample = _sample(estimator, data)
    if not len(sample.table):
        return
    spread = np.unique(np.linspace(0, len(sample.table) - 1, _CHECKED_ROWS).astype(int))
    table = sample.table.iloc[spread]
    inputs = input_types(proto)
    floats = {value.name for value in inputs if value.is_float}
    numeric = np.array([len(inputs) == 1 or str(name) in floats for name in table.columns])
    numeric &= bool(floats)
    ready = session(proto)

    def wrong_rows(shift: float) -> Array:
        rows = _as_float32(table, numeric, shift)
        expected = _expected(estimator, sample.given(rows))
        return _differ(expected, list(run(ready, load(rows, inputs).feed).values()), name)

    try:
        wrong = wrong_rows(0)
    except OnnxTuneError:
        raise
    except Exception as error:  # whatever the estimator's own validation raises
        raise DataError(f"{name} cannot take these rows: {_reason(error)}.") from error
    absent = table.isna()
    no_string = absent.loc[:, ~numeric].any(axis=1).to_numpy()
    no_number = absent.loc[:, numeric].any(axis=1).to_numpy() & ~no_string
    for group, where in ((~no_string & ~no_number, ""), (no_number, " with missing numbers")):
        if not _too_many(wrong[group]):
            continue
        count = f"{int(wrong[group].sum())} of {int(group.sum())} rows{where}"
        try:
            ties = not _too_many(wrong_rows(1e-4)[group])
        except Exception:  # a step that knows no values in between, an encoder say
            ties = False
        if not ties:
            raise ModelError(
                f"{name}: the export by {boosting.exporter(estimator)} is wrong: it differs from "
                f"the estimator on {count}. Change its settings, or export it by another tool."
            )
        warnings.warn(
            f"{name}: the export differs from the estimator on {count}: their values sit on a "
            "threshold, where float32 arithmetic falls to the other side.",
            stacklevel=3,
        )
    if _too_many(wrong[no_string]):
        warnings.warn(
            f"{name}: the export differs from the estimator on rows with missing strings, which "
            "ONNX does not have (they are fed as empty strings). Fill them before fitting.",
            stacklevel=3,
        )


# Rows and inputs


@dataclass(frozen=True)
class _Sample:
    """Rows as a table, and the form in which the estimator takes them: frame, array or text."""

    table: pd.DataFrame
    form: str

    def given(self, table: pd.DataFrame) -> Any:
        if self.form == "text":
            return table.iloc[:, 0].to_numpy()
        return table if self.form == "frame" else table.to_numpy()


def _sample(estimator: Any, data: Any) -> _Sample:
    names = getattr(estimator, "feature_names_in_", None)
    if isinstance(data, Mapping):
        columns = {name: np.asarray(values) for name, values in data.items()}
        if len(columns) == 1 and next(iter(columns.values())).ndim == 2:
            data = next(iter(columns.values()))
        elif any(values.size != len(values) for values in columns.values()):
            raise DataError("A mapping holds one column under each name, or one 2-D array in all.")
        else:
            data = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
    table = tables.to_frame(data)
    if table is None:
        array = tables.to_array(data, "the data")
        if array.ndim == 1 and array.size and all(isinstance(value, str) for value in array):
            return _Sample(pd.DataFrame({"X": array.astype(object)}), "text")
        if array.ndim != 2:
            raise DataError(
                f"{type(estimator).__name__} takes rows as a DataFrame or a 2-D array, "
                f"not a {type(data).__name__} of {array.ndim} dimensions."
            )
        table = pd.DataFrame(array).infer_objects()
        if names is None or len(names) != table.shape[1]:
            return _Sample(table, "array")
        table.columns = pd.Index(names)
    if not table.columns.is_unique:
        raise DataError("Two columns have the same name: rename one.")
    if names is not None and set(names) <= set(table.columns):
        table = table[list(names)]  # without a target that still lies in the table
    elif names is not None and len(names) != table.shape[1]:  # else renamed: LightGBM does
        absent = next(str(name) for name in names if name not in table.columns)
        raise DataError(f"{type(estimator).__name__} needs column '{absent}': it is missing.")
    return _Sample(table, "frame")


def _inputs(estimator: Any, data: Any) -> list[ValueType]:
    sample = _sample(estimator, data)
    table = sample.table
    looked_up = _looked_up(estimator, table.columns)
    kinds = {name: _kind(table[name], name in looked_up) for name in table.columns}
    same = len(set(kinds.values())) == 1
    if sample.form != "frame" and not same:
        raise DataError("The array mixes kinds of columns: pass a DataFrame, which names them.")
    if same and not (sample.form == "frame" and _selects_by_name(estimator)):
        return [ValueType("X", next(iter(kinds.values())), (None, len(kinds)))]
    return [ValueType(str(name), kind, (None, 1)) for name, kind in kinds.items()]


def _inputs_without_rows(estimator: Any) -> list[ValueType]:
    name = type(estimator).__name__
    width = getattr(estimator, "n_features_in_", None)
    if width is None or _selects_by_name(estimator):
        problem = "selects columns by name" if width else "does not tell its inputs"
        raise ModelError(f"{name} {problem}: pass X, rows like those it was fitted on.")
    return [ValueType("X", _FLOAT, (None, int(width)))]


def _kind(column: pd.Series[Any], looked_up: bool) -> str:
    dtype = column.cat.categories.dtype if hasattr(column, "cat") else column.dtype
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        whole = pd.api.types.is_integer_dtype(dtype) and not column.hasnans
        return _INT64 if whole and looked_up else _FLOAT
    if pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype):
        present = column.dropna()
        if all(isinstance(value, str) for value in present):
            return _STRING
        if all(isinstance(value, int | float | np.number | np.bool_) for value in present):
            return _FLOAT
    raise DataError(
        f"Column {column.name!r} is of type {column.dtype}: only numbers, booleans and strings "
        "can be exported."
    )


def _selects_by_name(estimator: Any) -> bool:
    return any(
        callable(key) or _holds_names(key)
        for member in boosting.members(estimator)
        if isinstance(member, ColumnTransformer)
        for _, _, key in member.transformers
    )


def _holds_names(key: Any) -> bool:
    found = [key.start, key.stop] if isinstance(key, slice) else np.atleast_1d(key).tolist()
    return any(isinstance(name, str) for name in found)


def _looked_up(estimator: Any, columns: Iterable[Hashable]) -> set[Hashable]:
    """The columns that reach an encoder as they come: its integers must not become floats."""
    if hasattr(estimator, "categories_"):
        return set(columns)
    inner: list[tuple[Any, Iterable[Hashable]]] = []
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
        inner = [(step, columns) for step in steps[:1]]
    elif isinstance(estimator, FeatureUnion):
        inner = [(step, columns) for _, step in estimator.transformer_list]
    elif isinstance(estimator, ColumnTransformer):
        table = pd.DataFrame(columns=pd.Index(list(columns)))
        for _, step, key in estimator.transformers_:
            some = [key] if isinstance(key, str | int) else key
            chosen = table.loc[:, some] if _holds_names(some) else table.iloc[:, some]
            inner.append((step, chosen.columns))
    elif hasattr(estimator, "best_estimator_"):
        inner = [(estimator.best_estimator_, columns)]
    return {name for step, chosen in inner for name in _looked_up(step, chosen)}


# Conversion


def _convert(estimator: Any, inputs: list[ValueType]) -> onnx.ModelProto:
    name = type(estimator).__name__
    arguments: dict[str, Any] = {
        "name": name,
        "initial_types": [
            (value.name, _TENSOR_TYPES[value.kind](list(value.shape or ()))) for value in inputs
        ],
        "target_opset": TARGET_OPSET,
        "custom_conversion_functions": boosting.REPLACED_CONVERTERS,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            try:
                options = {"zipmap": False} if is_classifier(estimator) else None
                proto = convert_sklearn(estimator, options=options, **arguments)
            except NameError:  # classifiers that never have a ZipMap refuse the option
                proto = convert_sklearn(estimator, **arguments)
        except OnnxTuneError:
            raise
        except Exception as error:  # converters raise anything, down to KeyError
            raise UnsupportedError(
                f"{name}: {boosting.exporter(estimator)} cannot export it: {_reason(error)}. "
                "Replace that step, or export the model by another tool and pass the file."
            ) from error
    assert isinstance(proto, onnx.ModelProto)
    _merge_opsets(proto)
    _rename_inputs(proto, [value.name for value in inputs])
    return proto


def _merge_opsets(proto: onnx.ModelProto) -> None:
    """One version per operator set: skl2onnx may import the default domain twice, or below 17."""
    versions = {"": TARGET_OPSET[""]}
    for opset in proto.opset_import:
        versions[opset.domain] = max(versions.get(opset.domain, 0), opset.version)
    del proto.opset_import[:]
    proto.opset_import.extend(onnx.helper.make_opsetid(*item) for item in versions.items())


def _rename_inputs(proto: onnx.ModelProto, names: list[str]) -> None:
    """Give inputs the names of their columns, where skl2onnx made `a-b` a C identifier."""
    graph = proto.graph
    renamed = {value.name: name for value, name in zip(graph.input, names, strict=True)}
    taken = {name for node in graph.node for name in node.output}
    for name in sorted(taken.intersection(names)):  # a column called `label`, say
        free = f"{name}_output"
        while free in taken.union(names):
            free += "_"
        renamed[name] = free
    for value in (*graph.input, *graph.output):
        value.name = renamed.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def _reason(error: BaseException) -> str:
    text = one_line(error).partition(" You may raise an issue")[0].rstrip(". ")
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__} {text}".rstrip()
    return shorten(text, 160, placeholder=" ...")


# Comparison


def _expected(estimator: Any, rows: Any) -> list[Any]:
    """What the estimator says, in the order of the export's outputs; None where unknown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not hasattr(estimator, "predict"):
            values = estimator.transform(rows)
            return [values.toarray() if hasattr(values, "toarray") else np.asarray(values)]
        expected: list[Any] = [np.asarray(estimator.predict(rows))]
        if hasattr(estimator, "predict_proba"):
            scores = estimator.predict_proba(rows)
            expected.append(scores if isinstance(scores, np.ndarray) else None)
        return expected


def _differ(expected: list[Any], found: list[Any], name: str) -> Array:
    """True for each row where an output is not what the estimator says."""
    rows = len(expected[0])
    pairs = [
        (want.reshape(rows, -1), got.reshape(rows, -1))
        for want, got in zip(expected, found, strict=False)
        if want is not None and isinstance(got, np.ndarray) and got.size == want.size
    ]
    if not pairs:
        raise ModelError(f"{name}: the export's outputs are not of the estimator's shapes.")
    different = np.stack([_unequal(want, got) for want, got in pairs])
    if len(pairs) == 2 and pairs[1][0].shape[1] > 1:
        # A label may be another one where the two best classes are as good as equal.
        best = np.sort(pairs[1][0], axis=1)
        different[0] &= best[:, -1] - best[:, -2] > _TOLERANCE
    return np.asarray(different.any(axis=0))


def _unequal(want: Array, got: Array) -> Array:
    if not all(values.dtype.kind in "fiub" for values in (want, got)):
        return np.asarray((want.astype(str) != got.astype(str)).any(axis=1))
    want, got = want.astype(float), got.astype(float)
    size = np.sqrt(np.mean(want[np.isfinite(want)] ** 2)) if np.isfinite(want).any() else 0.0
    with np.errstate(invalid="ignore"):
        close = np.abs(got - want) <= _TOLERANCE * np.maximum(np.abs(want), size)
    same = close | (got == want) | (np.isnan(got) & np.isnan(want))
    return np.asarray(~same.all(axis=1))


def _too_many(wrong: Array) -> bool:
    return int(wrong.sum()) > max(1.0, _WRONG_SHARE * len(wrong))


def _as_float32(table: pd.DataFrame, numeric: Array, shift: float) -> pd.DataFrame:
    """The numbers as the export sees them, each moved by half to all of the relative shift.

    Away from zero only, so that a reader who truncates category codes still finds the code.
    """
    noise = np.random.default_rng(0)
    columns = {}
    for name, number in zip(table.columns, numeric, strict=True):
        column = table[name]
        if number and not hasattr(column, "cat") and not pd.api.types.is_bool_dtype(column.dtype):
            values = column.to_numpy(dtype=np.float64, na_value=np.nan)
            values = values * (1 + shift * noise.uniform(0.5, 1, len(values)))
            kept = shift == 0 and not pd.api.types.is_object_dtype(column.dtype)
            column = pd.Series(values.astype(np.float32), table.index)
            column = column.astype(table[name].dtype if kept else np.float64)
        columns[name] = column
    return pd.DataFrame(columns)
