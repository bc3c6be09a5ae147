"""Other nodes, with the same answers, for those that the CUDA provider has no kernel for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxtune.cuda_kernels import kernels_of, lack
from onnxtune.element_types import cast, element_types, formals
from onnxtune.graph_names import names_of, unused
from onnxtune.preparation import opset_of
from onnxtune.runtime import ValueType
from rewrites.core.rewrite import Array

# Types that hold every number of another one, the nearest first; int64 has none.
_WIDER = {
    "bool": ("uint8", "int32", "int64"),
    "int8": ("int16", "int32", "int64", "float"),
    "uint8": ("int32", "int64", "float"),
    "int16": ("int32", "int64", "float"),
    "uint16": ("int32", "int64", "float"),
    "int32": ("int64", "double"),
    "uint32": ("int64", "double"),
    "float16": ("float",),
    "float": ("double",),
}

# Operators whose answers in a wider type are the same numbers. (Sums and products of whole numbers
# may leave a narrow type.)
_SAME_WHEN_WIDER = frozenset((
    "ArgMax", "ArgMin", "Clip", "Compress", "Concat", "Equal", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity", "IsInf", "IsNaN",
    "Less", "LessOrEqual", "Max", "Min", "NonZero", "OneHot", "Pad", "ReduceMax", "ReduceMin",
    "Reshape", "ScatterElements", "ScatterND", "Slice", "Split", "Squeeze", "Tile", "TopK",
    "Transpose", "Trilu", "Unsqueeze", "Where",
))  # fmt: skip


@dataclass
class _Graph:
    """What a substitute needs to know of the graph around it, and how it makes names."""

    opset: int
    kinds: Mapping[str, str]
    constants: Mapping[str, Array]
    taken: set[str]
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def name(self, node: onnx.NodeProto, role: str) -> str:
        return unused(f"{node.name}/{role}", self.taken)

    def constant(self, node: onnx.NodeProto, role: str, value: Array) -> str:
        name = self.name(node, role)
        self.initializers.append(numpy_helper.from_array(value, name))
        return name


Substitute = Callable[[onnx.NodeProto, _Graph], Sequence[onnx.NodeProto] | None]


def substitute(proto: onnx.ModelProto, types: Mapping[str, ValueType]) -> bool:
    """Put nodes with kernels in the place of those without, in place; whether there were any.

    Args:
        proto: a model whose nodes have unique names.
        types: of its values.
    """
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    kinds = element_types(proto.graph, versions, {n: value.kind for n, value in types.items()})
    small = [t for t in proto.graph.initializer if len(t.dims) <= 3 and max(t.dims, default=1) == 1]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in small}
    graph = _Graph(opset_of(proto) or 1, kinds, constants, set(names_of(proto.graph)))
    made: list[onnx.NodeProto] = []
    changed = False
    for node in proto.graph.node:
        others = None if lack(node, versions, kinds) is None else _others(node, graph)
        changed = changed or others is not None
        made.extend([node] if others is None else others)
    if changed:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in made]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        proto.graph.initializer.extend(graph.initializers)
    return changed


def _others(node: onnx.NodeProto, graph: _Graph) -> Sequence[onnx.NodeProto] | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    special = _SUBSTITUTES.get(node.op_type)
    return special(node, graph) if special is not None else _wider(node, graph)


def _wider(node: onnx.NodeProto, graph: _Graph) -> Sequence[onnx.NodeProto] | None:
    """The node on numbers of a wider type, between casts."""
    if node.op_type not in _SAME_WHEN_WIDER:
        return None
    types = formals(node, graph.opset, "", graph.kinds)
    schema = onnx.defs.get_schema(node.op_type, graph.opset)
    wider = next(_combinations(node, graph.opset, types), None)
    if wider is None:
        return None
    before, behind = [], []
    other = onnx.NodeProto.FromString(node.SerializeToString())
    for place, value in enumerate(node.input):
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        if value and formal.type_str in wider:
            other.input[place] = graph.name(node, f"input_{place}")
            before.append(cast(value, other.input[place], wider[formal.type_str]))
    for place, value in enumerate(node.output):
        formal = schema.outputs[min(place, len(schema.outputs) - 1)]
        if value and formal.type_str in wider:
            other.output[place] = graph.name(node, f"output_{place}")
            behind.append(cast(other.output[place], value, types[formal.type_str]))
    return [*before, other, *behind]


def _combinations(
    node: onnx.NodeProto, opset: int, types: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    """Wider types, by constraint, with which there is a kernel."""
    for kernel in kernels_of(node, opset):
        changed: dict[str, str] = {}
        for name, allowed in kernel["types"].items():
            kind = types.get(name, allowed[0])
            if kind in allowed:
                continue
            held = kind.removeprefix("tensor(").removesuffix(")")
            fitting = (f"tensor({wide})" for wide in _WIDER.get(held, ()))
            found = next((wide for wide in fitting if wide in allowed), None)
            if found is None:
                break
            changed[name] = found
        else:
            yield changed


def _cast_like(node: onnx.NodeProto, graph: _Graph) -> Sequence[onnx.NodeProto] | None:
    kind = graph.kinds.get(node.input[1], "")
    if not kind.startswith("tensor("):
        return None
    made = cast(node.input[0], node.output[0], kind)
    made.name = node.name
    return [made]


def _lp_normalization(node: onnx.NodeProto, graph: _Graph) -> Sequence[onnx.NodeProto] | None:
    """x over its norm, or 0 where that is 0."""
    held = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    (x,), (y,) = node.input, node.output
    dtype = {"tensor(double)": np.float64, "tensor(float)": np.float32}.get(graph.kinds.get(x, ""))
    if dtype is None:
        return None
    norm, zero, divisor = (graph.name(node, role) for role in ("norm", "is_zero", "divisor"))
    reduce = f"ReduceL{held.get('p', 2)}"
    axis = held.get("axis", -1)
    if graph.opset >= 18:
        axes = graph.constant(node, "axis", np.array([axis]))
        first = helper.make_node(reduce, [x, axes], [norm], norm, keepdims=1)
    else:
        first = helper.make_node(reduce, [x], [norm], norm, axes=[axis], keepdims=1)
    nothing = graph.constant(node, "zero", np.zeros((), dtype))
    one = graph.constant(node, "one", np.ones((), dtype))
    return [
        first,
        helper.make_node("Equal", [norm, nothing], [zero], zero),
        helper.make_node("Where", [zero, one, norm], [divisor], divisor),
        helper.make_node("Div", [x, divisor], [y], node.name),
    ]


def _summing_rnn(node: onnx.NodeProto, graph: _Graph) -> Sequence[onnx.NodeProto] | None:
    """An RNN that does nothing but sum up its sequence, as exporters of AdaBoost write it."""
    held = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    expected = {
        "activations": [b"Affine"], "activation_alpha": [1.0], "activation_beta": [0.0],
        "hidden_size": 1, "direction": b"forward", "layout": 0,
    }  # fmt: skip
    weights = [graph.constants.get(name) for name in node.input[1:3]]
    ones = all(weight is not None and (weight == 1).all() for weight in weights)
    more = any(node.input[3:]) or any(node.output[1:])
    if (
        {"direction": b"forward", "layout": 0, **held} != expected
        or not ones
        or more
        or graph.opset < 13
    ):
        return None
    x, y = node.input[0], node.output[0]
    total = graph.name(node, "total")
    first = graph.constant(node, "sequence", np.array(0))
    direction = graph.constant(node, "direction", np.array([1]))
    return [
        helper.make_node("CumSum", [x, first], [total], total),
        helper.make_node("Unsqueeze", [total, direction], [y], node.name),
    ]


_SUBSTITUTES: dict[str, Substitute] = {
    "CastLike": _cast_like,
    "LpNormalization": _lp_normalization,
    "RNN": _summing_rnn,
}
