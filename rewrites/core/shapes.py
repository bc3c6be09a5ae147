"""What is known of a value's shape."""

from __future__ import annotations

import onnx_ir as ir


def rank(value: ir.Value | None) -> int | None:
    """The number of axes; None where unknown, and of a scalar, which onnxruntime reports alike."""
    shape = None if value is None else value.shape
    return len(shape) if shape is not None and len(shape) else None


def size(value: ir.Value | None, axis: int) -> int | None:
    """The length of an axis; None where it varies, is unknown or is not there."""
    axes = rank(value)
    if value is None or value.shape is None or axes is None or not -axes <= axis < axes:
        return None
    found = value.shape[axis]
    return found if isinstance(found, int) else None
