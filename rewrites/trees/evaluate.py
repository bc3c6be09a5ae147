"""What rows reach in the trees: the form is chosen here, by routing, and the values are joined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array
from rewrites.trees.costs import check_soft, choose, most_trees
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.gemm import matched_leaves
from rewrites.trees.level_wise import Shares, leaf_shares, reduce_shares
from rewrites.trees.paths import leaf_sum, tree_leaves, tree_paths, tree_shares
from rewrites.trees.tables import shape_of
from rewrites.trees.tensors import entry_numbers, is_dense, leaf_numbers, threshold_numbers
from rewrites.trees.traversal import reduce_leaves, traversal

Reduction = Literal["Sum", "Min", "Max"]

# (table [L, K] of a number per leaf and column, K, reduction) -> [N, K] over the trees.
Reduce = Callable[[ir.Value, int, Reduction], ir.Value]

_REDUCTIONS: dict[str, Reduction] = {"AVERAGE": "Sum", "SUM": "Sum", "MIN": "Min", "MAX": "Max"}


@dataclass(frozen=True)
class Scores:
    """What the trees say of each row, before base values.

    Attributes:
        scores: [N, K]; 0 where no tree has a value for a column.
        voted: [N, K] bool, whether some tree has one; None where nobody asks, or every row has.
    """

    scores: ir.Value
    voted: ir.Value | None


def raw_scores(
    builder: Builder, ensemble: Ensemble, x: ir.Value, ask_votes: bool = False
) -> Scores:
    """Send the rows x [N, F] down the trees, and join what they reach as the operator says.

    Args:
        builder: records the nodes.
        ensemble: the trees.
        x: the rows.
        ask_votes: whether to tell rows apart that reach no value for a column.
    """
    _stand_in(builder, ensemble)
    reduce = routed(builder, ensemble, x)
    count = len(ensemble.columns)
    how = _REDUCTIONS[ensemble.aggregate]
    silent = bool((ensemble.entries < 0).any()) and how != "Sum"
    voted = None
    if (ask_votes or silent) and not ensemble.always_voted.all():
        table = builder.constant("votes", ensemble.entries >= 0, ensemble.values.dtype)
        half = builder.constant("half", 0.5, ensemble.values.dtype)
        voted = builder.op("Greater", reduce(table, count, "Sum"), half)
    scores = reduce(_leaf_values(builder, ensemble), count, how)
    if ensemble.aggregate == "AVERAGE":
        trees = builder.constant("trees", ensemble.roots, ensemble.values.dtype)
        scores = builder.op("Div", scores, trees)
    if voted is not None and silent:
        scores = or_zero(builder, ensemble, scores, voted)
    return Scores(scores, voted)


def or_zero(
    builder: Builder, ensemble: Ensemble, scores: ir.Value, voted: ir.Value | None
) -> ir.Value:
    """The scores where there are votes, else 0."""
    if voted is None:
        return scores
    nothing = builder.constant("nothing", 0.0, ensemble.values.dtype)
    return builder.op("Where", voted, scores, nothing)


def routed(builder: Builder, ensemble: Ensemble, x: ir.Value) -> Reduce:
    """Send the rows x [N, F] down the trees; what comes back reduces tables over their leaves."""
    if builder.routing == "soft" and builder.for_torch and ensemble.depth:
        return lambda table, _, how: (
            tree_shares(builder, ensemble, x, table)
            if how == "Sum"
            else reduce_shares(builder, ensemble, leaf_shares(builder, ensemble, x), table, how)
        )
    if builder.routing == "soft" or ensemble.depth == 0:
        if builder.routing == "soft" and not builder.for_torch:
            check_soft(shape_of(ensemble), builder.serving, f"'{builder.node_name}'")
        shares = leaf_shares(builder, ensemble, x)
        return lambda table, _, how: reduce_shares(builder, ensemble, shares, table, how)
    if builder.routing == "straight-through":
        return lambda table, _, how: tree_paths(builder, ensemble, x, table, how)
    if builder.for_torch:
        numbers = tree_leaves(builder, ensemble, x)
        return lambda table, _, how: leaf_sum(builder, numbers, table, how)
    forecast = choose(shape_of(ensemble), builder.serving, f"'{builder.node_name}'")
    if forecast.form == "traversal":
        groups = traversal(
            builder, ensemble, x, most_trees(forecast, builder.serving, ensemble.roots)
        )
        return lambda table, columns, how: reduce_leaves(builder, groups, table, columns, how)
    if forecast.form == "gemm":
        leaves = [Shares("", matched_leaves(builder, ensemble, x), None)]
    else:
        leaves = leaf_shares(builder, ensemble, x)
    return lambda table, _, how: reduce_shares(builder, ensemble, leaves, table, how)


def _stand_in(builder: Builder, ensemble: Ensemble) -> None:
    """Let the forms find a threshold for every node, also where some are one, or none."""
    first, number = threshold_numbers(ensemble)
    if len(first) == len(number) or not len(number):
        return
    parts = [builder.tensor("thresholds")] if len(first) else []
    if len(ensemble.known_sets):
        parts.append(builder.constant("set_threshold", np.zeros(1, ensemble.thresholds.dtype)))
    padded = parts[0] if len(parts) == 1 else builder.op("Concat", *parts, axis=0)
    index = builder.constant("threshold_numbers", number, np.int64)
    builder.stand_in("thresholds", builder.op("Gather", padded, index, axis=0))


def _leaf_values(builder: Builder, ensemble: Ensemble) -> ir.Value:
    """[L, K]; one number per entry is spread out, with what stands for none where there is none."""
    if is_dense(ensemble):
        first, number = leaf_numbers(ensemble)
        held = builder.tensor("leaf_values")
        if len(first) == len(number):
            return held
        index = builder.constant("leaf_numbers", number, np.int64)
        return builder.op("Gather", held, index, axis=0)
    numbers = entry_numbers(ensemble)
    count = 1 + max(int(number.max()) for number in numbers)
    neutral = _neutral(ensemble, exact=builder.routing == "hard")
    constants = np.where(_has_own(ensemble), ensemble.values, neutral)
    fills, fill = np.unique(np.append(constants, neutral), return_inverse=True)
    fill = count + fill.ravel()
    held = builder.constant("absent", fills, ensemble.values.dtype)
    if count:
        held = builder.op("Concat", builder.tensor("leaf_values"), held, axis=0)
    found: ir.Value | None = None
    for layer, number in enumerate(numbers):
        instead = fill[:-1].reshape(number.shape) if layer == 0 else fill[-1]
        place = np.where(number >= 0, number, instead)
        index = builder.constant(f"entry_index_{layer}", place, np.int64)
        values = builder.op("Gather", held, index, axis=0)
        found = values if found is None else builder.op(_joint(ensemble), found, values)
    assert found is not None
    return found


def _neutral(ensemble: Ensemble, exact: bool) -> float:
    """What stands for no value: less than nothing else, or more, where that decides.

    In between, where rows pass in parts, it is not far from the values.
    """
    sign = {"MIN": 1.0, "MAX": -1.0}.get(ensemble.aggregate, 0.0)
    if exact:
        return sign * float(np.finfo(ensemble.values.dtype).max) / 4
    held = ensemble.values[np.isfinite(ensemble.values)].astype(np.float64)
    return sign * 10.0 * (1.0 + float(np.abs(held).max(initial=0.0)))


def _has_own(ensemble: Ensemble) -> Array:
    """[L, K] bool: leaves without an entry that have a number all the same."""
    return np.asarray((ensemble.entries < 0) & ensemble.votes.single)


def _joint(ensemble: Ensemble) -> str:
    """What makes one number of two weights of a leaf."""
    return {"Sum": "Add", "Min": "Min", "Max": "Max"}[_REDUCTIONS[ensemble.aggregate]]


def add_base(builder: Builder, scores: ir.Value) -> ir.Value:
    """Add the base values, where the node has some."""
    if "base_values" not in builder.tensors:
        return scores
    return builder.op("Add", scores, builder.tensor("base_values"))
