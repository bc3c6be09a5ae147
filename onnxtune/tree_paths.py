"""Tree ensembles by the paths that rows take, in torch: linear in rows and trees.

The forward pass is a traversal, linear in depth. The backward pass of straight-through routing
looks, for every node that a row visits, at the leaf that its other child would have led to:
squared in depth, where a pass over all nodes of a tree is exponential in it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Trees deeper than this end many ways early; levels between two clearances of those.
_DEEP, _CLEARANCE = 9, 4

# Leaf values that are looked up at once.
_MOST_VALUES = 1 << 24

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


def reached(trees: Trees, thresholds: Tensor, source: Tensor, depths: Sequence[int]) -> Tensor:
    """The leaf of every row in every tree.

    Args:
        trees: their nodes.
        thresholds: [I].
        source: [N, C], the columns that nodes read.
        depths: [T], decisions on the longest way of each tree, ascending.

    Returns:
        [N, T] int32.
    """
    arguments = *trees, list(depths), thresholds.detach(), source.detach()
    found: Tensor = _reached(*arguments)
    return found


@torch.library.custom_op("onnxtune::reached_leaves", mutates_args=())
def _reached(
    features: Tensor,
    children: Tensor,
    slots: Tensor,
    leaves: Tensor,
    roots: Tensor,
    depths: list[int],
    thresholds: Tensor,
    source: Tensor,
) -> Tensor:
    walk = _Walk(Trees(features, children, slots, leaves, roots), thresholds, source)
    found = leaves.new_empty(len(source), len(roots))
    start = 0
    for part, depth in walk.blocks(depths):
        at, offsets = walk.start(part)
        for _ in range(depth):
            at = walk.step(at, offsets)[0]
        ends = leaves.index_select(0, at).view(len(part), len(source))
        found[:, start : start + len(part)] = ends.T
        start += len(part)
    return found


@_reached.register_fake
def _(*arguments: Any) -> Tensor:
    roots, source = arguments[4], arguments[7]
    found: Tensor = roots.new_empty(len(source), len(roots))
    return found


def leaf_sum(leaf_values: Tensor, leaves: Tensor, reduction: str = "Sum") -> Tensor:
    """[N, K]: the values [L, K] of the leaves [N, T], summed (or the least, or the largest)."""
    columns = leaf_values.shape[1]
    most = max(1, _MOST_VALUES // max(1, leaves.shape[1] * columns))
    if len(leaves) > most:
        return torch.cat([leaf_sum(leaf_values, part, reduction) for part in leaves.split(most)])  # type: ignore[no-untyped-call]
    values = _rows(leaf_values, leaves)
    if reduction == "Sum":
        return values.sum(1)
    return values.amin(1) if reduction == "Min" else values.amax(1)


def _ties(leaf_values: Tensor, leaves: Tensor, scores: Tensor) -> Tensor:
    """[N, K]: how many of the leaves [N, T] have the score; they share its gradient."""
    return (_rows(leaf_values, leaves) == scores[:, None]).sum(1).clamp(min=1)


def _rows(table: Tensor, places: Tensor) -> Tensor:
    """[*places.shape, K]: rows of a table [L, K]."""
    columns = table.shape[1]
    flat = _flat(places.reshape(-1), columns)
    return table.reshape(-1).index_select(0, flat).view(*places.shape, columns)


def _flat(rows: Tensor, columns: int) -> Tensor:
    """Places [P * K] of rows [P] in a flattened table: torch adds rows up 50 times slower."""
    if columns == 1:
        return rows
    return (rows[:, None] * columns + torch.arange(columns, device=rows.device)).reshape(-1)


def path_scores(
    trees: Trees,
    depths: list[int],
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
        depths: [T], decisions on the longest way of each tree, ascending.
        reduction: over the trees: "Sum", "Min" or "Max".
        thresholds: [I].
        leaf_values: [L, K].
        source: [N, C], the columns that nodes read.
        slopes: [I].
    """
    scores: Tensor
    scores, _ = _path_scores(*trees, depths, reduction, thresholds, leaf_values, source, slopes)
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

    def blocks(self, depths: Sequence[int], squared: bool = False) -> Iterator[tuple[Tensor, int]]:
        """Roots of trees about as deep, and how deep; few enough that their arrays stay small."""
        start = 0
        while start < len(depths):
            deepest = depths[start] + depths[start] // 8 + 1
            width = self.rows * (deepest if squared else 1)
            most = start + max(1, _BLOCK // max(1, width))
            end = min(bisect_right(depths, deepest, start), most)
            yield self.trees.roots[start:end], depths[end - 1]
            start = end

    def start(self, roots: Tensor) -> tuple[Tensor, Tensor]:
        """Every row at these roots: the nodes, and where each row begins in the source."""
        at = roots[:, None].expand(-1, self.rows).reshape(-1)
        return at, self.offsets.expand(len(roots), -1).reshape(-1)

    def step(self, at: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next nodes; the places of the values in the source, the values, the thresholds."""
        places = self.trees.features.index_select(0, at) + offsets
        values = self.source.index_select(0, places)
        limits = self.thresholds.index_select(0, at)
        following = self.trees.children.index_select(0, at).add_(values <= limits)
        return following, places, values, limits


@torch.library.custom_op("onnxtune::path_scores", mutates_args=())
def _path_scores(
    features: Tensor,
    children: Tensor,
    slots: Tensor,
    leaves: Tensor,
    roots: Tensor,
    depths: list[int],
    reduction: str,
    thresholds: Tensor,
    leaf_values: Tensor,
    source: Tensor,
    slopes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Scores [N, K], and the leaves [N, T] for the backward pass."""
    trees = Trees(features, children, slots, leaves, roots)
    ends = reached(trees, thresholds, source, depths)
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
    depths: list[int],
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
    if reduction != "Sum":
        gradient = gradient / _ties(leaf_values, ends, scores)
    start = 0
    for part, depth in walk.blocks(depths, squared=True):
        reached_here = ends[:, start : start + len(part)].T.reshape(-1)
        start += len(part)
        values = _rows(leaf_values, reached_here)
        # [pairs, K]: the gradient that reaches each pair of a tree and a row.
        arriving = gradient.expand(len(part), *gradient.shape).reshape(values.shape)
        if reduction != "Sum":
            chosen = values == scores.expand(len(part), *scores.shape).reshape(values.shape)
            arriving = arriving * chosen
        flat = _flat(reached_here, leaf_values.shape[1])
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
    ctx.depths, ctx.reduction = inputs[5:7]
    ctx.save_for_backward(*inputs[:5], *inputs[7:], *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    trees, rest = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
    gates = ctx.needs_input_grad[7] or ctx.needs_input_grad[9]
    found = _path_gradients(*trees, ctx.depths, ctx.reduction, *rest, gradient.contiguous(), gates)
    return (*[None] * 7, *found, None)


_path_scores.register_autograd(_backward, setup_context=_remember)

# Mixed precision may bring the source in halves, which thresholds are not compared with.
for _device in ("cpu", "cuda"):
    _path_scores.register_autocast(_device, torch.float32)
    _reached.register_autocast(_device, torch.float32)


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
    visited = []
    for _ in range(depth):
        following, places, read, limits = walk.step(at, offsets)
        visited.append((at, places, read, limits))
        at = following
    others = _other_leaves(walk, visited, offsets)
    inner = len(by_node)
    for level, (at, places, read, limits) in enumerate(visited):
        slots = trees.slots.index_select(0, at)
        # A leaf that stands for itself has no slot; its distance is NaN, and its gate is flat.
        held = slots.clamp(max=inner - 1)
        distance = limits - read
        slope = slopes.index_select(0, held)
        gate = distance.mul_(slope).nan_to_num_(nan=torch.inf).sigmoid_()
        gain = ((values - _rows(leaf_values, others[level])) * arriving).sum(1)
        gain = torch.where(read <= limits, gain, -gain)
        change = gain * gate * (1 - gate) * slope
        by_node.index_add_(0, held, change)
        by_value.index_add_(0, places, change, alpha=-1)


def _other_leaves(walk: _Walk, visited: Sequence[tuple[Tensor, ...]], offsets: Tensor) -> Tensor:
    """[D, P]: the leaf where each pair would have ended, had its decision at a level been another.

    All these ways run side by side, a level at a time. In deep trees, where many end early, those
    that have ended are left out now and then.
    """
    trees, pairs, depth = walk.trees, len(offsets), len(visited)
    found = trees.leaves.new_empty(depth * pairs)
    at, places = found.new_empty(0), offsets.new_empty(0)
    way: Tensor | None = None  # which ways are still on; None for all of them
    for level, (node, _, read, limits) in enumerate(visited):
        if level:
            at = walk.step(at, places)[0]
        # Beyond a leaf's NaN there is nothing: its other child is itself as well.
        other = trees.children.index_select(0, node).add_(read > limits)
        at = torch.cat([at, other])
        places = torch.cat([places, offsets])
        if way is not None:
            added = torch.arange(level * pairs, (level + 1) * pairs, device=way.device)
            way = torch.cat([way, added])
        if depth > _DEEP and level % _CLEARANCE == _CLEARANCE - 1 and level < depth - 1:
            on = (trees.children.index_select(0, at) != at).nonzero().squeeze(1)
            _note(found, way, trees.leaves.index_select(0, at))
            at, places = at.index_select(0, on), places.index_select(0, on)
            way = on if way is None else way.index_select(0, on)
    _note(found, way, trees.leaves.index_select(0, at))
    return found.view(depth, pairs)


def _note(found: Tensor, way: Tensor | None, leaves: Tensor) -> None:
    """Write down where these ways are now."""
    if way is None:
        found[: len(leaves)] = leaves
    else:
        found.index_copy_(0, way, leaves)
