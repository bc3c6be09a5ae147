"""Ensembles as regressors: their outputs, and classifiers that become one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import required
from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array
from rewrites.scores.links import apply_link, as_float
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.evaluate import Scores, add_base, or_zero, raw_scores


def regression(builder: Builder, ensemble: Ensemble, x: ir.Value, link: str) -> ir.Value:
    """Outputs [N, K] float32 of the rows x [N, F]; doubles without a link stay double.

    Like onnxruntime's kernel: a base value is left out where a row reaches no leaf with a value
    for one of many targets, and one target has no link but PROBIT.
    """
    dtype = ensemble.thresholds.dtype
    many = len(ensemble.columns) > 1
    found = raw_scores(builder, ensemble, x, ask_votes=many and "base_values" in builder.tensors)
    scores = add_base(builder, found.scores)
    if many:
        scores = or_zero(builder, ensemble, scores, found.voted)
    if link == "NONE" or not (many or link == "PROBIT"):
        scores.dtype = ir.DataType.from_numpy(dtype)
        return scores
    return apply_link(builder, as_float(builder, scores, dtype), link)


def as_regressor(
    builder: Builder,
    node: ir.Node,
    prefix: str,
    attributes: Mapping[str, Array],
    ask_votes: bool,
) -> Scores:
    """The votes of a classifier for its one class, [N, 1] float32, by a TreeEnsembleRegressor.

    Base values are left out.

    Args:
        builder: records the node.
        node: the classifier.
        prefix: of the attributes that hold its votes.
        attributes: tuned attribute values, NaN for "as it was".
        ask_votes: whether to tell rows apart that reach no vote.
    """
    copied = {
        name: value.value
        for name, value in node.attributes.items()
        if name.startswith("nodes_") and not name.endswith("_as_tensor")
    }
    for name in ("nodes_values", f"{prefix}_weights"):
        original = required(node, name, np.float32)
        tuned = attributes.get(name)
        if tuned is not None:
            padded = np.full(len(original), np.nan)
            padded[: len(tuned)] = tuned
            original = np.where(np.isnan(padded), original, padded).astype(original.dtype)
        if ask_votes and name == f"{prefix}_weights":
            original = np.append(original, np.ones_like(original))
        name = name.replace(prefix, "target")
        if original.dtype == np.float64:
            copied[f"{name}_as_tensor"] = ir.tensor(original, name=name)
        else:
            copied[name] = original.tolist()
    targets = 1 + ask_votes
    for name in ("treeids", "nodeids"):
        copied[f"target_{name}"] = required(node, f"{prefix}_{name}", np.int64).tolist() * targets
    count = len(required(node, f"{prefix}_ids", np.int64))
    copied["target_ids"] = [target for target in range(targets) for _ in range(count)]
    # The regressor has no kernel for integers.
    x = builder.as_float(node.inputs[0], keep_double=True)
    scores = builder.op(
        "TreeEnsembleRegressor", x, domain="ai.onnx.ml", n_targets=targets, **copied
    )
    scores.dtype = ir.DataType.FLOAT
    if not ask_votes:
        return Scores(scores, None)
    own, votes = (
        builder.op("Gather", scores, builder.constant(f"target_{target}", [target]), axis=1)
        for target in range(2)
    )
    own.dtype = ir.DataType.FLOAT
    return Scores(own, builder.op("Greater", votes, builder.constant("half", np.float32(0.5))))
