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
    """Sub and Mul; of doubles in double precision, like the kernel, which rounds at the end."""
    x = builder.as_float(node.inputs[0], keep_double=True)
    double = x.dtype == ir.DataType.DOUBLE
    if builder.routing == "hard":
        value = _scaled(builder, x, double)
    else:
        value = _scaled_with_gradient(builder, x, double)
    return [builder.op("Cast", value, to=int(ir.DataType.FLOAT)) if double else value]


def _scaled(builder: Builder, value: ir.Value, double: bool) -> ir.Value:
    for role, operator in (("offset", "Sub"), ("scale", "Mul")):
        if role in builder.tensors:
            number = builder.tensor(role)
            if double:
                number = builder.op("Cast", number, to=int(ir.DataType.DOUBLE))
            value = builder.op(operator, value, number)
    return value


def _scaled_with_gradient(builder: Builder, x: ir.Value, double: bool) -> ir.Value:
    """Rows with NaN or inf have no share in the gradient: 0 times NaN would make it NaN.

    They pass beside the arithmetic: NaN stays NaN, and inf keeps the sign that the scale gives it.
    """
    dtype = np.float64 if double else np.float32
    strange = builder.op("IsNaN", builder.op("Sub", x, x))
    filled = builder.op("Where", strange, builder.constant("zero", 0.0, dtype), x)
    value = _scaled(builder, filled, double)
    if "scale" in builder.tensors:
        sign = np.sign(builder.tensors["scale"].value)
        x = builder.op("Mul", x, builder.constant("sign", sign, dtype))
    return builder.op("Where", strange, x, value)


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
            "doubles in, beyond what floats resolve",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (double[N, 2] x) => (float[N, 2] y) {
                y = ai.onnx.ml.Scaler <offset = [1600000000.0, 1.5], scale = [0.01, 3.0]> (x)
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
