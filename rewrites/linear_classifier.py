"""LinearClassifier: linear scores, a link, and the label of the best score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, required
from rewrites.core.builder import Builder
from rewrites.core.linear import score_unit, scores, weight_unit
from rewrites.core.rewrite import Array, Attributes, Case, Rewrite, Tensor
from rewrites.errors import ModelError, UnsupportedError
from rewrites.scores.labels import beyond, class_labels, largest
from rewrites.scores.links import apply_link, post_transform


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`coefficients` [K, F] and `intercepts` [K].

    Exporters write a binary model as two opposite rows (-w, w). Those are one row, [1, F], here:
    tuned apart, the two probabilities would no longer sum to 1.
    """
    link = post_transform(node)
    weights, intercepts = _rows(node)
    if len(weights) == 1 and link == "PROBIT" and len(class_labels(node, "classlabels_ints")) == 2:
        raise UnsupportedError(
            f"{describe(node)}: onnxruntime writes the second score of PROBIT beside its place."
        )
    if _mirrored(weights, intercepts):
        weights, intercepts = weights[1:], intercepts[1:]
    return {
        "coefficients": Tensor(weights, "weights", weight_unit(weights, spread)),
        "intercepts": Tensor(intercepts, "offsets", score_unit(weights, spread)),
    }


def _rows(node: ir.Node) -> tuple[Array, Array]:
    intercepts = required(node, "intercepts", np.float32)
    flat = required(node, "coefficients", np.float32)
    if not len(intercepts) or len(flat) % len(intercepts):
        raise ModelError(f"{describe(node)}: coefficients do not fit {len(intercepts)} intercepts.")
    return flat.reshape(len(intercepts), -1), intercepts


def _mirrored(weights: Array, intercepts: Array) -> bool:
    return (
        len(weights) == 2
        and np.array_equal(weights[0], -weights[1])
        and bool(intercepts[0] == -intercepts[1])
    )


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Gemm, label and link, by the rules of onnxruntime's kernel."""
    link = post_transform(node)
    labels = class_labels(node, "classlabels_ints")
    values = scores(builder, builder.as_float(node.inputs[0]))
    if len(builder.tensors["intercepts"].value) < len(_rows(node)[1]):
        both = builder.op("Concat", builder.op("Neg", values), values, axis=1)
        return [largest(builder, both, labels), apply_link(builder, both, link)]
    if len(_rows(node)[1]) > 1:
        return [largest(builder, values, labels), apply_link(builder, values, link)]
    label = beyond(builder, values, 0.0, labels if len(labels) == 2 else (0, 1))
    if len(labels) != 2:
        return [label, apply_link(builder, values, link if link == "PROBIT" else "NONE")]
    if link == "LOGISTIC":
        other = builder.op("Neg", values)
    else:
        other = builder.op("Sub", builder.constant("one", 1.0, np.float32), values)
        link = "NONE"  # the kernel ignores a softmax of a single score
    both = builder.op("Concat", other, values, axis=1)
    return [label, apply_link(builder, both, link)]


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes:
    """The tensors, flat, the single row of a mirrored pair written twice."""
    rows = len(_rows(node)[1])

    def mirror(value: Array) -> Array:
        return np.concatenate([-value, value]) if len(value) < rows else value

    return {role: np.ravel(mirror(np.asarray(value))) for role, value in tuned.items()}


REWRITE = Rewrite(
    operator="LinearClassifier",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    differentiable=((0, 1),),
    cases=(
        Case(
            "binary, two mirrored rows",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (int64[N] label, float[N, 2] p) {
                [linear] label, p = ai.onnx.ml.LinearClassifier <classlabels_ints = [3, 5],
                    coefficients = [-0.5, 1.0, 0.5, -1.0], intercepts = [0.25, -0.25],
                    post_transform = "LOGISTIC"> (x)
            }""",
        ),
        Case(
            "one row, string labels",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (string[N] label, float[N, 2] p) {
                label, p = ai.onnx.ml.LinearClassifier <classlabels_strings = ["no", "yes"],
                    coefficients = [0.5, -1.0], intercepts = [0.25],
                    post_transform = "LOGISTIC"> (x)
            }""",
        ),
        Case(
            "one row without a link",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (int64[N] label, float[N, 2] p) {
                label, p = ai.onnx.ml.LinearClassifier <classlabels_ints = [0, 1],
                    coefficients = [0.5, -1.0], intercepts = [0.25]> (x)
            }""",
        ),
        Case(
            "three classes, SOFTMAX",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[N, 2] x) => (int64[N] label, float[N, 3] p) {
                label, p = ai.onnx.ml.LinearClassifier <classlabels_ints = [2, 4, 7],
                    coefficients = [-0.5, 1.0, 0.5, -1.0, 0.25, 0.75],
                    intercepts = [0.25, -0.25, 0.0], multi_class = 1,
                    post_transform = "SOFTMAX"> (x)
            }""",
        ),
        Case(
            "three classes, LOGISTIC, integers in",
            """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (int64[N, 2] x) => (string[N] label, float[N, 3] p) {
                label, p = ai.onnx.ml.LinearClassifier <classlabels_strings = ["a", "b", "c"],
                    coefficients = [-0.5, 1.0, 0.5, -1.0, 0.25, 0.75],
                    intercepts = [0.25, -0.25, 0.0], post_transform = "LOGISTIC"> (x)
            }""",
        ),
    ),
)
