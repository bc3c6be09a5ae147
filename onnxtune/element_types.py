"""Element types of a graph's values, from what ONNX says of each operator.

Only types, no shapes: so it needs no inference of ONNX's, which kills the process on some models.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from onnxtune.preparation import constant_tensor, element_of
from onnxtune.runtime import ValueType


def kind_of(element: int) -> str:
    """A tensor's type as onnxruntime writes it, such as `tensor(float)`; "" where it has none."""
    name = onnx.TensorProto.DataType.Name(element).lower()
    return "" if name == "undefined" else f"tensor({name})"


def cast(value: str, to: str, kind: str) -> onnx.NodeProto:
    """The node that turns a tensor's numbers into another type, such as `tensor(float)`."""
    element = element_of(ValueType(to, kind))
    return helper.make_node("Cast", [value], [to], f"{to}/Cast", to=element)


def element_types(
    graph: onnx.GraphProto, versions: Mapping[str, int], around: Mapping[str, str]
) -> dict[str, str]:
    """The types of a graph's values, of those that can be told.

    Args:
        graph: the graph, its nodes in order.
        versions: the opsets, by domain.
        around: types that are known: of this graph's values, or of those around it.
    """
    found = dict(around)
    for tensor in graph.initializer:
        found[tensor.name] = kind_of(tensor.data_type)
    for sparse in graph.sparse_initializer:
        found[sparse.values.name] = kind_of(sparse.values.data_type)
    for value in (*graph.input, *graph.value_info, *graph.output):
        element = value.type.tensor_type.elem_type
        if element:
            found.setdefault(value.name, kind_of(element))
    for node in graph.node:
        for name, kind in zip(node.output, _made(node, versions, found), strict=False):
            if name and kind and not found.get(name):
                found[name] = kind
    return found


def formals(
    node: onnx.NodeProto, version: int, domain: str, kinds: Mapping[str, str]
) -> dict[str, str]:
    """The types of a node by the names of its type constraints, and of its inputs and outputs.

    Raises:
        onnx.defs.SchemaError: there is no such operator at this version.
    """
    schema = onnx.defs.get_schema(node.op_type, version, domain)
    types: dict[str, str] = {}
    for listed, values in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for number, value in enumerate(values):
            if value and listed and kinds.get(value):
                formal = listed[min(number, len(listed) - 1)]
                types.setdefault(formal.type_str, kinds[value])
                types.setdefault(formal.name, kinds[value])
    return types


def _made(node: onnx.NodeProto, versions: Mapping[str, int], kinds: Mapping[str, str]) -> list[str]:
    """The types of a node's outputs, "" where they cannot be told."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, versions.get(domain, 1), domain)
        types = formals(node, versions.get(domain, 1), domain, kinds)
    except onnx.defs.SchemaError:
        return []
    made = [
        schema.outputs[min(number, len(schema.outputs) - 1)] for number in range(len(node.output))
    ]
    told = _told(node, kinds)
    return [told or types.get(formal.type_str) or _fixed(formal.type_str) for formal in made]


def _fixed(type_str: str) -> str:
    return type_str if type_str.startswith("tensor(") else ""


def _told(node: onnx.NodeProto, kinds: Mapping[str, str]) -> str:
    """What an attribute says of a node's output."""
    constant = constant_tensor(node)
    if constant is not None:
        return kind_of(constant.data_type)
    for attribute in node.attribute:
        if attribute.name == "to" and node.op_type == "Cast":
            return kind_of(attribute.i)
        if attribute.name == "value" and node.op_type == "ConstantOfShape":
            return kind_of(attribute.t.data_type)
    if node.op_type == "ConstantOfShape":
        return "tensor(float)"
    return ""
