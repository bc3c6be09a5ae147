"""Several tensors of columns that go from one model to another as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxtune.element_types import cast
from onnxtune.graph_names import names_of, unused
from onnxtune.preparation import opset_of, value_info
from onnxtune.runtime import ValueType

# What the one tensor is called.
_NAME = "to_gpu"

# Types whose every number float32 holds, and the number up to which it holds all whole ones.
_EXACT = tuple(f"tensor({kind})" for kind in ("float", "bool", "int8", "uint8", "int16", "uint16"))
_LARGEST = 1 << 24

# From here on Split takes its lengths as an input.
_SPLIT_INPUT = 13


@dataclass(frozen=True)
class Joined:
    """Tensors [N, F_i] in one of float32, [N, sum of F_i]; others are floats on the way.

    Attributes:
        name: of the one.
        values: what it is made of, in its order.
    """

    name: str
    values: tuple[ValueType, ...]

    @property
    def _widths(self) -> list[int]:
        return [int(value.shape[1] or 0) for value in self.values if value.shape is not None]

    def send(self, model: onnx.ModelProto, declared: Sequence[onnx.ValueInfoProto]) -> None:
        """Let a model that makes these values, or is fed them, give the one.

        Args:
            model: the model.
            declared: inputs of the whole model; it gets those of these values that it lacks.
        """
        graph = model.graph
        names = [value.name for value in self.values]
        there = {value.name for value in graph.input}
        graph.input.extend(v for v in declared if v.name in names and v.name not in there)
        floats = [self._sent(value) for value in self.values]
        for value, name in zip(self.values, floats, strict=True):
            if name != value.name:
                graph.node.append(cast(value.name, name, "tensor(float)"))
        graph.node.append(helper.make_node("Concat", floats, [self.name], self.name, axis=1))
        graph.output.append(self._declared())

    def receive(self, model: onnx.ModelProto) -> None:
        """Let a model take the one for the several."""
        graph = model.graph
        names = [value.name for value in self.values]
        floats = [self._sent(value) for value in self.values]
        others = [value for value in graph.input if value.name not in names]
        inputs = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in others]
        del graph.input[:]
        graph.input.extend([self._declared(), *inputs])
        if (opset_of(model) or _SPLIT_INPUT) >= _SPLIT_INPUT:
            lengths = unused(f"{self.name}/lengths", set(names_of(graph)))
            graph.initializer.append(numpy_helper.from_array(np.array(self._widths), lengths))
            node = helper.make_node("Split", [self.name, lengths], floats, self.name, axis=1)
        else:
            node = helper.make_node("Split", [self.name], floats, self.name, axis=1,
                                    split=self._widths)  # fmt: skip
        casts = [
            cast(name, value.name, value.kind)
            for value, name in zip(self.values, floats, strict=True)
            if name != value.name
        ]
        for place, added in enumerate([node, *casts]):
            graph.node.insert(place, added)

    def _sent(self, value: ValueType) -> str:
        """What a value is called as floats."""
        floats = value.kind == "tensor(float)"
        return value.name if floats else f"{self.name}/{value.name}"

    def _declared(self) -> onnx.ValueInfoProto:
        return value_info(ValueType(self.name, "tensor(float)", (None, sum(self._widths))))


def join(
    whole: onnx.ModelProto, values: Sequence[str], type_of: Callable[[str], ValueType]
) -> Joined | None:
    """The columns among these values as one; None where there are not two of them.

    Args:
        whole: the model that they are of.
        values: names; whatever is no [N, F], with a fixed F, of numbers that float32 holds exactly,
            is left out.
        type_of: the type of each.
    """
    codes = _codes(whole)
    types = [type_of(value) for value in values]
    found = tuple(t for t in types if is_columns(t, (*_EXACT, t.kind if t.name in codes else "")))
    rows = {
        value.type.tensor_type.shape.dim[0].dim_param
        for value in whole.graph.input
        if value.name in {column.name for column in found}
    }
    if len(found) < 2 or len(rows - {""}) > 1:
        return None
    return Joined(unused(_NAME, set(names_of(whole.graph))), found)


def is_columns(value: ValueType, kinds: Sequence[str] = ("tensor(float)",)) -> bool:
    """Whether a value is [N, F] with a fixed F, of one of these types."""
    shape = value.shape or ()
    return value.kind in kinds and len(shape) == 2 and shape[0] is None and bool(shape[1])


def _codes(whole: onnx.ModelProto) -> set[str]:
    """The values that are whole numbers out of a table, none beyond what float32 holds."""
    found = set()
    for node in whole.graph.node:
        held = {a.name: a for a in node.attribute}
        if node.op_type == "LabelEncoder" and "values_int64s" in held:
            default = held["default_int64"].i if "default_int64" in held else -1
            if all(abs(value) <= _LARGEST for value in (*held["values_int64s"].ints, default)):
                found.update(node.output)
    return found
