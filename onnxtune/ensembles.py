"""The nodes of a model that hold trees: finding them, and writing them with other attributes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from onnxtune.copying import replace_attributes
from onnxtune.learned import ir_node
from onnxtune.model import load
from onnxtune.preparation import Prepared, prepare
from rewrites.core.ensembles import EnsembleOperator
from rewrites.core.naming import node_names
from rewrites.core.registry import find


def ensembles(
    prepared: Prepared, names: Collection[str]
) -> Iterator[tuple[ir.Node, EnsembleOperator]]:
    """Those of the named nodes that hold trees, each with what its operator offers."""
    for node in prepared.proto.graph.node:
        rewrite = find(node.domain, node.op_type) if node.name in names else None
        if rewrite is not None and rewrite.ensemble is not None:
            yield ir_node(prepared, node), rewrite.ensemble


def with_attributes(prepared: Prepared, changed: Mapping[str, Sequence[ir.Attr]]) -> Prepared:
    """The model with other attributes: node name -> those that change."""
    proto = onnx.ModelProto()
    proto.CopyFrom(prepared.source.proto)
    for node, name in zip(proto.graph.node, node_names(proto.graph), strict=True):
        if name in changed:
            replace_attributes(node, changed[name])
    return prepare(load(proto))
