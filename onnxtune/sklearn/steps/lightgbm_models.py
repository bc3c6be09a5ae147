"""LightGBM: the text of the model with other numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxtune.sklearn.steps.forests import by_tree
from onnxtune.sklearn.steps.step import Part, Step
from onnxtune.sklearn.steps.tree_walk import joined, moved_numbers, widest
from rewrites.core.rewrite import Array

_BLOCK = "\nTree="

# Bits of a node's decision_type: where missing values go, and which values are missing.
_DEFAULT_LEFT, _MISSING, _NAN = 2, 12, 8


def _write(step: Any, part: Part) -> None:
    booster = step.booster_
    first, *blocks = booster.model_to_string(num_iteration=-1).split(_BLOCK)
    # The last block goes on with what stands behind the trees; none of its lines are changed.
    trees = [_Tree(block) for block in blocks]
    for node, changes in part.trees():
        used = trees[: 1 + int(max(_numbers_of_trees(node)))]
        own = joined([tree.children() for tree in used])
        moved = moved_numbers(node, changes, own)
        nodes, limits, missing = moved.thresholds
        for number, chosen in by_tree(own.roots, nodes):
            at = nodes[chosen] - own.roots[number]
            used[number].put_thresholds(at, widest(limits[chosen]), missing[chosen])
        leaves, _, values = moved.leaves
        for number, chosen in by_tree(own.roots, leaves):
            used[number].put_leaves(leaves[chosen] - own.roots[number], values[chosen])
    # Sizes in bytes that are no longer right; without them it reads one tree after the other.
    head = "\n".join(line for line in first.split("\n") if not line.startswith("tree_sizes="))
    text = _BLOCK.join([head, *(tree.text() for tree in trees)])
    changed = type(booster)(model_str=text)
    changed.best_iteration, changed.params = booster.best_iteration, booster.params
    changed.best_score = booster.best_score
    step._Booster = changed


def _numbers_of_trees(node: Any) -> Any:
    return next(a.ints for a in node.attribute if a.name == "nodes_treeids")


class _Tree:
    """A tree in LightGBM's text: `name=values`, inner nodes and leaves numbered apart."""

    def __init__(self, block: str) -> None:
        self._lines = block.split("\n")
        self._at = {line.partition("=")[0]: n for n, line in reversed(list(enumerate(self._lines)))}
        self._leaves = int(self._values("num_leaves")[0])

    def _values(self, name: str) -> list[str]:
        place = self._at.get(name)
        return [] if place is None else self._lines[place].partition("=")[2].split()

    def children(self) -> tuple[Array, Array]:
        """Left and right of each inner node, then of each leaf; -1 in leaves.

        The text numbers leaves -1, -2, ...
        """
        inner = self._leaves - 1
        found = []
        for name in ("left_child", "right_child"):
            child = np.array(self._values(name), np.int64)[:inner]
            child = np.where(child < 0, inner - 1 - child, child)
            found.append(np.concatenate([child, np.full(self._leaves, -1)]))
        return found[0], found[1]

    def put_thresholds(self, nodes: Array, limits: Array, missing: Array) -> None:
        """Other thresholds, by node as in `children`; `missing` values pass the test or not.

        A tree that met no missing values takes them for 0, which a threshold may have passed.
        """
        held, kinds = self._values("threshold"), self._values("decision_type")
        for node, limit, left in zip(
            nodes.tolist(), limits.tolist(), missing.tolist(), strict=True
        ):
            held[node] = repr(float(limit))
            kind = int(kinds[node])
            if kind & _MISSING == 0:
                kinds[node] = str(kind & ~_DEFAULT_LEFT | _NAN | (_DEFAULT_LEFT if left else 0))
        self._set("threshold", held)
        self._set("decision_type", kinds)

    def put_leaves(self, nodes: Array, values: Array) -> None:
        """Other values, by node as in `children`."""
        held = self._values("leaf_value")
        first = self._leaves - 1
        for node, value in zip(nodes.tolist(), values.tolist(), strict=True):
            held[node - first] = repr(float(value))
        self._set("leaf_value", held)

    def _set(self, name: str, values: list[str]) -> None:
        self._lines[self._at[name]] = f"{name}={' '.join(values)}"

    def text(self) -> str:
        """The block."""
        return "\n".join(self._lines)


STEPS = (Step("lightgbm", ("LGBMClassifier", "LGBMRanker", "LGBMRegressor"), _write),)
