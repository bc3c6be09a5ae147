"""What a model has learned, counted without asking whether it can be tuned."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from onnxtune.errors import OnnxTuneError
from onnxtune.learned import is_learned, is_unread, node_tensors
from onnxtune.partition import float_outputs
from onnxtune.preparation import Prepared, constant_tensor
from rewrites.core.registry import find


@dataclass(frozen=True)
class Numbers:
    """Tensors by name -> how many numbers each holds.

    `waiting` are those that stand behind or in a node of ai.onnx.ml without a rewrite; they are in
    `all` too.
    """

    all: dict[str, int]
    waiting: frozenset[str]


def learned_numbers(prepared: Prepared) -> Numbers:
    """Every float tensor of more than one element from which values flow to a float output,
    through whatever operators, and all that rewrites declare there."""
    graph = prepared.proto.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    held = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, int] = {}
    waiting: set[str] = set()
    # (value, whether a node without a rewrite lies behind it)
    queue = deque((value, False) for value in float_outputs(prepared).values())
    seen: dict[str, bool] = {}
    while queue:
        value, blocked = queue.popleft()
        if value in seen and (seen[value] or not blocked):
            continue
        seen[value] = blocked
        if value in held and is_learned(held[value]):
            found[value] = _size(held[value])
            if blocked:
                waiting.add(value)
        node = makers.get(value)
        if node is None or node.op_type in ("Shape", "Size"):
            continue  # of a shape no number was learned
        own = _own(prepared, node)
        lacks = node.domain == "ai.onnx.ml" and find(node.domain, node.op_type) is None
        found |= own
        if blocked or lacks:
            waiting |= own.keys()
        queue.extend((read, blocked or lacks) for read in _reads(node))
    return Numbers(found, frozenset(waiting))


def _own(prepared: Prepared, node: onnx.NodeProto) -> dict[str, int]:
    """What stands in a node itself: declared tensors, lists of floats, tensors of subgraphs."""
    if find(node.domain, node.op_type) is not None:
        try:
            tensors = node_tensors(prepared, node)
            return {name: int(tensor.value.size) for name, tensor in tensors.items()}
        except OnnxTuneError:
            pass  # its rewrite refuses it, and it counts as it stands
    own = {
        f"{node.name}/{attribute.name}": len(attribute.floats)
        for attribute in node.attribute
        # Numbers that no answer depends on, such as the weights of a TfIdfVectorizer in the mode
        # "TF", cannot be learned.
        if len(attribute.floats) > 1 and not is_unread(node, attribute.name)
    }
    for graph in _subgraphs(node):
        tensors = [*graph.initializer, *filter(None, map(constant_tensor, graph.node))]
        own |= {f"{node.name}/{t.name}": _size(t) for t in tensors if is_learned(t)}
    return own


def _size(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield graph
            for inner in graph.node:
                yield from _subgraphs(inner)


def _reads(node: onnx.NodeProto) -> list[str]:
    names = [name for name in node.input if name]
    for graph in _subgraphs(node):
        # Names inside that are the subgraph's own lead nowhere outside.
        names += [name for inner in graph.node for name in inner.input if name]
        names += [value.name for value in graph.output]
    return names
