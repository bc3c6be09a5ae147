"""TreeEnsembleRegressor: the leaf values that a row reaches, joined over the trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, integer
from rewrites.core.builder import Builder, numpy_dtype
from rewrites.core.memory import once
from rewrites.core.rewrite import Array, Attributes, Case, Replacement, Rewrite, Tensor
from rewrites.errors import ModelError
from rewrites.scores.links import post_transform
from rewrites.trees.ensemble import Ensemble, ensemble_of
from rewrites.trees.hardening import written_or_replaced
from rewrites.trees.listed import read_listed
from rewrites.trees.listed_taking import take_listed
from rewrites.trees.regressor import regression
from rewrites.trees.taking import Lists, ensemble_operator
from rewrites.trees.tensors import declare, write_back

_NAMES = {
    "thresholds": "nodes_values",
    "leaf_values": "target_weights",
    "base_values": "base_values",
}


def _ensemble(node: ir.Node, tuned: Attributes | None = None) -> Ensemble:
    targets = integer(node, "n_targets", 1)
    if targets < 1:
        raise ModelError(f"{describe(node)}: n_targets is {targets}.")
    source = node.inputs[0]
    dtype = np.float32 if source is None else numpy_dtype(source)
    ensemble = ensemble_of(read_listed(node, "target", targets, dtype, tuned), np.arange(targets))
    if len(ensemble.base_values) not in (0, targets):
        raise ModelError(
            f"{describe(node)}: it has {len(ensemble.base_values)} base values for {targets} "
            "targets."
        )
    return ensemble


@once
def _read(node: ir.Node) -> Ensemble:
    return _ensemble(node)


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`thresholds` [I], `leaf_values` [L, K] or [E], `base_values` [K]."""
    post_transform(node)
    return declare(_read(node), spread)


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Trees joined, base values, link."""
    x = builder.as_float(node.inputs[0], keep_double=True)
    ensemble = _read(node)
    outputs = regression(builder, ensemble, x, post_transform(node))
    if outputs.dtype == ir.DataType.DOUBLE:
        outputs = builder.op("Cast", outputs, to=int(ir.DataType.FLOAT))
    return [outputs]


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes | Replacement:
    """Thresholds and leaf values into their places."""
    ensemble = _read(node)
    attributes = write_back(ensemble, tuned, _NAMES)
    known = tensors(node, None)
    return written_or_replaced(node, ensemble, attributes, _ensemble, soften, known, tuned)


_TREES = """nodes_treeids = [0, 0, 0, 0, 0, 1, 1, 1], nodes_nodeids = [0, 1, 2, 3, 4, 0, 1, 2],
    nodes_featureids = [0, 1, 0, 0, 0, 2, 0, 0],
    nodes_values = [0.5, -0.25, 0.0, 0.0, 0.0, 1.5, 0.0, 0.0],
    nodes_truenodeids = [1, 2, 0, 0, 0, 1, 0, 0],
    nodes_falsenodeids = [4, 3, 0, 0, 0, 2, 0, 0]"""


def _modes(*decisions: str) -> str:
    first, second, third = decisions
    leaves = '"LEAF", "LEAF"'
    return f'nodes_modes = ["{first}", "{second}", {leaves}, "LEAF", "{third}", {leaves}]'


_LEQ = _modes("BRANCH_LEQ", "BRANCH_LEQ", "BRANCH_LEQ")
_WEIGHTS = """target_treeids = [0, 0, 0, 1, 1], target_nodeids = [2, 3, 4, 1, 2],
    target_weights = [1.0, -2.0, 3.0, 0.5, -0.75]"""
_ONE_TARGET = f"{_WEIGHTS}, target_ids = [0, 0, 0, 0, 0]"
_TWO_TARGETS = f"{_WEIGHTS}, target_ids = [0, 0, 0, 1, 1], base_values = [0.25, -0.5]"


def _text(*attributes: str, x: str = "float", targets: int = 1) -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g ({x}[N, 3] x) => (float[N, {targets}] y) {{
        [trees] y = ai.onnx.ml.TreeEnsembleRegressor <
            n_targets = {targets}, {", ".join(attributes)}> (x)
    }}"""


_SINGLE_LEAF = """nodes_treeids = [0], nodes_nodeids = [0], nodes_featureids = [0],
    nodes_values = [0.0], nodes_modes = ["LEAF"], nodes_truenodeids = [0],
    nodes_falsenodeids = [0], target_treeids = [0], target_nodeids = [0],
    target_ids = [0], target_weights = [0.5]"""
_LEAF_AND_STUMP = """nodes_treeids = [0, 1, 1, 1], nodes_nodeids = [0, 0, 1, 2],
    nodes_featureids = [0, 1, 0, 0], nodes_values = [0.0, 0.5, 0.0, 0.0],
    nodes_modes = ["LEAF", "BRANCH_LEQ", "LEAF", "LEAF"],
    nodes_truenodeids = [0, 1, 0, 0], nodes_falsenodeids = [0, 2, 0, 0],
    target_treeids = [0, 1, 1], target_nodeids = [0, 1, 2], target_ids = [0, 0, 0],
    target_weights = [0.5, 1.0, -2.0]"""
_CATEGORIES = _TREES.replace("0.5, -0.25, 0.0, 0.0, 0.0, 1.5", "3.0, 5.0, 0.0, 0.0, 0.0, 2.0")
_CHAIN = """nodes_treeids = [0, 0, 0, 0, 0, 0], nodes_nodeids = [0, 1, 2, 3, 4, 5],
    nodes_featureids = [0, 0, 0, 0, 1, 0], nodes_values = [1.0, 2.0, 4.5, 0.0, 0.5, 0.0],
    nodes_truenodeids = [4, 4, 4, 0, 3, 0], nodes_falsenodeids = [1, 2, 3, 0, 5, 0],
    nodes_modes = ["BRANCH_EQ", "BRANCH_EQ", "BRANCH_EQ", "LEAF", "BRANCH_LEQ", "LEAF"],
    target_treeids = [0, 0], target_nodeids = [3, 5], target_ids = [0, 0],
    target_weights = [1.0, -2.0]"""
_SPARSE = """target_treeids = [0, 0, 1, 1, 1], target_nodeids = [2, 4, 1, 1, 2],
    target_weights = [1.0, -2.0, 0.5, 0.25, -0.75], target_ids = [0, 1, 0, 0, 1],
    base_values = [0.25, -0.5]"""
_PROBABILITIES = _ONE_TARGET.replace("1.0, -2.0, 3.0, 0.5, -0.75", "0.25, 0.125, 0.5, 0.25, 0.375")
_MISSING = "nodes_missing_value_tracks_true = [1, 0, 0, 0, 0, 1, 0, 0], base_values = [0.3]"


def _take(node: ir.Node, trees: Array) -> Lists:
    count = integer(node, "n_targets", 1)
    return take_listed(node, read_listed(node, "target", count, np.float32), "target", trees)


REWRITE = Rewrite(
    operator="TreeEnsembleRegressor",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    ensemble=ensemble_operator(_read, _take),
    cases=(
        Case("one target", _text(_TREES, _LEQ, _ONE_TARGET)),
        Case("double input", _text(_TREES, _LEQ, _ONE_TARGET, x="double")),
        Case(
            "BRANCH_LT mixed in, NaN to the true child in places, base value",
            _text(_TREES, _modes("BRANCH_LT", "BRANCH_LEQ", "BRANCH_LT"), _MISSING, _ONE_TARGET),
        ),
        Case(
            "BRANCH_GT and BRANCH_GTE, NaN to the true child in places",
            _text(_TREES, _modes("BRANCH_GT", "BRANCH_GTE", "BRANCH_GT"), _MISSING, _ONE_TARGET),
        ),
        Case(
            "BRANCH_LT on doubles",
            _text(
                _TREES,
                _modes("BRANCH_LT", "BRANCH_LT", "BRANCH_LT"),
                _MISSING,
                _ONE_TARGET,
                x="double",
            ),
        ),
        Case("two targets, one a tree", _text(_TREES, _LEQ, _TWO_TARGETS, targets=2)),
        Case(
            "two targets with a link",
            _text(_TREES, _LEQ, _TWO_TARGETS, 'post_transform = "SOFTMAX"', targets=2),
        ),
        Case(
            "the least, weights here and there, base values",
            _text(_TREES, _LEQ, _SPARSE, 'aggregate_function = "MIN"', targets=2),
        ),
        Case(
            "the largest, double input",
            _text(_TREES, _LEQ, _ONE_TARGET, 'aggregate_function = "MAX"', x="double"),
        ),
        Case(
            "the mean with PROBIT and a base value",
            _text(
                _TREES,
                _LEQ,
                _PROBABILITIES,
                'aggregate_function = "AVERAGE", post_transform = "PROBIT", base_values = [0.3]',
            ),
        ),
        Case(
            "two targets with SOFTMAX_ZERO, weights here and there",
            _text(_TREES, _LEQ, _SPARSE, 'post_transform = "SOFTMAX_ZERO"', targets=2),
        ),
        Case(
            "BRANCH_EQ and BRANCH_NEQ",
            _text(_CATEGORIES, _modes("BRANCH_EQ", "BRANCH_LEQ", "BRANCH_NEQ"), _ONE_TARGET),
        ),
        Case("a chain of BRANCH_EQ with one true child, a shared leaf", _text(_CHAIN)),
        Case("a tree of a single leaf beside another", _text(_LEAF_AND_STUMP)),
        Case("nothing but a single leaf", _text(_SINGLE_LEAF)),
    ),
)
