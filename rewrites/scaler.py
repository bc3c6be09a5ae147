"""Scaler: (x - offset) * scale, per feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import numbers
from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array, Attributes, Case, Rewrite, Tensor


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`offset` and `scale`, [F] or [1]; an absent one is 0 or 1 and is not tuned."""
    offset = numbers(node, "offset", np.float32)
    scale = numbers(node, "scale", np.float32)
    declared = {}
    if offset is not None:
        # One unit shifts the output by one.
        steps = np.ones_like(offset) if scale is None else scale
        unit = 1.0 / np.maximum(np.abs(steps), np.finfo(np.float32).tiny)
        declared["offset"] = Tensor(offset, "offsets", np.broadcast_to(unit, offset.shape))
    if scale is not None:
        declared["scale"] = Tensor(scale, "weights", np.abs(scale))
    return declared


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Sub and Mul."""
    value = builder.as_float(node.inputs[0])
    if "offset" in builder.tensors:
        value = builder.op("Sub", value, builder.tensor("offset"))
    if "scale" in builder.tensors:
        value = builder.op("Mul", value, builder.tensor("scale"))
    return [value]


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes:
    """The tensors are the attributes."""
    return dict(tuned)


REWRITE = Rewrite(
    operator="Scaler",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    cases=(
        Case(
            "per feature",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 3] x) => (float[N, 3] y) {
                [scaler] y = ai.onnx.ml.Scaler <
                    offset = [0.5, -1.0, 2.0], scale = [2.0, 0.25, -1.5]> (x)
            }""",
        ),
        Case(
            "one number for all",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 3] x) => (float[N, 3] y) {
                y = ai.onnx.ml.Scaler <offset = [0.5], scale = [2.0]> (x)
            }""",
        ),
        Case(
            "integers in",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (int64[N, 2] x) => (float[N, 2] y) {
                y = ai.onnx.ml.Scaler <offset = [0.5, 1.5], scale = [2.0, 3.0]> (x)
            }""",
        ),
    ),
)
