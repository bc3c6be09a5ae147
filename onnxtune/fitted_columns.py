"""The columns that an estimator was fitted with."""

from __future__ import annotations

from typing import Any

from onnxtune.errors import DataError


def check_columns(estimator: Any, data: Any) -> None:
    """Refuse columns in another order than the estimator's: the export reads them by position.

    Raises:
        DataError: the columns that it was fitted with are not all there, or in another order.
    """
    fitted = getattr(estimator, "feature_names_in_", None)
    given = getattr(data, "columns", None)
    if fitted is None or given is None:
        return
    known = set(fitted)
    found = [name for name in given if name in known]
    if found != list(fitted):
        own, theirs = ", ".join(map(str, fitted)), ", ".join(map(str, found))
        raise DataError(
            f"{type(estimator).__name__} was fitted with the columns {own}; "
            f"the data have {theirs or 'none of them'}, in this order."
        )
