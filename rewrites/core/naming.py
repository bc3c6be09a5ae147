"""Unique node names: a tensor is called `<node>/<role>`, so a node's name must be its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def node_names(graph: onnx.GraphProto) -> list[str]:
    """One name per node of the main graph, in order.

    It is the node's own name, else that of its first output, with `_2`, `_3`, ... behind it
    where that is taken or where a value of the graph is already called `<name>/...`.
    """
    values = {name for node in graph.node for name in (*node.input, *node.output)}
    prefixes = {value[:cut] for value in values for cut in _slashes(value)}
    taken: set[str] = set()
    names = []
    for node in graph.node:
        stem = node.name or next((name for name in node.output if name), node.op_type)
        name, number = stem, 1
        while name in taken or name in prefixes:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        names.append(name)
    return names


def _slashes(text: str) -> list[int]:
    return [position for position, letter in enumerate(text) if letter == "/"]
