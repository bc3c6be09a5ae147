"""Rows as scikit-learn's users give them, for an estimator to fit and for a model to answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.utils import get_tags
from sklearn.utils.validation import check_array, column_or_1d, validate_data

from onnxtune.data import load as load_data
from onnxtune.errors import DataError
from onnxtune.members import members
from onnxtune.runtime import ValueType
from onnxtune.tables import to_frame

Array = np.ndarray[Any, Any]

# Rows of a sparse matrix are unpacked so many numbers at a time.
_UNPACKED = 1 << 24


@dataclass(frozen=True)
class Takes:
    """What an estimator takes besides arrays of finite numbers.

    `words` are strings in columns or as texts, `missing` numbers that are not there.
    """

    sparse: bool
    missing: bool
    words: bool


def taken_by(owner: Any) -> Takes:
    """What the tags of an estimator say that it takes."""
    tags = get_tags(owner).input_tags
    words = tags.string or tags.categorical or any(map(_takes_words, members(owner.estimator)))
    return Takes(tags.sparse, tags.allow_nan, words)


def _takes_words(member: Any) -> bool:
    """Pipelines do not say what their first step takes."""
    if isinstance(member, ColumnTransformer):
        return True
    tags = get_tags(member).input_tags if hasattr(member, "__sklearn_tags__") else None
    return tags is not None and (tags.string or tags.categorical)


def checked_rows(owner: Any, X: Any, takes: Takes, *, reset: bool) -> Any:
    """The rows, their columns held against those of the fit: frame, array, sparse or texts.

    Args:
        owner: the estimator, whose `n_features_in_` and `feature_names_in_` these are.
        X: the rows as they were given.
        takes: what may be in them.
        reset: whether this is the fit.

    Raises:
        ValueError: of scikit-learn's validation.
    """
    frame = to_frame(X)
    if frame is not None:
        return validate_data(owner, X=frame, reset=reset, skip_check_array=True)
    if takes.words and is_text(X):
        return X if isinstance(X, list) else np.asarray(X, object).tolist()
    words = takes.words and not sparse.issparse(X) and np.asarray(X).dtype.kind in "OUST"
    return validate_data(
        owner,
        X=X,
        reset=reset,
        accept_sparse="csr" if takes.sparse else False,
        ensure_all_finite=not takes.missing and not words,
        dtype=None if words else "numeric",
    )


def is_text(X: Any) -> bool:
    """Whether these are texts, one a row."""
    if hasattr(X, "ndim"):
        return X.ndim == 1 and len(X) > 0 and isinstance(np.asarray(X, object)[0], str)
    return isinstance(X, list | tuple) and len(X) > 0 and isinstance(X[0], str)


def checked_target(y: Any, numbers: bool) -> Array:
    """[N] or [N, K]: a target without missing values.

    Raises:
        ValueError: of scikit-learn's validation.
    """
    found = check_array(
        y,
        ensure_2d=False,
        allow_nd=False,
        dtype="numeric" if numbers else None,
        input_name="y",
        estimator=None,
    )
    if found.dtype.kind == "O" and pd.isna(found).any():
        raise DataError("Input y contains NaN.")
    if found.ndim == 1 or found.shape[1] == 1:
        found = column_or_1d(found, warn=True)
    return np.asarray(found)


def rows_for_tuning(X: Any) -> Any:
    """The rows as `onnxtune.tune` takes them: sparse ones unpacked, as single precision."""
    if sparse.issparse(X):
        return X.astype(np.float32).toarray()
    return X


def feeds(X: Any, inputs: list[ValueType], finite: bool) -> Iterator[dict[str, Array]]:
    """What onnxruntime is fed with for checked rows; sparse ones in several pieces.

    Args:
        X: what `checked_rows` returns.
        inputs: of the model.
        finite: whether columns of numbers have to be.

    Raises:
        DataError: they do not fit the model.
    """
    if sparse.issparse(X):
        step = max(1, _UNPACKED // max(1, X.shape[1]))
        for at in range(0, X.shape[0], step):
            yield load_data(rows_for_tuning(X[at : at + step]), inputs, origin="X").feed
        return
    feed = load_data(X, inputs, origin="X").feed
    frame = to_frame(X) if finite else None
    if frame is not None:
        for name, array in feed.items():
            bad = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros((1, 1), bool)
            if bad.any():
                first = int(np.argmax(bad.any(axis=0)))
                column = name if name in frame.columns else frame.columns[first]
                raise DataError(f"Input X contains NaN or infinity in column '{column}'.")
    yield feed
