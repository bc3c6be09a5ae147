"""The estimators inside an estimator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_FITTED = ("best_estimator_", "regressor_", "estimator_")


def members(estimator: Any) -> Iterator[Any]:
    """The estimator, every estimator among its parameters, and those that it fitted."""
    yield estimator
    if hasattr(estimator, "get_params"):
        yield from (
            value
            for value in estimator.get_params(deep=True).values()
            if hasattr(value, "get_params")
        )
    for name in _FITTED:
        inner = vars(estimator).get(name) if hasattr(estimator, "__dict__") else None
        if hasattr(inner, "get_params"):
            yield from members(inner)
