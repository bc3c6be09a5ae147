"""CDist of onnxruntime: distances between the rows of two matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, string
from rewrites.core.builder import Builder, numpy_dtype
from rewrites.core.rewrite import Array, Case, Rewrite, Tensor, unchanged
from rewrites.errors import UnsupportedError


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """None: rows that are learned are an initializer.

    Raises:
        UnsupportedError: a metric that onnxruntime has no kernel for.
    """
    metric = string(node, "metric", "sqeuclidean")
    if metric not in ("euclidean", "sqeuclidean"):
        raise UnsupportedError(f"{describe(node)}: metric '{metric}' has no rewrite.")
    return {}


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """x x' + z z' - 2 x z', the kernel's own arithmetic: neighbours at equal distances stay so.

    Its gradient is rounding alone where rows are far from the origin and near each other, so torch
    has the operator itself.
    """
    x, z = node.inputs
    assert x is not None and z is not None
    metric = string(node, "metric", "sqeuclidean")
    if builder.for_torch:
        return [builder.op("CDist", x, z, domain="com.microsoft", metric=metric)]
    axis, dtype = builder.constant("columns", [1], np.int64), numpy_dtype(x)
    zero = builder.constant("zero", 0.0, dtype)
    own, other = (
        builder.op("ReduceSum", builder.op("Mul", rows, rows), axis, keepdims=1) for rows in (x, z)
    )
    total = builder.op("Gemm", x, z, own, alpha=-2.0, transB=1)
    total = builder.op("Add", total, builder.op("Transpose", other, perm=[1, 0]))
    below = builder.op("Less", total, zero)
    square = builder.op("Where", below, zero, total)
    if metric == "sqeuclidean":
        return [square]
    if builder.routing == "hard":
        return [builder.op("Sqrt", square)]
    # The root has an infinite gradient at 0.
    none = builder.op("Equal", square, zero)
    some = builder.op("Where", none, builder.constant("one", 1.0, dtype), square)
    return [builder.op("Where", none, zero, builder.op("Sqrt", some))]


def _text(attributes: str, kind: str = "float") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g ({kind}[N, 2] x) => ({kind}[N, 3] y)
    <{kind}[3, 2] rows = {{0.5, 1.0, -2.0, 0.25, 0.0, -1.5}}> {{
        y = com.microsoft.CDist <{attributes}> (x, rows)
    }}"""


REWRITE = Rewrite(
    operator="CDist",
    domain="com.microsoft",
    tensors=tensors,
    soften=soften,
    harden=unchanged,
    differentiable=((0, 0), (1, 0)),
    cases=(
        Case("squared", _text('metric = "sqeuclidean"')),
        Case("euclidean, doubles", _text('metric = "euclidean"', "double")),
        Case(
            "rows of the data themselves",
            """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
            g (float[N, 2] x) => (float[N, N] y) <float[2, 2] m = {1.0, 0.5, 0.25, -1.0}> {
                turned = MatMul (x, m)
                y = com.microsoft.CDist <metric = "euclidean"> (x, turned)
            }""",
        ),
    ),
)
