"""Which rows a model is validated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from onnxtune.columns import check_batch
from onnxtune.data import Table
from onnxtune.data import load as load_data
from onnxtune.errors import ArgumentError, DataError
from onnxtune.preparation import Prepared
from onnxtune.runtime import ValueType, input_types
from onnxtune.tables import shown, to_array
from onnxtune.weights import sample_weights
from rewrites.core.rewrite import Array

# What `valid` says for the last rows; no column can be chosen by this name.
LAST = "last"

# The share of the rows that is held out where none is given.
_SHARE = 0.2

# A path alone lacks the column with the target.
_FILES = (".csv", ".parquet", ".npz")

_FORMS = (
    "valid must be a share between 0 and 1, (X, y) such as (path, column), 'last', the name of a "
    "column with groups, or an array of groups, of booleans or of row numbers"
)


def given_tables(
    prepared: Prepared, X: Any, y: Any, valid: Any, weights: Any = None
) -> tuple[Table, Table | None]:
    """The rows to train on, and those to validate on where they were given.

    Where `valid` names a column, the first table has its `groups`; where there are `weights`, a
    column's name or an array, it has them, and so have the others where they have that column or
    come as (X, y, weights).

    Raises:
        ArgumentError: `valid` is nothing that rows can be held out by.
        DataError: the data do not fit the model, or are too few.
    """
    inputs = input_types(prepared.source.proto)
    check_batch(inputs, {}, prepared.source.origin)  # training takes them in batches of its own
    if is_pair(valid):
        given = _with_weights(load_data(X, inputs, y, weights=_column(weights)), weights)
        return given, _beside(valid, inputs, "the validation data", weights)
    if isinstance(valid, tuple):
        raise ArgumentError("valid must be a share of the rows, (X, y) or (X, y, weights).")
    share = isinstance(valid, Real)
    file = isinstance(valid, str) and valid.lower().endswith(_FILES)
    if file or (share and not 0 < float(valid) < 1):
        raise ArgumentError(f"{_FORMS}, not {valid!r}.")
    if not share and not isinstance(valid, str) and np.ndim(to_array(valid, "valid")) == 0:
        raise ArgumentError(f"{_FORMS}, not a {type(valid).__name__}.")
    groups = valid if isinstance(valid, str) and valid != LAST else None
    given = load_data(X, inputs, y, groups=groups, weights=_column(weights))
    given = _with_weights(given, weights)
    if given.rows < 10:
        raise DataError(f"{given.rows} rows are too few to train and validate on; give 10 or more.")
    return given, None


def reported_table(prepared: Prepared, test: Any, valid: Any, weights: Any = None) -> Table:
    """The rows to report on; a column of groups that `valid` names may be among theirs.

    Raises:
        ArgumentError: `test` is no pair.
        DataError: the data do not fit the model.
    """
    if not isinstance(test, tuple | list) or len(test) not in (2, 3):
        raise ArgumentError("test must be (X, y), such as (path, column), or (X, y, weights).")
    inputs = input_types(prepared.source.proto)
    groups = valid if isinstance(valid, str) and valid != LAST else None
    return _beside(test, inputs, "the test data", weights, groups)


def _beside(
    pair: Any, inputs: Sequence[ValueType], origin: str, weights: Any, groups: str | None = None
) -> Table:
    """Rows that came apart, (X, y) or (X, y, weights)."""
    own = pair[2] if len(pair) == 3 else None
    # A column that holds the weights of other rows is no feature of these either.
    column = _column(own) or _column(weights)
    tried = [(groups, column), (None, column), (groups, None)]
    if isinstance(own, str):
        table = load_data(pair[0], inputs, pair[1], origin=origin, weights=own)
        return _with_weights(table, own)
    for group, weight in tried:
        if group is None and weight is None:
            continue
        try:
            table = load_data(pair[0], inputs, pair[1], origin=origin, groups=group, weights=weight)
        except DataError:
            continue  # without such a column
        return _with_weights(table, own)
    return _with_weights(load_data(pair[0], inputs, pair[1], origin=origin), own)


def _column(weights: Any) -> str | None:
    return weights if isinstance(weights, str) else None


def _with_weights(table: Table, weights: Any) -> Table:
    """The table with weights as numbers, those of its column or of an array."""
    given = table.weights if weights is None or isinstance(weights, str) else weights
    return table if given is None else replace(table, weights=sample_weights(given, table.rows))


def features(X: Any, y: Any, valid: Any, weights: Any = None, model: Any = None) -> Any:
    """A DataFrame without its columns of the target, groups and weights; others as they are.

    Columns that an estimator was fitted with are kept.
    """
    fitted = set(getattr(model, "feature_names_in_", ()))
    named = (name for name in (y, valid, weights) if isinstance(name, str) and name != LAST)
    others = [name for name in named if name not in fitted]
    columns = list(getattr(X, "columns", ()))
    if not any(name in columns for name in others):
        return X
    return X[[name for name in columns if name not in others]]


def is_pair(valid: Any) -> bool:
    """(X, y), (X, y, weights), or a list of two that are no numbers."""
    if isinstance(valid, tuple):
        return len(valid) in (2, 3)
    if not isinstance(valid, list) or len(valid) != 2:
        return False
    return not any(isinstance(each, Real | np.bool_) for each in valid)


def hold_out(
    table: Table, target: Array, classes: bool, valid: Any, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Row numbers to train on and to validate on, both ascending.

    Args:
        table: the rows, with `groups` where `valid` names their column.
        target: class indices where `classes` is set; else any numbers, one entry a row.
        classes: whether a share is to be drawn from every class alike.
        valid: a share of the rows, drawn at random; "last" for the last fifth of them; the name of
            the column with the groups, or an array of one a row, for whole groups, drawn at
            random until they have a fifth of the rows; an array of booleans, one a row; or an
            array of fewer row numbers.
        rng: what is random.

    Raises:
        ArgumentError: too few rows of either, or an array that fits none of these.
        DataError: a row's group is missing.
    """
    rows = len(target)
    if isinstance(valid, Real):
        kept, out = split_rows(target, classes, float(valid), rng)
    else:
        held = _held(table, valid, rows, rng)
        kept, out = np.flatnonzero(~held), np.flatnonzero(held)
    if min(len(kept), len(out)) < 2:
        given = f"={valid!r}" if isinstance(valid, Real | str) else ""
        what = "a share" if isinstance(valid, Real) else "rows"
        raise ArgumentError(
            f"valid{given} leaves {len(kept)} rows to train on and {len(out)} to validate on; "
            f"give {what} that leave{'s' * (what == 'a share')} two or more of each."
        )
    return kept, out


def _held(table: Table, valid: Any, rows: int, rng: np.random.Generator) -> Array:
    """[N] bool, by anything but a share."""
    if isinstance(valid, str) and valid == LAST:
        return np.arange(rows) >= rows - round(_SHARE * rows)
    if isinstance(valid, str):
        if table.groups is None:
            raise ArgumentError(f"valid='{valid}': the data have no such column.")
        return _groups_held(group_numbers(table.groups, f"column '{valid}'"), rng)
    array = to_array(valid, "valid")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ArgumentError(f"{_FORMS}, not an array of shape {list(array.shape)}.")
    if array.dtype.kind == "O" and all(isinstance(value, bool | np.bool_) for value in array):
        array = array.astype(bool)
    if array.dtype.kind == "b":
        if len(array) != rows:
            raise ArgumentError(f"valid has {len(array)} booleans; give one for each of {rows}.")
        return array
    if len(array) == rows:
        return _groups_held(group_numbers(array, "valid"), rng)
    if array.dtype.kind not in "iu":
        raise ArgumentError(
            f"valid has {len(array)} entries, and there are {rows} rows; give one group a row, or "
            "the whole numbers of the rows to validate on."
        )
    return numbered(array, rows)


def numbered(numbers: Array, rows: int) -> Array:
    """[N] bool: the rows of these numbers.

    Raises:
        ArgumentError: there is no such row, or one is there twice.
    """
    outside = (numbers < 0) | (numbers >= rows)
    if outside.any():
        raise ArgumentError(
            f"valid: there is no row {numbers[np.argmax(outside)]}; the rows have the numbers 0 to "
            f"{rows - 1}."
        )
    times = np.bincount(numbers.astype(np.int64), minlength=rows)
    if times.max(initial=0) > 1:
        raise ArgumentError(
            f"valid: row {np.argmax(times > 1)} is there {times.max()} times; give every row once."
        )
    return times > 0


def group_numbers(values: Array, name: str) -> Array:
    """[N] int64: groups numbered from 0, in the order in which they are met.

    Raises:
        DataError: a group is missing.
    """
    import pandas as pd

    if values.dtype.kind in "UST":
        values = values.astype(object)
    try:
        numbers = pd.factorize(values)[0]
    except TypeError:
        raise DataError(f"{name} holds values that are no groups; give texts or numbers.") from None
    missing = numbers < 0
    if values.dtype.kind == "O":
        missing |= values == ""  # so an empty field of a .csv file is read
    if missing.any():
        at = int(np.argmax(missing))
        raise DataError(
            f"{name} holds {shown(values[at])} in row {at} (counting from 0); "
            "give every row a group."
        )
    return np.asarray(numbers, np.int64)


def _groups_held(groups: Array, rng: np.random.Generator) -> Array:
    """[N] bool: whole groups, drawn until they have a fifth of the rows; never all."""
    sizes = np.bincount(groups)
    if len(sizes) < 2:
        raise ArgumentError(
            "valid: all rows are of one group, and groups are held out whole; give two or more, "
            "or a share of the rows."
        )
    order = rng.permutation(len(sizes))
    # A group with most of the rows is there to be trained on.
    order = order[np.argsort(sizes[order] > len(groups) / 2, kind="stable")]
    enough = int(np.searchsorted(np.cumsum(sizes[order]), _SHARE * len(groups))) + 1
    return np.isin(groups, order[: min(enough, len(sizes) - 1)])


def split_rows(
    target: Array, classes: bool, share: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Row numbers to train on and to validate on; every class is split alike."""
    order = rng.permutation(len(target))
    if not classes:
        count = round(share * len(target))
        return np.sort(order[count:]), np.sort(order[:count])
    ranked = order[np.argsort(np.ravel(target)[order], kind="stable")]
    place = np.arange(len(ranked))
    # Along the rows sorted by class, every 1/share-th one is held out.
    held = np.floor((place + 1) * share) > np.floor(place * share)
    return np.sort(ranked[~held]), np.sort(ranked[held])
