"""What the two linear operators share."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array


def scores(builder: Builder, x: ir.Value) -> ir.Value:
    """x [N, F] -> x @ coefficients.T + intercepts, [N, K]."""
    operands = [x, builder.tensor("coefficients")]
    if "intercepts" in builder.tensors:
        operands.append(builder.tensor("intercepts"))
    return builder.op("Gemm", *operands, transB=1)


def weight_unit(weights: Array, spread: Array | None) -> Array:
    """[K, F]: the step of each weight that moves its score like the others of its row.

    The root mean square contribution of the row, rms(w * spread), over the feature's spread.
    A constant feature takes the largest spread, so that its weight hardly moves.
    """
    sizes = np.ones(weights.shape[1])
    if spread is not None and len(spread) == len(sizes) and np.max(spread, initial=0) > 0:
        top = float(np.max(spread))
        sizes = np.where(spread > 1e-6 * top, spread, top)
    rms = np.sqrt(np.mean(np.square(weights * sizes, dtype=np.float64), axis=1, keepdims=True))
    return np.where(rms > 0, rms, 1.0) / sizes


def score_unit(weights: Array, spread: Array | None) -> Array:
    """[K]: the spread of each score over independent features, for the intercepts."""
    sizes = np.ones(weights.shape[1]) if spread is None else spread
    norm = np.sqrt(np.square(weights * sizes, dtype=np.float64).sum(axis=1))
    return np.where(norm > 0, norm, 1.0)
