"""The columns that decision nodes compare, with NaN and infinite numbers where they belong."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array
from rewrites.trees.ensemble import Ensemble


def exact(builder: Builder, ensemble: Ensemble, x: ir.Value) -> tuple[ir.Value, Array]:
    """What to compare by `<=` for a step, and the column of each inner node, [I].

    NaN passes no comparison: nodes that send it to their true child read a copy of the columns in
    which it is -inf. Nothing is below -inf: BRANCH_LT nodes with that threshold read a copy in
    which it is the lowest finite number.
    """
    variant = ensemble.missing_true + 2 * ensemble.never
    if not variant.any():
        return x, ensemble.features
    dtype = ensemble.thresholds.dtype
    narrow, column = _used(builder, ensemble, x)
    below = builder.constant("below_all", np.array(-np.inf, dtype))
    lifted = narrow
    if ensemble.never.any():
        lowest = builder.constant("lowest", np.finfo(dtype).min, dtype)
        lifted = builder.op("Where", builder.op("Equal", narrow, below), lowest, narrow)
    copies = {0: narrow, 2: lifted}
    if ensemble.missing_true.any():
        missing = builder.op("IsNaN", narrow)
        copies |= {1: builder.op("Where", missing, below, narrow)}
        copies |= {3: builder.op("Where", missing, below, lifted)}
    return _joined(builder, copies, variant, column)


def finite(builder: Builder, ensemble: Ensemble, x: ir.Value) -> tuple[ir.Value, ir.Value, Array]:
    """Columns and thresholds for a sigmoid of their distance, and the column of each node.

    Nothing is infinite, and NaN is a number beyond every threshold on the side where its node
    sends it: neither a gate nor a gradient is NaN. -inf and inf stay on their side of infinite
    thresholds.
    """
    dtype = ensemble.thresholds.dtype
    far = float(np.finfo(dtype).max) / 16

    def limit(role: str, factor: float) -> ir.Value:
        return builder.constant(role, factor * far, dtype)

    thresholds = builder.tensor("thresholds")
    if not ensemble.movable.all():
        low, high = limit("lowest_threshold", -0.5), limit("highest_threshold", 2.0)
        thresholds = builder.op("Clip", thresholds, low, high)
    narrow, column = _used(builder, ensemble, x)
    missing = builder.op("IsNaN", narrow)
    clipped = builder.op("Clip", narrow, limit("lowest", -1.0), limit("highest", 1.0))
    copies = {}
    for tracks, stand_in in ((0, limit("above_all", 4.0)), (1, limit("below_all", -4.0))):
        if (ensemble.missing_true == tracks).any():
            copies[tracks] = builder.op("Where", missing, stand_in, clipped)
    source, column = _joined(builder, copies, ensemble.missing_true.astype(np.int64), column)
    return source, thresholds, column


def _used(builder: Builder, ensemble: Ensemble, x: ir.Value) -> tuple[ir.Value, Array]:
    """The columns that some node reads, and each node's place among them."""
    used, column = np.unique(ensemble.features, return_inverse=True)
    index = builder.constant("used_features", used, np.int64)
    return builder.op("Gather", x, index, axis=1), column


def _joined(
    builder: Builder, copies: dict[int, ir.Value], variant: Array, column: Array
) -> tuple[ir.Value, Array]:
    """The copies that some node reads side by side, and each node's column."""
    kinds, place = np.unique(variant, return_inverse=True)
    column = column + (int(column.max()) + 1) * place
    if len(kinds) == 1:
        return copies[int(kinds[0])], column
    return builder.op("Concat", *(copies[int(kind)] for kind in kinds), axis=1), column
