"""Tests of one feature for several values, as onnxruntime reads them.

Exporters write "one of these categories" as a chain of BRANCH_EQ nodes: each false child tests the
next value, and all share one true child. Such a chain becomes one gate here.

onnxruntime joins chains as well, by a rule of its own: the values are whole numbers from 1 to the
bits of the type, and the subtrees behind the true children look the same. It compares modes,
features and thresholds in them, but of each leaf only the first weight, and no missing ways. The
first node of the chain must not send NaN to its true child; it alone says then where NaN goes and
what the true child is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rewrites.core.rewrite import Array
from rewrites.errors import ModelError, UnsupportedError
from rewrites.trees.nodes import EQ, LEAF, Nodes, runs


@dataclass(frozen=True)
class Chains:
    """The nodes with chains joined, for whichever node of a chain is reached first.

    Attributes:
        following: [n] the next node of the chain, -1 for none; None where there is no chain.
        children: [n, 2], the false child behind the chain.
        missing: [n] bool, whether NaN goes to the true child anywhere in the chain.
        by_numbers: whether it takes numbers that may be tuned to say what belongs to a chain.
        copies: whether onnxruntime joins nodes that stay apart here, their subtrees being the same.
    """

    following: Array | None
    children: Array
    missing: Array
    by_numbers: bool
    copies: bool


def joined(nodes: Nodes) -> Chains:
    """Join the chains of BRANCH_EQ nodes; linear in nodes but for the chains' logarithm."""
    plain = Chains(None, nodes.children, nodes.missing, False, False)
    heads = np.flatnonzero(nodes.modes == EQ)
    if not len(heads):
        return plain
    tails = nodes.children[heads, 0]
    alike = (nodes.modes[tails] == EQ) & (nodes.features[tails] == nodes.features[heads])
    heads, tails = heads[alike], tails[alike]
    if not len(heads):
        return plain
    shared = nodes.children[heads, 1] == nodes.children[tails, 1]
    fused = _maskable(nodes.limits[heads]) & _maskable(nodes.limits[tails])
    linked = shared
    loose = np.flatnonzero(fused & ~shared)
    by_numbers, copies = bool(len(loose)), False
    if by_numbers:
        ids = subtree_ids(nodes, exactly=False)
        fused[loose] = ids[nodes.children[heads[loose], 1]] == ids[nodes.children[tails[loose], 1]]
        loose = loose[fused[loose]]
    if len(loose):
        fused[loose] = _begun(nodes, heads[fused], tails[fused], heads[loose])
        loose = loose[fused[loose]]
    if len(loose):
        # Copies that are the same in all may stay apart, and be tuned apart.
        ids = subtree_ids(nodes, exactly=True)
        same = ids[nodes.children[heads[loose], 1]] == ids[nodes.children[tails[loose], 1]]
        same &= ~nodes.missing[tails[loose]]
        copies = bool(same.all())
        linked = shared if copies else fused
    heads, tails, fused = heads[linked], tails[linked], fused[linked]
    if not len(heads):
        return replace(plain, by_numbers=by_numbers, copies=copies)
    found = _followed(nodes, heads, tails, nodes.missing[tails] & ~fused)
    return replace(found, by_numbers=by_numbers, copies=copies)


def _maskable(values: Array) -> Array:
    bits = 8 * values.dtype.itemsize
    return np.asarray((values >= 1) & (values <= bits) & (values == np.floor(values)))


def _begun(nodes: Nodes, heads: Array, tails: Array, asked: Array) -> Array:
    """Whether nodes do not send NaN to their true child, or follow one in their chain.

    Args:
        nodes: the ensemble.
        heads, tails: nodes, and those that follow them.
        asked: the nodes in question.

    Raises:
        UnsupportedError: it depends on the way to a node.
    """
    parents = np.bincount(nodes.children[~nodes.is_leaf].ravel(), minlength=len(nodes.modes))
    if (nodes.missing[asked] & (parents[asked] > 1)).any():
        raise UnsupportedError(
            f"{nodes.where}: onnxruntime joins BRANCH_EQ nodes here in one way or another by the "
            "parent they are reached from; give them one parent each."
        )
    begun = ~nodes.missing
    before = np.arange(len(begun))
    before[tails] = heads
    for _ in range(len(heads).bit_length()):
        begun |= begun[before]
        before = before[before]
    return np.asarray(begun[asked])


def _followed(nodes: Nodes, heads: Array, tails: Array, flags: Array) -> Chains:
    """Follow every chain to its end, twice as far with each step."""
    following = np.full(len(nodes.modes), -1)
    following[heads] = tails
    missing = nodes.missing.copy()
    behind = np.zeros(len(missing), bool)
    behind[heads] = flags
    last = np.arange(len(following))
    last[heads] = tails
    for _ in range(len(heads).bit_length()):
        behind[heads] |= behind[last[heads]]
        last[heads] = last[last[heads]]
    missing |= behind
    children = nodes.children.copy()
    children[heads, 0] = nodes.children[last[heads], 0]
    return Chains(following, children, missing, False, False)


def subtree_ids(nodes: Nodes, exactly: bool) -> Array:
    """[n] int64, the same for nodes whose subtrees are the same.

    Args:
        nodes: the ensemble.
        exactly: all of them; else what onnxruntime looks at.
    """
    ids = np.full(len(nodes.modes), -1)
    values = np.unique(nodes.limits, return_inverse=True, equal_nan=False)[1]
    if exactly:
        leaf_ids = _votes(nodes)
    else:
        leaf_ids = np.unique(nodes.first_weights, return_inverse=True, equal_nan=False)[1]
    known = 0
    for wave in upward(nodes):
        leaf = nodes.modes[wave] == LEAF
        below = ids[nodes.children[wave]]
        rows = np.column_stack(
            [
                nodes.modes[wave],
                nodes.features[wave],
                values[wave],
                np.where(leaf, leaf_ids[wave], below[:, 0]),
                np.where(leaf, 0, below[:, 1]),
                nodes.missing[wave] & exactly,
            ]
        )
        if nodes.set_starts is not None:
            # No two sets are the same to the kernel.
            sized = nodes.set_starts[wave + 1] > nodes.set_starts[wave]
            rows[:, 2] = np.where(sized, -1 - wave, rows[:, 2])
        distinct, number = np.unique(rows, axis=0, return_inverse=True)
        ids[wave] = known + number.ravel()
        known += len(distinct)
    return ids


def _votes(nodes: Nodes) -> Array:
    """[n] int64, the same for leaves with the same weights for the same targets."""
    order = np.lexsort((nodes.targets, nodes.leaves))
    weights = np.unique(nodes.weights, return_inverse=True, equal_nan=False)[1]
    items = (weights * nodes.targets_count + nodes.targets)[order]
    counts = np.bincount(nodes.leaves, minlength=len(nodes.modes))
    return sequence_ids(np.cumsum(counts) - counts, counts, items, np.zeros(len(counts), np.int64))


def sequence_ids(starts: Array, counts: Array, items: Array, ids: Array) -> Array:
    """[n] int64, the same for runs of items that are the same and had the same `ids`."""
    ids = ids.copy()
    known = int(ids.max(initial=0)) + 1
    span = int(items.max(initial=0)) + 1
    for number in range(int(counts.max(initial=0))):
        active = np.flatnonzero(counts > number)
        keys = ids[active] * span + items[starts[active] + number]
        distinct, place = np.unique(keys, return_inverse=True)
        ids[active] = known + place
        known += len(distinct)
    return ids


def upward(nodes: Nodes) -> list[Array]:
    """Nodes in waves: leaves first, then what has only nodes of earlier waves as children.

    Raises:
        ModelError: a tree runs into a cycle.
    """
    inner = np.flatnonzero(~nodes.is_leaf)
    children = nodes.children[inner].T.ravel()
    order = np.argsort(children, kind="stable")
    parents = np.tile(inner, 2)[order]
    counts = np.bincount(children, minlength=len(nodes.modes))
    starts = np.cumsum(counts) - counts
    open_children = np.where(nodes.is_leaf, 0, 2)
    wave = np.flatnonzero(nodes.is_leaf)
    waves = []
    while len(wave):
        waves.append(wave)
        above = parents[runs(starts[wave], counts[wave])]
        np.subtract.at(open_children, above, 1)
        wave = np.unique(above[open_children[above] == 0])
    if (open_children[nodes.roots] > 0).any():
        raise ModelError(f"{nodes.where}: a node is its own ancestor.")
    return waves
