"""Brings a model into the shape that the rest works on: names, types, constants, opset."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxtune.errors import ModelError
from onnxtune.model import Model
from onnxtune.runtime import ValueType, declared_types, session, value_types
from onnxtune.small_trees import with_small_trees
from onnxtune.word_tables import split_word_tables
from rewrites.core.graph_pass import STANDARD_DOMAINS
from rewrites.core.naming import node_names
from rewrites.core.registry import find

_log = logging.getLogger(__name__)

# Rewrites emit operators that mean the same from here on.
OLDEST_OPSET = 13
# What exported files use where they can, for old runtimes, and what torch gets.
OPSET, IR_VERSION = 17, 8
# The first that lets an initializer be no input.
OLDEST_IR = 4

_SOFTMAX = ("Softmax", "LogSoftmax")

# Operators that mean the same from this opset on: later versions only take more types. ONNX's
# converter has no adapter for some of the steps between.
_UNCHANGED_SINCE = {
    **dict.fromkeys(["Constant", "Identity", "Not", "Shape", "Transpose"], 1),
    **dict.fromkeys(["Concat"], 4),
    **dict.fromkeys(["Reshape"], 5),
    **dict.fromkeys(["Abs", "Cast", "Exp", "Log", "Neg", "Relu", "Sigmoid", "Sqrt", "Tanh"], 6),
    **dict.fromkeys(["Add", "Div", "Mul", "Pow", "Sub", "And", "Equal", "Or"], 7),
    **dict.fromkeys(["Expand", "Sum", "Max", "Min", "Mean"], 8),
    **dict.fromkeys(["Flatten", "Gemm", "Greater", "IsNaN", "Less", "MatMul", "Where"], 9),
    **dict.fromkeys(["ArgMax", "ArgMin", "Gather", "GatherElements"], 11),
    **dict.fromkeys(["LessOrEqual", "GreaterOrEqual"], 12),
    **dict.fromkeys(["ReduceSum", "Softmax", "Squeeze", "Unsqueeze"], 13),
}

_CONSTANT_TYPES = {
    "value_float": onnx.TensorProto.FLOAT,
    "value_floats": onnx.TensorProto.FLOAT,
    "value_int": onnx.TensorProto.INT64,
    "value_ints": onnx.TensorProto.INT64,
    "value_string": onnx.TensorProto.STRING,
    "value_strings": onnx.TensorProto.STRING,
}

_ELEMENT_TYPES = {
    "float": "FLOAT",
    "double": "DOUBLE",
    "float16": "FLOAT16",
    "string": "STRING",
    "bool": "BOOL",
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model whose nodes have unique names and whose values have known types.

    Constant nodes are initializers, and the default domain is at opset 17, or at another one that
    is 13 or newer where no conversion exists. `obstacle` says why the model cannot be rewritten:
    its opset is older than that.
    """

    source: Model
    proto: onnx.ModelProto
    types: dict[str, ValueType]
    obstacle: str | None = None

    def type_of(self, value: str) -> ValueType:
        """The type of a value; of kind "" where it is unknown."""
        return self.types.get(value, ValueType(value, ""))


def prepare(source: Model) -> Prepared:
    """A prepared copy of a model.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    for opset in proto.opset_import:
        if opset.domain == "ai.onnx":
            opset.domain = ""
    for node in proto.graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""
    _name_nodes(proto)
    types = _types(proto, source.origin)
    correct_outputs(proto, types)
    _lift_constants(proto)
    _fill_sparse(proto)
    _annotate(proto, types)
    proto = _to_opset(proto, types)
    _lift_constants(proto)  # the converter holds axes that were attributes in Constant nodes
    _name_nodes(proto)
    split_word_tables(proto, types)
    return Prepared(source, proto, types, _obstacle(proto, source.origin))


def _types(proto: onnx.ModelProto, origin: str) -> dict[str, ValueType]:
    """The type of every value; of a user's own operators, which onnxruntime cannot load, only
    those that the graph declares."""
    try:
        return _computed(_with_column_counts(with_small_trees(proto)))
    except ModelError as error:
        if has_own_operators(proto):
            return declared_types(proto)
        raise ModelError(f"{origin}: {error}") from error


def has_own_operators(proto: onnx.ModelProto) -> bool:
    """Whether there are operators of a user's own domain that have a rewrite.

    onnxruntime need not know them.
    """
    own = [n for n in proto.graph.node if n.domain not in (*STANDARD_DOMAINS, "ai.onnx.ml")]
    return any(find(node.domain, node.op_type) is not None for node in own)


def _with_column_counts(probe: onnx.ModelProto) -> onnx.ModelProto:
    """With a version of ai.onnx.ml that lets onnxruntime tell how many columns a regressor of
    several targets makes; all else means the same there, but LabelEncoder since version 2."""
    several = any(
        node.op_type == "TreeEnsembleRegressor"
        and any(held.name == "n_targets" and held.i > 1 for held in node.attribute)
        for node in probe.graph.node
    )
    oldest = 2 if any(node.op_type == "LabelEncoder" for node in probe.graph.node) else 1
    if several and oldest <= (opset_of(probe, "ai.onnx.ml") or 3) < 3:
        set_opset(probe, "ai.onnx.ml", 3)
    return probe


def _computed(probe: onnx.ModelProto) -> dict[str, ValueType]:
    """The type of every value, where declared shapes are wrong too; `probe` loses these."""
    types = value_types(probe)
    wrong = []
    for output in probe.graph.output:
        declared = _declared_sizes(output)
        # Of what it computes otherwise onnxruntime reports neither size.
        shape = types[output.name].shape or ()
        pairs = zip(declared, shape, strict=False)
        lost = len(shape) != len(declared) or any(d > 0 and size is None for d, size in pairs)
        if declared and lost:
            output.type.tensor_type.ClearField("shape")
            wrong.append(output.name)
    if not wrong:
        return types
    computed = value_types(probe)
    return types | {name: computed[name] for name in wrong}


def _declared_sizes(output: onnx.ValueInfoProto) -> list[int]:
    """0, or for some exporters -1, stands for one that varies."""
    return [size.dim_value for size in output.type.tensor_type.shape.dim]


def correct_outputs(proto: onnx.ModelProto, types: Mapping[str, ValueType]) -> None:
    """Declare for graph outputs the shapes that are computed, where the declared ones are others.

    skl2onnx declares one column for any number of targets.
    """
    for output in proto.graph.output:
        shape = types[output.name].shape if output.name in types else None
        declared = _declared_sizes(output)
        if shape is None or not declared:
            continue
        pairs = zip(declared, shape, strict=False)
        if len(shape) != len(declared) or any(d > 0 and d != size for d, size in pairs):
            right = value_info(types[output.name])
            output.type.tensor_type.shape.CopyFrom(right.type.tensor_type.shape)


def _obstacle(proto: onnx.ModelProto, origin: str) -> str | None:
    version = opset_of(proto) or OPSET
    if version >= OLDEST_OPSET:
        return None
    return (
        f"{origin}: its opset {version} cannot be brought to {OPSET}; export it again with "
        f"target_opset {OPSET}."
    )


def _name_nodes(proto: onnx.ModelProto) -> None:
    for node, name in zip(proto.graph.node, node_names(proto.graph), strict=True):
        node.name = name


def _lift_constants(proto: onnx.ModelProto) -> None:
    """Constant nodes that hold a tensor become initializers of the same name."""
    kept = []
    for node in proto.graph.node:
        tensor = constant_tensor(node)
        if tensor is None:
            kept.append(node)
        else:
            proto.graph.initializer.add().CopyFrom(tensor)
            proto.graph.initializer[-1].name = node.output[0]
    if len(kept) < len(proto.graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del proto.graph.node[:]
        proto.graph.node.extend(copies)


def _fill_sparse(proto: onnx.ModelProto) -> None:
    """Sparse initializers become dense ones of the same name, which onnx_ir keeps."""
    for sparse in proto.graph.sparse_initializer:
        proto.graph.initializer.append(dense_tensor(sparse, sparse.values.name))
    del proto.graph.sparse_initializer[:]


def dense_tensor(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    """A sparse tensor with its zeros. Its places are counted through, or given by axis."""
    values = numpy_helper.to_array(sparse.values)
    places = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if places.ndim == 2:
        dense[tuple(places.T)] = values
    else:
        dense.reshape(-1)[places] = values
    return numpy_helper.from_array(dense, name)


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a standard Constant node; None for any other node.

    Of a Constant that holds plain numbers, or a sparse tensor, it is a copy, not to be written to.
    """
    if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor: onnx.TensorProto = attribute.t
            return tensor
        if attribute.name == "sparse_value":
            return dense_tensor(attribute.sparse_tensor, node.output[0])
        if attribute.name in _CONSTANT_TYPES:
            value = helper.get_attribute_value(attribute)
            plural = attribute.name.endswith("s")
            shape, values = ([len(value)], value) if plural else ([], [value])
            kind = _CONSTANT_TYPES[attribute.name]
            return helper.make_tensor(node.output[0], kind, shape, values)
    return None


def _annotate(proto: onnx.ModelProto, types: dict[str, ValueType]) -> None:
    """Write the inferred types into the graph.

    ONNX's own shape inference crashes on some operators of ai.onnx.ml whose input has no type.
    """
    del proto.graph.value_info[:]
    named = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    for name, value in types.items():
        if name not in named and value.kind.startswith("tensor("):
            proto.graph.value_info.append(value_info(value))


def value_info(value: ValueType) -> onnx.ValueInfoProto:
    """A value's type as ONNX writes it; only its name where it is unknown or no tensor."""
    if not value.kind.startswith("tensor("):
        return helper.make_empty_tensor_value_info(value.name)
    return helper.make_tensor_value_info(value.name, element_of(value), value.shape)


def element_of(value: ValueType) -> int:
    """The number by which ONNX knows the type of a tensor's elements."""
    word = value.kind.removeprefix("tensor(").removesuffix(")")
    element: int = onnx.TensorProto.DataType.Value(_ELEMENT_TYPES.get(word, word.upper()))
    return element


def opset_of(proto: onnx.ModelProto, domain: str = "") -> int | None:
    """The version of a domain that the model imports, or None."""
    return next((o.version for o in proto.opset_import if o.domain == domain), None)


def set_opset(proto: onnx.ModelProto, domain: str, version: int | None) -> None:
    """Import a domain at a version; None takes the import out."""
    kept = [o for o in proto.opset_import if o.domain != domain]
    imports = [helper.make_opsetid(o.domain, o.version) for o in kept]
    if version is not None:
        imports.append(helper.make_opsetid(domain, version))
    del proto.opset_import[:]
    proto.opset_import.extend(imports)


def _to_opset(proto: onnx.ModelProto, types: dict[str, ValueType]) -> onnx.ModelProto:
    current = opset_of(proto)
    standard = any(node.domain == "" for node in proto.graph.node)
    if current is None or not standard:
        set_opset(proto, "", OPSET)
        return proto
    if current == OPSET:
        return proto
    ranks = {value.name: len(value.shape) for value in types.values() if value.shape is not None}
    if current < OLDEST_OPSET:
        _modernise_softmax(proto, ranks)
    kept = onnx.ModelProto.FromString(proto.SerializeToString()) if current > OPSET else None
    converted: onnx.ModelProto | None
    if not proto.functions and all(means_the_same(n, current, ranks) for n in proto.graph.node):
        set_opset(proto, "", OPSET)
        converted = proto
    else:
        converted = _converted(proto)
    if converted is not None:
        # An older operator may lack a type or an attribute that a newer one has.
        return converted if kept is None or _runs(converted) else kept
    return proto


def _runs(proto: onnx.ModelProto) -> bool:
    try:
        session(proto, optimize=False)
    except ModelError:
        return False
    return True


def means_the_same(node: onnx.NodeProto, opset: int, ranks: dict[str, int] | None = None) -> bool:
    """Whether a node means at opset 17 what it means at this one."""
    if node.domain != "":
        return True
    if node.op_type in _SOFTMAX and ranks is not None and ranks.get(node.input[0]) == 2:
        return True  # `_modernise_softmax` has seen to it
    return _UNCHANGED_SINCE.get(node.op_type, opset + 1) <= opset


def _modernise_softmax(proto: onnx.ModelProto, ranks: dict[str, int]) -> None:
    """Before opset 13 the axis was 1 where none was given, and everything behind it one axis: of a
    matrix that is the last axis, and needs no other change."""
    for node in proto.graph.node:
        if node.domain == "" and node.op_type in _SOFTMAX and ranks.get(node.input[0]) == 2:
            axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
            if not axes:
                node.attribute.append(helper.make_attribute("axis", 1))
            elif axes[0] not in (1, -1):
                ranks.pop(node.input[0])


def _converted(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model at the opset, or None where ONNX's converter knows no way."""
    if proto.functions:
        return None  # the converter drops local functions
    try:
        converted = onnx.version_converter.convert_version(proto, OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        _log.info("opset conversion: %s", " ".join(str(error).split()))
        return None
    # It keeps the graph, but not what stands around it.
    proto.graph.CopyFrom(converted.graph)
    set_opset(proto, "", OPSET)
    return proto
