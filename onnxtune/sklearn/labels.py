"""The classes of a target, and the labels that stand for them in a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets

from onnxtune.errors import DataError
from onnxtune.tables import shown

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Classes:
    """The classes of a target, or of each of its columns.

    ONNX knows labels of integers and strings. Others (floats, booleans) go by their places, and so
    do all where one of several targets has no integers. Strings are held as objects, as onnxruntime
    makes them.

    Attributes:
        values: [K] of each column.
        single: whether the target is [N].
        order: [K] the columns of the scores, in the order of the classes; None for as they come.
    """

    values: tuple[Array, ...]
    single: bool
    order: Array | None = None

    @property
    def given(self) -> Any:
        """As scikit-learn shows them: an array, or a list of one for each column."""
        return self.values[0] if self.single else list(self.values)

    def encoded(self, y: Array) -> Array:
        """The target in labels that a model can hold.

        Raises:
            DataError: it holds other classes.
        """
        count = 1 if y.ndim == 1 else y.shape[1]
        if (y.ndim == 1) != self.single or count != len(self.values):
            raise DataError(
                f"y has {count} column{'s' * (count > 1)}, and the model has {len(self.values)} "
                f"target{'s' * (len(self.values) > 1)}."
            )
        columns = [y] if self.single else list(y.T)
        for column, known in zip(columns, self.values, strict=True):
            others = np.setdiff1d(column, known)
            if len(others):
                raise DataError(
                    f"y holds the class {shown(others[0])}, which was not there when the model was "
                    "fitted; fit it again."
                )
        if self._as_they_are:
            return y
        places = [np.searchsorted(*pair) for pair in zip(self.values, columns, strict=True)]
        return places[0] if self.single else np.stack(places, axis=1)

    @property
    def _as_they_are(self) -> bool:
        """Whether a model can hold the classes themselves: of several targets it has numbers."""
        has = _has_labels if self.single else _are_whole
        return all(map(has, self.values))

    @property
    def plain(self) -> bool:
        """Whether a model's labels are the classes, down to their type."""
        (first, *others) = self.values
        return not others and self.single and (first.dtype == np.int64 or _are_strings(first))

    def decoded(self, labels: Array) -> Array:
        """What a model says, as classes."""
        if not self.single:
            found = [self._column(v, labels[:, at]) for at, v in enumerate(self.values)]
            return np.stack(found, axis=1)
        return self._column(self.values[0], labels.reshape(len(labels)))

    def _column(self, values: Array, labels: Array) -> Array:
        if self._as_they_are:
            return labels.astype(values.dtype, copy=False)
        return np.asarray(values.take(labels))


def _has_labels(values: Array) -> bool:
    """Whether ONNX has labels of this kind."""
    return _are_whole(values) or _are_strings(values)


def _are_whole(values: Array) -> bool:
    return values.dtype.kind in "iu"


def _are_strings(values: Array) -> bool:
    return values.dtype.kind == "O" and all(isinstance(value, str) for value in values)


def _as_held(values: Array) -> Array:
    return values.astype(object) if values.dtype.kind in "UT" else values


def classes_of(y: Array) -> Classes:
    """The classes of a checked target.

    Raises:
        ValueError: it holds no classes, or one alone.
    """
    check_classification_targets(y)
    columns = [y] if y.ndim == 1 else list(y.T)
    values = tuple(_as_held(np.unique(column)) for column in columns)
    if y.ndim == 1 and len(values[0]) < 2:
        raise DataError(
            f"y holds one class alone, {shown(values[0][0])}: a classifier needs two or more."
        )
    return Classes(values, y.ndim == 1)


def classes_of_model(labels: Sequence[int | str]) -> Classes:
    """Those of a model's labels, sorted as scikit-learn expects."""
    values = _as_held(np.array(labels))
    order = np.argsort(values, kind="stable")
    ascending = bool((order == np.arange(len(order))).all())
    return Classes((values[order],), True, None if ascending else order)
