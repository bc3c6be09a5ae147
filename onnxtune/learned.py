"""The learned numbers of a model: what rewrites declare, and float initializers."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from onnxtune.preparation import Prepared
from rewrites.core.attributes import long_list
from rewrites.core.registry import find
from rewrites.core.rewrite import Array, Rewrite, Tensor

# What was read of a model, for as long as it lives.
_NODES: WeakKeyDictionary[Prepared, dict[tuple[str, ...], ir.Node]] = WeakKeyDictionary()


def is_learned(tensor: onnx.TensorProto) -> bool:
    """A float tensor of more than one element."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return tensor.data_type in floats and int(np.prod(tensor.dims)) > 1


def rewrite_of(prepared: Prepared, node: onnx.NodeProto) -> Rewrite | None:
    """The rewrite of a node's operator; None where there is none, or none for this node."""
    rewrite = find(node.domain, node.op_type)
    covered = rewrite is not None and rewrite.covers(ir_node(prepared, node))
    return rewrite if covered else None


def node_tensors(
    prepared: Prepared, node: onnx.NodeProto, spread: Array | None = None
) -> dict[str, Tensor]:
    """The learned tensors that a node's rewrite declares, by full name `<node>/<role>`.

    Raises:
        UnsupportedError: the rewrite cannot handle the node.
    """
    rewrite = rewrite_of(prepared, node)
    if rewrite is None:
        return {}
    tensors = rewrite.tensors(ir_node(prepared, node), spread)
    return {f"{node.name}/{role}": tensor for role, tensor in tensors.items()}


def is_unread(node: onnx.NodeProto, attribute: str) -> bool:
    """Whether the numbers of an attribute have no part in the answers: how often a node of a tree
    was hit, and the weights of a TfIdfVectorizer that counts only."""
    if attribute.startswith("nodes_hitrates"):
        return True
    counts = any(held.name == "mode" and held.s == b"TF" for held in node.attribute)
    return node.op_type == "TfIdfVectorizer" and attribute == "weights" and counts


def held_by(node: onnx.NodeProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the float tensors and lists of more than one element inside a node.

    They are the learned numbers of a node without a rewrite, or one that its rewrite refuses:
    `<node>/<attribute>`, and `<node>/<tensor>` of the graphs inside it.
    """
    found: dict[str, tuple[int, ...]] = {}
    for attribute in node.attribute:
        if is_unread(node, attribute.name):
            continue
        if len(attribute.floats) > 1:
            found[f"{node.name}/{attribute.name}"] = (len(attribute.floats),)
        if attribute.HasField("t") and is_learned(attribute.t):
            found[f"{node.name}/{attribute.name}"] = tuple(attribute.t.dims)
        graphs = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
        for graph in graphs:
            for tensor in graph.initializer:
                if is_learned(tensor):
                    found[f"{node.name}/{tensor.name}"] = tuple(tensor.dims)
    return found


def ir_node(prepared: Prepared, node: onnx.NodeProto, name: str = "") -> ir.Node:
    """One node for a rewrite to read, its inputs typed.

    Args:
        prepared: the model.
        node: of the prepared model, or of its source, where `name` tells what it is called in the
            prepared one. Of ai.onnx.ml both are the same, and are read once; but for tables that
            words are looked up in, of which the prepared one reads places.
        name: see there.
    """
    own = name or node.name
    if node.domain != "ai.onnx.ml":
        return _ir_node(prepared, node, own)
    known = _NODES.setdefault(prepared, {})
    key = (own, *node.input)
    if key not in known:
        known[key] = _ir_node(prepared, node, own)
    return known[key]


def _ir_node(prepared: Prepared, node: onnx.NodeProto, name: str) -> ir.Node:
    inputs: list[ir.Value | None] = []
    for read in node.input:
        known = prepared.type_of(read)
        typed = known.kind.startswith("tensor(") and not known.is_string
        kind = ir.TensorType(ir.DataType.from_numpy(known.dtype)) if typed else None
        shape = None if known.shape is None else ir.Shape(known.shape)
        inputs.append(ir.Value(name=read, type=kind, shape=shape) if read else None)
    attributes = [
        long_list(attribute) or ir.serde.deserialize_attribute(attribute)
        for attribute in node.attribute
    ]
    return ir.Node(
        node.domain,
        node.op_type,
        inputs,
        attributes,
        num_outputs=len(node.output),
        name=name,
    )


def tensor_value(prepared: Prepared, name: str) -> Array:
    """The value of an initializer of the prepared model."""
    tensor = next(t for t in prepared.proto.graph.initializer if t.name == name)
    return np.asarray(numpy_helper.to_array(tensor))
