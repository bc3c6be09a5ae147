"""Decision trees and forests of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.sklearn.steps.step import Part, Step
from onnxtune.sklearn.steps.tree_walk import Moved, joined, moved_numbers
from rewrites.core.rewrite import Array


def _write(step: Any, part: Part) -> None:
    trees = [member.tree_ for member in getattr(step, "estimators_", [step])]
    classifier = hasattr(step, "classes_")
    if classifier and step.n_outputs_ > 1:  # exported as something else than trees of votes
        return
    for node, changes in part.trees():
        own = joined([(tree.children_left, tree.children_right) for tree in trees])
        moved = moved_numbers(node, changes, own)
        write_trees(trees, own.roots, moved, float(len(trees)), classifier)


def write_trees(trees: list[Any], roots: Array, moved: Moved, factor: float, shares: bool) -> None:
    """Put tuned numbers into scikit-learn's trees.

    Args:
        trees: `tree_` of each.
        roots: [T] the number of the first node of each.
        moved: what changed.
        factor: of the values of leaves.
        shares: leaves hold shares of classes; of one of two, the other has the rest.
    """
    nodes, limits, _ = moved.thresholds
    for number, chosen in by_tree(roots, nodes):
        trees[number].threshold[nodes[chosen] - roots[number]] = limits[chosen]
    leaves, columns, values = moved.leaves
    for number, chosen in by_tree(roots, leaves):
        tree = trees[number]
        value = tree.value.reshape(tree.node_count, -1)
        at, new = leaves[chosen] - roots[number], values[chosen].astype(np.float64) * factor
        if shares and value.shape[1] == 2:
            value[at, 1] = new
            value[at, 0] = 1.0 - new
        else:
            value[at, columns[chosen] if value.shape[1] > 1 else 0] = new


def by_tree(roots: Array, nodes: Array) -> list[tuple[int, Array]]:
    """The trees that some of the nodes are of, and which of them are."""
    if not len(nodes):
        return []
    of = np.searchsorted(roots, nodes, side="right") - 1
    order = np.argsort(of, kind="stable")
    numbers, starts = np.unique(of[order], return_index=True)
    return list(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))


STEPS = (
    Step(
        "sklearn",
        (
            "DecisionTreeClassifier",
            "DecisionTreeRegressor",
            "ExtraTreeClassifier",
            "ExtraTreeRegressor",
            "ExtraTreesClassifier",
            "ExtraTreesRegressor",
            "RandomForestClassifier",
            "RandomForestRegressor",
        ),
        _write,
    ),
)
