"""The one pass that walks a graph and puts standard nodes in place of those with a rewrite."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from rewrites.core.builder import Builder
from rewrites.core.registry import find
from rewrites.core.rewrite import ANYWHERE, Array, Routing, Serving, Tensor
from rewrites.errors import OnnxTuneError

_log = logging.getLogger(__name__)

STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Plan:
    """How the nodes of a graph are to be rewritten.

    Attributes:
        routing: node name -> routing. A node that is not named is hard.
        temperature: width of a soft gate in units of its feature's spread.
        spreads: node name -> standard deviation of each feature of its first input, [F].
        for_torch: whether operators of the private domain may be used.
        serving: where a hard form is to run.
    """

    routing: Mapping[str, Routing]
    temperature: float
    spreads: Mapping[str, Array]
    for_torch: bool = False
    serving: Serving = ANYWHERE


def rewrite_graph(model: ir.Model, plan: Plan) -> dict[str, Tensor]:
    """Rewrite, in place, every node of the main graph that has a rewrite.

    A node whose attributes its rewrite does not cover stays as it is. The nodes must have unique
    names, and the default domain must be at opset 13 or newer.

    Returns:
        The learned tensors of the rewritten nodes, by their full name `<node>/<role>`.
    """
    declared: dict[str, Tensor] = {}
    opset = model.graph.opset_imports.get("", 17)
    for node in list(model.graph):
        rewrite = find(node.domain, node.op_type)
        if rewrite is None or rewrite.soften is None or not rewrite.covers(node):
            continue
        name = str(node.name)
        spread = plan.spreads.get(name)
        try:
            tensors = rewrite.tensors(node, spread)
        except OnnxTuneError as error:
            _log.info("left as it is: %s", error)
            continue
        routing = plan.routing.get(name, "hard")
        builder = Builder(
            name, tensors, routing, plan.temperature, spread, plan.for_torch, plan.serving, opset
        )
        replace(model.graph, node, builder, rewrite.soften(node, builder))
        declared.update({f"{name}/{role}": tensor for role, tensor in tensors.items()})
    return declared


def replace(
    graph: ir.Graph, node: ir.Node, builder: Builder, outputs: Sequence[ir.Value | None]
) -> None:
    """Put the recorded nodes in the place of `node`, its outputs keeping their names and types."""
    new_values = list(outputs)
    old_values, kept = [], []
    for old, new in zip(node.outputs, new_values, strict=False):
        if new is None:
            continue
        if new.producer() is None or new.producer() not in builder.tape.nodes:
            new = builder.op("Identity", new)
        new.name, new.type, new.shape = old.name, old.type or new.type, old.shape
        new.doc_string = old.doc_string
        old_values.append(old)
        kept.append(new)
    for value in builder.tape.initializers:
        graph.register_initializer(value)
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], list(builder.tape.nodes), old_values, kept
    )
