"""A tree ensemble in one canonical order, whatever operator holds it.

The order is by level: the roots, then the false children of the level's inner nodes, then their
true children, and so on. Inner nodes (thresholds) and leaves are each numbered along it. A node
with several parents is there once for each way that leads to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rewrites.core.rewrite import Array
from rewrites.errors import UnsupportedError
from rewrites.trees.chains import joined, upward
from rewrites.trees.nodes import EQ, GT, GTE, LEAF, LT, MEMBER, NEQ, Aggregate, Nodes, neighbours
from rewrites.trees.sets import Sets, distinct_sets, no_sets
from rewrites.trees.votes import Votes, votes_of


@dataclass(frozen=True)
class Level:
    """One level: which places of the frontier are inner nodes and which are leaves.

    The next frontier is the false children of `inner`, then their true children.
    """

    inner: Array
    leaves: Array


@dataclass(frozen=True)
class Ensemble:
    """A forest of I inner nodes and L leaves over T trees, with K score columns.

    Attributes:
        features: [I] int64, the feature each inner node reads.
        thresholds: [I], `x <= threshold` goes to the true child (the other modes are brought to it;
            the true child of a BRANCH_GT is its false child here); 0 where `sets` says otherwise.
        sets: [I] int64, the set whose members go to the true child, -1 for a threshold.
        known_sets: what these numbers stand for.
        strict: [I] bool, the nodes that were BRANCH_LT or BRANCH_GTE.
        never: [I] bool, those of them whose threshold is -inf: no number passes.
        missing_true: [I] bool, whether NaN goes to the true child.
        votes: the leaves' values.
        columns: [K] int64, the target or class id of each column.
        base_values: [B], as in the attribute; empty where there is none.
        inner_places, leaf_places: [I] and [L], the place of each in the operator's lists; the same
            several times where a node has several parents.
        levels: the frontier of each level.
        roots: T.
        aggregate: how the trees' values become one.
        by_numbers: whether tuned numbers may change which nodes the kernel takes for one.
    """

    features: Array
    thresholds: Array
    sets: Array
    known_sets: Sets
    strict: Array
    never: Array
    missing_true: Array
    votes: Votes
    columns: Array
    base_values: Array
    inner_places: Array
    leaf_places: Array
    levels: tuple[Level, ...]
    roots: int
    aggregate: Aggregate
    by_numbers: bool

    @property
    def values(self) -> Array:
        """[L, K] leaf values."""
        return self.votes.values

    @property
    def entries(self) -> Array:
        """[L, K] int64, the place of each value among the operator's weights, -1 for none."""
        return self.votes.entries

    def same_trees(self, other: Ensemble) -> bool:
        """Whether both send rows the same ways, but for thresholds."""
        mine, others = self.known_sets, other.known_sets
        return all(
            np.array_equal(one, two)
            for one, two in (
                (self.inner_places, other.inner_places),
                (self.leaf_places, other.leaf_places),
                (self.missing_true, other.missing_true),
                (self.sets, other.sets),
                (mine.values, others.values),
                (mine.member_sets, others.member_sets),
                (mine.member_values, others.member_values),
                *((a.inner, b.inner) for a, b in zip(self.levels, other.levels, strict=False)),
            )
        )

    @property
    def depth(self) -> int:
        """Decisions on the longest way from a root to a leaf."""
        return len(self.levels) - 1

    @property
    def tree_of_leaf(self) -> Array:
        """[L] the tree of each leaf."""
        found = []
        tree = np.arange(self.roots)
        for level in self.levels:
            found.append(tree[level.leaves])
            tree = np.tile(tree[level.inner], 2)
        return np.concatenate(found)

    @property
    def always_voted(self) -> Array:
        """[K] bool: whether some tree has an entry for the column in each of its leaves."""
        tree = self.tree_of_leaf
        sizes = np.bincount(tree, minlength=self.roots)
        votes = self.entries >= 0
        counts = [np.bincount(tree[voted], minlength=self.roots) for voted in votes.T]
        return np.array([bool((count == sizes).any()) for count in counts], bool)

    @property
    def movable(self) -> Array:
        """[I] bool: finite thresholds; BRANCH_LT inf has become the largest number."""
        finite = np.abs(self.thresholds) < np.finfo(self.thresholds.dtype).max
        return np.asarray(finite & (self.sets < 0))


def ensemble_of(nodes: Nodes, columns: Array) -> Ensemble:
    """Bring nodes into the canonical order.

    Args:
        nodes: the nodes.
        columns: ids of the targets or classes that become columns, ascending.

    Raises:
        UnsupportedError: written out as trees, the nodes become too many.
        ModelError: a tree runs into a cycle.
    """
    chains = joined(nodes)
    # x > t is "not x <= t": the children change places, and with them the way of NaN.
    turned = np.isin(nodes.modes, [GT, GTE, NEQ])
    children = np.where(turned[:, None], chains.children[:, ::-1], chains.children)
    levels, inner, leaves = _levels(nodes, children)
    _refuse_lost_leaves(nodes, leaves, chains.copies)
    mode, missing = nodes.modes[inner], (chains.missing ^ turned)[inner]
    # NaN is unequal to anything.
    missing &= mode != NEQ
    sets = np.full(len(inner), -1)
    known_sets = no_sets(nodes.limits.dtype)
    of_set = np.flatnonzero((mode == EQ) | (mode == NEQ) | (mode == MEMBER))
    thresholds = nodes.limits[inner]
    if len(of_set):
        gates, first, number = np.unique(inner[of_set], return_index=True, return_inverse=True)
        known_sets, own = distinct_sets(nodes, chains, gates, missing[of_set[first]])
        sets[of_set] = own[number]
        thresholds[of_set] = 0
    strict = (mode == LT) | (mode == GTE)
    never = strict & np.isneginf(thresholds)
    thresholds = np.where(strict, neighbours(thresholds, -np.inf), thresholds)
    return Ensemble(
        features=nodes.features[inner],
        thresholds=thresholds,
        sets=sets,
        known_sets=known_sets,
        strict=strict,
        never=never,
        missing_true=missing,
        votes=votes_of(nodes, leaves, columns),
        columns=columns,
        base_values=nodes.base_values,
        inner_places=nodes.places[inner],
        leaf_places=nodes.places[leaves],
        levels=levels,
        roots=len(nodes.roots),
        aggregate=nodes.aggregate,
        by_numbers=chains.by_numbers,
    )


def _refuse_lost_leaves(nodes: Nodes, leaves: Array, copies: bool) -> None:
    """Refuse what the kernel mixes up: it takes nodes that it does not reach for its first one."""
    if nodes.modes[nodes.roots[0]] != LEAF:
        return
    lost = nodes.is_leaf
    lost[leaves] = False
    if nodes.set_starts is not None:  # TreeEnsemble drops what nothing refers to
        lost &= np.bincount(nodes.children[~nodes.is_leaf].ravel(), minlength=len(lost)) > 0
    if lost[nodes.leaves].any() or copies:
        raise UnsupportedError(
            f"{nodes.where}: its first tree is a single leaf, to which onnxruntime adds the "
            "weights of leaves that no row reaches; put another tree first."
        )


def _levels(nodes: Nodes, children: Array) -> tuple[tuple[Level, ...], Array, Array]:
    """Walk all trees at once, a level at a time: linear in nodes."""
    leaf = nodes.is_leaf
    parents = np.bincount(nodes.children[~leaf].ravel(), minlength=len(leaf))
    np.add.at(parents, nodes.roots, 1)
    if (parents > 1).any():
        upward(nodes)  # or the walk might have no end
    most = 4 * len(leaf) + 10_000
    levels, inner, leaves = [], [], []
    frontier, seen = nodes.roots, 0
    while len(frontier):
        seen += len(frontier)
        if seen > most:
            raise UnsupportedError(
                f"{nodes.where}: its {len(leaf)} nodes have several parents each; written out as "
                f"trees they would be more than {most}."
            )
        ends = leaf[frontier]
        levels.append(Level(np.flatnonzero(~ends), np.flatnonzero(ends)))
        inner.append(frontier[~ends])
        leaves.append(frontier[ends])
        frontier = children[frontier[~ends]].T.ravel()
    return tuple(levels), np.concatenate(inner), np.concatenate(leaves)
