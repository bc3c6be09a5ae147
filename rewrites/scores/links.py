"""Link functions: what `post_transform` does to scores."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, string
from rewrites.core.builder import Builder, numpy_dtype
from rewrites.errors import UnsupportedError

# By the numbers of TreeEnsemble.
LINKS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT")


def post_transform(node: ir.Node) -> str:
    """The attribute, one of `LINKS`.

    Raises:
        UnsupportedError: another transform.
    """
    link = string(node, "post_transform", "NONE")
    if link not in LINKS:
        raise UnsupportedError(
            f"{describe(node)}: post_transform {link} has no rewrite ({', '.join(LINKS)} have)."
        )
    return link


def apply_link(builder: Builder, scores: ir.Value, link: str) -> ir.Value:
    """Scores [N, K] -> outputs [N, K].

    LOGISTIC and PROBIT are elementwise, SOFTMAX and SOFTMAX_ZERO over the columns.
    """
    if link == "LOGISTIC":
        return builder.op("Sigmoid", scores)
    if link == "SOFTMAX":
        return builder.op("Softmax", scores, axis=1)
    if link == "SOFTMAX_ZERO":
        return _softmax_zero(builder, scores)
    if link == "PROBIT":
        return _probit(builder, scores)
    return scores


def as_float(builder: Builder, scores: ir.Value, dtype: np.dtype[np.generic]) -> ir.Value:
    """Scores of this type as float32: what the kernel's links compute with."""
    if dtype == np.float64:
        scores = builder.op("Cast", scores, to=int(ir.DataType.FLOAT))
    scores.dtype = ir.DataType.FLOAT
    return scores


def _softmax_zero(builder: Builder, scores: ir.Value) -> ir.Value:
    """Softmax that keeps zeros as zeros (up to 1e-7 they are) and leaves them out of the sum."""
    dtype = numpy_dtype(scores)

    def number(role: str, value: float) -> ir.Value:
        return builder.constant(role, value, dtype)

    place = builder.op("ArgMax", scores, axis=1, keepdims=1)
    largest = builder.op("GatherElements", scores, place, axis=1)
    above = builder.op("Greater", builder.op("Abs", scores), number("about_zero", 1e-7))
    nothing = number("link_zero", 0.0)
    kept = builder.op(
        "Where", above, builder.op("Exp", builder.op("Sub", scores, largest)), nothing
    )
    # With a zero among them the largest is none below zero: no overflow where this is not used.
    least = builder.op("Max", largest, number("about_minus_zero", -1e-7))
    scaled = builder.op("Mul", scores, builder.op("Exp", builder.op("Neg", least)))
    total = builder.op("ReduceSum", kept, builder.constant("link_axis", [1], np.int64), keepdims=1)
    return builder.op("Div", builder.op("Where", above, kept, scaled), total)


def _probit(builder: Builder, scores: ir.Value) -> ir.Value:
    """The kernel's approximation of the normal quantile: sqrt(2) erfinv(2 p - 1)."""
    dtype = numpy_dtype(scores)

    def number(role: str, value: float) -> ir.Value:
        return builder.constant(role, value, dtype)

    one, a, nothing = number("link_one", 1.0), 0.147, number("link_zero", 0.0)
    x = builder.op("Sub", builder.op("Mul", number("link_two", 2.0), scores), one)
    at_zero = builder.op("Equal", x, nothing)
    # sqrt has no derivative at 0.
    safe = builder.op("Where", at_zero, number("link_half", 0.5), x)
    square = builder.op("Mul", builder.op("Sub", one, safe), builder.op("Add", one, safe))
    log = builder.op("Log", square)
    pi = np.float32(np.pi) * np.float32(a)
    half = builder.op("Mul", number("link_half", 0.5), log)
    v = builder.op("Add", number("link_shift", float(np.float32(2) / pi)), half)
    w = builder.op("Mul", number("link_slope", float(1 / np.float32(a))), log)
    root = builder.op("Sqrt", builder.op("Sub", builder.op("Mul", v, v), w))
    size = builder.op("Sqrt", builder.op("Sub", root, v))
    negative = builder.op("Less", safe, nothing)
    signed = builder.op("Where", negative, builder.op("Neg", size), size)
    whole = builder.op("Where", at_zero, nothing, signed)
    return builder.op("Mul", number("link_root_two", float(np.float32(np.sqrt(2.0)))), whole)
