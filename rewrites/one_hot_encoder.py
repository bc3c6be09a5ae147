"""OneHotEncoder: a column for each category, 1 where a number is that category."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, integer, required
from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array, Case, Rewrite, Tensor, unchanged
from rewrites.errors import UnsupportedError


def covers(node: ir.Node) -> bool:
    """Categories that are words have no numeric form."""
    return "cats_strings" not in node.attributes


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """None.

    Raises:
        UnsupportedError: there are no categories.
    """
    if not len(required(node, "cats_int64s", np.int64)):
        raise UnsupportedError(f"{describe(node)}: it has no categories.")
    return {}


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Equal; other numbers are cut towards zero, as the kernel does."""
    x, categories = node.inputs[0], required(node, "cats_int64s", np.int64)
    assert x is not None
    if x.dtype != ir.DataType.INT64:
        x = builder.op("Cast", x, to=int(ir.DataType.INT64))
    column = builder.op("Unsqueeze", x, builder.constant("last_axis", [-1], np.int64))
    equal = builder.op("Equal", column, builder.constant("categories", categories))
    # Of a category that is there twice the last column counts.
    _, behind = np.unique(categories[::-1], return_index=True)
    if len(behind) < len(categories):
        counts = np.zeros(len(categories), bool)
        counts[len(categories) - 1 - behind] = True
        equal = builder.op("And", equal, builder.constant("counts", counts))
    hot = builder.op("Cast", equal, to=int(ir.DataType.FLOAT))
    if integer(node, "zeros", 1) or builder.for_torch:
        return [hot]
    return [_only_known(builder, hot)]


def _only_known(builder: Builder, hot: ir.Value) -> ir.Value:
    """Refuses an unknown category, as the kernel does: it would be picked from beside a table."""
    axis = builder.constant("last_axis", [-1], np.int64)
    found = builder.op("Cast", builder.op("ReduceSum", hot, axis, keepdims=1), to=7)
    beside = builder.op("Sub", builder.constant("found", [1], np.int64), found)
    one = builder.op("Gather", builder.constant("one", [1.0], np.float32), beside, axis=0)
    return builder.op("Mul", hot, one)


def _text(kind: str, attributes: str) -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g ({kind}[N, 2] x) => (float[N, 1] y) {{
        [encoder] hot = ai.onnx.ml.OneHotEncoder <{attributes}> (x)
        flat = Flatten <axis = 1> (hot)
        y = ai.onnx.ml.LinearRegressor <intercepts = [1.0],
            coefficients = [0.5, 2.0, 1.0, -1.0, 0.25, 0.75]> (flat)
    }}"""


REWRITE = Rewrite(
    operator="OneHotEncoder",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=unchanged,
    # A number is a category or it is not: moving it a little means nothing.
    differentiable=(),
    covers=covers,
    cases=(
        Case("whole numbers", _text("int64", "cats_int64s = [3, -1, 7]")),
        Case("doubles", _text("double", "cats_int64s = [3, -1, 7], zeros = 1")),
        Case("a category twice", _text("int64", "cats_int64s = [3, -1, 3]")),
        Case(
            "unknown categories refused",
            _text("float", "cats_int64s = [3, -1, 7], zeros = 0"),
            skips={"soft converges to hard": "onnxruntime refuses the rows of the check"},
        ),
        Case(
            "floats that are computed, beside other ways",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (float[N, 2] y) <int64[1] last = {2}> {
                [scaler] s = ai.onnx.ml.Scaler <offset = [0.5, -1.0], scale = [2.0, 0.25]> (x)
                hot = ai.onnx.ml.OneHotEncoder <cats_int64s = [0, 1, -1]> (s)
                known = ReduceSum <keepdims = 0> (hot, last)
                y = Add (s, known)
            }""",
        ),
    ),
)
