"""Scans whose steps do not depend on each other, as operators that take all steps at once.

Exporters write distances as a Scan, one step for each row of one of two matrices. On a GPU each
step starts kernels of its own, and CUDA graphs take no Scan at all. The same operators on tensors
with one more axis in front, that of the steps, make the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxtune.errors import UnsupportedError
from onnxtune.graph_names import names_of, unused
from onnxtune.preparation import constant_tensor, opset_of
from onnxtune.runtime import ValueType
from rewrites.core.graph_pass import STANDARD_DOMAINS

# What each number is made of depends on those in its place alone.
_ELEMENTWISE = frozenset(
    ["Abs", "Add", "Cast", "Div", "Exp", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal",
     "Sigmoid", "Sign", "Sqrt", "Sub", "Tanh"]
)  # fmt: skip
_REDUCTIONS = frozenset(
    ["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"]
)

# Elements of a value of all steps, at the batch size that is forecast; with more it stays a Scan.
_MOST_ELEMENTS = 1 << 30

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class _Value:
    """A value of a body.

    Attributes:
        name: what it is called outside.
        shape: its shape within a step.
        stepped: whether every step has its own; then the outer value has an axis in front.
    """

    name: str
    shape: Shape
    stepped: bool


def broadcast_scans(proto: onnx.ModelProto, types: Mapping[str, ValueType], rows: int) -> bool:
    """Put operators on all steps in the place of Scans, in place; whether there were any.

    Args:
        proto: a model whose nodes have unique names.
        types: of its values.
        rows: the batch size that lengths that vary are taken for.
    """
    if all(node.op_type != "Scan" for node in proto.graph.node):
        return False
    shapes = {name: value.shape for name, value in types.items() if value.shape is not None}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    whole = {t.name: _whole_numbers(t) for t in proto.graph.initializer if _are_axes(t)}
    taken = set(names_of(proto.graph))
    made: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    changed = False
    for node in proto.graph.node:
        try:
            steps = _Steps(node, shapes, taken, opset_of(proto) or 1, rows, dict(whole))
        except UnsupportedError:
            made.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        made += steps.nodes
        tensors += steps.tensors
        changed = True
    del proto.graph.node[:]
    proto.graph.node.extend(made)
    proto.graph.initializer.extend(tensors)
    return changed


@dataclass
class _Steps:
    """The nodes of a Scan's body on all steps.

    Raises:
        UnsupportedError: it is no Scan, or one that stays one; with the reason.
    """

    scan: onnx.NodeProto
    shapes: Mapping[str, Shape]
    taken: set[str]
    opset: int
    rows: int
    constants: dict[str, list[int]]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    values: dict[str, _Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        body, states = self._body()
        for place, given in enumerate(body.input):
            self._take(given.name, self.scan.input[place], stepped=place >= states)
        for tensor in body.initializer:
            self._hold(tensor.name, tensor)
        for node in body.node:
            self._add(node)
        for place, (made, outer) in enumerate(zip(body.output, self.scan.output, strict=False)):
            found = self._value(made.name)
            if place < states and found != self._value(body.input[place].name):
                raise UnsupportedError("A step takes what the one before it makes.")
            if place >= states and not found.stepped:
                raise UnsupportedError(f"'{made.name}' is the same in every step.")
            if outer:
                self._send(found.name, outer)

    def _send(self, name: str, outer: str) -> None:
        """Call a value what the Scan's output is called."""
        maker = next((node for node in self.nodes if name in node.output), None)
        readers = [node for node in self.nodes if name in node.input]
        if maker is None or readers:
            self.nodes.append(self._node("Identity", [name], outer))
        else:
            maker.output[0] = outer

    def _body(self) -> tuple[onnx.GraphProto, int]:
        """The body of a Scan over first axes, forwards, and how many states it has."""
        if self.scan.op_type != "Scan" or self.scan.domain not in STANDARD_DOMAINS:
            raise UnsupportedError(f"{self.scan.op_type} is no Scan.")
        held = {a.name: helper.get_attribute_value(a) for a in self.scan.attribute}
        body = held.pop("body")
        states = len(self.scan.input) - held.pop("num_scan_inputs")
        # What is left are axes and directions, 0 where nothing is said.
        if self.opset < 9 or any(any(listed) for listed in held.values()):
            raise UnsupportedError("It goes along other axes, or backwards.")
        return body, states

    def _take(self, name: str, outer: str, stepped: bool) -> _Value:
        shape = self.shapes.get(outer)
        if shape is None or (stepped and not shape):
            raise UnsupportedError(f"The shape of '{outer}' is not known.")
        self.values[name] = _Value(outer, shape[1:] if stepped else shape, stepped)
        return self.values[name]

    def _hold(self, name: str, tensor: onnx.TensorProto) -> None:
        copy = onnx.TensorProto.FromString(tensor.SerializeToString())
        copy.name = self._new(name)
        self.tensors.append(copy)
        self.values[name] = _Value(copy.name, tuple(copy.dims), stepped=False)
        if _are_axes(copy):
            self.constants[name] = _whole_numbers(copy)

    def _value(self, name: str) -> _Value:
        # What is not of the body comes from around it.
        return self.values[name] if name in self.values else self._take(name, name, stepped=False)

    def _add(self, node: onnx.NodeProto) -> None:
        tensor = constant_tensor(node)
        if tensor is not None:
            self._hold(node.output[0], tensor)
        elif node.domain not in STANDARD_DOMAINS:
            raise UnsupportedError(f"'{node.name}' is of the domain {node.domain}.")
        elif node.op_type == "Identity":
            self.values[node.output[0]] = self._value(node.input[0])
            if node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
        elif node.op_type in _ELEMENTWISE:
            self._add_elementwise(node)
        elif node.op_type in _REDUCTIONS or node.op_type == "Squeeze":
            self._add_narrower(node)
        else:
            raise UnsupportedError(f"{node.op_type} does not go number by number.")

    def _add_elementwise(self, node: onnx.NodeProto) -> None:
        found = [self._value(name) for name in node.input]
        shape = _joint([value.shape for value in found])
        names = [self._lifted(value, len(shape)) for value in found]
        self._write(node, names, shape, any(value.stepped for value in found), node.attribute)

    def _lifted(self, value: _Value, rank: int) -> str:
        """A stepped value with so many axes behind that of the steps."""
        missing = rank - len(value.shape)
        if not value.stepped or not missing:
            return value.name
        name = self._new(f"{value.name}/Unsqueeze")
        axes = list(range(1, 1 + missing))
        self.nodes.append(self._node("Unsqueeze", [value.name], name, axes, self.opset >= 13))
        return name

    def _add_narrower(self, node: onnx.NodeProto) -> None:
        """A reduction, or Squeeze."""
        value = self._value(node.input[0])
        held = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        as_input = len(node.input) > 1 and bool(node.input[1])
        if as_input and node.input[1] not in self.constants:
            raise UnsupportedError(f"The axes of '{node.name}' are not constant.")
        rank = len(value.shape)
        given = self.constants[node.input[1]] if as_input else held.pop("axes", [])
        if held.pop("noop_with_empty_axes", 0) or (node.op_type == "Squeeze" and not given):
            raise UnsupportedError(f"'{node.name}' has no axes.")
        axes = sorted({axis % rank for axis in given} or range(rank))
        keeps = node.op_type != "Squeeze" and bool(held.get("keepdims", 1))
        shape = tuple(
            1 if place in axes else size
            for place, size in enumerate(value.shape)
            if keeps or place not in axes
        )
        outer = [axis + value.stepped for axis in axes]
        name = self._new(node.output[0])
        made = self._node(node.op_type, [value.name], name, outer, as_input)
        made.attribute.extend(a for a in node.attribute if a.name == "keepdims")
        self.nodes.append(made)
        self._know(node.output[0], _Value(name, shape, value.stepped))

    def _write(
        self,
        node: onnx.NodeProto,
        inputs: Sequence[str],
        shape: Shape,
        stepped: bool,
        attributes: Sequence[onnx.AttributeProto],
    ) -> None:
        name = self._new(node.output[0])
        made = self._node(node.op_type, inputs, name)
        made.attribute.extend(attributes)
        self.nodes.append(made)
        self._know(node.output[0], _Value(name, shape, stepped))

    def _know(self, name: str, value: _Value) -> None:
        steps = self.shapes[self.scan.input[-1]][0]
        sizes = [steps, *value.shape] if value.stepped else value.shape
        if math.prod(self.rows if size is None else size for size in sizes) > _MOST_ELEMENTS:
            raise UnsupportedError(f"'{name}' of all steps would be too large.")
        self.values[name] = value

    def _node(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str,
        axes: Sequence[int] = (),
        as_input: bool = False,
    ) -> onnx.NodeProto:
        given = [*inputs]
        if as_input:
            held = numpy_helper.from_array(np.array(axes, np.int64), self._new(f"{output}/axes"))
            self.tensors.append(held)
            given.append(held.name)
        made = helper.make_node(operator, given, [output], self._new(f"{output}/{operator}"))
        if axes and not as_input:
            made.attribute.append(helper.make_attribute("axes", list(axes)))
        return made

    def _new(self, name: str) -> str:
        return unused(f"{self.scan.name}/{name}", self.taken)


def _joint(shapes: Sequence[Shape]) -> Shape:
    """The shape that these broadcast to; a length that varies goes before 1, a known one before."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(
        next((size for size in sizes if size not in (None, 1)), None if None in sizes else 1)
        for sizes in zip(*padded, strict=True)
    )


def _are_axes(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) < 2


def _whole_numbers(tensor: onnx.TensorProto) -> list[int]:
    found: list[int] = numpy_helper.to_array(tensor).ravel().tolist()
    return found
