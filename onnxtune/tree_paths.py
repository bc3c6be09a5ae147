"""Tree ensembles by the paths that rows take, in torch: linear in rows and trees.

The forward pass is a traversal, linear in depth. The backward pass of straight-through routing
looks, for every node that a row visits, at the leaf that its other child would have led to:
squared in depth, where a pass over all nodes of a tree is exponential in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Numbers in one array of the backward pass: small enough to stay in a core's cache.
_BLOCK = 1 << 19


class Trees(NamedTuple):
    """The M nodes of T trees, tree after tree.

    `features` [M] is the column that a node reads; `children` [M] its false child, in front of
    the true one (a leaf is its own child); `slots` [M] the number of the inner node, or I at a
    leaf; `leaves` [M] that of the leaf, or 0; `roots` [T]. All int32.
    """

    features: Tensor
    children: Tensor
    slots: Tensor
    leaves: Tensor
    roots: Tensor


def reached(trees: Trees, thresholds: Tensor, source: Tensor, depth: int) -> Tensor:
    """The leaf of every row in every tree.

    Args:
        trees: their nodes.
        thresholds: [I].
        source: [N, C], the columns that nodes read.
        depth: decisions on the longest way.

    Returns:
        [N, T] int32.
    """
    with torch.no_grad():
        walk = _Walk(trees, thresholds, source)
        blocks = []
        for part in walk.blocks(1):
            at, offsets = walk.start(part)
            for _ in range(depth):
                at = walk.step(at, offsets)[0]
            blocks.append(trees.leaves.index_select(0, at).view(len(part), -1))
        return torch.cat(blocks).T


def leaf_sum(leaf_values: Tensor, leaves: Tensor, reduction: str = "Sum") -> Tensor:
    """[N, K]: the values [L, K] of the leaves [N, T], summed (or the least, or the largest)."""
    flat = _flat(leaves.reshape(-1), leaf_values.shape[1])
    values = leaf_values.reshape(-1).index_select(0, flat).view(*leaves.shape, -1)
    if reduction == "Sum":
        return values.sum(1)
    return values.amin(1) if reduction == "Min" else values.amax(1)


def _flat(rows: Tensor, columns: int) -> Tensor:
    """Places [P * K] of rows [P] in a flattened table: torch adds rows up 50 times slower."""
    if columns == 1:
        return rows
    return (rows[:, None] * columns + torch.arange(columns, device=rows.device)).reshape(-1)


def path_scores(
    trees: Trees,
    depth: int,
    reduction: str,
    thresholds: Tensor,
    leaf_values: Tensor,
    source: Tensor,
    slopes: Tensor,
) -> Tensor:
    """Raw scores [N, K] with the gradient of straight-through routing.

    Forward every decision is `value <= threshold`; backward it has the derivative of
    sigmoid((threshold - value) * slope). A visited decision's share in the score is then the
    difference between the leaves behind its two children; all others have none. The result equals
    that of routing every row through all nodes with straight-through gates (Bengio, Leonard,
    Courville 2013, "Estimating or Propagating Gradients Through Stochastic Neurons", section 4).

    Args:
        trees: their nodes.
        depth: decisions on the longest way.
        reduction: over the trees: "Sum", "Min" or "Max".
        thresholds: [I].
        leaf_values: [L, K].
        source: [N, C], the columns that nodes read.
        slopes: [I].
    """
    scores: Tensor
    scores, _ = _path_scores(*trees, depth, reduction, thresholds, leaf_values, source, slopes)
    return scores


class _Walk:
    """Follows pairs of a tree and a row from node to node."""

    def __init__(self, trees: Trees, thresholds: Tensor, source: Tensor) -> None:
        self.trees, self.rows = trees, len(source)
        self.source = source.detach().reshape(-1)
        # No value passes a leaf's NaN, so the row stays where it is.
        padded = torch.cat([thresholds.detach(), thresholds.new_full((1,), torch.nan)])
        self.thresholds = padded.index_select(0, trees.slots)
        kind = torch.int32 if source.numel() < 2**31 else torch.int64
        self.offsets = torch.arange(self.rows, device=source.device, dtype=kind) * source.shape[1]

    def blocks(self, width: int) -> Sequence[Tensor]:
        """The roots, as many at a time as keep `width` arrays of all rows small."""
        size = max(1, _BLOCK // max(1, width * self.rows))
        return torch.split(self.trees.roots, size)

    def start(self, roots: Tensor) -> tuple[Tensor, Tensor]:
        """Every row at these roots: the nodes, and where each row begins in the source."""
        at = roots[:, None].expand(-1, self.rows).reshape(-1)
        return at, self.offsets.expand(len(roots), -1).reshape(-1)

    def step(self, at: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next nodes; the decisions, the places of the values in the source, the values."""
        places = self.trees.features.index_select(0, at) + offsets
        values = self.source.index_select(0, places)
        passed = values <= self.thresholds.index_select(0, at)
        following = self.trees.children.index_select(0, at)
        return following.add_(passed), passed, places, values


@torch.library.custom_op("onnxtune::path_scores", mutates_args=())
def _path_scores(
    features: Tensor,
    children: Tensor,
    slots: Tensor,
    leaves: Tensor,
    roots: Tensor,
    depth: int,
    reduction: str,
    thresholds: Tensor,
    leaf_values: Tensor,
    source: Tensor,
    slopes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Scores [N, K], and the leaves [N, T] for the backward pass."""
    trees = Trees(features, children, slots, leaves, roots)
    ends = reached(trees, thresholds, source, depth)
    return leaf_sum(leaf_values, ends, reduction), ends


@_path_scores.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    roots, leaf_values, source = arguments[4], arguments[8], arguments[9]
    rows = len(source)
    scores = leaf_values.new_empty(rows, leaf_values.shape[1])
    return scores, roots.new_empty(rows, len(roots))


@torch.library.custom_op("onnxtune::path_gradients", mutates_args=())
def _path_gradients(
    features: Tensor,
    children: Tensor,
    slots: Tensor,
    leaves: Tensor,
    roots: Tensor,
    depth: int,
    reduction: str,
    thresholds: Tensor,
    leaf_values: Tensor,
    source: Tensor,
    slopes: Tensor,
    scores: Tensor,
    ends: Tensor,
    gradient: Tensor,
    gates: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of thresholds, leaf values and source; of the leaf values alone if not `gates`."""
    walk = _Walk(Trees(features, children, slots, leaves, roots), thresholds, source)
    by_leaf = torch.zeros_like(leaf_values, memory_format=torch.contiguous_format)
    by_node = torch.zeros_like(thresholds)
    by_value = source.new_zeros(source.numel())
    start = 0
    for part in walk.blocks(depth):
        reached_here = ends[:, start : start + len(part)].T.reshape(-1)
        start += len(part)
        flat = _flat(reached_here, leaf_values.shape[1])
        values = leaf_values.reshape(-1).index_select(0, flat).view(len(reached_here), -1)
        # [pairs, K]: the gradient that reaches each pair of a tree and a row.
        arriving = gradient.expand(len(part), *gradient.shape).reshape(values.shape)
        if reduction != "Sum":
            chosen = values == scores.expand(len(part), *scores.shape).reshape(values.shape)
            arriving = arriving * chosen
        by_leaf.view(-1).index_add_(0, flat, arriving.reshape(-1))
        if gates:
            _gates_backward(
                walk, depth, part, leaf_values, values, arriving, slopes, by_node, by_value
            )
    return by_node, by_leaf, by_value.view_as(source)


@_path_gradients.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    thresholds, leaf_values, source = arguments[7:10]
    return tuple(torch.empty_like(value) for value in (thresholds, leaf_values, source))  # type: ignore[return-value]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.depth, ctx.reduction = inputs[5:7]
    ctx.save_for_backward(*inputs[:5], *inputs[7:], *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    trees, rest = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
    gates = ctx.needs_input_grad[7] or ctx.needs_input_grad[9]
    found = _path_gradients(*trees, ctx.depth, ctx.reduction, *rest, gradient.contiguous(), gates)
    return (*[None] * 7, *found, None)


_path_scores.register_autograd(_backward, setup_context=_remember)


def _gates_backward(
    walk: _Walk,
    depth: int,
    roots: Tensor,
    leaf_values: Tensor,
    values: Tensor,
    arriving: Tensor,
    slopes: Tensor,
    by_node: Tensor,
    by_value: Tensor,
) -> None:
    """Add the gradients of all decisions on the rows' paths to `by_node` and `by_value`."""
    trees = walk.trees
    at, offsets = walk.start(roots)
    pairs = len(at)
    # Row d: where the pair would be, had its decision at level d been the other one.
    others = at.new_empty(depth, pairs)
    all_offsets = offsets.expand(depth, -1).reshape(-1)
    visited = []
    for level in range(depth):
        if level:
            moved = walk.step(others[:level].reshape(-1), all_offsets[: level * pairs])[0]
            others[:level] = moved.view(level, pairs)
        following, passed, places, read = walk.step(at, offsets)
        others[level] = trees.children.index_select(0, at).add_(~passed)
        visited.append((at, passed, places, read))
        at = following
    inner = len(by_node)
    for level, (at, passed, places, read) in enumerate(visited):
        slots = trees.slots.index_select(0, at)
        # A leaf that stands for itself has no slot; its distance is NaN, and its gate is flat.
        held = slots.clamp(max=inner - 1)
        distance = walk.thresholds.index_select(0, at).sub_(read)
        slope = slopes.index_select(0, held)
        gate = distance.mul_(slope).nan_to_num_(nan=torch.inf).sigmoid_()
        ends = trees.leaves.index_select(0, others[level])
        other = leaf_values.reshape(-1).index_select(0, _flat(ends, leaf_values.shape[1]))
        gain = ((values - other.view_as(values)) * arriving).sum(1)
        gain = torch.where(passed, gain, -gain)
        change = gain * gate * (1 - gate) * slope
        by_node.index_add_(0, held, change)
        by_value.index_add_(0, places, change, alpha=-1)
