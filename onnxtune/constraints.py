"""Where numbers of standard nodes must stay, by what reads them.

A divisor keeps its sign, what a root or a logarithm is taken of stays positive, and so do the
variances of a BatchNormalization; a table of shares that is looked up stays within 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from rewrites.core.rewrite import Array, Constraint

# They hand on the numbers as they are.
_PASSING = ("Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")

# Operator -> the place of the operand that must not reach or cross 0.
_DIVISORS = {"Div": 1, "Reciprocal": 0}
_POSITIVE = {"Sqrt": 0, "Log": 0, "BatchNormalization": 4}
_TABLES = ("Gather", "GatherElements", "GatherND")


def constraint_of(graph: onnx.GraphProto, name: str, value: Array) -> Constraint | None:
    """What binds an initializer, or None.

    Args:
        graph: with the nodes that read it.
        name: of the initializer.
        value: its numbers.
    """
    for node, place in _readers(graph, name):
        if node.domain:
            continue
        if _POSITIVE.get(node.op_type) == place and bool((value > 0).all()):
            return Constraint("positive")
        if _DIVISORS.get(node.op_type) == place and bool((value != 0).all()):
            return Constraint("positive")
        shares = bool(((value >= 0) & (value <= 1)).all()) and len(np.unique(value)) > 1
        if node.op_type in _TABLES and place == 0 and shares:
            return Constraint("interval")
    return None


def _readers(graph: onnx.GraphProto, name: str) -> Iterator[tuple[onnx.NodeProto, int]]:
    """The nodes that read the numbers, and at which place, also behind such as hand them on."""
    names = {name}
    for node in graph.node:  # in the order of computation
        for place, read in enumerate(node.input):
            if read in names:
                yield node, place
                if place == 0 and node.op_type in _PASSING and not node.domain:
                    names.update(node.output)
