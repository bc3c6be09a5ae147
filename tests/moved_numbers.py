"""A model as tuning might leave it: every learned number moved, in its own unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

import onnxtune
from onnxtune.export import native


def moved(model: onnx.ModelProto, size: float = 0.1, seed: int = 0) -> onnx.ModelProto:
    """The native form with every tunable tensor moved by some of its standardised steps."""
    module = onnxtune.to_torch(model)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, tensor in module.learned.items():
        step = size * np.asarray(tensor.unit) * rng.normal(size=tensor.value.shape)
        tensors[name] = _kept(tensor, tensor.value + step).astype(tensor.value.dtype)
    return native(module.prepared, tensors).proto


def _kept(tensor: Any, values: np.ndarray) -> np.ndarray:
    """Within the tensor's constraint."""
    constraint, held = tensor.constraint, tensor.value
    if constraint is None:
        return values
    if constraint.kind == "simplex":
        values = np.maximum(values, 0)
        values = np.where(values.any(axis=1, keepdims=True), values, held)
        return values * held.sum(axis=1, keepdims=True) / values.sum(axis=1, keepdims=True)
    if constraint.kind == "interval":
        return np.clip(values, constraint.low, constraint.high)
    return np.maximum(values, held / 2)
