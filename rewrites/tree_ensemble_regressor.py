"""TreeEnsembleRegressor: the sum of the leaf values that a row reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, integer
from rewrites.core.builder import Builder, numpy_dtype
from rewrites.core.rewrite import Array, Attributes, Case, Rewrite, Tensor
from rewrites.errors import UnsupportedError
from rewrites.scores.links import apply_link, post_transform
from rewrites.trees.ensemble import Ensemble, read
from rewrites.trees.evaluate import add_base, raw_scores
from rewrites.trees.tensors import declare, write_back


def _read(node: ir.Node) -> Ensemble:
    targets = integer(node, "n_targets", 1)
    source = node.inputs[0]
    dtype = np.float32 if source is None else numpy_dtype(source)
    ensemble = read(node, "target", np.arange(targets), dtype)
    if len(ensemble.base_values) not in (0, targets):
        raise UnsupportedError(
            f"{describe(node)}: {len(ensemble.base_values)} base values for {targets} targets "
            "have no rewrite."
        )
    # The kernel leaves the base value out where a row reaches nothing for one of many targets.
    if targets > 1 and len(ensemble.base_values) and not ensemble.always_voted.all():
        raise UnsupportedError(
            f"{describe(node)}: base values with rows that may reach no leaf of a target "
            "have no rewrite."
        )
    return ensemble


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`thresholds` [I], `leaf_values` [L, K] or [E], `base_values` [K]."""
    post_transform(node)
    return declare(_read(node), spread)


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Sum over trees, base values, link; like onnxruntime's kernel, no link for one target."""
    ensemble = _read(node)
    x = builder.as_float(node.inputs[0], keep_double=True)
    scores = add_base(builder, raw_scores(builder, ensemble, x))
    if ensemble.thresholds.dtype == np.float64:
        scores = builder.op("Cast", scores, to=int(ir.DataType.FLOAT))
    link = post_transform(node)
    return [scores if len(ensemble.columns) == 1 else apply_link(builder, scores, link)]


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes:
    """Thresholds and leaf values into their places."""
    return write_back(_read(node), tuned, "target")


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
_MISSING = "nodes_missing_value_tracks_true = [1, 0, 0, 0, 0, 1, 0, 0], base_values = [0.3]"

REWRITE = Rewrite(
    operator="TreeEnsembleRegressor",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
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
        Case("a tree of a single leaf beside another", _text(_LEAF_AND_STUMP)),
        Case("nothing but a single leaf", _text(_SINGLE_LEAF)),
    ),
)
