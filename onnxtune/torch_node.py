"""An ONNX node as a converter sees it, and the torch operation that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

Function = Callable[..., Any]
Integers = list[int] | None


class Node:
    """An ONNX node as a converter sees it: attributes, and which inputs are constants."""

    def __init__(
        self, node: Any, graph: Any, convert: Callable[[onnx.GraphProto], nn.Module]
    ) -> None:
        """Wrap onnx2torch's node and graph; `convert` makes a module of a graph inside a node."""
        self.inputs: tuple[str, ...] = node.input_values
        self.outputs: tuple[str, ...] = node.output_values
        self.name: str = node.proto.doc_string or node.name
        self.attributes = node.attributes
        self._graph = graph
        self._convert = convert
        self._protos = {attribute.name: attribute for attribute in node.proto.attribute}

    def has(self, place: int) -> bool:
        """Whether the input is there."""
        return place < len(self.inputs) and self.inputs[place] != ""

    def constant(self, place: int) -> np.ndarray[Any, Any] | None:
        """The value of an input that is an initializer, else None."""
        if not self.has(place):
            return None
        held = self._graph.initializers.get(self.inputs[place])
        return None if held is None else held.to_numpy()

    def graph(self, attribute: str) -> onnx.GraphProto:
        """A graph that the node holds; what it captures stands behind its inputs."""
        held: onnx.GraphProto = self._protos[attribute].g
        return held

    def subgraph(self, attribute: str) -> nn.Module:
        """The module of a graph that the node holds; it returns a tuple."""
        return self._convert(self.graph(attribute))


class Operation(nn.Module):
    """A function of the inputs at `places`, with index arrays as buffers in front of them."""

    def __init__(self, function: Function, *indices: np.ndarray[Any, Any]) -> None:
        """Hold the function and its index arrays."""
        super().__init__()
        self.function = function
        self.index_count = len(indices)
        for number, index in enumerate(indices):
            tensor = torch.from_numpy(np.array(index))
            self.register_buffer(f"index_{number}", tensor, persistent=False)

    def forward(self, *values: Tensor) -> Any:
        """Apply the function."""
        indices = [getattr(self, f"index_{number}") for number in range(self.index_count)]
        return self.function(*indices, *values)


class Holder(Operation):
    """An operation that runs other modules."""

    def __init__(self, function: Function, *modules: nn.Module) -> None:
        """Hold the function and the modules that it runs."""
        super().__init__(function)
        self.held = nn.ModuleList(modules)


Converted = tuple[nn.Module, list[int]]
Converter = Callable[[Node], Converted]


def with_integers(
    node: Node,
    places: Sequence[int],
    build: Callable[..., Function],
    attribute: str | None = None,
) -> Converted:
    """An operation on input 0 that further inputs describe in integers: axes, shapes, bounds.

    Those that are constants become Python numbers. Others are read as the module runs, which
    works, but leaves more than one graph to `torch.compile`.

    Args:
        node: the node.
        places: of the inputs with integers.
        build: a list of integers (None where an input is absent) for each place -> the function of
            input 0.
        attribute: what holds the integers of the first place in older opsets.
    """
    known: list[Integers] = [None] * len(places)
    late: list[int] = []
    for number, place in enumerate(places):
        if number == 0 and attribute is not None and attribute in node.attributes:
            found = node.attributes[attribute]
            known[0] = [int(v) for v in found] if isinstance(found, list) else [int(found)]
            continue
        held = node.constant(place)
        if held is not None:
            known[number] = [int(value) for value in np.ravel(held)]
        elif node.has(place):
            late.append(number)
    if not late:
        return Operation(build(*known)), [0]

    def read_late(data: Tensor, *given: Tensor) -> Any:
        integers = list(known)
        for number, value in zip(late, given, strict=True):
            integers[number] = value.reshape(-1).tolist()
        return build(*integers)(data)

    return Operation(read_late), [0, *(places[number] for number in late)]


def elementwise(function: Function) -> Converter:
    """A converter to a function of the first input."""
    return lambda node: (Operation(function), [0])


def of_all(function: Function) -> Converter:
    """A converter to a function of all inputs."""
    return lambda node: (Operation(function), list(range(len(node.inputs))))
