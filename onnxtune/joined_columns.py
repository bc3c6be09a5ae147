"""Several tensors of columns that go from one model to another as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxtune.graph_names import names_of, unused
from onnxtune.preparation import opset_of, value_info
from onnxtune.runtime import ValueType

# What the one tensor is called.
_NAME = "to_gpu"

# From here on Split takes its lengths as an input.
_SPLIT_INPUT = 13


@dataclass(frozen=True)
class Joined:
    """Tensors [N, F_i] in one, [N, sum of F_i].

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
        graph.node.append(helper.make_node("Concat", names, [self.name], self.name, axis=1))
        graph.output.append(self._declared())

    def receive(self, model: onnx.ModelProto) -> None:
        """Let a model take the one for the several."""
        graph = model.graph
        names = [value.name for value in self.values]
        others = [value for value in graph.input if value.name not in names]
        inputs = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in others]
        del graph.input[:]
        graph.input.extend([self._declared(), *inputs])
        if (opset_of(model) or _SPLIT_INPUT) >= _SPLIT_INPUT:
            lengths = unused(f"{self.name}/lengths", set(names_of(graph)))
            graph.initializer.append(numpy_helper.from_array(np.array(self._widths), lengths))
            node = helper.make_node("Split", [self.name, lengths], names, self.name, axis=1)
        else:
            node = helper.make_node("Split", [self.name], names, self.name, axis=1,
                                    split=self._widths)  # fmt: skip
        graph.node.insert(0, node)

    def _declared(self) -> onnx.ValueInfoProto:
        return value_info(ValueType(self.name, "tensor(float)", (None, sum(self._widths))))


def join(
    whole: onnx.ModelProto, values: Sequence[str], type_of: Callable[[str], ValueType]
) -> Joined | None:
    """The float32 columns among these values as one; None where there are not two of them.

    Args:
        whole: the model that they are of.
        values: names; whatever is no float32 [N, F], with a fixed F, is left out.
        type_of: the type of each.
    """
    found = tuple(type_of(value) for value in values if _is_columns(type_of(value)))
    rows = {
        value.type.tensor_type.shape.dim[0].dim_param
        for value in whole.graph.input
        if value.name in {column.name for column in found}
    }
    if len(found) < 2 or len(rows - {""}) > 1:
        return None
    return Joined(unused(_NAME, set(names_of(whole.graph))), found)


def _is_columns(value: ValueType) -> bool:
    shape = value.shape or ()
    return value.kind == "tensor(float)" and len(shape) == 2 and shape[0] is None and bool(shape[1])
