"""Reads a node once: what was read is kept for as long as the node lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import onnx_ir as ir

Result = TypeVar("Result")


def once(read: Callable[[ir.Node], Result]) -> Callable[[ir.Node], Result]:
    """`read`, remembering its result for each node and type of its first input."""
    held: WeakKeyDictionary[ir.Node, tuple[ir.DataType | None, Result]] = WeakKeyDictionary()

    def remembered(node: ir.Node) -> Result:
        source = node.inputs[0] if node.inputs else None
        kind = None if source is None else source.dtype
        known = held.get(node)
        if known is None or known[0] != kind:
            known = held[node] = (kind, read(node))
        return known[1]

    return remembered
