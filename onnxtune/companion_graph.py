"""Writes a companion's networks into a graph, and blends them with what the graph puts out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxtune.classes import Labels, label_outputs
from onnxtune.companion_net import Networks
from onnxtune.errors import UnsupportedError
from onnxtune.graph_names import names_of, unused
from onnxtune.preparation import OPSET, opset_of, set_opset

# What turns a network's scores into what the output holds.
NetLink = Literal["softmax", "sigmoid", "exp", "identity"]

_LINKS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "exp": "Exp"}

_PREFIX = "companion"

# The first opset with all operators that are used here.
_OLDEST_OPSET = 9


@dataclass(frozen=True)
class Port:
    """A tensor of the graph with the rows first."""

    name: str
    dtype: np.dtype[np.generic]
    rank: int


class _Nodes:
    """Nodes and constants of a graph, under names of their own."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = set(names_of(graph))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def name(self, wanted: str) -> str:
        return unused(f"{_PREFIX}/{wanted}", self._taken)

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        made = output or self.name(kind.lower())
        self.nodes.append(
            helper.make_node(kind, inputs, [made], name=self.name(f"{kind}_node"), **attributes)
        )
        return made

    def constant(self, role: str, value: Any) -> str:
        name = self.name(role)
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def with_companion(
    proto: onnx.ModelProto,
    inputs: Sequence[Port],
    value: Port,
    networks: Networks,
    link: NetLink,
    share: float,
    labels: Labels | None,
    prepared: onnx.ModelProto,
) -> onnx.ModelProto:
    """share * model + (1 - share) * the mean of the networks' outputs, in the place of a value.

    Args:
        proto: the model.
        inputs: the values that the networks read, in order; matrices of numbers.
        value: what is blended, the tensor behind an output.
        networks: they put out as many columns as it has.
        link: behind their scores.
        share: of the model, from 0 to 1.
        labels: the classes, where a label output is to follow the blended scores.
        prepared: the model as it was prepared, which makes inputs that `proto` lacks: the places of
            words in a table.

    Raises:
        UnsupportedError: the graph does not hold these values.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    check_opset(made)
    opset = opset_of(made)
    if opset is None:
        set_opset(made, "", OPSET)
    graph = made.graph
    there = set(names_of(graph))
    graph.node.extend(_makers(prepared.graph, {port.name for port in inputs} - there, there))
    maker = next((n for n, node in enumerate(graph.node) if value.name in node.output), None)
    if maker is None:
        raise UnsupportedError(f"a companion needs a node that makes '{value.name}'.")
    nodes = _Nodes(graph)
    own = nodes.name("model")
    outputs = graph.node[maker].output
    outputs[list(outputs).index(value.name)] = own
    net = _mean_output(nodes, inputs, networks, link, opset or OPSET)
    kind = np.dtype(value.dtype)
    if kind != np.float32:
        net = nodes.op("Cast", net, to=helper.np_dtype_to_tensor_dtype(kind))
    if value.rank != 2:
        net = nodes.op("Reshape", net, nodes.constant("rows", np.array([-1], np.int64)))
    ours = nodes.op("Mul", own, nodes.constant("model_share", np.array(share, kind)))
    theirs = nodes.op("Mul", net, nodes.constant("network_share", np.array(1 - share, kind)))
    nodes.op("Add", ours, theirs, output=value.name)
    rest = list(graph.node)[maker + 1 :]
    before = list(graph.node)[: maker + 1]
    blend = list(nodes.nodes)
    nodes.nodes.clear()
    if labels is not None:
        names = label_outputs(proto)
        _relabel(graph, before + rest, nodes, value.name, names, labels)
    every = _in_order([*before, *blend, *rest, *nodes.nodes])
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in every]
    del graph.node[:]
    graph.node.extend(copies)
    graph.initializer.extend(nodes.constants)
    return made


def _makers(
    graph: onnx.GraphProto, values: set[str], there: Collection[str]
) -> list[onnx.NodeProto]:
    """The nodes of a graph from the values that are there to these."""
    found = []
    wanted = set(values)
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            found.append(node)
            wanted.update(name for name in node.input if name not in there)
    return found[::-1]


def check_opset(proto: onnx.ModelProto) -> None:
    """Refuse a model whose opset lacks an operator that is needed.

    Raises:
        UnsupportedError: it does.
    """
    opset = opset_of(proto)
    if opset is not None and opset < _OLDEST_OPSET:
        raise UnsupportedError(
            f"a companion needs opset {_OLDEST_OPSET} or newer, and the model has {opset}; convert "
            "it with onnx.version_converter first."
        )


def _in_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes behind what they read, otherwise in the order they have."""
    made = {name for node in nodes for name in node.output if name}
    waiting = [{name for name in node.input if name in made} for node in nodes]
    found: list[onnx.NodeProto] = []
    left = list(range(len(nodes)))
    while left:
        later = []
        for place in left:
            if waiting[place] & made:
                later.append(place)
                continue
            found.append(nodes[place])
            made.difference_update(nodes[place].output)
        left = later
    return found


def _mean_output(
    nodes: _Nodes, inputs: Sequence[Port], networks: Networks, link: NetLink, opset: int
) -> str:
    """[N, K]: the mean of what the networks put out."""
    columns = []
    for read in inputs:
        own = read.name
        if read.dtype != np.float32:
            own = nodes.op("Cast", own, to=onnx.TensorProto.FLOAT)
        if read.rank != 2:
            own = nodes.op("Flatten", own, axis=1)
        columns.append(own)
    x = columns[0] if len(columns) == 1 else nodes.op("Concat", *columns, axis=1)
    held = networks.inputs
    mean = nodes.constant("mean", held.mean)
    x = nodes.op("Where", nodes.op("IsNaN", x), mean, x)
    x = nodes.op("Max", x, nodes.constant("low", held.low))
    x = nodes.op("Min", x, nodes.constant("high", held.high))
    x = nodes.op("Div", nodes.op("Sub", x, mean), nodes.constant("spread", held.spread))
    half, root = np.float32(0.5), np.float32(np.sqrt(0.5))
    last = len(networks.weights) - 1
    for place, (weight, bias) in enumerate(zip(networks.weights, networks.biases, strict=True)):
        x = nodes.op("MatMul", x, nodes.constant(f"weight_{place}", weight))
        x = nodes.op("Add", x, nodes.constant(f"bias_{place}", bias))
        if place < last:
            erf = nodes.op("Erf", nodes.op("Mul", x, nodes.constant("root_half", root)))
            open_ = nodes.op("Add", erf, nodes.constant("one", np.float32(1)))
            x = nodes.op("Mul", nodes.op("Mul", x, nodes.constant("half", half)), open_)
    x = nodes.op("Max", x, nodes.constant("least_score", networks.low))
    x = nodes.op("Min", x, nodes.constant("largest_score", networks.high))
    if link == "softmax":
        x = nodes.op("Softmax", x, axis=2)
    elif link != "identity":
        x = nodes.op(_LINKS[link], x)
    if opset >= 18:
        first = nodes.constant("first_axis", np.array([0], np.int64))
        return nodes.op("ReduceMean", x, first, keepdims=0)
    return nodes.op("ReduceMean", x, axes=[0], keepdims=0)


def _relabel(
    graph: onnx.GraphProto,
    others: Sequence[onnx.NodeProto],
    nodes: _Nodes,
    scores: str,
    outputs: Sequence[str],
    labels: Labels,
) -> None:
    """Label outputs that are not made from the blended scores [N, K] are made from them.

    What the graph makes of a label, such as whether it is of one class, follows from the new one.
    """
    follows = {scores}
    makers = {name: node for node in others for name in node.output if name in outputs}
    for name, maker in makers.items():
        for node in others:
            if any(read in follows for read in node.input):
                follows.update(node.output)
        if name in follows:
            continue
        follows.add(name)
        maker.output[list(maker.output).index(name)] = nodes.name("model_label")
        (kind,) = (o.type.tensor_type.elem_type for o in graph.output if o.name == name)
        table = np.array(labels, dtype=object if isinstance(labels[0], str) else np.int64)
        best = nodes.op("ArgMax", scores, axis=1, keepdims=0)
        found = nodes.op("Gather", nodes.constant("labels", table), best)
        if kind not in (0, onnx.TensorProto.INT64, onnx.TensorProto.STRING):
            found = nodes.op("Cast", found, to=kind)
        nodes.op("Identity", found, output=name)
