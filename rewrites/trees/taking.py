"""Takes some trees of an ensemble, or several copies of all, and says where each number is from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rewrites.core.ensembles import EnsembleOperator, EnsembleShape, Taken, no_logits
from rewrites.core.rewrite import Array
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.tables import shape_of
from rewrites.trees.tensors import entry_places, is_dense, threshold_numbers


@dataclass(frozen=True)
class Lists:
    """The lists of an operator with other trees.

    Attributes:
        attributes: those that change.
        nodes, weights: for each new entry of the list of thresholds and of that of weights, the
            place of the old one.
        tree_of_node, tree_of_weight: the place of its tree among those taken.
    """

    attributes: tuple[ir.Attr, ...]
    nodes: Array
    weights: Array
    tree_of_node: Array
    tree_of_weight: Array


def ensemble_operator(
    read: Callable[[ir.Node], Ensemble],
    take: Callable[[ir.Node, Array], Lists],
    logits: Callable[[ir.Node, float], tuple[ir.Attr, ...] | None] = no_logits,
) -> EnsembleOperator:
    """What an operator offers, from how it is read and how its lists are rearranged."""

    def shape(node: ir.Node) -> EnsembleShape:
        return shape_of(read(node))

    def groups(node: ir.Node) -> Array | None:
        ensemble = read(node)
        # A leaf without a weight has no learned number to scale.
        own = ensemble.votes.single and bool(ensemble.values[ensemble.entries < 0].any())
        return None if own or ensemble.aggregate in ("MIN", "MAX") else _groups(ensemble)

    def taken(node: ir.Node, trees: Array) -> Taken:
        old, lists = read(node), take(node, trees)
        attributes = dict(node.attributes)
        attributes |= {attribute.name: attribute for attribute in lists.attributes}
        inputs = list(node.inputs)
        new_node = ir.Node(
            node.domain, node.op_type, inputs, list(attributes.values()),
            num_outputs=len(node.outputs), name=node.name,
        )  # fmt: skip
        share = 1.0 if old.aggregate == "AVERAGE" else old.roots / max(1, len(trees))
        return _traced(old, read(new_node), lists, share)

    def features(node: ir.Node) -> Array:
        ensemble = read(node)
        return np.asarray(ensemble.features[threshold_numbers(ensemble)[0]])

    return EnsembleOperator(shape, groups, taken, features, logits)


def _groups(ensemble: Ensemble) -> Array:
    """[T] trees that vote for the same columns have the same number."""
    votes = np.zeros((ensemble.roots, len(ensemble.columns)), bool)
    leaf, column = np.nonzero(ensemble.entries >= 0)
    votes[ensemble.tree_of_leaf[leaf], column] = True
    return np.asarray(np.unique(votes, axis=0, return_inverse=True)[1]).ravel()


def _traced(old: Ensemble, new: Ensemble, lists: Lists, share: float) -> Taken:
    first, _ = threshold_numbers(old)
    own_first, _ = threshold_numbers(new)
    places = new.inner_places[own_first]
    thresholds = _numbers(old.inner_places[first])[lists.nodes[places]]
    weights = entry_places(new)
    leaf_values = _numbers(entry_places(old))[lists.weights[weights]]
    if is_dense(new):
        leaf_values = leaf_values.reshape(-1, len(new.columns))
    tree_of_leaf = lists.tree_of_weight[weights].reshape(leaf_values.shape)
    bases = np.arange(len(old.base_values))
    return Taken(
        attributes=lists.attributes,
        origin={"thresholds": thresholds, "leaf_values": leaf_values, "base_values": bases},
        tree={
            "thresholds": lists.tree_of_node[places],
            "leaf_values": tree_of_leaf,
            "base_values": np.full(len(bases), -1),
        },
        share=share,
    )


def _numbers(places: Array) -> Array:
    """From a place in the operator's list to the number of the tensor's entry that is there."""
    found = np.full(int(places.max(initial=-1)) + 1, -1)
    found[places] = np.arange(len(places))
    return found
