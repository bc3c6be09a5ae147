"""The graph that answers: scores as tensors, and nothing that is not asked for."""

from __future__ import annotations

import numpy as np
import onnx

from onnxtune.errors import UnsupportedError
from onnxtune.runtime import output_types
from onnxtune.subgraphs import reads

# Their shares are within 0 and 1 to the last bit.
_LINKS = ("Softmax", "Sigmoid", "LinearClassifier", "Normalizer", "SVMClassifier")
_HANDING_ON = ("Identity", "Cast", "Reshape", "ZipMap")


def served(content: bytes, output: str | None = None, share: str | None = None) -> bytes:
    """The model without its ZipMap nodes, or only what makes one inner value.

    Args:
        content: the model.
        output: the inner value; None for the outputs that there are.
        share: an output to cut off below 0 and above 1.
    """
    if output is not None:
        return bytes(cut_at(onnx.ModelProto.FromString(content), output).SerializeToString())
    if share is not None:
        content = _within(onnx.ModelProto.FromString(content), share).SerializeToString()
    if b"ZipMap" not in content:
        return content
    proto = onnx.ModelProto.FromString(content)
    graph = proto.graph
    tensors = {node.output[0]: node for node in graph.node if node.op_type == "ZipMap"}
    for node in tensors.values():
        node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]]))
    for value in graph.output:
        if value.name in tensors:
            value.ClearField("type")  # onnxruntime infers it
    return bytes(proto.SerializeToString())


def may_pass_one(proto: onnx.ModelProto, output: str) -> bool:
    """Whether rounding may carry shares past 1 or below 0: the sums that trees and votes make."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _HANDING_ON:
        node = makers.get(node.input[0])
    if node is None or node.op_type in _LINKS:
        return False
    links = [each.s for each in node.attribute if each.name == "post_transform"]
    return links in ([], [b"NONE"])


def _within(proto: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """An output within 0 and 1, in place; what the graph itself reads of it stays."""
    (value,) = (value for value in output_types(proto) if value.name == output)
    inner = f"{output}/sums"
    for node in proto.graph.node:
        node.input[:] = [inner if name == output else name for name in node.input]
        node.output[:] = [inner if name == output else name for name in node.output]
    limits = []
    for limit in (0, 1):
        name = f"{inner}/{limit}"
        held = onnx.numpy_helper.from_array(np.array(limit, value.dtype), name)
        proto.graph.initializer.append(held)
        limits.append(name)
    proto.graph.node.append(onnx.helper.make_node("Clip", [inner, *limits], [output]))
    return proto


def cut_at(proto: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """A copy that ends in one inner value: the nodes and initializers that it is made from."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    wanted: set[str] = set()
    queue = [output]
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue.extend(reads(makers[name]) if name in makers else ())
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    graph = found.graph
    for field, kept in (
        (graph.node, [node for node in proto.graph.node if wanted.intersection(node.output)]),
        (graph.initializer, [held for held in proto.graph.initializer if held.name in wanted]),
        (graph.value_info, [value for value in proto.graph.value_info if value.name in wanted]),
        (graph.output, [onnx.helper.make_empty_tensor_value_info(output)]),
    ):
        del field[:]
        field.extend(kept)
    return found


def number_output(proto: onnx.ModelProto) -> str:
    """The first output of floats.

    Raises:
        UnsupportedError: there is none.
    """
    for value in output_types(proto):
        if value.is_float:
            return value.name
    raise UnsupportedError("the model has no output of floats, and so nothing to tune.")
