"""Trees in blocks, level by level: arrays that stay in a cache, whatever the number of trees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rewrites.core.rewrite import Array


@dataclass(frozen=True)
class Block:
    """Some trees.

    Attributes:
        inner, leaves: the numbers of their inner nodes and of their leaves, level by level: the
            false children of a level's inner nodes, then their true children.
        levels: of every level, which of its places are inner nodes and which are leaves.
    """

    inner: Array
    leaves: Array
    levels: tuple[tuple[Array, Array], ...]


def blocks(children: Array, slots: Array, roots: Array, inner_count: int, most: int) -> list[Block]:
    """Trees that follow each other, with about `most` inner nodes together.

    Args:
        children: [M], the false child of every node, in front of the true one.
        slots: [M], the number of the inner node, or `inner_count` + that of the leaf.
        roots: [T], ascending.
        inner_count: how many are no leaves.
        most: inner nodes of a block; of a larger tree alone, more.
    """
    sizes = np.diff(np.append(roots, len(slots)))
    number = np.maximum(np.cumsum(sizes // 2) - 1, 0) // most
    cuts = np.flatnonzero(np.diff(number)) + 1
    return [_block(children, slots, part, inner_count) for part in np.split(roots, cuts)]


def _block(children: Array, slots: Array, roots: Array, inner_count: int) -> Block:
    at, inner, leaves, levels = roots, [], [], []
    while len(at):
        ends = slots[at] >= inner_count
        go, stop = np.flatnonzero(~ends), np.flatnonzero(ends)
        levels.append((go, stop))
        inner.append(slots[at[go]])
        leaves.append(slots[at[stop]] - inner_count)
        first = children[at[go]]
        at = np.concatenate([first, first + 1])
    return Block(np.concatenate(inner), np.concatenate(leaves), tuple(levels))
