"""Binarizer: 1 above a learned threshold, else 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import numbers
from rewrites.core.builder import PRIVATE_DOMAIN, Builder
from rewrites.core.rewrite import Array, Attributes, Case, Rewrite, Tensor


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`threshold` [1]; an infinite one is not tuned."""
    threshold = _threshold(node)
    if not np.isfinite(threshold).all():
        return {}
    return {"threshold": Tensor(threshold, "thresholds", float(_widths(spread).mean()))}


def _threshold(node: ir.Node) -> Array:
    held = numbers(node, "threshold", np.float32)
    return np.zeros(1, np.float32) if held is None else held.reshape(1)


def _widths(spread: Array | None) -> Array:
    """[F] or [1], positive: the spread of each feature; of a constant one the mean of the others'.

    1 where nothing is known.
    """
    known = np.ones(1) if spread is None else np.asarray(spread, np.float64)
    usable = np.isfinite(known) & (known > 0)
    return np.where(usable, known, known[usable].mean() if usable.any() else 1.0)


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """A step, or a sigmoid of the distance; NaN, which the kernel refuses, is not above."""
    x = builder.as_float(node.inputs[0])
    if "threshold" not in builder.tensors:
        return [_step(builder, x, builder.constant("threshold", _threshold(node)))]
    threshold = builder.tensor("threshold")
    if builder.routing == "hard":
        return [_step(builder, x, threshold)]
    # NaN leaves in front of the sigmoid too, or its share of the gradient is NaN.
    missing, zero = builder.op("IsNaN", x), builder.constant("zero", 0.0, np.float32)
    far = builder.op("Sub", builder.op("Where", missing, zero, x), threshold)
    # At a vanishing temperature the steepest slope that a float can hold.
    narrowest = 4.0 / float(np.finfo(np.float32).max)
    slopes = 1.0 / np.maximum(builder.temperature * _widths(builder.spread), narrowest)
    slope = builder.constant("inverse_temperature", slopes, np.float32)
    soft = builder.op("Sigmoid", builder.op("Mul", far, slope))
    soft = builder.op("Where", missing, zero, soft)
    if builder.routing == "soft":
        return [soft]
    # A step whose gradient is the sigmoid's: what is added is 0, to the last bit.
    nothing = builder.op("Sub", soft, builder.op("Held", soft, domain=PRIVATE_DOMAIN))
    return [builder.op("Add", _step(builder, x, threshold), nothing)]


def _step(builder: Builder, x: ir.Value, threshold: ir.Value) -> ir.Value:
    return builder.op("Cast", builder.op("Greater", x, threshold), to=int(ir.DataType.FLOAT))


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes:
    """The tensor is the attribute."""
    return dict(tuned)


def _text(binarizer: str) -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g (float[N, 3] x) => (float[N, 3] y) {{
        [scaler] s = ai.onnx.ml.Scaler <offset = [0.5, 0.0, 1.0], scale = [2.0, 1.0, 0.5]> (x)
        [binarizer] y = ai.onnx.ml.{binarizer} (s)
    }}"""


REWRITE = Rewrite(
    operator="Binarizer",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    cases=(
        Case("a threshold", _text("Binarizer <threshold = 0.75>")),
        Case("no threshold", _text("Binarizer")),
        Case(
            "an infinite threshold in front of weights",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (float[N, 1] y) {
                b = ai.onnx.ml.Binarizer <threshold = -inf> (x)
                y = ai.onnx.ml.LinearRegressor <coefficients = [0.5, 2.0], intercepts = [1.0]> (b)
            }""",
        ),
    ),
)
