"""What support vector machines have learned, and the way back into the attributes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, required
from rewrites.core.linear import score_unit, weight_unit
from rewrites.core.rewrite import Array, Attributes, Constraint, Tensor
from rewrites.errors import ModelError
from rewrites.svm.kernels import Kernel, evaluate, kernel_of

# Support vectors that stand for rows where the spread of the scores is looked for.
_ROWS = 100


def linear_machine(node: ir.Node, models: int, spread: Array | None) -> dict[str, Tensor]:
    """Without support vectors: `coefficients` [K, F], and `rho` [1] for all of them."""
    flat = required(node, "coefficients", np.float32)
    if not len(flat) or len(flat) % models:
        raise ModelError(f"{describe(node)}: {len(flat)} coefficients do not fit {models} classes.")
    weights = flat.reshape(models, -1)
    return {
        "coefficients": Tensor(weights, "weights", weight_unit(weights, spread)),
        "rho": Tensor(_rho(node, 1), "offsets", score_unit(weights, spread).mean(keepdims=True)),
    }


def vector_machine(
    node: ir.Node, supports: int, rows: int, scores: int, spread: Array | None
) -> dict[str, Tensor]:
    """`support_vectors` [S, F], `coefficients` [rows, S], `rho` [scores], `gamma` [1]."""
    kernel = kernel_of(node)
    vectors = required(node, "support_vectors", np.float32)
    weights = required(node, "coefficients", np.float32)
    if not len(vectors) or len(vectors) % supports or len(weights) != rows * supports:
        raise ModelError(
            f"{describe(node)}: {len(vectors)} numbers of support vectors and {len(weights)} "
            f"coefficients do not fit {supports} support vectors."
        )
    vectors, weights = vectors.reshape(supports, -1), weights.reshape(rows, supports)
    rms = float(np.sqrt(np.mean(np.square(weights, dtype=np.float64)))) or 1.0
    declared = {
        "support_vectors": Tensor(vectors, "weights", _feature_unit(vectors, spread)),
        "coefficients": Tensor(weights, "weights", rms),
        "rho": Tensor(_rho(node, scores), "offsets", _score_spread(kernel, vectors, weights)),
    }
    if kernel.learns_gamma:
        gamma = np.array([kernel.gamma], np.float32)
        declared["gamma"] = Tensor(gamma, "weights", gamma, Constraint("positive"))
    return declared


def written(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes:
    """The tensors, flat, in front of the numbers of their attributes that are no tensors."""
    attributes = {}
    for role, value in tuned.items():
        name = "kernel_params" if role == "gamma" else role
        held = required(node, name, np.float32)
        flat = np.ravel(value)
        attributes[name] = np.concatenate([flat, held[len(flat) :]])
    return attributes


def _rho(node: ir.Node, scores: int) -> Array:
    rho = required(node, "rho", np.float32)
    if len(rho) < scores:
        raise ModelError(f"{describe(node)}: rho has {len(rho)} numbers, not {scores}.")
    return rho[:scores]


def _feature_unit(vectors: Array, spread: Array | None) -> Array | float:
    """[F]: the spread of each feature, of the vectors where no rows tell it."""
    sizes = vectors.std(axis=0, dtype=np.float64)
    if spread is not None and len(spread) == vectors.shape[1]:
        sizes = np.asarray(spread)
    return sizes if np.max(sizes) > 0 else 1.0


def _score_spread(kernel: Kernel, vectors: Array, weights: Array) -> float:
    """How far scores spread over rows like the support vectors."""
    rows = vectors[:: -(-len(vectors) // _ROWS)]
    found = float(
        (evaluate(kernel, rows, vectors) @ weights.T.astype(np.float64)).std(axis=0).mean()
    )
    return found if np.isfinite(found) and found > 0 else 1.0
