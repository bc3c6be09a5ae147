"""A forest whose leaves hold probabilities, as one whose leaves hold logits in front of a link.

Of probabilities that are the mean over trees, no factor and no step of training leads out of what
the leaves can average to; of logits any factor does, and the link keeps them a distribution.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import LongList, numbers, required
from rewrites.core.rewrite import Array
from rewrites.trees.ensemble import Ensemble

_FLOATS, _INTEGERS = ir.AttributeType.FLOATS, ir.AttributeType.INTS


def many_classes(node: ir.Node, ensemble: Ensemble, factor: float) -> tuple[ir.Attr, ...] | None:
    """Every vote p of a tree whose votes sum to t becomes factor * (p - t / K), K classes."""
    weights = numbers(node, "class_weights", np.float32)
    if weights is None or "class_weights" not in node.attributes:
        return None
    values = ensemble.values.astype(np.float64)
    new = weights.copy()
    new[ensemble.entries] = factor * (values - values.mean(axis=1, keepdims=True))
    return _floats(new), ir.AttrString("post_transform", "SOFTMAX")


def one_class(node: ir.Node, ensemble: Ensemble, factor: float) -> tuple[ir.Attr, ...] | None:
    """Of two classes, the votes p of the second one, out of t a tree: factor * (2 p - t)."""
    weights = numbers(node, "class_weights", np.float32)
    if weights is None or "class_weights" not in node.attributes:
        return None
    link = ir.AttrString("post_transform", "LOGISTIC")
    values = ensemble.values.astype(np.float64)
    if values.shape[1] == 1:
        new = weights.copy()
        new[ensemble.entries] = factor * (2 * values - 1.0 / ensemble.roots)
        # Without a negative vote onnxruntime would take the sum for a share again.
        return (_floats(new), link) if (new < 0).any() else None
    # Both classes have votes: those of the second one stay, and stand for both.
    kept = np.unique(ensemble.entries[:, 1])
    new = np.zeros(len(weights), np.float64)
    new[ensemble.entries[:, 1]] = factor * (values[:, 1] - values[:, 0])
    if not (new < 0).any():
        return None
    lists = [
        LongList(name, _INTEGERS, required(node, name, np.int64)[kept])
        for name in ("class_treeids", "class_nodeids")
    ]
    ids = LongList("class_ids", _INTEGERS, np.zeros(len(kept), np.int64))
    return *lists, ids, _floats(new[kept]), link


def _floats(values: Array) -> ir.Attr:
    return LongList("class_weights", _FLOATS, values.astype(np.float32))
