"""com.example:Hinge: each feature gets another slope beyond its knot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, required
from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array, Attributes, Case, Rewrite, Tensor
from rewrites.errors import UnsupportedError


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`knots` [F] and `slopes` [F]."""
    knots = required(node, "knots", np.float32)
    slopes = required(node, "slopes", np.float32)
    if knots.shape != slopes.shape:
        raise UnsupportedError(
            f"{describe(node)}: it has {len(knots)} knots and {len(slopes)} slopes; give as many."
        )
    known = spread is not None and np.shape(spread) == knots.shape
    return {
        "knots": Tensor(knots, "thresholds", np.asarray(spread) if known else 1.0),
        "slopes": Tensor(slopes, "weights"),
    }


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """x + slopes * max(x - knots, 0)."""
    x = builder.as_float(node.inputs[0])
    beyond = builder.op("Relu", builder.op("Sub", x, builder.tensor("knots")))
    return [builder.op("Add", x, builder.op("Mul", beyond, builder.tensor("slopes")))]


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes:
    """Both lists into their places."""
    return {name: tuned[name] for name in ("knots", "slopes") if name in tuned}


REWRITE = Rewrite(
    operator="Hinge",
    domain="com.example",
    tensors=tensors,
    soften=soften,
    harden=harden,
    cases=(
        Case(
            "two features",
            """<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>
            g (float[N, 2] x) => (float[N, 2] y) {
                [hinge] y = com.example.Hinge <knots = [0.5, -1.0], slopes = [2.0, -0.5]> (x)
            }""",
        ),
    ),
)
