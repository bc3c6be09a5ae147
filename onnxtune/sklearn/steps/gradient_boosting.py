"""Gradient boosting of scikit-learn, on exact values and on histograms."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.sklearn.number_places import Change
from onnxtune.sklearn.steps.forests import by_tree, write_trees
from onnxtune.sklearn.steps.step import Part, Step, put
from onnxtune.sklearn.steps.tree_walk import joined, moved_numbers, widest
from rewrites.core.rewrite import Array


def _write(step: Any, part: Part) -> None:
    trees = [member.tree_ for member in step.estimators_.ravel()]
    for node, changes in part.trees():
        own = joined([(tree.children_left, tree.children_right) for tree in trees])
        moved = moved_numbers(node, changes, own)
        write_trees(trees, own.roots, moved, 1.0 / step.learning_rate, shares=False)
        if "base_values" in changes and hasattr(step.init_, "predict"):
            _start(step, changes["base_values"])


def _start(step: Any, change: Change) -> None:
    """Scores before the first tree, as the dummy estimator that gives them holds them."""
    if hasattr(step.init_, "class_prior_"):
        # Of many classes scores are held but for a constant that all have.
        shares = np.atleast_2d(step._loss.link.inverse(change.after.astype(np.float64)[None]))
        rest = [1 - shares[0, 0], shares[0, 0]]
        step.init_.class_prior_ = np.array(rest) if change.after.size == 1 else shares[0]
    else:
        step.init_.constant_ = put(step.init_.constant_, change)


def _write_histograms(step: Any, part: Part) -> None:
    predictors = [tree for stage in step._predictors for tree in stage]
    for node, changes in part.trees():
        own = joined([_children(tree.nodes) for tree in predictors])
        moved = moved_numbers(node, changes, own)
        nodes, limits, _ = moved.thresholds
        for number, chosen in by_tree(own.roots, nodes):
            at = nodes[chosen] - own.roots[number]
            predictors[number].nodes["num_threshold"][at] = widest(limits[chosen])
        leaves, _, values = moved.leaves
        for number, chosen in by_tree(own.roots, leaves):
            at = leaves[chosen] - own.roots[number]
            predictors[number].nodes["value"][at] = values[chosen]
        start = changes.get("base_values")
        step._baseline_prediction = put(step._baseline_prediction, start)


def _children(nodes: Array) -> tuple[Array, Array]:
    """Left and right of each node; -1 in leaves."""
    left, right = (
        np.where(nodes["is_leaf"] == 1, -1, nodes[side].astype(np.int64))
        for side in ("left", "right")
    )
    return left, right


STEPS = (
    Step("sklearn", ("GradientBoostingClassifier", "GradientBoostingRegressor"), _write),
    Step(
        "sklearn",
        ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"),
        _write_histograms,
    ),
)
