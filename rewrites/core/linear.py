"""What the two linear operators share."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array

# The root mean square of normal numbers over the mean of their absolute values.
_NORMAL = float(np.sqrt(np.pi / 2))


def scores(builder: Builder, x: ir.Value) -> ir.Value:
    """x [N, F] -> x @ coefficients.T + intercepts, [N, K]."""
    operands = [x, builder.tensor("coefficients")]
    if "intercepts" in builder.tensors:
        operands.append(builder.tensor("intercepts"))
    return builder.op("Gemm", *operands, transB=1)


def weight_unit(weights: Array, spread: Array | None) -> Array:
    """[K, F]: the step of each weight that moves its score like the others of its row.

    The usual contribution of the row over the feature's spread; by its mean and not its mean
    square, so that a single feature with a long tail does not stand for all.
    A constant feature takes the largest spread, so that its weight hardly moves.
    """
    sizes = np.ones(weights.shape[1])
    if spread is not None and len(spread) == len(sizes) and np.max(spread, initial=0) > 0:
        top = float(np.max(spread))
        sizes = np.where(spread > 1e-6 * top, spread, top)
    size = _NORMAL * np.mean(np.abs(weights * sizes), axis=1, keepdims=True, dtype=np.float64)
    return np.where(size > 0, size, 1.0) / sizes


def score_unit(weights: Array, spread: Array | None) -> Array:
    """[K]: the spread of each score over independent features, for the intercepts."""
    sizes = np.ones(weights.shape[1]) if spread is None else spread
    norm = np.sqrt(np.square(weights * sizes, dtype=np.float64).sum(axis=1))
    return np.where(norm > 0, norm, 1.0)
