"""Scan and If as operators of the main graph, where that makes the same numbers.

Exporters write distances as a Scan, one step for each row of one of two matrices. On a GPU each
step starts kernels of its own. Where the steps do not depend on each other, the same operators on
tensors with one more axis in front, that of the steps, take all of them at once. An If waits for
its condition to come to the CPU; where both branches make floats of one shape, and cannot fail,
Where picks them. CUDA graphs take neither Scan nor If.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxtune.body_operators import BodyOperators, BodyValue, Shape, Surroundings
from onnxtune.errors import UnsupportedError
from onnxtune.graph_names import unused
from onnxtune.runtime import ValueType
from rewrites.core.graph_pass import STANDARD_DOMAINS

# Operators of floats that keep rows apart, and in their order.
_BY_NUMBER = frozenset(["Abs", "Add", "Div", "Exp", "Identity", "Mul", "Neg", "Sqrt", "Sub"])
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)

Written = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def open_bodies(proto: onnx.ModelProto, types: Mapping[str, ValueType], rows: int) -> bool:
    """Write what Scan and If hold into the main graph, in place; whether there was any.

    Args:
        proto: a model whose nodes have unique names.
        types: of its values.
        rows: the batch size that lengths that vary are taken for: what would be too large for
            memory stays as it is.
    """
    operators = {node.op_type for node in proto.graph.node}
    if operators.isdisjoint(("Scan", "If")):
        return False
    around = Surroundings(proto, types, rows)
    floats = _floats_by_row(proto, types) if "If" in operators else {}
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in proto.graph.node:
        written = _opened(node, around, floats)
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


def _opened(
    node: onnx.NodeProto, around: Surroundings, floats: Mapping[str, int]
) -> Written | None:
    """The nodes and initializers in a node's place; None of a node that stays."""
    if node.op_type not in ("Scan", "If") or node.domain not in STANDARD_DOMAINS:
        return None
    try:
        return _scan(node, around) if node.op_type == "Scan" else _if(node, around, floats)
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


def _if(choice: onnx.NodeProto, around: Surroundings, floats: Mapping[str, int]) -> Written:
    """Both branches, and Where for each output."""
    graphs = {attribute.name: attribute.g for attribute in choice.attribute}
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    made: list[list[BodyValue]] = []
    for name in ("then_branch", "else_branch"):
        branch = BodyOperators(f"{choice.name}/{name}", around)
        branch.write(graphs[name])
        made.append([branch.value(value.name) for value in graphs[name].output])
        _check_branch(branch, made[-1], around, floats)
        nodes += branch.nodes
        tensors += branch.tensors
    condition = unused(f"{choice.name}/condition", around.taken)
    one = unused(f"{choice.name}/one", around.taken)
    tensors.append(numpy_helper.from_array(np.ones(1, np.int64), one))
    nodes.append(helper.make_node("Reshape", [choice.input[0], one], [condition], condition))
    for then, other, outer in zip(*made, choice.output, strict=True):
        if then.shape != other.shape:
            raise UnsupportedError(f"'{outer}' has another shape in each branch.")
        name = unused(f"{outer}/Where", around.taken)
        nodes.append(helper.make_node("Where", [condition, then.name, other.name], [outer], name))
    return nodes, tensors


def _check_branch(
    branch: BodyOperators,
    made: Sequence[BodyValue],
    around: Surroundings,
    floats: Mapping[str, int],
) -> None:
    """Refuse a branch that may fail where it is not taken, or whose lengths are not those of rows.

    Floats alone do not fail, and an entry a row goes with an entry a row.

    Raises:
        UnsupportedError: with the reason.
    """
    ranks = {len(value.shape) for value in made}
    if len(ranks) != 1 or 0 in ranks:
        raise UnsupportedError("Its outputs have no axes, or not the same.")
    (rank,) = ranks
    other = [node.op_type for node in branch.nodes if node.op_type not in _BY_NUMBER]
    if other or any(tensor.data_type not in _FLOATS for tensor in branch.tensors):
        raise UnsupportedError("It holds more than sums and products of floats.")
    held = {tensor.name: tuple(tensor.dims) for tensor in branch.tensors}
    for name in branch.read:
        if name not in floats or floats[name] not in (rank, 0):
            raise UnsupportedError(f"'{name}' is no float for each row, and none for all rows.")
        if not floats[name]:
            held[name] = around.shapes[name]
    for name, shape in held.items():
        if len(shape) > rank or (len(shape) == rank and shape[0] != 1):
            raise UnsupportedError(f"'{name}' may have another length than the rows.")


def _floats_by_row(proto: onnx.ModelProto, types: Mapping[str, ValueType]) -> dict[str, int]:
    """Floats with one entry for each row: their rank; floats for all rows: 0.

    The rows are those of the first input whose length varies, and of all others whose length has
    the same name, or like it none: inputs have the same rows.
    """
    found: dict[str, int] = {}
    fed = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.data_type in _FLOATS and tensor.name not in fed:
            found[tensor.name] = 0
    named: str | None = None
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in types and types[value.name].is_float and dims:
            if not dims[0].HasField("dim_value"):
                named = dims[0].dim_param if named is None else named
            if dims[0].dim_param == named and _is_by_row(types[value.name].shape):
                found[value.name] = len(dims)
    for node in proto.graph.node:
        taken = {found.get(name, -1) for name in node.input}
        ranks = taken - {0}
        if node.op_type not in _BY_NUMBER or -1 in taken or len(ranks) != 1:
            continue
        made = types.get(node.output[0])
        if made is not None and made.is_float and _is_by_row(made.shape, *ranks):
            found[node.output[0]] = len(made.shape or ())
    return found


def _is_by_row(shape: Shape | None, rank: int | None = None) -> bool:
    """Whether the first length alone varies."""
    if not shape or shape[0] is not None or None in shape[1:]:
        return False
    return rank is None or len(shape) == rank
