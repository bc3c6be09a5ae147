"""Names that a graph has, and new ones beside them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def unused(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it; then taken."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found


def names_of(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of all values and nodes, inner graphs included."""
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        yield value.name
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for inner in inner_graphs(node):
            yield from names_of(inner)


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
