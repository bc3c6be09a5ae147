"""The same trees as a TreeEnsembleRegressor, for votes that a classifier cannot carry."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import numbers
from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array


def as_regressor(
    builder: Builder,
    node: ir.Node,
    prefix: str,
    attributes: Mapping[str, Array],
    ids: Array,
) -> ir.Value:
    """Raw scores [N, K] of a classifier's trees, by a TreeEnsembleRegressor.

    Args:
        builder: records the node.
        node: the classifier.
        prefix: of the attributes that hold its votes.
        attributes: tuned attribute values, NaN for "as it was".
        ids: the target id of each column, [K]; one number makes every vote count for it.
    """
    copied = {
        name: value.value
        for name, value in node.attributes.items()
        if name.startswith("nodes_") and not name.endswith("_as_tensor")
    }
    for name in ("nodes_values", f"{prefix}_weights", "base_values"):
        original = numbers(node, name, np.float32)
        if original is None:
            continue
        tuned = attributes.get(name)
        if tuned is not None:
            padded = np.full(len(original), np.nan)
            padded[: len(tuned)] = tuned
            original = np.where(np.isnan(padded), original, padded)
        copied[name.replace(prefix, "target")] = [float(value) for value in original]
    for name in ("treeids", "nodeids"):
        copied[f"target_{name}"] = node.attributes[f"{prefix}_{name}"].value
    votes = len(node.attributes[f"{prefix}_ids"].value)
    copied["target_ids"] = [int(ids[0])] * votes if len(ids) == 1 else [int(i) for i in ids]
    scores = builder.op(
        "TreeEnsembleRegressor",
        node.inputs[0],
        domain="ai.onnx.ml",
        n_targets=len(ids),
        **copied,
    )
    scores.dtype = ir.DataType.FLOAT
    return scores
