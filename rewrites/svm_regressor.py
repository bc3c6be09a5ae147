"""SVMRegressor: a weighted sum of kernels, for one target or one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import integer
from rewrites.core.builder import PRIVATE_DOMAIN, Builder
from rewrites.core.rewrite import Array, Attributes, Case, Rewrite, Tensor
from rewrites.svm.kernels import kernel_of, kernel_values
from rewrites.svm.tensors import linear_machine, vector_machine, written


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`support_vectors` [S, F], `coefficients` [1, S], `rho` [1], `gamma` [1].

    Without support vectors `coefficients` [1, F] and `rho` [1].
    """
    supports = integer(node, "n_supports", 0)
    if supports < 1:
        return linear_machine(node, 1, spread)
    return vector_machine(node, supports, 1, 1, spread)


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Kernels, one Gemm and the sign of one class; onnxruntime's kernel knows no link here."""
    x = builder.as_float(node.inputs[0])
    if integer(node, "n_supports", 0) > 0:
        x = kernel_values(builder, kernel_of(node), x)
    score = builder.op("Gemm", x, builder.tensor("coefficients"), builder.tensor("rho"), transB=1)
    return [_side(builder, score) if integer(node, "one_class", 0) else score]


def _side(builder: Builder, score: ir.Value) -> ir.Value:
    """1 where the score is positive, else -1; in torch with the gradient of a smooth step."""

    def number(role: str, value: float) -> ir.Value:
        return builder.constant(role, value, np.float32)

    inside = builder.op("Greater", score, number("zero", 0.0))
    side = builder.op("Where", inside, number("inside", 1.0), number("outside", -1.0))
    if not builder.for_torch:
        return side
    width = float(np.mean(builder.tensors["rho"].unit))
    smooth = builder.op("Tanh", builder.op("Div", score, number("width", width)))
    rest = builder.op("Held", builder.op("Sub", side, smooth), domain=PRIVATE_DOMAIN)
    return builder.op("Add", smooth, rest)


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes:
    """The tensors, flat; gamma is the first of the kernel's parameters."""
    return written(node, tuned)


_VECTORS = """coefficients = [0.7, -1.0, 0.4, 0.25], rho = [0.1], n_supports = 4,
    support_vectors = [0.5, -1.0, 1.5, 0.25, -0.75, 0.5, 1.0, 1.25]"""


def _text(attributes: str, kind: str = "float") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g ({kind}[N, 2] x) => (float[N, 1] y) {{
        [machine] y = ai.onnx.ml.SVMRegressor <{attributes}> (x)
    }}"""


REWRITE = Rewrite(
    operator="SVMRegressor",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    cases=(
        Case(
            "RBF",
            _text(f'{_VECTORS}, kernel_type = "RBF", kernel_params = [0.5, 0.0, 3.0]'),
        ),
        Case(
            "LINEAR",
            _text(f'{_VECTORS}, kernel_type = "LINEAR", kernel_params = [0.5, 1.0, 3.0]'),
        ),
        Case(
            "POLY, cubes",
            _text(f'{_VECTORS}, kernel_type = "POLY", kernel_params = [0.5, 1.0, 3.0]'),
        ),
        Case(
            "POLY, fourth powers, no coef0",
            _text(f'{_VECTORS}, kernel_type = "POLY", kernel_params = [0.05, 0.0, 4.0]'),
        ),
        Case(
            "SIGMOID, a link that the kernel leaves out",
            _text(
                f'{_VECTORS}, kernel_type = "SIGMOID", kernel_params = [0.25, 0.5, 3.0], '
                'post_transform = "LOGISTIC"'
            ),
        ),
        Case(
            "no support vectors",
            _text(
                'coefficients = [0.5, -1.5], rho = [0.25], n_supports = 0, kernel_type = "RBF", '
                "kernel_params = [0.5, 0.0, 3.0]"
            ),
        ),
        Case(
            "one class",
            _text(
                f'{_VECTORS}, kernel_type = "RBF", kernel_params = [0.5, 0.0, 2.0], one_class = 1'
            ),
        ),
    ),
)
