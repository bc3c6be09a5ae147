"""The sets of values that BRANCH_EQ, BRANCH_NEQ and BRANCH_MEMBER nodes test a feature for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rewrites.core.rewrite import Array
from rewrites.trees.chains import Chains, sequence_ids
from rewrites.trees.nodes import MEMBER, Nodes, runs


@dataclass(frozen=True)
class Sets:
    """D distinct sets over P distinct values of features; M memberships.

    Attributes:
        value_features: [P] int64, the feature of each value.
        values: [P], never NaN.
        whole: [P] bool, whether the feature is cut to a whole number before it is compared.
        features: [D] int64.
        missing: [D] bool, whether NaN counts as a member.
        member_values, member_sets: [M] int64, which value is a member of which set.
    """

    value_features: Array
    values: Array
    whole: Array
    features: Array
    missing: Array
    member_values: Array
    member_sets: Array

    def __len__(self) -> int:
        return len(self.features)


def no_sets(dtype: np.dtype[np.generic]) -> Sets:
    """Where every node compares with a threshold."""
    none = np.zeros(0, np.int64)
    no = np.zeros(0, bool)
    return Sets(none, np.zeros(0, dtype), no, none, no, none, none)


def distinct_sets(nodes: Nodes, chains: Chains, gates: Array, missing: Array) -> tuple[Sets, Array]:
    """The sets that the nodes `gates` [G] test for, and the number of each one's set, [G].

    `missing` [G] says whether NaN is to count as a member.
    """
    owners, values = _members(nodes, chains, gates)
    real = ~np.isnan(values)
    owners, values = owners[real], values[real]
    whole = nodes.modes[gates] == MEMBER
    kinds = np.column_stack([nodes.features[gates], whole])
    known = np.unique(np.column_stack([kinds, missing]), axis=0, return_inverse=True)[1].ravel()

    level, value_number = np.unique(values, return_inverse=True)
    rows = np.column_stack([kinds[owners], value_number])
    pairs, pair = np.unique(rows, axis=0, return_inverse=True)
    items = np.unique(owners * max(len(pairs), 1) + pair.ravel())  # sorted by owner, each once
    owners, pair = np.divmod(items, max(len(pairs), 1))
    counts = np.bincount(owners, minlength=len(gates))
    starts = np.cumsum(counts) - counts
    ids = sequence_ids(starts, counts, pair, known)
    _, first, number = np.unique(ids, return_index=True, return_inverse=True)
    sets = Sets(
        value_features=pairs[:, 0],
        values=level[pairs[:, 2]],
        whole=pairs[:, 1].astype(bool),
        features=nodes.features[gates[first]],
        missing=missing[first],
        member_values=pair[runs(starts[first], counts[first])],
        member_sets=np.repeat(np.arange(len(first)), counts[first]),
    )
    return sets, number


def _members(nodes: Nodes, chains: Chains, gates: Array) -> tuple[Array, Array]:
    """Which gate each value belongs to, and the values; along the chains where there are some."""
    lists = np.flatnonzero(nodes.modes[gates] == MEMBER)
    owner = np.flatnonzero(nodes.modes[gates] != MEMBER)
    at = gates[owner]
    owners, values = [], []
    while len(at):
        owners.append(owner)
        values.append(nodes.limits[at])
        if chains.following is None:
            break
        at = chains.following[at]
        owner, at = owner[at >= 0], at[at >= 0]
    if len(lists) and nodes.set_starts is not None:
        starts = nodes.set_starts[gates[lists]]
        counts = nodes.set_starts[gates[lists] + 1] - starts
        owners.append(np.repeat(lists, counts))
        values.append(nodes.members[runs(starts, counts)])
    if not owners:
        return np.zeros(0, np.int64), np.zeros(0, nodes.limits.dtype)
    return np.concatenate(owners), np.concatenate(values)
