"""Models whose large ensembles are cut down to a leaf: their types stay, and come cheaply."""

from __future__ import annotations

import onnx
from onnx import helper

from onnxtune.copying import copy_model

# Nodes of trees from which on it is worth it.
_LARGE = 10_000

_LEAF = {
    "nodes_treeids": [0],
    "nodes_nodeids": [0],
    "nodes_featureids": [0],
    "nodes_values": [0.0],
    "nodes_modes": ["LEAF"],
    "nodes_truenodeids": [0],
    "nodes_falsenodeids": [0],
}
_WEIGHT = {"treeids": [0], "nodeids": [0], "ids": [0], "weights": [0.0]}
_PREFIXES = {"TreeEnsembleClassifier": "class", "TreeEnsembleRegressor": "target"}


def with_small_trees(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every large TreeEnsembleClassifier or -Regressor is a single leaf."""
    return copy_model(model, _cut)


def _cut(node: onnx.NodeProto, copy: onnx.NodeProto) -> None:
    prefix = _PREFIXES.get(node.op_type)
    size = max((len(a.ints) for a in node.attribute if a.name == "nodes_treeids"), default=0)
    if prefix is None or size < _LARGE:
        copy.attribute.extend(node.attribute)
        return
    trees = _LEAF | {f"{prefix}_{name}": value for name, value in _WEIGHT.items()}
    for attribute in node.attribute:
        if not attribute.name.startswith(("nodes_", f"{prefix}_")):
            copy.attribute.add().CopyFrom(attribute)
    copy.attribute.extend(helper.make_attribute(name, value) for name, value in trees.items())
