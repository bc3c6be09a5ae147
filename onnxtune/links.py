"""Finds the link function in front of an output: where the graph has logits, losses use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx

Link = Literal["softmax", "sigmoid", "exp", "identity"]

_LINKS: dict[str, Link] = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Exp": "exp"}
# Operators that change neither the numbers nor the order of the columns.
_PASSING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast")


@dataclass(frozen=True)
class Source:
    """`value` is what the link is applied to; the value itself where the link is the identity."""

    link: Link
    value: str


def find_source(graph: onnx.GraphProto, value: str) -> Source:
    """Walk back from a value to its link."""
    makers = {name: node for node in graph.node for name in node.output}
    at = value
    while (node := makers.get(at)) is not None:
        if node.op_type in _LINKS and not node.domain:
            return Source(_LINKS[node.op_type], node.input[0])
        passing = node.op_type in _PASSING and not node.domain
        if passing or (node.op_type == "Div" and _sums_to_one(node, makers)):
            at = node.input[0]
        else:
            break
    return Source("identity", value)


def _sums_to_one(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a Div normalises the rows of a softmax, which changes nothing."""
    above = makers.get(node.input[0])
    if above is None or above.op_type != "Softmax":
        return False
    seen, stack = set(), [node.input[1]]
    while stack:
        name = stack.pop()
        if name in seen or name == node.input[0]:
            continue
        seen.add(name)
        maker = makers.get(name)
        if maker is not None:
            if maker.op_type not in ("Abs", "ReduceSum", "ReduceL1", "Where", "Equal"):
                return False
            stack.extend(maker.input)
    return True
