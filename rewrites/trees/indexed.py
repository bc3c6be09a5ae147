"""Reads TreeEnsemble: inner nodes and leaves in lists of their own, which refer by place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, integer, required
from rewrites.core.rewrite import Array
from rewrites.errors import ModelError
from rewrites.trees.nodes import EQ, LEAF, MEMBER, Aggregate, Nodes, runs

_AGGREGATES: tuple[Aggregate, ...] = ("AVERAGE", "SUM", "MIN", "MAX")

# Sets that onnxruntime writes out as chains of BRANCH_EQ: shorter than this, of numbers within.
_SHORT, _LEAST, _MOST = 31, 0, 30


def read_indexed(node: ir.Node, tuned: Mapping[str, Array] | None = None) -> Nodes:
    """The nodes of a TreeEnsemble, float or double.

    Args:
        node: the operator.
        tuned: numbers that stand in those of attributes, NaN for "as it was".

    Raises:
        ModelError: the attributes contradict each other.
    """
    where = describe(node)
    modes = _tensor(node, "nodes_modes").astype(np.int8)
    features = required(node, "nodes_featureids", np.int64)
    splits = _numbers(node, "nodes_splits", tuned)
    weights = _numbers(node, "leaf_weights", tuned)
    targets = required(node, "leaf_targetids", np.int64)
    roots = required(node, "tree_roots", np.int64)
    ids = [required(node, f"nodes_{side}nodeids", np.int64) for side in ("false", "true")]
    leafs = [required(node, f"nodes_{side}leafs", np.int64) != 0 for side in ("false", "true")]
    count, kind = len(modes), integer(node, "aggregate_function", 1)
    targets_count = integer(node, "n_targets", 0)
    if {len(array) for array in (features, splits, *ids, *leafs)} != {count}:
        raise ModelError(f"{where}: its nodes_* attributes differ in length.")
    if len(targets) != len(weights):
        raise ModelError(f"{where}: leaf_targetids and leaf_weights differ in length.")
    if len(targets) and (targets.min() < 0 or targets.max() >= targets_count):
        raise ModelError(f"{where}: leaf_targetids names none of its {targets_count} targets.")
    if len(modes) and (modes.min() < 0 or modes.max() > MEMBER):
        raise ModelError(f"{where}: nodes_modes has a mode beyond BRANCH_MEMBER.")
    if not 0 <= kind < len(_AGGREGATES):
        raise ModelError(f"{where}: aggregate_function {kind} is none of 0 to 3.")
    for place, is_leaf in zip(ids, leafs, strict=True):
        size = np.where(is_leaf, len(weights), count)
        _in_range(where, place, size)
    _in_range(where, roots, np.full(len(roots), count))
    missing = np.zeros(count, bool)
    if "nodes_missing_value_tracks_true" in node.attributes:
        tracks = required(node, "nodes_missing_value_tracks_true", np.int64)
        missing[: len(tracks)] = tracks[:count] == 1

    starts, members = _sets(node, modes)
    lengths = np.diff(starts)
    written_out = (modes == MEMBER) & _are_short(starts, members)
    repeats = np.where(written_out, lengths, 1)
    first = np.cumsum(repeats) - repeats
    total = int(repeats.sum())
    source = np.repeat(np.arange(count), repeats)
    last = np.zeros(total, bool)
    last[first + repeats - 1] = True

    def child(side: int) -> Array:
        own = np.where(leafs[side], 0, ids[side])
        return np.where(leafs[side], total + ids[side], first[own])[source]

    limits = splits[source]
    limits[written_out[source]] = members[runs(starts[:-1][written_out], lengths[written_out])]
    large = np.where((modes == MEMBER) & ~written_out, lengths, 0)
    leaf_zeros = np.zeros(len(weights), np.int64)
    set_starts = np.cumsum(np.r_[0, large[source], leaf_zeros])
    alone = (ids[0] == ids[1]) & leafs[0] & leafs[1]
    return Nodes(
        where=where,
        modes=np.r_[np.where(written_out, EQ, modes)[source], leaf_zeros + LEAF].astype(np.int8),
        features=np.r_[features[source], leaf_zeros],
        limits=np.r_[limits, leaf_zeros].astype(splits.dtype),
        missing=np.r_[missing[source], leaf_zeros == 1],
        children=np.column_stack(
            [
                np.r_[np.where(last, child(0), np.arange(total) + 1), leaf_zeros - 1],
                np.r_[child(1), leaf_zeros - 1],
            ]
        ),
        # Both children of a tree's root may be one leaf; then the tree is that leaf.
        roots=np.where(alone[roots], total + ids[0][roots], first[roots]),
        places=np.r_[source, np.arange(len(weights))],
        set_starts=set_starts,
        members=members[runs(starts[:-1][large > 0], large[large > 0])],
        leaves=total + np.arange(len(weights)),
        targets=targets,
        weights=weights,
        first_weights=np.r_[np.zeros(total, weights.dtype), weights],
        base_values=np.zeros(0, weights.dtype),
        aggregate=_AGGREGATES[kind],
        targets_count=targets_count,
    )


def _tensor(node: ir.Node, name: str) -> Array:
    found = node.attributes.get(name)
    if found is None:
        raise ModelError(f"{describe(node)}: the attribute '{name}' is missing.")
    return np.asarray(found.as_tensor().numpy()).ravel()


def _numbers(node: ir.Node, name: str, tuned: Mapping[str, Array] | None) -> Array:
    held = _tensor(node, name)
    if tuned is not None and name in tuned:
        held = held.copy()
        moved = np.flatnonzero(~np.isnan(tuned[name]))
        held[moved] = tuned[name][moved]
    return held


def _in_range(where: str, places: Array, sizes: Array) -> None:
    wrong = np.flatnonzero((places < 0) | (places >= sizes))
    if len(wrong):
        raise ModelError(f"{where}: node or leaf {places[wrong[0]]} does not exist.")


def _sets(node: ir.Node, modes: Array) -> tuple[Array, Array]:
    """Where the members of each node begin, [count + 1], and all members."""
    lengths = np.zeros(len(modes), np.int64)
    wanted = np.flatnonzero(modes == MEMBER)
    if not len(wanted):
        return np.zeros(len(modes) + 1, np.int64), np.zeros(0, np.float32)
    listed = _tensor(node, "membership_values")
    ends = np.flatnonzero(np.isnan(np.append(listed, np.nan)))
    sizes = np.diff(np.r_[-1, ends]) - 1
    if len(sizes) < len(wanted) or not sizes[: len(wanted)].all():
        raise ModelError(
            f"{describe(node)}: membership_values holds no values for one of its "
            f"{len(wanted)} BRANCH_MEMBER nodes."
        )
    lengths[wanted] = sizes[: len(wanted)]
    members = listed[: int(ends[len(wanted) - 1])]
    members = members[~np.isnan(members)]
    starts = np.r_[0, np.cumsum(lengths)]
    large = (modes == MEMBER) & ~_are_short(starts, members)
    held = members[runs(starts[:-1][large], lengths[large])]
    fits = (held == np.trunc(held)) & (held >= -(2.0**31)) & (held < 2.0**31)
    if not fits.all():
        raise ModelError(
            f"{describe(node)}: onnxruntime takes {held[~fits][0]} for no member of a set; the "
            "members of large sets must be whole numbers of 32 bits."
        )
    return starts, members


def _are_short(starts: Array, members: Array) -> Array:
    """[count] bool: sets that onnxruntime writes out, or none."""
    outside = np.cumsum(np.r_[0, (members < _LEAST) | (members > _MOST)])
    inside = outside[starts[1:]] == outside[starts[:-1]]
    return np.asarray((np.diff(starts) < _SHORT) & inside)
