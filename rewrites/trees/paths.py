"""The paths of rows through trees by operators of the private domain: for torch alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import PRIVATE_DOMAIN, Builder
from rewrites.trees.columns import exact, finite
from rewrites.trees.ensemble import Ensemble
from rewrites.trees.tables import features_of, node_tables
from rewrites.trees.tensors import gate_slopes

Reduction = Literal["Sum", "Min", "Max"]


def tree_leaves(builder: Builder, ensemble: Ensemble, x: ir.Value) -> ir.Value:
    """[N, T] int32: the leaf that each row reaches in each tree, the shallow trees first."""
    source, tables, depths = _tables(builder, ensemble, x)
    return builder.op(
        "TreeLeaves",
        builder.tensor("thresholds"),
        source,
        *tables,
        domain=PRIVATE_DOMAIN,
        depths=depths,
    )


def leaf_sum(builder: Builder, leaves: ir.Value, table: ir.Value, reduction: Reduction) -> ir.Value:
    """[N, K]: over the trees, the sum (or least, or largest) of the rows of `table` [L, K]."""
    return builder.op("LeafSum", table, leaves, domain=PRIVATE_DOMAIN, reduction=reduction)


def tree_paths(
    builder: Builder, ensemble: Ensemble, x: ir.Value, table: ir.Value, reduction: Reduction
) -> ir.Value:
    """Like `leaf_sum` of `tree_leaves`, with straight-through gradients of the decisions."""
    source, tables, depths = _tables(builder, ensemble, x)
    return builder.op(
        "TreePaths",
        builder.tensor("thresholds"),
        table,
        source,
        gate_slopes(builder, ensemble),
        *tables,
        domain=PRIVATE_DOMAIN,
        depths=depths,
        reduction=reduction,
    )


def tree_shares(builder: Builder, ensemble: Ensemble, x: ir.Value, table: ir.Value) -> ir.Value:
    """[N, K]: over the leaves, the sum of the rows of `table` [L, K] by softly routed shares."""
    source, thresholds, columns = finite(builder, ensemble, x)
    tables = node_tables(ensemble)
    starts = np.repeat(tables.starts[:-1], tables.sizes)
    held = {
        "node_features": features_of(tables, columns),
        "first_child": tables.children + starts,
        "node_slot": tables.slots,
        "tree_roots": tables.starts[:-1],
    }
    return builder.op(
        "TreeShares",
        thresholds,
        table,
        source,
        gate_slopes(builder, ensemble),
        *(builder.constant(role, array, np.int32) for role, array in held.items()),
        domain=PRIVATE_DOMAIN,
        inner=tables.inner,
    )


def _tables(
    builder: Builder, ensemble: Ensemble, x: ir.Value
) -> tuple[ir.Value, tuple[ir.Value, ...], list[int]]:
    """The columns that nodes read, what is known of each node, and the depths of the trees.

    The roots stand in the order of their trees' depths.
    """
    tables = node_tables(ensemble)
    source, columns = exact(builder, ensemble, x)
    order = np.argsort(tables.depths, kind="stable")
    starts = np.repeat(tables.starts[:-1], tables.sizes)
    held = {
        "node_features": features_of(tables, columns),
        "first_child": tables.children + starts,
        "slot": np.minimum(tables.slots, tables.inner),
        "leaf": np.maximum(tables.slots - tables.inner, 0),
        "roots": tables.starts[:-1][order],
    }
    values = tuple(builder.constant(role, table, np.int32) for role, table in held.items())
    return source, values, tables.depths[order].tolist()
