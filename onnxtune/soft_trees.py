"""Softly routed tree ensembles in torch: every node's gate, then products down the levels.

Trees and rows are taken in blocks whose arrays stay in a core's cache, and the backward pass
computes a block's forward pass again: time is linear in nodes and rows, and memory is that of a
block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rewrites.core.rewrite import Array
from rewrites.trees.blocks import blocks

# Inner nodes and rows of a block.
_NODES, _ROWS = 1024, 256


class Blocks(NamedTuple):
    """Trees in blocks, their nodes level by level; false children first, then true children.

    `inner` and `leaves` are the numbers of a block's inner nodes and leaves, `features` the columns
    that the inner nodes read; `places` holds of every level of every block which of its places are
    inner nodes, then which are leaves. `levels` counts the levels of each block.
    """

    inner: list[Tensor]
    leaves: list[Tensor]
    features: list[Tensor]
    places: list[Tensor]
    levels: list[int]


def blocks_of(
    features: Array, children: Array, slots: Array, roots: Array, inner_count: int
) -> Blocks:
    """Arrange nodes in blocks: what each reads, and what `rewrites.trees.blocks` takes."""
    found = Blocks([], [], [], [], [])
    column = np.zeros(inner_count, np.int64)
    column[slots[slots < inner_count]] = features[slots < inner_count]
    for part in blocks(children, slots, np.sort(roots), inner_count, _NODES):
        for held, array in ((found.inner, part.inner), (found.leaves, part.leaves),
                            (found.features, column[part.inner])):  # fmt: skip
            held.append(torch.from_numpy(array.astype(np.int64)))
        found.places.extend(torch.from_numpy(places) for level in part.levels for places in level)
        found.levels.append(len(part.levels))
    return found


def soft_scores(
    blocks: Blocks, thresholds: Tensor, leaf_values: Tensor, source: Tensor, slopes: Tensor
) -> Tensor:
    """Raw scores [N, K]: a row passes to the true child by sigmoid((threshold - value) * slope).

    Args:
        blocks: the trees.
        thresholds: [I].
        leaf_values: [L, K].
        source: [N, C], the columns that nodes read, finite.
        slopes: [I].
    """
    scores: Tensor = _soft_scores(*blocks, thresholds, leaf_values, source, slopes)
    return scores


@torch.library.custom_op("onnxtune::soft_scores", mutates_args=())
def _soft_scores(
    inner: list[Tensor],
    leaves: list[Tensor],
    features: list[Tensor],
    places: list[Tensor],
    levels: list[int],
    thresholds: Tensor,
    leaf_values: Tensor,
    source: Tensor,
    slopes: Tensor,
) -> Tensor:
    held = Blocks(inner, leaves, features, places, levels)
    scores = leaf_values.new_zeros(len(source), leaf_values.shape[1])
    for block in _each(held, thresholds, leaf_values, slopes):
        for start in range(0, len(source), _ROWS):
            turned = source[start : start + _ROWS].T.contiguous()
            _, shares = block.shares(block.gates(turned))
            scores[start : start + _ROWS] += shares.T @ block.values
    return scores


@_soft_scores.register_fake
def _(*arguments: Any) -> Tensor:
    leaf_values, source = arguments[6], arguments[7]
    found: Tensor = leaf_values.new_empty(len(source), leaf_values.shape[1])
    return found


@torch.library.custom_op("onnxtune::soft_gradients", mutates_args=())
def _soft_gradients(
    inner: list[Tensor],
    leaves: list[Tensor],
    features: list[Tensor],
    places: list[Tensor],
    levels: list[int],
    thresholds: Tensor,
    leaf_values: Tensor,
    source: Tensor,
    slopes: Tensor,
    gradient: Tensor,
    by_source: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of thresholds, leaf values and, where asked for, the source."""
    held = Blocks(inner, leaves, features, places, levels)
    plain = torch.contiguous_format
    of_thresholds = torch.zeros_like(thresholds, memory_format=plain)
    of_leaves = torch.zeros_like(leaf_values, memory_format=plain)
    of_source = torch.zeros_like(source, memory_format=plain)
    for block in _each(held, thresholds, leaf_values, slopes):
        for start in range(0, len(source), _ROWS):
            rows = slice(start, start + _ROWS)
            turned = source[rows].T.contiguous()
            gates = block.gates(turned)
            passing, shares = block.shares(gates)
            arriving = gradient[rows]
            of_leaves[block.leaves] += shares @ arriving
            change = block.gate_gradients(gates, passing, block.values @ arriving.T)
            of_thresholds[block.inner] += change.sum(1)
            if by_source:
                moved = torch.zeros_like(turned).index_add_(0, block.features, change, alpha=-1)
                of_source[rows] += moved.T
    return of_thresholds, of_leaves, of_source


@_soft_gradients.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    thresholds, leaf_values, source = arguments[5:8]
    return torch.empty_like(thresholds), torch.empty_like(leaf_values), torch.empty_like(source)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.blocks = inputs[:5]
    ctx.save_for_backward(*inputs[5:])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    by_source = ctx.needs_input_grad[7]
    found = _soft_gradients(*ctx.blocks, *ctx.saved_tensors, gradient.contiguous(), by_source)
    lists: list[Any] = [[None] * len(held) for held in ctx.blocks[:4]]
    return (*lists, None, *found, None)


_soft_scores.register_autograd(_backward, setup_context=_remember)

# Mixed precision may bring the source in halves; the backward pass needs one type for all.
for _device in ("cpu", "cuda"):
    _soft_scores.register_autocast(_device, torch.float32)


class _Block:
    """A block of trees with its own numbers."""

    def __init__(self, inner: Tensor, leaves: Tensor, features: Tensor,
                 places: list[tuple[Tensor, Tensor]], thresholds: Tensor, leaf_values: Tensor,
                 slopes: Tensor) -> None:  # fmt: skip
        self.inner, self.leaves, self.features, self.places = inner, leaves, features, places
        self.thresholds = thresholds.index_select(0, inner)[:, None]
        self.slopes = slopes.index_select(0, inner)[:, None]
        self.values = leaf_values.index_select(0, leaves)

    def gates(self, turned: Tensor) -> Tensor:
        """[inner, N]: how much of each row goes to the true child, of columns [C, N]."""
        values = turned.index_select(0, self.features)
        return torch.sub(self.thresholds, values, out=values).mul_(self.slopes).sigmoid_()

    def shares(self, gates: Tensor) -> tuple[list[Tensor], Tensor]:
        """The share of each row that reaches the inner nodes of every level; and the leaves."""
        share = gates.new_ones(len(self.places[0][0]) + len(self.places[0][1]), gates.shape[1])
        passing, ended, start = [], [], 0
        for go, stop in self.places:
            if len(stop):
                ended.append(share.index_select(0, stop) if len(go) else share)
            if len(go):
                arriving = share.index_select(0, go) if len(stop) else share
                passing.append(arriving)
                count = len(go)
                share = gates.new_empty(2 * count, gates.shape[1])
                true = torch.mul(arriving, gates[start : start + count], out=share[count:])
                torch.sub(arriving, true, out=share[:count])
                start += count
        return passing, torch.cat(ended)

    def gate_gradients(self, gates: Tensor, passing: list[Tensor], of_leaves: Tensor) -> Tensor:
        """[inner, N]: the gradient of thresholds, row by row, from that of the leaves' shares."""
        found = torch.empty_like(gates)
        inner, leaves = len(gates), len(of_leaves)
        below: Tensor | None = None
        for level in range(len(self.places) - 1, -1, -1):
            go, stop = self.places[level]
            here = of_leaves[leaves - len(stop) : leaves]
            leaves -= len(stop)
            if len(go):
                assert below is not None
                count = len(go)
                own = slice(inner - count, inner)
                inner -= count
                apart = below[count:] - below[:count]
                torch.mul(apart, passing[level], out=found[own])
                arriving = apart.mul_(gates[own]).add_(below[:count])
                if len(stop):
                    whole = gates.new_empty(count + len(stop), gates.shape[1])
                    whole.index_copy_(0, go, arriving)
                    here = whole.index_copy_(0, stop, here)
                else:
                    here = arriving
            below = here
        return found.mul_(gates).mul_(1 - gates).mul_(self.slopes)


def _each(blocks: Blocks, thresholds: Tensor, leaf_values: Tensor, slopes: Tensor) -> list[_Block]:
    found, start = [], 0
    for number, levels in enumerate(blocks.levels):
        parts = blocks.places[start : start + 2 * levels]
        start += 2 * levels
        places = list(zip(parts[::2], parts[1::2], strict=True))
        found.append(
            _Block(blocks.inner[number], blocks.leaves[number], blocks.features[number], places,
                   thresholds.detach(), leaf_values.detach(), slopes.detach())
        )  # fmt: skip
    return found
