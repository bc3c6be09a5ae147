"""What ensembles of trees offer beside their rewrite: their shape, and other sets of trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from rewrites.core.rewrite import Array


@dataclass(frozen=True)
class EnsembleShape:
    """What the cost of a form depends on.

    Attributes:
        depths: [T], decisions on the longest way of each tree.
        inner: [T], inner nodes of each tree.
        columns: of scores.
        features: of the rows.
    """

    depths: Array
    inner: Array
    columns: int
    features: int

    @property
    def trees(self) -> int:
        """T."""
        return len(self.depths)


@dataclass(frozen=True)
class Taken:
    """A node with other trees.

    Attributes:
        attributes: those that change.
        origin: role -> for every number of the new tensor, its place in the old one, flattened;
            in the shape of the new tensor.
        tree: role -> for every number, the place of its tree among those taken; -1 for none.
        share: what leaf values are to be multiplied by, so that the trees' result keeps its size.
    """

    attributes: tuple[ir.Attr, ...]
    origin: Mapping[str, Array]
    tree: Mapping[str, Array]
    share: float


def no_logits(node: ir.Node, factor: float) -> None:
    """For an operator whose leaves hold no probabilities."""


@dataclass(frozen=True)
class EnsembleOperator:
    """How an operator that holds trees is measured and taken apart.

    Attributes:
        shape: of the node's trees.
        groups: the node -> [T], trees that vote for the same columns having the same number; None
            where its trees cannot stand for each other.
        take: the node and the numbers of the trees to take, in order, repeated or not.
        features: the node -> [P], the feature that each of its learned thresholds is compared with.
        logits: the node and a factor -> the attributes that change where its leaves are to hold
            factor * (p - 1/K) in front of a link in place of probabilities p; None where they
            hold none.
    """

    shape: Callable[[ir.Node], EnsembleShape]
    groups: Callable[[ir.Node], Array | None]
    take: Callable[[ir.Node, Array], Taken]
    features: Callable[[ir.Node], Array]
    logits: Callable[[ir.Node, float], tuple[ir.Attr, ...] | None] = no_logits
