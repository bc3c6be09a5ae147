"""The values that the thresholds of a model meet on given rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnxtune.calibration import matrices
from onnxtune.learned import ir_node
from onnxtune.preparation import Prepared
from rewrites.core.registry import find
from rewrites.core.rewrite import Array


def met_values(
    prepared: Prepared, names: Sequence[str], feed: Mapping[str, Array]
) -> dict[str, tuple[Array, Array]]:
    """Of each tensor of thresholds [P] what its node reads, [N, F], and each one's feature, [P].

    Those are left out whose node reads no numeric matrix or does not tell the features.
    """
    nodes = {node.name: node for node in prepared.proto.graph.node}
    holders = {name: nodes[name.rsplit("/", 1)[0]] for name in names}
    met = matrices(prepared, feed, sorted({node.input[0] for node in holders.values()}))
    found = {}
    for name, node in holders.items():
        features, data = _features(prepared, node), met.get(node.input[0])
        if data is not None and features is not None:
            found[name] = (data, features)
    return found


def _features(prepared: Prepared, node: onnx.NodeProto) -> Array | None:
    """[P] the feature of each threshold; None where the operator does not tell."""
    rewrite = find(node.domain, node.op_type)
    if rewrite is None or rewrite.ensemble is None:
        return None
    return rewrite.ensemble.features(ir_node(prepared, node))
