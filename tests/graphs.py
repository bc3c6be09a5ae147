"""Models written in the ONNX text format."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper


def parse(body: str, opset: int = 17, **initializers: np.ndarray) -> onnx.ModelProto:
    """A model of this graph; initializers by name."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}, "ai.onnx.ml" : 1]> {body}"""
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in initializers.items()
    )
    return model
