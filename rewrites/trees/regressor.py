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
    targets: int,
) -> ir.Value:
    """Raw scores [N, targets] of a classifier's trees, float32, by a TreeEnsembleRegressor.

    Args:
        builder: records the node.
        node: the classifier.
        prefix: of the attributes that hold its votes.
        attributes: tuned attribute values, NaN for "as it was".
        targets: columns, one per class id; one makes every vote count for it.
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
            original = np.where(np.isnan(padded), original, padded).astype(original.dtype)
        name = name.replace(prefix, "target")
        if original.dtype == np.float64:
            copied[f"{name}_as_tensor"] = ir.tensor(original, name=name)
        else:
            copied[name] = original.tolist()
    for name in ("treeids", "nodeids", "ids"):
        copied[f"target_{name}"] = node.attributes[f"{prefix}_{name}"].value
    if targets == 1:
        copied["target_ids"] = [0] * len(copied["target_ids"])
    # The regressor has no kernel for integers.
    x = builder.as_float(node.inputs[0], keep_double=True)
    scores = builder.op(
        "TreeEnsembleRegressor", x, domain="ai.onnx.ml", n_targets=targets, **copied
    )
    scores.dtype = ir.DataType.FLOAT
    return scores
