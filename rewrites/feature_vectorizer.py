"""FeatureVectorizer: matrices side by side, each cut or filled up with zeros to its width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, required
from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array, Case, Rewrite, Tensor, unchanged
from rewrites.core.shapes import rank, size
from rewrites.errors import UnsupportedError


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """None.

    Raises:
        UnsupportedError: not one width for each input; onnxruntime writes beside its output then.
    """
    widths = required(node, "inputdimensions", np.int64)
    if len(widths) != len(node.inputs) or (widths < 0).any():
        raise UnsupportedError(f"{describe(node)}: 'inputdimensions' is not one width an input.")
    return {}


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Concat of floats."""
    widths = required(node, "inputdimensions", np.int64).tolist()
    parts = [_part(builder, x, width) for x, width in zip(node.inputs, widths, strict=True)]
    return [parts[0] if len(parts) == 1 else builder.op("Concat", *parts, axis=1)]


def _part(builder: Builder, value: ir.Value | None, wanted: int) -> ir.Value:
    """[N, wanted]: the first columns of a value, zeros behind them where it has fewer."""
    x = builder.as_float(value)
    axes, width = rank(value), size(value, -1)
    if axes == 1:
        x = builder.op("Unsqueeze", x, builder.constant("axis_0", [0], np.int64))
    elif axes != 2:
        x, width = builder.op("Flatten", x, axis=1), None
    if width == wanted:
        return x
    if width is None or width < wanted:
        x = _filled(builder, x, wanted - (width or 0))
    if width is not None and width < wanted:
        return x
    start, axis = (builder.constant(f"from_{n}", [n], np.int64) for n in (0, 1))
    end = builder.constant(f"to_{wanted}", [wanted], np.int64)
    return builder.op("Slice", x, start, end, axis)


def _filled(builder: Builder, x: ir.Value, columns: int) -> ir.Value:
    """With so many columns of zeros behind it."""
    return builder.op("Pad", x, builder.constant(f"zeros_{columns}", [0, 0, 0, columns], np.int64))


def _text(widths: str, kind: str = "float") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g ({kind}[N, 3] x) => (float[N, M] y) {{
        [left] a = ai.onnx.ml.Scaler <offset = [0.5, -1.0, 2.0], scale = [2.0, 0.25, -1.5]> (x)
        [right] b = ai.onnx.ml.Scaler <offset = [1.0, 0.0, 1.0], scale = [0.5, 3.0, 1.0]> (x)
        y = ai.onnx.ml.FeatureVectorizer <inputdimensions = [{widths}]> (a, b)
    }}"""


_ROWS = {"no rows": "onnxruntime ends the process"}

REWRITE = Rewrite(
    operator="FeatureVectorizer",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=unchanged,
    differentiable="every input",
    cases=(
        Case("side by side", _text("3, 3"), _ROWS),
        Case("filled up", _text("5, 4"), _ROWS),
        Case(
            "whole numbers, cut",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (int64[N, 3] x) => (float[N, 1] y) {
                both = ai.onnx.ml.FeatureVectorizer <inputdimensions = [2, 3]> (x, x)
                y = ai.onnx.ml.LinearRegressor <coefficients = [0.5, 2.0, 1.0, -1.0, 0.25],
                    intercepts = [1.0]> (both)
            }""",
            _ROWS,
        ),
        Case(
            "columns that nothing counts",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, M] x) => (float[N, K] y) <float[2] m = {0.5, 2.0}> {
                scaled = Mul (x, m)
                y = ai.onnx.ml.FeatureVectorizer <inputdimensions = [3]> (scaled)
            }""",
            skips={"soft converges to hard": "the check needs to know the columns"},
        ),
    ),
)
