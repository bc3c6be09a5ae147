"""CategoryMapper: numbers become words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import required, string, strings
from rewrites.core.builder import Builder
from rewrites.core.lookup import places
from rewrites.core.rewrite import Case, Rewrite, no_tensors, unchanged


def covers(node: ir.Node) -> bool:
    """Words that become numbers have no numeric form."""
    source = node.inputs[0]
    return source is not None and source.dtype == ir.DataType.INT64


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """The place among the numbers, and the word that stands there."""
    x = node.inputs[0]
    assert x is not None
    # Of a number that is there twice the last counts.
    keys = required(node, "cats_int64s", np.int64)[::-1]
    words = [string(node, "default_string", "_Unused"), *reversed(strings(node, "cats_strings"))]
    return [builder.op("Gather", builder.strings("words", words), places(builder, x, keys), axis=0)]


REWRITE = Rewrite(
    operator="CategoryMapper",
    domain="ai.onnx.ml",
    tensors=no_tensors,
    soften=soften,
    harden=unchanged,
    differentiable=(),
    covers=covers,
    cases=(
        Case(
            "labels as words, a number twice",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 3] x) => (string[N] label, float[N, 3] y)
            <float[3, 3] m = {1.0, 2.0, 3.0, 0.5, 0.25, -1.0, -2.0, 0.75, 1.5}> {
                y = MatMul (x, m)
                best = ArgMax <axis = 1, keepdims = 0> (y)
                label = ai.onnx.ml.CategoryMapper <cats_int64s = [1, 0, 1],
                    cats_strings = ["one", "zero", "uno"]> (best)
            }""",
        ),
    ),
)
