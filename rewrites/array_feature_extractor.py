"""ArrayFeatureExtractor: columns picked by number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Case, Rewrite, no_tensors, unchanged
from rewrites.core.shapes import rank


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Gather along the last axis; what has one axis only counts as one row."""
    source, index = node.inputs
    assert source is not None and index is not None
    if index.const_value is not None:
        places = builder.constant("features", index.const_value.numpy().ravel(), np.int64)
    else:
        flat = builder.constant("flat", [-1], np.int64)
        places = index if rank(index) == 1 else builder.op("Reshape", index, flat)
    picked = builder.op("Gather", source, places, axis=-1)
    axes = rank(source)
    if axes == 1:
        picked = builder.op("Unsqueeze", picked, builder.constant("axis_0", [0], np.int64))
    elif axes is None:
        picked = builder.op("Expand", picked, builder.constant("matrix", [1, 1], np.int64))
    return [picked]


def _text(index: str, source: str = "scaled", picked: int = 2) -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g (float[N, 3] x) => (float[N, {picked}] y) <{index}> {{
        scaled = ai.onnx.ml.Scaler <offset = [0.5, -1.0, 2.0], scale = [2.0, 0.25, -1.5]> (x)
        [weights] w = MatMul (scaled, m)
        y = ai.onnx.ml.ArrayFeatureExtractor ({source}, i)
    }}"""


_ROWS = {"no rows": "onnxruntime refuses to pick nothing"}
_WEIGHTS = "float[3, 3] m = {1.0, 0.5, 0.0, -1.0, 0.25, 2.0, 0.5, 0.5, 1.5}"

REWRITE = Rewrite(
    operator="ArrayFeatureExtractor",
    domain="ai.onnx.ml",
    tensors=no_tensors,
    soften=soften,
    harden=unchanged,
    cases=(
        Case("two of three columns", _text(f"{_WEIGHTS}, int64[2] i = {{2, 0}}", "w")),
        Case(
            "a column twice, numbers in a row",
            _text(f"{_WEIGHTS}, int64[1, 3] i = {{1, 1, 0}}", "w", 3),
        ),
        Case(
            "numbers that are computed, from one axis",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (float[1, N] y)
            <float[2] values = {0.5, -1.5}> {
                best = ArgMax <axis = 1, keepdims = 1> (x)
                y = ai.onnx.ml.ArrayFeatureExtractor (values, best)
            }""",
            skips=_ROWS,
        ),
        Case(
            "labels as words",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (string[1, N] label, float[N, 2] y)
            <string[2] words = {"no", "yes"}, float[2, 2] m = {1.0, 0.5, 0.25, -1.0}> {
                y = MatMul (x, m)
                best = ArgMax <axis = 1, keepdims = 0> (y)
                label = ai.onnx.ml.ArrayFeatureExtractor (words, best)
            }""",
            skips=_ROWS,
        ),
    ),
)
