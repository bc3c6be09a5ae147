"""What converters of trees hand to skl2onnx, put right on its way."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from skl2onnx.common.data_types import DoubleTensorType

_INTEGERS = (int, np.integer, np.bool_)
# The lists that ai.onnx.ml 3 takes as tensors of doubles.
_REALS = ("nodes_values", "nodes_hitrates", "base_values", "target_weights", "class_weights")


class TreeContainer:
    """A skl2onnx container that takes what converters of trees write.

    Booleans become integers, as onnx 1.20 and later refuse them in a list of integers. Where the
    operator reads doubles, its numbers become tensors of doubles: as lists they are float32.
    """

    def __init__(self, container: Any, operator: Any) -> None:
        self._container = container
        self._double = isinstance(operator.inputs[0].type, DoubleTensorType)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, kind: str, *arguments: Any, **attributes: Any) -> None:
        """As the container's own."""
        for name, value in list(attributes.items()):
            whole = isinstance(value, list) and all(isinstance(item, _INTEGERS) for item in value)
            if whole and name not in _REALS:
                attributes[name] = [int(item) for item in value]
            if self._double and name in _REALS and kind.startswith("TreeEnsemble"):
                array = np.asarray(attributes.pop(name), np.float64).ravel()
                if len(array):
                    tensor = onnx.numpy_helper.from_array(array, name)
                    attributes[f"{name}_as_tensor"] = tensor
                    attributes["op_version"] = 3
        self._container.add_node(kind, *arguments, **attributes)
