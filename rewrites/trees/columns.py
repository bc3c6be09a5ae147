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
    which it is the lowest finite number. A set of values is a column of its own, -1 for its
    members and 1 for all else.
    """
    variant = ensemble.missing_true + 2 * ensemble.never
    compared = ensemble.sets < 0
    if compared.all() and not variant.any():
        return x, ensemble.features
    dtype = ensemble.thresholds.dtype
    narrow, column = _used(builder, ensemble, x)
    if narrow is None:
        return _joined(builder, ensemble, {}, variant, column, _sets(builder, ensemble, x, 1.0))
    below = builder.constant("below_all", np.array(-np.inf, dtype))
    lifted = narrow
    if ensemble.never.any():
        lowest = builder.constant("lowest", np.finfo(dtype).min, dtype)
        lifted = builder.op("Where", builder.op("Equal", narrow, below), lowest, narrow)
    copies = {0: narrow, 2: lifted}
    if ensemble.missing_true[compared].any():
        missing = builder.op("IsNaN", narrow)
        copies |= {1: builder.op("Where", missing, below, narrow)}
        copies |= {3: builder.op("Where", missing, below, lifted)}
    return _joined(builder, ensemble, copies, variant, column, _sets(builder, ensemble, x, 1.0))


def finite(builder: Builder, ensemble: Ensemble, x: ir.Value) -> tuple[ir.Value, ir.Value, Array]:
    """Columns and thresholds for a sigmoid of their distance, and the column of each node.

    Nothing is infinite, and NaN is a number beyond every threshold on the side where its node
    sends it: neither a gate nor a gradient is NaN. -inf and inf stay on their side of infinite
    thresholds. The column of a set is as far from its threshold as NaN is.
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
    variant = ensemble.missing_true.astype(np.int64)
    copies = {}
    if narrow is not None:
        missing = builder.op("IsNaN", narrow)
        clipped = builder.op("Clip", narrow, limit("lowest", -1.0), limit("highest", 1.0))
        for tracks, stand_in in ((0, limit("above_all", 4.0)), (1, limit("below_all", -4.0))):
            if (variant[ensemble.sets < 0] == tracks).any():
                copies[tracks] = builder.op("Where", missing, stand_in, clipped)
    sets = _sets(builder, ensemble, x, 4.0 * far)
    source, column = _joined(builder, ensemble, copies, variant, column, sets)
    return source, thresholds, column


def _used(builder: Builder, ensemble: Ensemble, x: ir.Value) -> tuple[ir.Value | None, Array]:
    """The columns that some threshold is compared with, and each node's place among them."""
    compared = ensemble.sets < 0
    column = np.zeros(len(compared), np.int64)
    if not compared.any():
        return None, column
    used, column[compared] = np.unique(ensemble.features[compared], return_inverse=True)
    index = builder.constant("used_features", used, np.int64)
    return builder.op("Gather", x, index, axis=1), column


def _joined(
    builder: Builder,
    ensemble: Ensemble,
    copies: dict[int, ir.Value],
    variant: Array,
    column: Array,
    sets: ir.Value | None,
) -> tuple[ir.Value, Array]:
    """The copies that some node reads side by side, sets behind them, and each node's column."""
    compared = ensemble.sets < 0
    width = int(column.max()) + 1
    kinds, place = np.unique(variant[compared], return_inverse=True)
    found = np.where(compared, column, ensemble.sets + width * len(kinds))
    found[compared] += width * place
    parts = [copies[int(kind)] for kind in kinds] + ([] if sets is None else [sets])
    return parts[0] if len(parts) == 1 else builder.op("Concat", *parts, axis=1), found


def _sets(builder: Builder, ensemble: Ensemble, x: ir.Value, size: float) -> ir.Value | None:
    """[N, D]: -size where a row's value is a member of the set, else size."""
    sets = ensemble.known_sets
    if not len(sets):
        return None
    dtype = ensemble.thresholds.dtype
    member = None
    if len(sets.values):
        of_value = builder.constant("set_value_features", sets.value_features, np.int64)
        value = builder.op("Gather", x, of_value, axis=1)
        if sets.whole.any():
            # The kernel cuts what it looks up in large sets.
            size_of = builder.op("Floor", builder.op("Abs", value))
            cut = builder.op("Mul", builder.op("Sign", value), size_of)
            whole = builder.constant("set_cuts", sets.whole)
            value = builder.op("Where", whole, cut, value)
        equal = builder.op("Equal", value, builder.constant("set_values", sets.values, dtype))
        single = np.arange(len(sets))
        if np.array_equal(sets.member_sets, single):
            index = builder.constant("set_members", sets.member_values, np.int64)
            member = builder.op("Gather", equal, index, axis=1)
        else:
            table = np.zeros((len(sets.values), len(sets)), dtype)
            table[sets.member_values, sets.member_sets] = 1
            members = builder.constant("set_members", table)
            flags = builder.op("Cast", equal, to=int(ir.DataType.from_numpy(dtype)))
            half = builder.constant("half", 0.5, dtype)
            member = builder.op("Greater", builder.op("MatMul", flags, members), half)
    if sets.missing.any() or member is None:
        of_set = builder.constant("set_features", sets.features, np.int64)
        missing = builder.op("IsNaN", builder.op("Gather", x, of_set, axis=1))
        missing = builder.op("And", missing, builder.constant("set_missing", sets.missing))
        member = missing if member is None else builder.op("Or", member, missing)
    inside, outside = (builder.constant(f"{side}_set", sign * size, dtype)
                       for side, sign in (("inside", -1.0), ("outside", 1.0)))  # fmt: skip
    return builder.op("Where", member, inside, outside)
