"""The graph that answers: scores as tensors, and nothing that is not asked for."""

from __future__ import annotations

import onnx

from onnxtune.errors import UnsupportedError
from onnxtune.runtime import output_types
from onnxtune.subgraphs import reads


def served(content: bytes, output: str | None = None) -> bytes:
    """The model without its ZipMap nodes, or only what makes one inner value.

    Args:
        content: the model.
        output: the inner value; None for the outputs that there are.
    """
    if output is not None:
        return bytes(cut_at(onnx.ModelProto.FromString(content), output).SerializeToString())
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
