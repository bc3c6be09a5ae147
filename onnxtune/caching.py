"""What no trained tensor reaches is computed once: the border in a core's torch graph.

With leaves alone in training it is the leaf that each row reaches in each tree; with a frozen
scaler, the scaled rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from torch import Tensor, fx

from onnxtune.disk import disk_at_hand, on_disk
from onnxtune.memory import device_memory_at_hand, memory_at_hand

# Rows that are computed at once.
_PIECE = 4096

# The share of the memory at hand that cached rows may take, and of the disk beyond that.
_SHARE_OF_MEMORY, _SHARE_OF_DISK = 0.5, 0.5


class Border:
    """A graph in two parts: what stays the same over the epochs, and what training moves."""

    def __init__(
        self,
        graph: fx.GraphModule,
        inputs: Sequence[Tensor],
        others: Sequence[Tensor],
        moved: Sequence[bool],
    ) -> None:
        """Find the border.

        Args:
            graph: takes `inputs` and then `others`, and returns a tuple.
            inputs: the rows stand first in each.
            others: learned tensors and slopes.
            moved: which of `others` training moves.
        """
        self._others = list(others)
        self.device = inputs[0].device if inputs else torch.device("cpu")
        self._first: fx.GraphModule | None = None
        self._second: torch.nn.Module = graph
        self._on_disk = False
        if not inputs or len(inputs[0]) < 2:
            return
        nodes = list(graph.graph.nodes)
        places = [node for node in nodes if node.op == "placeholder"]
        changing = _after(nodes, compress(places[len(inputs) :], moved))
        shapes = [_shapes(graph, [value[:rows] for value in inputs], others) for rows in (1, 2)]
        by_row = {
            node
            for node in shapes[0]
            if node not in changing and (shapes[0][node][:1], shapes[1][node][:1]) == ((1,), (2,))
        }
        border, rest = _before(nodes, changing, by_row)
        size = 8 * len(inputs[0]) * sum(math.prod(shapes[0][node]) for node in border)
        computed = any(node.op != "placeholder" for node in border)
        self._on_disk = size >= _SHARE_OF_MEMORY * _at_hand(self.device)
        if computed and (not self._on_disk or size < _SHARE_OF_DISK * disk_at_hand()):
            fixed = [node for node in nodes if node not in changing and node.op != "output"]
            self._first = _part(graph, places, fixed, tuple(border))
            self._second = _part(graph, [*border, *places[len(inputs) :]], rest, nodes[-1].args[0])

    @property
    def caches(self) -> bool:
        """Whether anything is computed once."""
        return self._first is not None

    @torch.no_grad()
    def settle(self, inputs: Sequence[Tensor]) -> Settled:
        """The values on the border for these rows; the inputs where nothing is cached."""
        first = self._first
        if first is None:
            return Settled(self, list(inputs), Cost())
        start = time.perf_counter()
        count = len(inputs[0])
        values: list[Tensor] = []
        for at in range(0, max(count, 1), _PIECE):
            piece = first(*(value[at : at + _PIECE] for value in inputs), *self._others)
            if not values:
                values = [self._room(count, part) for part in piece]
            for held, part in zip(values, piece, strict=True):
                held[at : at + len(part)] = part
        size = sum(value.element_size() * value.nelement() for value in values)
        seconds = time.perf_counter() - start
        return Settled(self, values, Cost(size, size if self._on_disk else 0, seconds))

    def _room(self, rows: int, like: Tensor) -> Tensor:
        """An empty tensor of so many rows; on disk where memory is short."""
        shape = (rows, *like.shape[1:])
        if not self._on_disk or not math.prod(shape):
            return torch.empty(shape, dtype=like.dtype, device=like.device)
        return on_disk(shape, like.dtype)

    def follow(self, settled: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """From values on the border to what the whole graph returns."""
        found = self._second(*settled, *others)
        return (found,) if isinstance(found, Tensor) else tuple(found)


@dataclass(frozen=True)
class Cost:
    """What caching took: bytes in all and on disk, and the seconds that each pass is spared."""

    bytes: int = 0
    disk_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Settled:
    """Values on a border, the rows first, and what it took to have them."""

    border: Border
    values: list[Tensor]
    cost: Cost

    def take(self, rows: Tensor | slice) -> Settled:
        """Some of the rows."""
        device = self.border.device
        if isinstance(rows, Tensor) and self.cost.disk_bytes:
            rows = rows.cpu()
        return Settled(self.border, [value[rows].to(device) for value in self.values], self.cost)


def _at_hand(device: torch.device) -> int:
    """Bytes that are free where the values would be held."""
    free = device_memory_at_hand() if device.type == "cuda" else None
    return memory_at_hand() if free is None else free


def _after(nodes: Iterable[fx.Node], starts: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes that depend on some of these, and those themselves."""
    reached = set(starts)
    for node in nodes:
        if any(read in reached for read in node.all_input_nodes):
            reached.add(node)
    return reached


def _before(
    nodes: Sequence[fx.Node], changing: set[fx.Node], by_row: set[fx.Node]
) -> tuple[list[fx.Node], list[fx.Node]]:
    """The cached values that changing nodes need, and all nodes to run on from there, in order."""
    border, rest = set(), set()
    queue = [node for node in nodes if node in changing or node.op == "output"]
    while queue:
        node = queue.pop()
        if node in by_row:
            border.add(node)
        elif node not in rest:
            rest.add(node)
            queue.extend(node.all_input_nodes)
    ordered = [node for node in nodes if node in rest and node.op not in ("placeholder", "output")]
    return [node for node in nodes if node in border], ordered


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shapes of its values."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.found: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found[n] = tuple(value.shape)
        return value


@torch.no_grad()
def _shapes(
    graph: fx.GraphModule, inputs: Sequence[Tensor], others: Sequence[Tensor]
) -> dict[fx.Node, tuple[int, ...]]:
    shapes = _Shapes(graph)
    shapes.run(*inputs, *others)
    return shapes.found


def _part(
    owner: fx.GraphModule, given: Sequence[fx.Node], nodes: Sequence[fx.Node], result: Any
) -> fx.GraphModule:
    """A graph of some of the nodes, from the values `given` to `result`."""
    part = fx.Graph()
    copies = {node: part.placeholder(f"given_{number}") for number, node in enumerate(given)}
    for node in nodes:
        if node not in copies:
            copies[node] = part.node_copy(node, lambda read: copies[read])
    part.output(fx.node.map_arg(result, lambda node: copies[node]))
    return fx.GraphModule(owner, part)
