"""The nodes of a tree ensemble as flat arrays, whichever operator they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rewrites.core.rewrite import Array

Aggregate = Literal["AVERAGE", "SUM", "MIN", "MAX"]

# The comparisons of inner nodes, by the numbers of TreeEnsemble; leaves beside them.
LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)
LEAF = -1


@dataclass(frozen=True)
class Nodes:
    """n nodes, leaves among them, and E weights.

    Attributes:
        where: the operator as error messages call it.
        modes: [n] int8.
        features: [n] int64.
        limits: [n], what inner nodes compare with; at leaves what the operator holds there.
        missing: [n] bool, whether NaN goes to the true child.
        children: [n, 2] int64, the false child and the true one; anything at leaves.
        roots: [T] int64.
        places: [n] int64, of inner nodes and of leaves in the operator's lists of them.
        set_starts: [n + 1] int64, where the members of MEMBER nodes begin; None without such nodes.
        members: the members of all MEMBER nodes, whole numbers.
        leaves: [E] int64, the node that each weight belongs to, whether it is a leaf or not.
        targets: [E] int64, the target or class id of each weight.
        weights: [E].
        first_weights: [n], the weight by which onnxruntime tells leaves apart.
        base_values: [B].
        aggregate: how the trees' values become one.
        targets_count: targets or classes.
    """

    where: str
    modes: Array
    features: Array
    limits: Array
    missing: Array
    children: Array
    roots: Array
    places: Array
    set_starts: Array | None
    members: Array
    leaves: Array
    targets: Array
    weights: Array
    first_weights: Array
    base_values: Array
    aggregate: Aggregate
    targets_count: int

    @property
    def is_leaf(self) -> Array:
        """[n] bool."""
        return np.asarray(self.modes == LEAF)


def neighbours(values: Array, toward: float) -> Array:
    """The next numbers of the same type; inf beyond the largest."""
    with np.errstate(over="ignore"):
        return np.asarray(np.nextafter(values, values.dtype.type(toward)))


def runs(starts: Array, counts: Array) -> Array:
    """[sum of counts] the numbers starts[0], starts[0] + 1, ... of every run, one after another."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(total) + np.repeat(starts - (ends - counts), counts))
