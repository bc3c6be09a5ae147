"""The estimators inside an estimator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_FITTED = (
    "best_estimator_",
    "calibrated_classifiers_",
    "estimator_",
    "estimators_",
    "final_estimator_",
    "regressor_",
    "transformers_",
)


def members(estimator: Any) -> Iterator[Any]:
    """The estimator, every estimator among its parameters, and those that these fitted.

    Trees of forests are left out: they are many, and hold nothing.
    """
    given = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
    for member in (estimator, *(value for value in given if hasattr(value, "get_params"))):
        yield member
        fitted = vars(member) if hasattr(member, "__dict__") else {}
        for name in _FITTED:
            yield from _held(fitted.get(name))


def _held(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple) or getattr(value, "dtype", None) == np.dtype(object):
        for item in np.ravel(value) if isinstance(value, np.ndarray) else value:
            yield from _held(item)
        return
    # What CalibratedClassifierCV fits is no estimator, but has one.
    inner = value if hasattr(value, "get_params") else getattr(value, "estimator", None)
    if hasattr(inner, "get_params") and not type(inner).__module__.startswith("sklearn.tree"):
        yield from members(inner)
