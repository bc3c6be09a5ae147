"""XGBoost: its model in JSON with other numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from onnxtune.sklearn.number_places import Change
from onnxtune.sklearn.steps.forests import by_tree
from onnxtune.sklearn.steps.step import Part, Step, put
from onnxtune.sklearn.steps.tree_walk import joined, moved_numbers
from rewrites.core.rewrite import Array


def _write(step: Any, part: Part) -> None:
    booster = step.get_booster()
    model = json.loads(booster.save_raw(raw_format="json"))
    learner = model["learner"]
    trees = learner["gradient_booster"]["model"]["trees"]
    for node, changes in part.trees():
        count = 1 + max(next(a.ints for a in node.attribute if a.name == "nodes_treeids"))
        own = joined([_children(tree) for tree in trees[:count]])
        moved = moved_numbers(node, changes, own)
        # The numbers of leaves stand where inner nodes have their thresholds.
        for nodes, values in (moved.thresholds[:2], (moved.leaves[0], moved.leaves[2])):
            for number, chosen in by_tree(own.roots, nodes):
                _put(trees[number], nodes[chosen] - own.roots[number], values[chosen])
        if "base_values" in changes:
            _start(learner, changes["base_values"])
    # In place of load_model, which would keep what the booster derived from the old numbers.
    changed = type(booster)(model_file=bytearray(json.dumps(model).encode()))
    changed.feature_names, changed.feature_types = booster.feature_names, booster.feature_types
    changed.set_param({"nthread": step.n_jobs} if step.n_jobs is not None else {})
    step._Booster = changed


def _children(tree: dict[str, Any]) -> tuple[Array, Array]:
    """The child of rows that pass the test, and the other; -1 in leaves.

    Values below the threshold go to the left, categories of the set to the right.
    """
    left, right = (np.array(tree[f"{side}_children"]) for side in ("left", "right"))
    sets = np.array(tree["split_type"]) == 1
    return np.where(sets, right, left), np.where(sets, left, right)


def _put(tree: dict[str, Any], nodes: Array, values: Array) -> None:
    held = tree["split_conditions"]
    for node, value in zip(nodes.tolist(), values.tolist(), strict=True):
        held[node] = value


def _start(learner: dict[str, Any], change: Change) -> None:
    """The score before the first tree: a probability where the model is a binary classifier."""
    known = learner["learner_model_param"]
    scores = change.after.astype(np.float64)
    if learner["objective"]["name"] == "binary:logistic":
        scores = 1.0 / (1.0 + np.exp(-scores))
    held = np.atleast_1d(np.array(json.loads(known["base_score"]), np.float64))
    if len(held) == 1 < len(scores):  # one for all classes
        held = np.broadcast_to(held, scores.shape)
    written = put(held, change, scores).tolist()
    listed = known["base_score"].startswith("[")  # before XGBoost 3 a single number
    known["base_score"] = json.dumps(written if listed else written[0])


STEPS = (
    Step("xgboost", ("XGBClassifier", "XGBRFClassifier", "XGBRFRegressor", "XGBRegressor"), _write),
)
