"""An inner value of a graph as one more output, to tune toward a target of its own."""

from __future__ import annotations

from typing import Any

import onnx

from onnxtune.errors import ArgumentError
from onnxtune.model import Model
from onnxtune.partition import float_outputs
from onnxtune.preparation import Prepared, prepare, value_info


def with_inner(prepared: Prepared, name: str) -> Prepared | None:
    """The model with an inner float value as its last output; None where it is none.

    Its content stays that of the model, which is what is written where nothing was tuned.

    Raises:
        ArgumentError: the value is no float tensor.
    """
    source = prepared.source
    outputs = [output.name for output in source.proto.graph.output]
    made = {made for node in source.proto.graph.node for made in node.output}
    if name not in made or name in (*outputs, *float_outputs(prepared).values()):
        return None
    kind = prepared.type_of(name)
    if not kind.is_float:
        raise ArgumentError(
            f"output '{name}': is {kind.kind or 'of a type that is not known'} inside the model; "
            "choose a float tensor."
        )
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    proto.graph.output.append(value_info(kind))
    return prepare(Model(proto, source.content, source.origin, source.path))


def without_inner(proto: onnx.ModelProto, name: str, added: str | None = None) -> onnx.ModelProto:
    """A copy without that output, and without the nodes and tensors whose names begin so."""
    kept = onnx.ModelProto()
    kept.CopyFrom(proto)
    graph = kept.graph
    outputs = [output for output in graph.output if output.name != name]
    fields: list[tuple[Any, list[Any]]] = [(graph.output, outputs)]
    if added is not None:
        fields.extend(
            (field, [each for each in field if not each.name.startswith(added)])
            for field in (graph.node, graph.initializer)
        )
    for field, left in fields:
        if len(left) < len(field):
            held = [type(each).FromString(each.SerializeToString()) for each in left]
            del field[:]
            field.extend(held)
    return kept
