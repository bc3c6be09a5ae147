"""The learned numbers of a model: what rewrites declare, and float initializers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from onnxtune.preparation import Prepared
from rewrites.core.registry import find
from rewrites.core.rewrite import Array, Tensor


def is_learned(tensor: onnx.TensorProto) -> bool:
    """A float tensor of more than one element."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return tensor.data_type in floats and int(np.prod(tensor.dims)) > 1


def node_tensors(
    prepared: Prepared, node: onnx.NodeProto, spread: Array | None = None
) -> dict[str, Tensor]:
    """The learned tensors that a node's rewrite declares, by full name `<node>/<role>`.

    Raises:
        UnsupportedError: the rewrite cannot handle the node.
    """
    rewrite = find(node.domain, node.op_type)
    if rewrite is None:
        return {}
    tensors = rewrite.tensors(ir_node(prepared, node), spread)
    return {f"{node.name}/{role}": tensor for role, tensor in tensors.items()}


def ir_node(prepared: Prepared, node: onnx.NodeProto) -> ir.Node:
    """One node for a rewrite to read, its inputs typed."""
    inputs: list[ir.Value | None] = []
    for name in node.input:
        known = prepared.type_of(name)
        typed = known.kind.startswith("tensor(") and not known.is_string
        kind = ir.TensorType(ir.DataType.from_numpy(known.dtype)) if typed else None
        inputs.append(ir.Value(name=name, type=kind) if name else None)
    attributes = [ir.serde.deserialize_attribute(attribute) for attribute in node.attribute]
    return ir.Node(
        node.domain,
        node.op_type,
        inputs,
        attributes,
        num_outputs=len(node.output),
        name=node.name,
    )


def tensor_value(prepared: Prepared, name: str) -> Array:
    """The value of an initializer of the prepared model."""
    tensor = next(t for t in prepared.proto.graph.initializer if t.name == name)
    return np.asarray(numpy_helper.to_array(tensor))
