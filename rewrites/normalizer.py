"""Normalizer: each row divided by its norm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import string
from rewrites.core.builder import Builder
from rewrites.core.rewrite import Case, Rewrite, no_tensors, unchanged


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Div by the norm; a row of norm 0 stays as it is. MAX is the largest value, sign and all."""
    value = builder.as_float(node.inputs[0])
    axis = builder.constant("axis", [1], np.int64)
    norm = string(node, "norm", "MAX")
    if norm == "MAX":
        # ReduceMax takes its axes in another way from opset 18 on.
        largest = builder.op("ArgMax", value, axis=1, keepdims=1)
        size = builder.op("GatherElements", value, largest, axis=1)
    elif norm == "L1":
        size = builder.op("ReduceSum", builder.op("Abs", value), axis, keepdims=1)
    else:
        square = builder.op("Mul", value, value)
        # Zero rows leave before the root, whose gradient at 0 is infinite.
        total = _or_one(builder, builder.op("ReduceSum", square, axis, keepdims=1))
        if builder.routing != "hard":
            return [builder.op("Div", value, builder.op("Sqrt", total))]
        # The kernel's own arithmetic: a tree behind it may hold a row's value as its threshold.
        size = builder.op("Sqrt", builder.op("Div", square, total))
        return [builder.op("Mul", builder.op("Sign", value), size)]
    return [builder.op("Div", value, _or_one(builder, size))]


def _or_one(builder: Builder, size: ir.Value) -> ir.Value:
    zero = builder.constant("zero", 0.0, np.float32)
    one = builder.constant("one", 1.0, np.float32)
    return builder.op("Where", builder.op("Equal", size, zero), one, size)


def _text(norm: str) -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g (float[N, 3] x) => (float[N, 3] y) {{
        scaled = ai.onnx.ml.Scaler <offset = [0.5, 0.0, 1.0], scale = [2.0, 1.0, 0.5]> (x)
        y = ai.onnx.ml.Normalizer <norm = "{norm}"> (scaled)
    }}"""


REWRITE = Rewrite(
    operator="Normalizer",
    domain="ai.onnx.ml",
    tensors=no_tensors,
    soften=soften,
    harden=unchanged,
    cases=tuple(Case(norm, _text(norm)) for norm in ("L1", "L2", "MAX")),
)
