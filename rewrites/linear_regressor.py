"""LinearRegressor: x times coefficients plus intercepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, integer, numbers, required
from rewrites.core.builder import Builder
from rewrites.core.linear import score_unit, scores, weight_unit
from rewrites.core.rewrite import Array, Attributes, Case, Rewrite, Tensor
from rewrites.errors import ModelError
from rewrites.scores.links import apply_link, post_transform


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`coefficients` [K, F], `intercepts` [K] where there are some."""
    post_transform(node)
    targets = integer(node, "targets", 1)
    flat = required(node, "coefficients", np.float32)
    if targets < 1 or len(flat) % targets:
        raise ModelError(f"{describe(node)}: coefficients do not fit {targets} targets.")
    weights = flat.reshape(targets, -1)
    unit = weight_unit(weights, spread)
    declared = {"coefficients": Tensor(weights, "weights", unit)}
    intercepts = numbers(node, "intercepts", np.float32)
    if intercepts is not None and len(intercepts):
        declared["intercepts"] = Tensor(intercepts, "offsets", score_unit(weights, spread))
    return declared


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """One Gemm and the link; like onnxruntime's kernel, none but PROBIT for a single target."""
    link = post_transform(node)
    values = scores(builder, builder.as_float(node.inputs[0]))
    alone = integer(node, "targets", 1) == 1 and link != "PROBIT"
    return [values if alone else apply_link(builder, values, link)]


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes:
    """The tensors, flat."""
    return {role: np.ravel(value) for role, value in tuned.items()}


REWRITE = Rewrite(
    operator="LinearRegressor",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    cases=(
        Case(
            "one target",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 3] x) => (float[N, 1] y) {
                [linear] y = ai.onnx.ml.LinearRegressor <
                    coefficients = [0.5, -1.0, 2.0], intercepts = [0.25]> (x)
            }""",
        ),
        Case(
            "two targets with a link",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (float[N, 2] y) {
                y = ai.onnx.ml.LinearRegressor <coefficients = [0.5, -1.0, 2.0, 1.5],
                    intercepts = [0.5, -0.5], targets = 2, post_transform = "SOFTMAX"> (x)
            }""",
        ),
        Case(
            "two targets, no intercepts",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (float[N, 2] y) {
                y = ai.onnx.ml.LinearRegressor <
                    coefficients = [0.5, -1.0, 2.0, 1.5], targets = 2> (x)
            }""",
        ),
    ),
)
