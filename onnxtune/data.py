"""The user's data become a feed for onnxruntime, and the target an array.

A table feeds one [N, F] input by the order of its columns, several inputs by their names.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxtune import tables
from onnxtune.columns import (
    Beside,
    assign,
    check_inputs,
    check_table_feeds,
    check_width,
    match_all,
    sizes_after_rows,
    split_beside,
    split_names,
    text_columns,
    width_of,
)
from onnxtune.errors import DataError
from onnxtune.runtime import ValueType
from onnxtune.tables import Array, Place, listing


@dataclass(frozen=True)
class Table:
    """Data as a model takes them.

    `feed` maps each input name to an array of the dtype that onnxruntime wants (`object` of `str`
    for strings), whose first dimension is `rows`. `target` is a 1-D or 2-D array of numbers or
    strings as they came; `encode_labels` or `check_numbers` makes it ready for a loss. `groups` and
    `weights` are 1-D arrays of columns that tell which rows belong together and how much each
    counts, as they came. An array that needed no change shares the caller's memory.
    """

    feed: dict[str, Array]
    target: Array | None
    rows: int
    groups: Array | None = None
    weights: Array | None = None

    def take(self, rows: Array) -> Table:
        """Some of the rows, by their numbers."""
        others = (self.target, self.groups, self.weights)
        target, groups, weights = (None if each is None else each[rows] for each in others)
        return Table(take(self.feed, rows), target, len(rows), groups, weights)


def load(
    data: Any,
    inputs: Sequence[ValueType],
    target: Any = None,
    *,
    groups: str | None = None,
    weights: str | None = None,
    origin: str = "the data",
    allow_empty: bool = False,
    same_rows: bool = True,
) -> Table:
    """Turn data into a feed for a model, every value checked.

    Args:
        data: a 2-D array, list of lists or scipy sparse matrix; a mapping of input name to array;
            a pandas or polars DataFrame; or a path to .csv, .parquet, .npz or a folder of .parquet
            files.
        inputs: the types of the model's inputs.
        target: the name of the column (or of the mapping's array) that holds the target and is
            taken out of the data; or an array of as many rows; or None.
        groups: the name of a column (or of the mapping's array) that tells which rows belong
            together; it is taken out of the data where it is no input of the model.
        weights: the name of one that tells how much each row counts; likewise.
        origin: what to call the data in messages; a path is called by its name.
        allow_empty: take data without rows.
        same_rows: whether the arrays of a mapping have to have as many rows; without, as for a
            graph that broadcasts one input to another, the longest counts.

    Raises:
        DataError: the data do not fit the inputs; the message names the column, the first bad
            value and its row.
        MissingDependencyError: a parquet file without pyarrow.
    """
    check_inputs(inputs)
    archive = False
    named = Beside(groups, weights)
    if isinstance(data, str | os.PathLike):
        path, origin = Path(data), str(data)
        archive = path.suffix.lower() == ".npz"
        data = tables.read(path, lambda n: text_columns(n, inputs, target, origin, named))
    column: Any = target
    beside: dict[str, Any] = {}
    frame = tables.to_frame(data)
    if frame is not None:
        _check_rows(len(frame), origin, allow_empty)
        feed, column, beside = _from_frame(frame, inputs, target, named, origin)
        rows = len(frame)
    elif isinstance(data, Mapping):
        feed, column, beside = _from_mapping(data, inputs, target, named, origin, archive)
        longest = max(map(len, feed.values()))
        rows = common_rows(feed, origin) if same_rows else longest
        _check_rows(rows, origin, allow_empty)
    elif isinstance(target, str):
        raise DataError(
            f"{origin}: an array has no column named '{target}'; give the target as an array."
        )
    elif groups is not None or weights is not None:
        what = "group" if groups is not None else "weight"
        raise DataError(
            f"{origin}: an array has no column named '{groups or weights}'; give the {what} of "
            "each row as an array."
        )
    else:
        array = tables.to_array(data, origin)
        if array.ndim == 0:
            raise DataError(
                f"{origin}: is of type {type(data).__name__}; give a 2-D array, a mapping of "
                "input name to array, a DataFrame, or the path of a .csv, .parquet or .npz file."
            )
        rows = len(array)
        _check_rows(rows, origin, allow_empty)
        feed = _from_array(array, inputs, origin, target is not None)
    return Table(
        {name: _owned(array) for name, array in feed.items()},
        None if column is None else _target_array(column, rows, origin),
        rows,
        **{
            role: _array_beside(values, rows, origin, getattr(named, role))
            for role, values in beside.items()
        },
    )


def _owned(array: Array) -> Array:
    """An array that torch takes without a warning: pandas hands out read-only views."""
    return np.require(array, requirements=["C", "W"])


def take(feed: Mapping[str, Array], rows: Any) -> dict[str, Array]:
    """The same rows of every array of a feed; `rows` is an array of indices, a mask or a slice."""
    return {name: array[rows] for name, array in feed.items()}


def encode_labels(target: Array, labels: Sequence[int | str]) -> Array:
    """Class labels become int64 indices into `labels`, shape [N].

    Numbers meet string labels, and strings integer labels, by their written form: 1 is '1'.

    Args:
        target: shape [N] or [N, 1], numbers or strings.
        labels: the model's class labels in the order of its outputs.

    Raises:
        DataError: a value is missing, or the model does not know it.
    """
    import pandas as pd

    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    if target.ndim != 1:
        raise DataError(f"the target has shape {list(target.shape)}; give one label a row.")
    values = target.astype(object) if target.dtype.kind in "UST" else target
    try:
        codes, unique = pd.factorize(values)
    except TypeError:
        raise DataError("the target holds values that are no labels; give one a row.") from None
    missing = codes < 0
    if missing.any():
        raise DataError(
            f"the target is missing in {_rows(missing)}; fill it in or drop these rows."
        )
    textual = any(isinstance(label, str) for label in labels)
    known: dict[Any, int] = {label: index for index, label in enumerate(labels)}
    written = {str(label): index for index, label in enumerate(labels)}
    found = [
        known.get(value, -1) if isinstance(value, str) == textual else written.get(str(value), -1)
        for value in unique
    ]
    indices = np.array(found, dtype=np.int64)
    unknown = [value for value, index in zip(unique, found, strict=True) if index < 0]
    encoded = indices[codes] if len(unique) else np.zeros(0, np.int64)
    if unknown:
        shown = ", ".join(tables.shown(value) for value in unknown[:5])
        more = f", ... ({len(unknown)} in all)" if len(unknown) > 5 else ""
        raise DataError(
            f"the target holds labels that the model does not know: {shown}{more}, in "
            f"{_rows(encoded < 0)}; the model's labels are {listing(labels)}."
        )
    return np.asarray(encoded)


def check_numbers(target: Array) -> Array:
    """A numeric target as float64, of the same shape.

    Raises:
        DataError: a value is no number, or is missing or infinite.
    """
    values = tables.numbers(target, _called("the target")).astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        rows = np.asarray(bad.reshape(len(bad), -1).any(axis=1))
        raise DataError(
            f"the target is missing or infinite in {_rows(rows)}; fill it in or drop these rows."
        )
    return values


def _rows(bad: Array) -> str:
    """For a message: how many rows of a mask, and the first."""
    count = int(bad.sum())
    first = int(np.argmax(bad))
    if count == 1:
        return f"row {first} (counting from 0)"
    return f"{count} rows, the first of them row {first} (counting from 0)"


def _from_frame(
    frame: Any, inputs: Sequence[ValueType], target: Any, beside: Beside, origin: str
) -> tuple[dict[str, Array], Any, dict[str, Any]]:
    """The feed, the target and what stands beside them."""
    names = [str(name) for name in frame.columns]
    kept, place = split_names(names, target, origin)
    kept, places = split_beside(names, kept, inputs, beside, origin, by_order=True)
    features = [names[index] for index in kept]
    feed = {}
    assigned = assign(features, inputs, origin, target is not None)
    for value, columns in zip(inputs, assigned, strict=True):
        block = _block(frame, [kept[index] for index in columns], value.dtype, origin)
        feed[value.name] = block[:, 0] if sizes_after_rows(value) == () else block
    column = target if place is None else tables.series_array(frame.iloc[:, place])
    others = {role: tables.series_array(frame.iloc[:, at]) for role, at in places.items()}
    return feed, column, others


def _block(frame: Any, columns: Sequence[int], dtype: np.dtype[Any], origin: str) -> Array:
    """Some columns of a frame as one array of a dtype, shape [rows, columns]."""

    def place(index: int) -> str:
        return f"{origin}: column '{frame.columns[columns[index]]}'"

    dtypes = list({frame.dtypes.iloc[index] for index in columns})
    if len(dtypes) == 1 and isinstance(dtypes[0], np.dtype) and dtypes[0].kind in "biuf":
        # One block in memory: far quicker than column by column.
        return tables.convert(frame.iloc[:, columns].to_numpy(), dtype, place)
    block = np.empty((len(frame), len(columns)), dtype)
    for index, column in enumerate(columns):
        values = tables.series_array(frame.iloc[:, column])
        block[:, index] = tables.convert(values, dtype, _called(place(index)))
    return block


def _called(name: str) -> Place:
    return lambda _: name


def _from_mapping(
    data: Mapping[Any, Any],
    inputs: Sequence[ValueType],
    target: Any,
    beside: Beside,
    origin: str,
    archive: bool,
) -> tuple[dict[str, Array], Any, dict[str, Any]]:
    """The feed, the target and what stands beside them."""
    names = [str(name) for name in data]
    values = list(data.values())
    kept, place = split_names(names, target, origin)
    kept, places = split_beside(names, kept, inputs, beside, origin, by_order=False)
    features = [names[index] for index in kept]
    if archive and len(inputs) == 1 and len(features) == 1:
        positions = [0]
    else:
        positions = match_all(features, inputs, origin, "array", target is not None)
    feed = {}
    for value, position in zip(inputs, positions, strict=True):
        array = tables.to_array(values[kept[position]], f"{origin}: array '{value.name}'")
        if array.ndim == 0:
            raise DataError(f"{origin}: array '{value.name}' is one value; give one for each row.")
        feed[value.name] = _fit(array, value, origin)
    others = {role: values[at] for role, at in places.items()}
    return feed, target if place is None else values[place], others


def _from_array(
    array: Array, inputs: Sequence[ValueType], origin: str, has_target: bool
) -> dict[str, Array]:
    if len(inputs) == 1 and (array.ndim > 2 or sizes_after_rows(inputs[0]) == ()):
        return {inputs[0].name: _fit(array, inputs[0], origin)}
    if array.ndim == 1 and len(inputs) == 1 and inputs[0].is_string:
        return {inputs[0].name: _fit(array, inputs[0], origin)}  # texts, one a row
    if array.ndim != 2:
        raise DataError(
            f"{origin}: is an array of {array.ndim} dimension{'s' * (array.ndim > 1)}, not 2; "
            "reshape(-1, 1) makes it one column, reshape(1, -1) one row (of a DataFrame, "
            "X[['a']] and X.iloc[[0]])."
        )
    if len(inputs) == 1:
        check_table_feeds(inputs[0], origin)
        check_width(array.shape[1], inputs[0], origin, has_target)
        return {inputs[0].name: _fit(array, inputs[0], origin)}
    if array.shape[1] != len(inputs) or any(width_of(value) not in (None, 1) for value in inputs):
        raise DataError(
            f"{origin}: an array of {array.shape[1]} columns cannot feed the {len(inputs)} inputs "
            f"{listing([value.name for value in inputs])}; pass a mapping of input name to array."
        )
    columns = zip(inputs, np.hsplit(array, len(inputs)), strict=True)
    return {value.name: _fit(column, value, origin) for value, column in columns}


def _fit(array: Array, value: ValueType, origin: str) -> Array:
    """One array for one input, its shape and its values checked."""
    sizes = sizes_after_rows(value)
    if sizes == (1,) and array.ndim == 1:
        array = array[:, np.newaxis]
    elif sizes == () and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if sizes is not None:
        found = array.shape[1:]
        pairs = zip(sizes, found, strict=False)
        if len(found) != len(sizes) or any(want not in (None, got) for want, got in pairs):
            wanted = ", ".join(["rows", *("any" if size is None else str(size) for size in sizes)])
            raise DataError(
                f"{origin}: input '{value.name}' takes an array of shape [{wanted}], not "
                f"{list(array.shape)}; reshape it, or give the columns that the model takes."
            )

    def place(index: int) -> str:
        column = f", column {index}," if array.ndim == 2 and array.shape[1] > 1 else ""
        return f"{origin}: input '{value.name}'{column}"

    return tables.convert(array, value.dtype, place)


def _target_array(target: Any, rows: int, origin: str) -> Array:
    array = tables.to_array(target, "the target")
    if array.ndim not in (1, 2):
        raise DataError(
            f"the target has {array.ndim} dimensions; give the name of a column, or an array of 1 "
            "or 2 dimensions."
        )
    if len(array) != rows:
        raise DataError(f"the target has {len(array)} rows, but {origin} has {rows}.")
    return _owned(array)


def _array_beside(values: Any, rows: int, origin: str, name: str) -> Array:
    array = tables.to_array(values, f"{origin}: column '{name}'")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (rows,):
        raise DataError(
            f"{origin}: column '{name}' has shape {list(array.shape)}; give one entry a row "
            f"({rows})."
        )
    return array


def _check_rows(rows: int, origin: str, allow_empty: bool) -> None:
    if rows == 0 and not allow_empty:
        raise DataError(f"{origin}: is empty; give at least one row.")


def common_rows(feed: Mapping[str, Array], origin: str, beside: Container[str] = ()) -> int:
    """The rows of all inputs but those beside the rows; 0 where there are none.

    Raises:
        DataError: they differ.
    """
    rows = {name: len(array) for name, array in feed.items() if name not in beside}
    first = next(iter(rows), "")
    for name, length in rows.items():
        if length != rows[first]:
            raise DataError(
                f"{origin}: input '{first}' has {rows[first]} rows, but '{name}' has {length}."
            )
    return rows.get(first, 0)
