"""The values of leaves: which weight of the operator each one is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rewrites.core.rewrite import Array
from rewrites.trees.nodes import Nodes


@dataclass(frozen=True)
class Votes:
    """The values of L leaves in K columns.

    Attributes:
        values: [L, K]; where a leaf has no entry for a column, what counts in its place.
        entries: [L, K] int64, the place of each value among the operator's weights, -1 for none.
        further: like `entries`, for leaves with a second, third, ... weight for one column.
        weights: [E], all of the operator's.
        single: whether the operator has one target, and a leaf without an entry its number too.
        negative: whether one of the operator's weights is negative.
        others_negative: whether one of those is that belongs to no leaf here.
    """

    values: Array
    entries: Array
    further: tuple[Array, ...]
    weights: Array
    single: bool
    negative: bool
    others_negative: bool


def votes_of(nodes: Nodes, leaves: Array, columns: Array) -> Votes:
    """The values of `leaves` [L], numbers of nodes, in `columns` [K], target or class ids."""
    row_of = np.full(len(nodes.modes), -1)
    row_of[leaves] = np.arange(len(leaves))
    # A leaf that is there several times fills its last row, which is copied afterwards.
    source = row_of[leaves]
    row = row_of[nodes.leaves]
    column = np.searchsorted(columns, nodes.targets).clip(max=max(len(columns) - 1, 0))
    # A weight on an inner node is never reached; onnxruntime ignores it as well.
    kept = np.flatnonzero((row >= 0) & (columns[column] == nodes.targets))
    row, column = row[kept], column[kept]
    shape = (len(leaves), len(columns))
    values = np.zeros(shape, nodes.weights.dtype)
    single = nodes.targets_count == 1
    if single:
        # A kernel of one target looks at one number of a leaf: its first weight, or what it has
        # in the place of a threshold.
        values[:, 0] = nodes.limits[leaves]
    layers: list[Array] = []
    rest = np.arange(len(kept))
    while len(rest) or not layers:
        entries = np.full(shape, -1)
        backward = rest[::-1]
        entries[row[backward], column[backward]] = kept[backward]  # the first of several stays
        layers.append(entries if (source == np.arange(len(source))).all() else entries[source])
        if single:
            break
        rest = rest[entries[row[rest], column[rest]] != kept[rest]]
    for number, entries in enumerate(layers):
        held = entries >= 0
        numbers = nodes.weights[entries[held]]
        if number == 0:
            values[held] = numbers
        elif nodes.aggregate == "MIN":
            values[held] = np.minimum(values[held], numbers)
        elif nodes.aggregate == "MAX":
            values[held] = np.maximum(values[held], numbers)
        else:
            values[held] += numbers
    others = np.ones(len(nodes.weights), bool)
    for entries in layers:
        others[entries[entries >= 0]] = False
    below = nodes.weights < 0
    return Votes(
        values=values,
        entries=layers[0],
        further=tuple(layers[1:]),
        weights=nodes.weights,
        single=single,
        negative=bool(below.any()),
        others_negative=bool((below & others).any()),
    )
