"""Numbers looked up among keys, in standard operators."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array

# Up to so many keys each is compared with; beyond, a binary search is faster and needs less memory.
_MOST_COMPARED = 32

# Whole keys that span so many numbers, or this many times their own count, are a table of the span.
_SPAN, _TIMES = 1024, 4

# Up to here float32 holds all whole numbers.
_EXACT_IN_FLOAT = 1 << 24


def places(builder: Builder, x: ir.Value, keys: Array, nan_is_a_key: bool = True) -> ir.Value:
    """Where the numbers of x stand among the keys, int64: 1 for the first key, 0 for no key at all.

    Args:
        builder: of the node.
        x: of the keys' type and any shape.
        keys: [K]; of equal ones the first counts.
        nan_is_a_key: whether NaN in x finds NaN among the keys.
    """
    missing = np.isnan(keys) if keys.dtype.kind == "f" else np.zeros(len(keys), bool)
    numbers = np.flatnonzero(~missing)
    known, first = np.unique(keys[numbers], return_index=True)
    order = numbers[first] + 1
    how = _compared if order.max(initial=0) <= _MOST_COMPARED else _searched
    place = (_picked if _is_dense(known) else how)(builder, x, known, order)
    if missing.any() and nan_is_a_key:
        own = builder.constant("nan_place", np.flatnonzero(missing)[0] + 1, np.int64)
        place = builder.op("Where", builder.op("IsNaN", x), own, place)
    return place


def _is_dense(known: Array) -> bool:
    if known.dtype.kind != "i" or not len(known):
        return False
    low, high = int(known[0]), int(known[-1])
    inside = low > np.iinfo(known.dtype).min and high < np.iinfo(known.dtype).max
    return inside and high - low < max(_SPAN, _TIMES * len(known))


def _picked(builder: Builder, x: ir.Value, known: Array, order: Array) -> ir.Value:
    """The distance from the number below all keys, in a table with no place at both ends.

    onnxruntime's Clip is wrong for int64 numbers just beyond int32. Where float32 holds the ends
    exactly it clips instead: what it rounds lies beyond them.
    """
    below, above = int(known[0]) - 1, int(known[-1]) + 1
    table = np.zeros(above - below + 1, np.int64)
    table[known - below] = order
    wide = known.dtype == np.int64
    exact = max(-below, above) <= _EXACT_IN_FLOAT
    kind = np.float32 if wide and exact else known.dtype
    low, high = (
        builder.constant(role, end, kind) for role, end in (("below", below), ("above", above))
    )
    if wide and not exact:
        beneath = builder.op("Where", builder.op("Less", x, low), low, x)
        clipped = builder.op("Where", builder.op("Greater", beneath, high), high, beneath)
        distance = builder.op("Sub", clipped, low)
    elif wide:
        short = builder.op("Cast", x, to=int(ir.DataType.FLOAT))
        away = builder.op("Sub", builder.op("Clip", short, low, high), low)
        distance = builder.op("Cast", away, to=int(ir.DataType.INT64))
    else:
        distance = builder.op("Sub", builder.op("Clip", x, low, high), low)
    return builder.op("Gather", builder.constant("places", table), distance, axis=0)


def _compared(builder: Builder, x: ir.Value, known: Array, order: Array) -> ir.Value:
    """At most one key is equal, so the sum over the keys is its place, also in short floats."""
    axis = builder.constant("last_axis", [-1], np.int64)
    equal = builder.op("Equal", builder.op("Unsqueeze", x, axis), builder.constant("keys", known))
    flags = builder.op("Cast", equal, to=int(ir.DataType.FLOAT))
    # Without rows ReduceSum leaves an axis counted from the end, and MatMul refuses a vector.
    place = builder.op("MatMul", flags, builder.constant("places", order[:, None], np.float32))
    return builder.op("Cast", builder.op("Squeeze", place, axis), to=int(ir.DataType.INT64))


def _no_place(builder: Builder) -> ir.Value:
    return builder.constant("no_place", 0, np.int64)


def _searched(builder: Builder, x: ir.Value, known: Array, order: Array) -> ir.Value:
    """Halving steps up to the last key that is not above x; it is the one, or there is none."""
    rounds = int(np.ceil(np.log2(len(known))))
    filled = np.concatenate([known, np.repeat(known[-1:], 2**rounds - len(known))])
    keys = builder.constant("keys", filled)
    places = np.concatenate([order, np.repeat(order[-1:], len(filled) - len(order))])
    at: ir.Value | None = None
    for step in (2**power for power in reversed(range(rounds))):
        ahead = builder.constant(f"step_{step}", step, np.int64)
        there = ahead if at is None else builder.op("Add", at, ahead)
        reached = builder.op("LessOrEqual", builder.op("Gather", keys, there, axis=0), x)
        stay = _no_place(builder) if at is None else at
        at = builder.op("Where", reached, there, stay)
    if at is None:
        at = _no_place(builder)
    found = builder.op("Equal", builder.op("Gather", keys, at, axis=0), x)
    own = builder.op("Gather", builder.constant("places", places, np.int64), at, axis=0)
    return builder.op("Where", found, own, _no_place(builder))
