"""The rows that come with an estimator, and the ONNX inputs that follow from them."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

from onnxtune import tables
from onnxtune.errors import DataError, ModelError
from onnxtune.members import members
from onnxtune.runtime import ValueType

FLOAT, INT64, STRING = "tensor(float)", "tensor(int64)", "tensor(string)"


@dataclass(frozen=True)
class Rows:
    """Rows as a table, and the form in which the estimator takes them: frame, array or text."""

    table: pd.DataFrame
    form: str

    def given(self, table: pd.DataFrame) -> Any:
        """Rows of such a table in the estimator's form."""
        if self.form == "text":
            return table.iloc[:, 0].to_numpy()
        return table if self.form == "frame" else table.to_numpy()


def rows_of(estimator: Any, data: Any) -> Rows:
    """Rows in the form that the estimator was fitted on.

    Args:
        estimator: a fitted estimator.
        data: a DataFrame, a 2-D array, a mapping of column name to values, a sequence of strings
            for text, or the path of a .csv or .parquet file.

    Raises:
        DataError: the rows do not fit the estimator.
    """
    names = getattr(estimator, "feature_names_in_", None)
    if isinstance(data, str | os.PathLike):
        data = tables.read(Path(data), lambda _: ((), None))
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
            return Rows(pd.DataFrame({"X": array.astype(object)}), "text")
        if array.ndim != 2:
            raise DataError(
                f"{type(estimator).__name__} takes rows as a DataFrame or a 2-D array, "
                f"not a {type(data).__name__} of {array.ndim} dimensions."
            )
        table = pd.DataFrame(array).infer_objects()
        if names is None or len(names) != table.shape[1]:
            return Rows(table, "array")
        table.columns = pd.Index(names)
    if not table.columns.is_unique:
        raise DataError("Two columns have the same name: rename one.")
    if names is not None and set(names) <= set(table.columns):
        table = table[list(names)]  # without a target that still lies in the table
    elif names is not None and len(names) != table.shape[1]:  # else renamed: LightGBM does
        absent = next(str(name) for name in names if name not in table.columns)
        raise DataError(f"{type(estimator).__name__} needs column '{absent}': it is missing.")
    return Rows(table, "frame")


def inputs_of(estimator: Any, rows: Rows) -> list[ValueType]:
    """The inputs that the rows tell: one matrix, or each column under its own name.

    Raises:
        DataError: columns of kinds that cannot be exported.
    """
    table = rows.table
    looked_up = _looked_up(estimator, table.columns)
    kinds = {name: _kind(table[name], name in looked_up) for name in table.columns}
    same = len(set(kinds.values())) == 1
    if rows.form != "frame" and not same:
        raise DataError("The array mixes kinds of columns: pass a DataFrame, which names them.")
    if same and not (rows.form == "frame" and _selects_by_name(estimator)):
        return [ValueType("X", next(iter(kinds.values())), (None, len(kinds)))]
    return [ValueType(str(name), kind, (None, 1)) for name, kind in kinds.items()]


def inputs_without_rows(estimator: Any) -> list[ValueType]:
    """One matrix of floats, as wide as the estimator says.

    Raises:
        ModelError: it does not say, or selects columns by name.
    """
    name = type(estimator).__name__
    width = getattr(estimator, "n_features_in_", None)
    if width is None or _selects_by_name(estimator):
        problem = "selects columns by name" if width else "does not tell its inputs"
        raise ModelError(f"{name} {problem}: pass sample=X, rows like those it was fitted on.")
    return [ValueType("X", FLOAT, (None, int(width)))]


def _kind(column: pd.Series[Any], looked_up: bool) -> str:
    dtype = column.cat.categories.dtype if hasattr(column, "cat") else column.dtype
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        whole = pd.api.types.is_integer_dtype(dtype) and not column.hasnans
        return INT64 if whole and looked_up else FLOAT
    if pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype):
        present = column.dropna()
        if all(isinstance(value, str) for value in present):
            return STRING
        if all(isinstance(value, int | float | np.number | np.bool_) for value in present):
            return FLOAT
    raise DataError(
        f"Column {column.name!r} is of type {column.dtype}: only numbers, booleans and strings "
        "can be exported."
    )


def _selects_by_name(estimator: Any) -> bool:
    return any(
        callable(key) or _holds_names(key)
        for member in members(estimator)
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
    elif hasattr(estimator, "regressor_"):
        inner = [(estimator.regressor_, columns)]
    return {name for step, chosen in inner for name in _looked_up(step, chosen)}
