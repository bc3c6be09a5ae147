"""Numbers that arguments take."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from onnxtune.errors import ArgumentError


def check_whole(**counts: Any) -> None:
    """Whole numbers from 1.

    Raises:
        ArgumentError: one is not.
    """
    for name, value in counts.items():
        if not (isinstance(value, Integral) and int(value) >= 1):
            raise ArgumentError(f"{name} must be a whole number of at least 1, not {value!r}.")


def check_positive(**numbers: Any) -> None:
    """Numbers above 0, or None.

    Raises:
        ArgumentError: one is not.
    """
    for name, value in numbers.items():
        if value is not None and not (isinstance(value, Real) and 0 < float(value) < float("inf")):
            raise ArgumentError(f"{name} must be a positive number, not {value!r}.")
