"""The operators of a graph inside a node, written out beside that node.

Operators that go number by number, reductions and Squeeze alone: they can take all steps at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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

# Elements of a value that is written out, at the batch size that is forecast.
_MOST_ELEMENTS = 1 << 30

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class BodyValue:
    """A value of a body.

    Attributes:
        name: what it is called outside.
        shape: its shape inside.
        stepped: whether every step has its own; then the outer value has an axis in front.
    """

    name: str
    shape: Shape
    stepped: bool


class Surroundings:
    """What a main graph holds and names, for operators that are written into it."""

    def __init__(self, proto: onnx.ModelProto, types: Mapping[str, ValueType], rows: int) -> None:
        """Read it.

        Args:
            proto: a model whose nodes have unique names.
            types: of its values.
            rows: the batch size that lengths that vary are taken for.
        """
        held = proto.graph.initializer
        fed = {value.name for value in proto.graph.input}
        own = [tensor for tensor in held if tensor.name not in fed]
        self.opset, self.rows = opset_of(proto) or 1, rows
        self.shapes = {
            name: value.shape for name, value in types.items() if value.shape is not None
        }
        self.shapes |= {tensor.name: tuple(tensor.dims) for tensor in own}
        self.axes = {tensor.name: _whole_numbers(tensor) for tensor in own if _are_axes(tensor)}
        self.taken = set(names_of(proto.graph))


@dataclass
class BodyOperators:
    """Writes the operators of a body out.

    Attributes:
        owner: the name of the node that holds the body.
        around: the main graph.
        steps: how many there are, None for a number that varies.
        nodes, tensors: what is written.
        read: the values from around the body.
    """

    owner: str
    around: Surroundings
    steps: int | None = 1
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    _values: dict[str, BodyValue] = field(default_factory=dict)
    _axes: dict[str, list[int]] = field(default_factory=dict)
    _sent: set[str] = field(default_factory=set)

    def take(self, name: str, outer: str, stepped: bool) -> BodyValue:
        """Let the body read an outer value, or in each step one of its entries.

        Raises:
            UnsupportedError: its shape is not known.
        """
        shape = self.around.shapes.get(outer)
        if shape is None or (stepped and not shape):
            raise UnsupportedError(f"The shape of '{outer}' is not known.")
        if outer in self.around.axes and not stepped:
            self._axes[name] = self.around.axes[outer]
        self.read.add(outer)
        self._values[name] = BodyValue(outer, shape[1:] if stepped else shape, stepped)
        return self._values[name]

    def value(self, name: str) -> BodyValue:
        """A value of the body; what is not of the body comes from around it."""
        return self._values[name] if name in self._values else self.take(name, name, stepped=False)

    def write(self, body: onnx.GraphProto) -> None:
        """Write all operators of a body.

        Raises:
            UnsupportedError: one of them is none of those that this is for, with the reason.
        """
        if body.sparse_initializer:
            raise UnsupportedError("It holds sparse tensors.")
        for tensor in body.initializer:
            self._hold(tensor.name, tensor)
        for node in body.node:
            self._add(node)

    def _hold(self, name: str, tensor: onnx.TensorProto) -> None:
        copy = onnx.TensorProto.FromString(tensor.SerializeToString())
        copy.name = self._new(name)
        self.tensors.append(copy)
        self._values[name] = BodyValue(copy.name, tuple(copy.dims), stepped=False)
        if _are_axes(copy):
            self._axes[name] = _whole_numbers(copy)

    def _add(self, node: onnx.NodeProto) -> None:
        tensor = constant_tensor(node)
        if tensor is not None:
            self._hold(node.output[0], tensor)
        elif node.domain not in STANDARD_DOMAINS:
            raise UnsupportedError(f"'{node.name}' is of the domain {node.domain}.")
        elif node.op_type == "Identity":
            self._values[node.output[0]] = self.value(node.input[0])
            if node.input[0] in self._axes:
                self._axes[node.output[0]] = self._axes[node.input[0]]
        elif node.op_type in _ELEMENTWISE:
            self._add_elementwise(node)
        elif node.op_type in _REDUCTIONS or node.op_type == "Squeeze":
            self._add_narrower(node)
        else:
            raise UnsupportedError(f"{node.op_type} does not go number by number.")

    def _add_elementwise(self, node: onnx.NodeProto) -> None:
        found = [self.value(name) for name in node.input]
        shape = _joint([value.shape for value in found])
        names = [self._lifted(value, len(shape)) for value in found]
        made = self._node(node.op_type, names, self._new(node.output[0]))
        made.attribute.extend(node.attribute)
        self._know(node, made, shape, any(value.stepped for value in found))

    def _lifted(self, value: BodyValue, rank: int) -> str:
        """A stepped value with so many axes behind that of the steps."""
        missing = rank - len(value.shape)
        if not value.stepped or not missing:
            return value.name
        name = self._new(f"{value.name}/Unsqueeze")
        axes = range(1, 1 + missing)
        self.nodes.append(self._node("Unsqueeze", [value.name], name, axes))
        return name

    def _add_narrower(self, node: onnx.NodeProto) -> None:
        """A reduction, or Squeeze."""
        value = self.value(node.input[0])
        held = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        given = held.get("axes", [])
        if len(node.input) > 1 and node.input[1]:
            self.value(node.input[1])
            if node.input[1] not in self._axes:
                raise UnsupportedError(f"The axes of '{node.name}' are not constant.")
            given = self._axes[node.input[1]]
        rank = len(value.shape)
        if not rank or (not given and held.get("noop_with_empty_axes", 0)):
            raise UnsupportedError(f"'{node.name}' has no axes to go along.")
        axes = sorted({axis % rank for axis in given} or range(rank))
        if node.op_type == "Squeeze" and any(value.shape[axis] != 1 for axis in axes):
            raise UnsupportedError(f"'{node.name}' may leave out more than ones.")
        keeps = node.op_type != "Squeeze" and bool(held.get("keepdims", 1))
        shape = tuple(
            1 if place in axes else size
            for place, size in enumerate(value.shape)
            if keeps or place not in axes
        )
        outer = [axis + value.stepped for axis in axes]
        name = self._new(node.output[0])
        made = self._node(node.op_type, [value.name], name, outer)
        made.attribute.extend(a for a in node.attribute if a.name == "keepdims")
        self._know(node, made, shape, value.stepped)

    def _know(
        self, node: onnx.NodeProto, made: onnx.NodeProto, shape: Shape, stepped: bool
    ) -> None:
        sizes = (self.steps, *shape) if stepped else shape
        rows = self.around.rows
        if math.prod(rows if size is None else size for size in sizes) > _MOST_ELEMENTS:
            raise UnsupportedError(f"'{node.output[0]}' would be too large.")
        self.nodes.append(made)
        self._values[node.output[0]] = BodyValue(made.output[0], shape, stepped)

    def send(self, name: str, outer: str) -> None:
        """Let a value of the body be an outer one."""
        found = self.value(name).name
        maker = next((node for node in self.nodes if found in node.output), None)
        taken = found in self._sent or any(found in node.input for node in self.nodes)
        if maker is None or taken:
            self.nodes.append(self._node("Identity", [found], outer))
        else:
            maker.output[0] = outer
            self._sent.add(outer)
            for key, value in self._values.items():
                if value.name == found:
                    self._values[key] = replace(value, name=outer)

    def _node(
        self, operator: str, inputs: Iterable[str], output: str, axes: Sequence[int] = ()
    ) -> onnx.NodeProto:
        given = [*inputs]
        as_input = "axes" not in onnx.defs.get_schema(operator, self.around.opset).attributes
        if axes and as_input:
            held = numpy_helper.from_array(np.array(axes, np.int64), self._new(f"{output}/axes"))
            self.tensors.append(held)
            given.append(held.name)
        made = helper.make_node(operator, given, [output], self._new(f"{output}/{operator}"))
        if axes and not as_input:
            made.attribute.append(helper.make_attribute("axes", list(axes)))
        return made

    def _new(self, name: str) -> str:
        return unused(f"{self.owner}/{name}", self.around.taken)


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
