"""Finds the link function in front of an output: where the graph has logits, losses use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx

from rewrites.core.naming import node_names

Link = Literal["softmax", "sigmoid", "exp", "identity"]

_LINKS: dict[str, Link] = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Exp": "exp"}
# Operators that change neither the numbers nor the order of the columns.
_PASSING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast")


@dataclass(frozen=True)
class Source:
    """`value` is what the link is applied to; the value itself where the link is the identity.

    `mirrored` says that it is two scores of opposite sign, (-z, z).
    """

    link: Link
    value: str
    mirrored: bool = False


def find_source(graph: onnx.GraphProto, value: str) -> Source:
    """Walk back from a value to its link."""
    makers = {name: node for node in graph.node for name in node.output}
    at = value
    while (node := makers.get(at)) is not None:
        if node.op_type in _LINKS and not node.domain:
            mirrored = _is_mirrored(makers.get(node.input[0]), makers)
            return Source(_LINKS[node.op_type], node.input[0], mirrored)
        passing = node.op_type in _PASSING and not node.domain
        if passing or (node.op_type == "Div" and _sums_to_one(node, makers)):
            at = node.input[0]
        else:
            break
    return Source("identity", value)


def _is_mirrored(node: onnx.NodeProto | None, makers: dict[str, onnx.NodeProto]) -> bool:
    if node is None or node.op_type != "Concat" or len(node.input) != 2:
        return False
    first = makers.get(node.input[0])
    return first is not None and first.op_type == "Neg" and first.input[0] == node.input[1]


def _sums_to_one(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a Div divides the rows of a softmax by their own sums, which changes nothing."""
    above = makers.get(node.input[0])
    if above is None or above.op_type != "Softmax":
        return False
    size = makers.get(node.input[1])
    if size is not None and size.op_type == "Where":
        # Where(sum == 0, 1, sum)
        size = makers.get(size.input[2])
    if size is None or size.op_type not in ("ReduceSum", "ReduceL1"):
        return False
    summed = makers.get(size.input[0])
    whole = summed.input[0] if summed is not None and summed.op_type == "Abs" else size.input[0]
    return bool(whole == node.input[0])


def operator_links(graph: onnx.GraphProto) -> dict[str, str]:
    """The link that each operator of ai.onnx.ml ends in, by node."""
    return {
        name: next((a.s.decode() for a in node.attribute if a.name == "post_transform"), "NONE")
        for node, name in zip(graph.node, node_names(graph), strict=True)
        if node.domain == "ai.onnx.ml"
    }
