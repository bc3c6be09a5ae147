"""Kernels: how near a row is to each support vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, required, string
from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array
from rewrites.errors import ModelError, UnsupportedError

KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")
# Larger coefficients cancel: the last bits of the kernel's own arithmetic are part of the scores.
_CANCELLING = 1e4
# So many features are added one by one.
_FEW = 64
# Beyond this the square of a number is no float: the kernel takes such a row for infinitely far.
_FAR = 1e18


@dataclass(frozen=True)
class Kernel:
    """LINEAR: x s; POLY: (gamma x s + coef0)^degree; SIGMOID: tanh(gamma x s + coef0);
    RBF: exp(-gamma |x - s|^2).
    """  # fmt: skip

    kind: str
    gamma: float
    coef0: float
    degree: float

    @property
    def learns_gamma(self) -> bool:
        """Whether gamma counts and, being positive, can be moved in units of its own."""
        return self.kind != "LINEAR" and self.gamma > 0


def kernel_of(node: ir.Node) -> Kernel:
    """The kernel of a node with support vectors.

    Raises:
        UnsupportedError: there is no such kernel.
        ModelError: its parameters are not three.
    """
    kind = string(node, "kernel_type", "LINEAR")
    if kind not in KERNELS:
        raise UnsupportedError(
            f"{describe(node)}: kernel_type {kind} has no rewrite ({', '.join(KERNELS)} have)."
        )
    numbers = required(node, "kernel_params", np.float32)
    if len(numbers) not in (0, 3):
        raise ModelError(f"{describe(node)}: kernel_params has {len(numbers)} numbers, not 3.")
    gamma, coef0, degree = (float(number) for number in numbers) if len(numbers) else (0.0,) * 3
    return Kernel(kind, gamma, coef0, degree)


def cancels(builder: Builder) -> bool:
    """Whether coefficients are so large that the kernel's own rounding shows in its scores."""
    return float(np.max(np.abs(builder.tensors["coefficients"].value), initial=0)) > _CANCELLING


def kernel_values(builder: Builder, kernel: Kernel, x: ir.Value) -> ir.Value:
    """Rows [N, F] -> the kernel of each row with each support vector, [N, S], floats."""
    vectors = builder.tensor("support_vectors")
    if kernel.kind == "RBF":
        few = builder.tensors["support_vectors"].value.shape[1] <= _FEW
        return (_radial_in_order if cancels(builder) and few else _radial)(
            builder, kernel, x, vectors
        )
    operands, alpha = [x, vectors], 1.0
    if kernel.kind != "LINEAR":
        alpha = kernel.gamma
        if builder.routing != "hard" and "gamma" in builder.tensors:
            operands[1], alpha = builder.op("Mul", vectors, builder.tensor("gamma")), 1.0
        if kernel.coef0:
            operands.append(builder.constant("coef0", [kernel.coef0], np.float32))
    products = builder.op("Gemm", *operands, alpha=alpha, transB=1)
    if kernel.kind == "SIGMOID":
        return builder.op("Tanh", products)
    return _power(builder, products, kernel.degree) if kernel.kind == "POLY" else products


def _power(builder: Builder, value: ir.Value, degree: float) -> ir.Value:
    if degree in (2.0, 3.0):
        square = builder.op("Mul", value, value)
        return square if degree == 2.0 else builder.op("Mul", square, value)
    return builder.op("Pow", value, builder.constant("degree", degree, np.float32))


def _radial(builder: Builder, kernel: Kernel, x: ir.Value, vectors: ir.Value) -> ir.Value:
    """exp(2 gamma x s - gamma |s|^2 - gamma |x|^2), the exponent one product of doubles.

    In floats the three terms would cancel: of rows far from the origin, or narrow kernels, nothing
    would be left. x takes |x|^2 along as another feature, which each vector weighs with -gamma.
    """

    def doubles(value: ir.Value) -> ir.Value:
        return builder.op("Cast", value, to=int(ir.DataType.DOUBLE))

    def squares(value: ir.Value, keepdims: int) -> ir.Value:
        axis = builder.constant("features", [1], np.int64)
        return builder.op("ReduceSum", builder.op("Mul", value, value), axis, keepdims=keepdims)

    far = builder.constant("far", _FAR, np.float32)
    beyond = builder.op("Greater", builder.op("Abs", x), far)
    rows, vectors = doubles(builder.op("Where", beyond, far, x)), doubles(vectors)
    if "gamma" in builder.tensors:
        gamma = doubles(builder.tensor("gamma"))
    else:
        gamma = builder.constant("gamma", [np.float32(kernel.gamma)], np.float64)
    falling = builder.op("Neg", gamma)
    twice = builder.op("Add", gamma, gamma)
    ones = builder.constant("ones", np.ones((len(builder.tensors["support_vectors"].value), 1)))
    longer = builder.op("Concat", rows, squares(rows, 1), axis=1)
    weights = builder.op(
        "Concat", builder.op("Mul", vectors, twice), builder.op("Mul", ones, falling), axis=1
    )
    own = builder.op("Mul", squares(vectors, 0), falling)
    exponent = builder.op("Gemm", longer, weights, own, transB=1)
    return builder.op("Exp", builder.op("Cast", exponent, to=int(ir.DataType.FLOAT)))


def _radial_in_order(builder: Builder, kernel: Kernel, x: ir.Value, vectors: ir.Value) -> ir.Value:
    """exp(-gamma |x - s|^2) with every rounding of the kernel: in floats, feature by feature."""
    turned = builder.op("Transpose", vectors, perm=[1, 0])
    columns, rows = (builder.constant(f"axis_{axis}", [axis], np.int64) for axis in (1, 0))
    total: ir.Value | None = None
    for feature in range(builder.tensors["support_vectors"].value.shape[1]):
        first, end = (
            builder.constant(f"feature_{place}", [place], np.int64)
            for place in (feature, feature + 1)
        )
        own = builder.op("Slice", x, first, end, columns)
        apart = builder.op("Sub", own, builder.op("Slice", turned, first, end, rows))
        square = builder.op("Mul", apart, apart)
        total = square if total is None else builder.op("Add", total, square)
    assert total is not None
    if "gamma" in builder.tensors:
        gamma = builder.tensor("gamma")
    else:
        gamma = builder.constant("gamma", [kernel.gamma], np.float32)
    exponent = builder.op("Mul", total, builder.op("Neg", gamma))
    # A vectorised Exp of floats is off by a bit now and then, the kernel's hardly ever.
    wide = builder.op("Exp", builder.op("Cast", exponent, to=int(ir.DataType.DOUBLE)))
    return builder.op("Cast", wide, to=int(ir.DataType.FLOAT))


def evaluate(kernel: Kernel, rows: Array, vectors: Array) -> Array:
    """The same in numpy, to see how far scores spread: [N, F] and [S, F] -> [N, S], doubles."""
    rows, vectors = rows.astype(np.float64), vectors.astype(np.float64)
    products = rows @ vectors.T
    with np.errstate(all="ignore"):
        if kernel.kind == "RBF":
            squares = (rows**2).sum(1)[:, None] + (vectors**2).sum(1) - 2 * products
            return np.asarray(np.exp(-kernel.gamma * np.maximum(squares, 0)))
        if kernel.kind == "LINEAR":
            return np.asarray(products)
        products = kernel.gamma * products + kernel.coef0
        return np.asarray(
            np.tanh(products) if kernel.kind == "SIGMOID" else products**kernel.degree
        )
