"""Some nodes of a model as a model of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx

from onnxtune.preparation import value_info
from onnxtune.runtime import ValueType
from onnxtune.subgraphs import reads


def part(
    source: onnx.ModelProto,
    nodes: Iterable[onnx.NodeProto],
    inputs: Sequence[str],
    outputs: Sequence[str],
    type_of: Callable[[str], ValueType],
) -> onnx.ModelProto:
    """A model of these nodes, with the initializers that they read.

    Args:
        source: the model that they are from.
        nodes: in the graph's order.
        inputs: the values that are fed; those that are inputs of `source` keep their declaration.
        outputs: the values that it is to give.
        type_of: the type of each.
    """
    taken = list(nodes)
    read = {value for node in taken for value in reads(node)} | set(outputs)
    model = onnx.ModelProto(ir_version=source.ir_version, producer_name="onnxtune")
    model.opset_import.extend(source.opset_import)
    model.functions.extend(source.functions)
    model.graph.name = source.graph.name or "graph"
    model.graph.node.extend(taken)
    model.graph.initializer.extend(t for t in source.graph.initializer if t.name in read)
    declared = {value.name: value for value in source.graph.input}
    model.graph.input.extend(declared.get(name) or value_info(type_of(name)) for name in inputs)
    declared = {value.name: value for value in source.graph.output}
    for name in outputs:
        # Maps and sequences have no type but the declared one.
        info = value_info(type_of(name))
        model.graph.output.append(info if info.HasField("type") else declared.get(name, info))
    named = {*inputs, *outputs}
    made = {out for node in taken for out in node.output}
    model.graph.value_info.extend(
        value for value in source.graph.value_info if value.name in made - named
    )
    return model
