"""Graphs inside nodes (the bodies of Scan, If and Loop), and what they take from around them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds itself."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def places(node: onnx.NodeProto) -> list[str]:
    """The node's inputs, those left out as "", and behind them what its graphs capture."""
    found = [name for graph in subgraphs(node) for name in captured(graph)]
    return [*node.input, *dict.fromkeys(found)]


def reads(node: onnx.NodeProto) -> list[str]:
    """The values that a node reads, those that its graphs capture included."""
    return [name for name in places(node) if name]


def captured(graph: onnx.GraphProto) -> list[str]:
    """The values that a graph inside a node takes from around it."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    own |= {out for node in graph.node for out in node.output}
    names = [name for node in graph.node for name in reads(node)]
    names += [value.name for value in graph.output]
    return [name for name in dict.fromkeys(names) if name not in own]
