"""What a converter of skl2onnx is asked to convert."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def standing_in(operator: Any, other: Any) -> Iterator[None]:
    """Let another estimator stand in the place of an operator's own meanwhile."""
    fitted = operator.raw_operator
    operator.raw_operator = other
    try:
        yield
    finally:
        operator.raw_operator = fitted
