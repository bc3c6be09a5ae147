"""Scan and If as operators of the main graph, where that makes the same numbers.

Exporters write distances as a Scan, one step for each row of one of two matrices. On a GPU each
step starts kernels of its own. Where the steps do not depend on each other, the same operators on
tensors with one more axis in front, that of the steps, take all of them at once. An If waits for
its condition to come to the CPU; where both branches make numbers of one shape, Where picks them.
CUDA graphs take neither Scan nor If.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxtune.body_operators import BodyOperators, BodyValue, Surroundings
from onnxtune.errors import UnsupportedError
from onnxtune.graph_names import unused
from onnxtune.runtime import ValueType
from rewrites.core.graph_pass import STANDARD_DOMAINS

Written = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def open_bodies(proto: onnx.ModelProto, types: Mapping[str, ValueType], rows: int) -> bool:
    """Write what Scan and If hold into the main graph, in place; whether there was any.

    Args:
        proto: a model whose nodes have unique names.
        types: of its values.
        rows: the batch size that lengths that vary are taken for: what would be too large for
            memory stays as it is.
    """
    around = Surroundings(proto, types, rows)
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in proto.graph.node:
        written = _opened(node, around)
        if written is None:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        nodes += written[0]
        proto.graph.initializer.extend(written[1])
        changed = True
    if changed:
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
    return changed


def _opened(node: onnx.NodeProto, around: Surroundings) -> Written | None:
    """The nodes and initializers in a node's place; None of a node that stays."""
    if node.op_type not in ("Scan", "If") or node.domain not in STANDARD_DOMAINS:
        return None
    try:
        return _scan(node, around) if node.op_type == "Scan" else _if(node, around)
    except UnsupportedError:
        return None


def _scan(scan: onnx.NodeProto, around: Surroundings) -> Written:
    """Over first axes, forwards, with states that no step changes."""
    held = {a.name: helper.get_attribute_value(a) for a in scan.attribute}
    body = held.pop("body")
    states = len(scan.input) - held.pop("num_scan_inputs")
    # What is left are axes and directions, 0 where nothing is said.
    if around.opset < 9 or any(any(listed) for listed in held.values()):
        raise UnsupportedError("It goes along other axes, or backwards.")
    shape = around.shapes.get(scan.input[states])
    made = BodyOperators(scan.name, around, shape[0] if shape else None)
    given = [
        made.take(value.name, scan.input[place], stepped=place >= states)
        for place, value in enumerate(body.input)
    ]
    made.write(body)
    for place, value in enumerate(body.output):
        found = made.value(value.name)
        if place < states and found != given[place]:
            raise UnsupportedError("A step takes what the one before it makes.")
        if place >= states and not found.stepped:
            raise UnsupportedError(f"'{value.name}' is the same in every step.")
    for value, outer in zip(body.output, scan.output, strict=False):
        if outer:
            made.send(value.name, outer)
    return made.nodes, made.tensors


def _if(choice: onnx.NodeProto, around: Surroundings) -> Written:
    """Both branches, and Where for each output."""
    graphs = {attribute.name: attribute.g for attribute in choice.attribute}
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    made: list[list[BodyValue]] = []
    for name in ("then_branch", "else_branch"):
        branch = BodyOperators(f"{choice.name}/{name}", around)
        branch.write(graphs[name])
        made.append([branch.value(value.name) for value in graphs[name].output])
        nodes += branch.nodes
        tensors += branch.tensors
    condition = unused(f"{choice.name}/condition", around.taken)
    one = unused(f"{choice.name}/one", around.taken)
    tensors.append(numpy_helper.from_array(np.ones(1, np.int64), one))
    nodes.append(helper.make_node("Reshape", [choice.input[0], one], [condition], condition))
    for then, other, outer in zip(*made, choice.output, strict=True):
        # A length that varies is that of the rows, and first.
        if then.shape != other.shape or not then.shape or None in then.shape[1:]:
            raise UnsupportedError(f"'{outer}' may have another shape in each branch.")
        name = unused(f"{outer}/Where", around.taken)
        nodes.append(helper.make_node("Where", [condition, then.name, other.name], [outer], name))
    return nodes, tensors
