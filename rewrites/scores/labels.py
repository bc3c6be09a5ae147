"""Class labels from scores, by onnxruntime's rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import numbers, strings
from rewrites.core.builder import Builder


def class_labels(node: ir.Node, integers: str) -> tuple[int, ...] | tuple[str, ...]:
    """The labels of a classifier; `integers` is its name for the attribute of integer labels."""
    words = strings(node, "classlabels_strings")
    if words:
        return tuple(words)
    found = numbers(node, integers, np.int64)
    return () if found is None else tuple(int(label) for label in found)


def largest(builder: Builder, scores: ir.Value, labels: Sequence[int | str]) -> ir.Value:
    """The label of the largest score [N, K]; the first one where several are equal."""
    index = builder.op("ArgMax", scores, axis=1, keepdims=0)
    return look_up(builder, index, labels)


def beyond(
    builder: Builder, score: ir.Value, limit: float, labels: Sequence[int | str]
) -> ir.Value:
    """The second label where the score [N, 1] is larger than the limit, else the first."""
    dtype = np.float64 if score.dtype == ir.DataType.DOUBLE else np.float32
    larger = builder.op("Greater", score, builder.constant("label_limit", limit, dtype))
    index = builder.op("Cast", larger, to=int(ir.DataType.INT64))
    flat = builder.op("Squeeze", index, builder.constant("axis_1", [1], np.int64))
    return look_up(builder, flat, labels)


def look_up(builder: Builder, index: ir.Value, labels: Sequence[int | str]) -> ir.Value:
    """The labels at these places, [N]."""
    if isinstance(labels[0], str):
        table = builder.strings("labels", [str(label) for label in labels])
    elif list(labels) == list(range(len(labels))):
        return index
    else:
        table = builder.constant("labels", labels, np.int64)
    return builder.op("Gather", table, index, axis=0)
