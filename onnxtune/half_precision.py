"""The gates of soft trees in float16: half the memory to move, at a loss that is measured.

Distances from thresholds are computed in float32, since features have any size. From the sigmoid on
all numbers are shares between 0 and 1; those are float16, up to and with the product with the
leaves. What follows (base values, links) is float32 again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxtune.agreement import as_values, compare
from onnxtune.constant_folding import drop_unused
from onnxtune.errors import UnsupportedError
from onnxtune.graph_names import names_of, unused
from onnxtune.runtime import run
from onnxtune.subgraphs import subgraphs

# Operators through which shares pass; with the constants beside them they are float16.
_PASS = frozenset(
    ["Add", "Concat", "Gather", "Identity", "Mul", "Reshape", "Slice", "Squeeze", "Sub",
     "Transpose", "Unsqueeze"]
)  # fmt: skip
# Those that sum up shares times leaves: the last ones in float16.
_SUM = frozenset(["Gemm", "MatMul", "ReduceSum"])

# Relative to the larger of an output and its root mean square, the most that it may change.
TOLERANCE = 0.01


def in_float16(
    proto: onnx.ModelProto, feed: Mapping[str, Any], origin: str
) -> tuple[onnx.ModelProto, float]:
    """A soft form with its gates in float16, and how much that changes its outputs on these rows.

    Args:
        proto: a model in the soft form, in float32.
        feed: rows to compare on, by input.
        origin: what to call the model in messages.

    Returns:
        The model, and the largest difference of an output, relative to the larger of |y| and the
        root mean square of y.

    Raises:
        UnsupportedError: there are no soft trees to hold in float16, or an output changes by more
            than `TOLERANCE`.
    """
    made = _with_half_gates(proto)
    if made is None:
        raise UnsupportedError(
            f"{origin}: precision 'float16' is for the gates of soft trees, and there are none "
            "between which and the leaves nothing else stands; leave it out."
        )
    expected = as_values(proto, run(proto, feed))
    found = as_values(made, run(made, feed))
    rows = max((len(array) for array in feed.values()), default=0)
    verdicts = compare(proto, expected, found, rows, TOLERANCE, 0.0)
    worst = max((verdict.worst_relative or 0.0 for verdict in verdicts), default=0.0)
    far = [verdict for verdict in verdicts if not verdict.agrees]
    if far:
        changed = ", ".join(
            f"'{v.name}' in {v.rows_past} of {rows} rows"
            + ("" if v.worst_relative is None else f", by up to {v.worst_relative:.2g} of its size")
            for v in far
        )
        raise UnsupportedError(
            f"{origin}: float16 changes {changed}, and no more than {TOLERANCE:g} is allowed; keep "
            "precision 'float32'."
        )
    return made, worst


def _with_half_gates(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    half = _half_nodes(proto)
    if not half:
        return None
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    writer = _Writer(made.graph)
    for node in proto.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if node.name in half:
            writer.add_half(copy)
        else:
            writer.nodes.append(copy)
    inside = {out for node in proto.graph.node if node.name in half for out in node.output}
    for place in reversed(range(len(made.graph.value_info))):
        if made.graph.value_info[place].name in inside:
            del made.graph.value_info[place]
    del made.graph.node[:]
    made.graph.node.extend(writer.nodes)
    drop_unused(made)
    return made


class _Writer:
    """Writes the nodes of a graph anew, some of them in float16."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.names = set(names_of(graph))
        self.held = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
        self.short: dict[str, str] = {}

    def add_half(self, node: onnx.NodeProto) -> None:
        """Let a node compute in float16; a sum's result is float32 again."""
        scale = 1.0
        for place, value in enumerate(node.input):
            if value in self.held:
                node.input[place], factor = self._constant(value, node.op_type in _SUM)
                scale *= factor
            elif node.op_type == "Sigmoid":
                node.input[place] = self._cast(value)
        self.nodes.append(node)
        if node.op_type in _SUM:
            self._widen(node, scale)

    def _constant(self, value: str, leaves: bool) -> tuple[str, float]:
        """A float16 copy; leaves are scaled by a power of two, so that the largest is near 1."""
        numbers = numpy_helper.to_array(self.held[value])
        largest = float(np.abs(numbers).max(initial=0.0)) if leaves else 1.0
        factor = 2.0 ** np.ceil(np.log2(largest)) if 0 < largest < np.inf else 1.0
        name = unused(f"{value}/float16", self.names)
        short = (numbers / np.float32(factor)).astype(np.float16)
        self.graph.initializer.append(numpy_helper.from_array(short, name))
        return name, float(factor)

    def _cast(self, value: str) -> str:
        if value not in self.short:
            self.short[value] = unused(f"{value}/float16", self.names)
            name = self.short[value]
            self.nodes.append(
                helper.make_node("Cast", [value], [name], name, to=TensorProto.FLOAT16)
            )
        return self.short[value]

    def _widen(self, node: onnx.NodeProto, scale: float) -> None:
        wanted = node.output[0]
        node.output[0] = unused(f"{node.name}/float16", self.names)
        cast = wanted if scale == 1.0 else unused(f"{node.name}/float32", self.names)
        self.nodes.append(
            helper.make_node("Cast", [node.output[0]], [cast], f"{node.name}/Cast",
                             to=TensorProto.FLOAT)
        )  # fmt: skip
        if scale != 1.0:
            factor = unused(f"{node.name}/scale", self.names)
            held = numpy_helper.from_array(np.array(scale, np.float32), factor)
            self.graph.initializer.append(held)
            self.nodes.append(helper.make_node("Mul", [cast, factor], [wanted], f"{node.name}/Mul"))


def _half_nodes(proto: onnx.ModelProto) -> set[str]:
    """The sigmoids of gates, and all that stands between them and the sums over leaves."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    final = {value.name for value in proto.graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    captured = set()
    for node in proto.graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)
        captured |= {name for graph in subgraphs(node) for name in names_of(graph)}
    found: set[str] = set()
    for gate in proto.graph.node:
        if gate.op_type != "Sigmoid" or gate.name in found:
            continue
        region, made, sums = _region(gate, readers)
        nodes = [node for node in proto.graph.node if node.name in region]
        known = made | constants
        whole = all(known.issuperset(n.input) or n.op_type == "Sigmoid" for n in nodes)
        shares = {out for n in nodes if n.op_type not in _SUM for out in n.output}
        if sums and whole and shares.isdisjoint(final | captured):
            found |= region
    return found


def _region(
    gate: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]]
) -> tuple[set[str], set[str], bool]:
    """The nodes that a gate's shares reach, what they make, and whether all ways end in sums."""
    region, made, ends, waiting = {gate.name}, set(gate.output), True, [gate]
    while waiting:
        node = waiting.pop()
        if node.op_type in _SUM:
            continue
        following = [reader for out in node.output for reader in readers.get(out, ())]
        ends = ends and bool(following)
        for reader in following:
            if reader.op_type not in _PASS | _SUM:
                ends = False
            elif reader.name not in region:
                region.add(reader.name)
                made.update(reader.output)
                waiting.append(reader)
    return region, made, ends
