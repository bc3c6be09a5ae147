"""Copies of a model that leave out what is large, and nodes with other attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from rewrites.core.attributes import is_long


def copy_model(
    model: onnx.ModelProto, fill: Callable[[onnx.NodeProto, onnx.NodeProto], None]
) -> onnx.ModelProto:
    """A copy, the attributes of whose main graph's nodes `fill(original, copy)` writes."""
    copy = onnx.ModelProto()
    _copy_fields(model, copy, "graph")
    _copy_fields(model.graph, copy.graph, "node")
    for node in model.graph.node:
        added = copy.graph.node.add()
        _copy_fields(node, added, "attribute")
        fill(node, added)
    return copy


def without_long_lists(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy of a node without the attributes that hold long lists."""
    copy = onnx.NodeProto()
    _copy_fields(node, copy, "attribute")
    for attribute in node.attribute:
        if not is_long(attribute):
            copy.attribute.add().CopyFrom(attribute)
    return copy


def _copy_fields(source: Any, target: Any, but: str) -> None:
    for field, value in source.ListFields():
        if field.name == but:
            continue
        place = getattr(target, field.name)
        if hasattr(place, "extend"):
            place.extend(value)
        elif hasattr(place, "CopyFrom"):
            place.CopyFrom(value)
        else:
            setattr(target, field.name, value)


def replace_attributes(node: onnx.NodeProto, attributes: Sequence[ir.Attr]) -> None:
    """Put attributes in the place of those of the same names, and others last."""
    new = {attribute.name: attribute for attribute in attributes}
    made = []
    for held in node.attribute:
        other = new.pop(held.name, None)
        made.append(held if other is None else ir.serde.serialize_attribute(other))
    made.extend(ir.serde.serialize_attribute(other) for other in new.values())
    del node.attribute[:]
    node.attribute.extend(made)
