"""Where each node of a graph is to run: before the GPU, on it, or behind it.

Nodes without a kernel of the CUDA provider run on the CPU. What feeds such a node runs before the
GPU with it, or what reads it behind the GPU: whichever takes less of the model from the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from onnxtune.cuda_kernels import Gap, node_gaps
from onnxtune.joined_columns import is_columns
from onnxtune.runtime import ValueType
from onnxtune.subgraphs import reads

Side = Literal["cpu", "gpu", "tail"]
SIDES: tuple[Side, ...] = ("cpu", "gpu", "tail")

# Operators that only move or retype numbers. Where there is a part before the GPU, they go there if
# fewer tensors go to the GPU for it, or as many and what goes are columns of floats.
_MOVES = ("Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Placement:
    """A cut graph.

    Attributes:
        sides: node name -> where it runs.
        gaps: the nodes that have no kernel.
        types: of the values.
    """

    sides: dict[str, Side]
    gaps: list[Gap]
    types: Mapping[str, ValueType]

    def type_of(self, value: str) -> ValueType:
        """The type of a value; of kind "" where it is unknown."""
        return self.types.get(value, ValueType(value, ""))


def place(proto: onnx.ModelProto, types: Mapping[str, ValueType]) -> Placement:
    """Say where the nodes of a model are to run.

    Args:
        proto: the model; every node must have a name of its own.
        types: of its values.
    """
    kinds = {name: value.kind for name, value in types.items()}
    found = list(node_gaps(proto, kinds))
    graph = _Edges(proto)
    sides = graph.cut({node.name for node, _ in found})
    if "cpu" in sides.values():
        graph.move_to_cpu(sides, types)
    return Placement(sides, [gap for _, gap in found], types)


class _Edges:
    """Who reads what."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.nodes = {node.name: node for node in proto.graph.node}
        self.held = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.reads = {
            name: [value for value in reads(node) if value not in self.held]
            for name, node in self.nodes.items()
        }
        self.maker = {out: name for name, node in self.nodes.items() for out in node.output if out}
        self.readers: dict[str, list[str]] = {}
        for name, values in self.reads.items():
            for value in values:
                self.readers.setdefault(value, []).append(name)

    def cut(self, blocked: set[str]) -> dict[str, Side]:
        """Every node's side; the blocked ones are not on the GPU."""
        before: set[str] = set()
        behind: set[str] = set()
        for name in self.nodes:
            if name not in blocked or name in before or name in behind:
                continue
            feeding, following = self._before(name) - before, self._behind(name) - behind
            if self._work(feeding - blocked) <= self._work(following - blocked):
                before |= feeding
            else:
                behind |= following
        sides: dict[str, Side] = {}
        for name in self.nodes:
            sides[name] = "cpu" if name in before else "tail" if name in behind else "gpu"
        return sides

    def _before(self, name: str) -> set[str]:
        return _reach(name, lambda n: (self.maker[v] for v in self.reads[n] if v in self.maker))

    def _behind(self, name: str) -> set[str]:
        return _reach(
            name, lambda n: (r for v in self.nodes[n].output for r in self.readers.get(v, ()))
        )

    def _work(self, names: Iterable[str]) -> int:
        """A node counts for as much as the numbers that it holds, and one."""
        return sum(
            1 + sum(math.prod(self.held[v].dims) for v in reads(self.nodes[name]) if v in self.held)
            for name in names
        )

    def move_to_cpu(self, sides: dict[str, Side], types: Mapping[str, ValueType]) -> None:
        """Take off the GPU what computes shapes, and moves where fewer tensors then go to it."""
        for name, node in self.nodes.items():
            taken = dict.fromkeys(self.reads[name])
            if sides[name] == "gpu" and self._makes_sizes(name, sides, types):
                sides[name] = "cpu"
            if sides[name] != "gpu" or node.op_type not in _MOVES or node.domain != "":
                continue
            if not taken or node.input[0] in self.held:
                continue
            there = all(v not in self.maker or sides[self.maker[v]] == "cpu" for v in taken)
            spared = sum(self._is_spared(value, name, sides) for value in taken)
            if there and spared >= (1 if is_columns(types[node.output[0]]) else 2):
                sides[name] = "cpu"

    def _makes_sizes(
        self, name: str, sides: Mapping[str, Side], types: Mapping[str, ValueType]
    ) -> bool:
        """Whether it makes shapes of shapes from the CPU: nodes on the GPU read them there."""
        taken, made = self.reads[name], [out for out in self.nodes[name].output if out]
        return (
            bool(taken)
            and all(v in self.maker and sides[self.maker[v]] == "cpu" for v in taken)
            and all(_is_size(types.get(value)) for value in (*taken, *made))
        )

    def _is_spared(self, value: str, name: str, sides: Mapping[str, Side]) -> bool:
        """Whether nothing else on the GPU, or behind it, reads a value."""
        return all(other == name or sides[other] == "cpu" for other in self.readers[value])


def _is_size(value: ValueType | None) -> bool:
    """Whole numbers, as many in every call: the shape of something, and not of every row."""
    if value is None or value.kind != "tensor(int64)" or value.shape is None:
        return False
    return len(value.shape) == 1 and None not in value.shape


def _reach(start: str, next_to: Callable[[str], Iterable[str]]) -> set[str]:
    """A node and all that lie behind it, one after another."""
    found, waiting = {start}, [start]
    while waiting:
        for name in next_to(waiting.pop()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found
