"""TreeEnsembleClassifier: leaf votes, a link, and a label by onnxruntime's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe
from rewrites.core.builder import Builder, numpy_dtype
from rewrites.core.rewrite import (
    Array,
    Attributes,
    Case,
    Constraint,
    Replacement,
    Rewrite,
    Tensor,
)
from rewrites.errors import UnsupportedError
from rewrites.scores.labels import beyond, class_labels, largest
from rewrites.scores.links import apply_link, post_transform
from rewrites.trees.ensemble import Ensemble, read, weight_ids
from rewrites.trees.evaluate import add_base, raw_scores
from rewrites.trees.regressor import as_regressor
from rewrites.trees.tensors import declare, is_dense, write_back

# How the kernel reads its scores: one label only; two labels with votes for the first, the
# second or both; three or more.
Kind = Literal["single", "first", "second", "pair", "many"]


def _read(node: ir.Node) -> tuple[Ensemble, Kind, tuple[int, ...] | tuple[str, ...]]:
    labels = class_labels(node, "classlabels_int64s")
    voted = weight_ids(node, "class")
    kind: Kind = "many"
    columns = np.arange(len(labels))
    if len(labels) == 1:
        kind = "single"
    elif len(labels) == 2:
        kind = "pair" if len(voted) == 2 else "first" if voted[0] == 0 else "second"
        columns = voted
    source = node.inputs[0]
    dtype = np.float32 if source is None else numpy_dtype(source)
    ensemble = read(node, "class", columns, dtype)
    _refuse_unclear(node, ensemble, kind, len(labels))
    return ensemble, kind, labels


def _refuse_unclear(node: ir.Node, ensemble: Ensemble, kind: Kind, labels: int) -> None:
    """Refuse what the kernel treats row by row or in ways of its own."""
    allowed = {"single": (0, 1), "first": (0, 1), "second": (0,), "pair": (0,), "many": (0, labels)}
    if len(ensemble.base_values) not in allowed[kind]:
        raise UnsupportedError(
            f"{describe(node)}: {len(ensemble.base_values)} base values with {labels} classes "
            f"and votes for {len(ensemble.columns)} of them have no rewrite."
        )
    if kind in ("first", "second", "pair") and not ensemble.always_voted.all():
        raise UnsupportedError(
            f"{describe(node)}: rows that may reach no vote for one of two classes have no rewrite."
        )
    if _often_silent(ensemble, kind) and (ensemble.values < 0).any():
        raise UnsupportedError(
            f"{describe(node)}: negative votes where some rows reach none for a class "
            "have no rewrite."
        )


def _often_silent(ensemble: Ensemble, kind: Kind) -> bool:
    """Whether some rows may reach no vote for one of many classes.

    The kernel's label ignores such a class; with no negative vote that makes no difference.
    """
    plain = kind == "many" and not len(ensemble.base_values)
    return plain and not ensemble.always_voted.all()


def _constraint(ensemble: Ensemble, kind: Kind, link: str) -> Constraint | None:
    """A forest's leaves are distributions; tuned, they stay so."""
    values = ensemble.values.astype(np.float64)
    if link != "NONE" or not is_dense(ensemble) or (values < 0).any():
        return None
    if len(ensemble.base_values) and ensemble.base_values.any():
        return None
    tree = ensemble.tree_of_leaf
    if kind == "first":
        # The votes of one class alone: each tree's share of the forest bounds them.
        share = 1.0 / ensemble.roots
        if values.max(initial=0) <= share * (1 + 1e-5):
            return Constraint("interval", 0.0, float(np.float32(share)))
        return None
    if kind not in ("many", "pair"):
        return None
    totals = values.sum(axis=1)
    first = np.zeros(ensemble.roots)
    first[tree] = totals
    even = np.allclose(totals, first[tree], rtol=1e-4) and np.isclose(first.sum(), 1, rtol=1e-3)
    return Constraint("simplex") if even else None


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`thresholds` [I], `leaf_values` [L, K] or [E], `base_values`."""
    ensemble, kind, _ = _read(node)
    constraint = _constraint(ensemble, kind, post_transform(node))
    declared = declare(ensemble, spread, constraint)
    if declared["leaf_values"].constraint is not None:
        # Beside votes that are probabilities the base values are 0, and stay so.
        declared.pop("base_values", None)
    return declared


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Sum over trees, base values, label, link."""
    ensemble, kind, labels = _read(node)
    x = builder.as_float(node.inputs[0], keep_double=True)
    scores = add_base(builder, raw_scores(builder, ensemble, x))
    limit = _label_limit(ensemble.values)
    scores.dtype = ir.DataType.from_numpy(ensemble.thresholds.dtype)
    return _finish(builder, scores, kind, labels, post_transform(node), limit)


def _label_limit(values: Array) -> float:
    """What a single score must exceed for the second label: votes without a sign mean shares."""
    return 0.5 if (values >= 0).all() else 0.0


def _finish(
    builder: Builder,
    scores: ir.Value,
    kind: Kind,
    labels: Sequence[int | str],
    link: str,
    limit: float,
) -> Sequence[ir.Value]:
    """Typed scores -> label and outputs, as the kernel does for each kind."""
    dtype = numpy_dtype(scores)
    plain = (0, 1) if isinstance(labels[0], int) else tuple(labels)
    if kind == "many":
        label = largest(builder, scores, labels)
    elif kind == "pair":
        second = builder.op("Gather", scores, builder.constant("second", [1], np.int64), axis=1)
        second.dtype = ir.DataType.from_numpy(dtype)
        # The kernel does not look at the labels here, but for strings.
        label = beyond(builder, second, 0.0, plain)
    else:
        known = plain if kind == "single" and isinstance(labels[0], int) else labels
        if len(known) == 1:
            known = (known[0], known[0])
        label = beyond(builder, scores, 0.0 if kind == "single" else limit, known)
        if kind == "single":
            link = "NONE"
        elif kind == "second":
            zero = builder.op("Mul", scores, builder.constant("nothing", 0.0, dtype))
            scores = builder.op("Concat", zero, scores, axis=1)
        elif link == "LOGISTIC" or limit == 0.0:
            scores = builder.op("Concat", builder.op("Neg", scores), scores, axis=1)
            link = link if link == "LOGISTIC" else "NONE"
        else:
            other = builder.op("Sub", builder.constant("whole", 1.0, dtype), scores)
            scores = builder.op("Concat", other, scores, axis=1)
            link = "NONE"
    if dtype == np.float64:
        scores = builder.op("Cast", scores, to=int(ir.DataType.FLOAT))
    return [label, apply_link(builder, scores, link)]


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes | Replacement:
    """Thresholds and votes into their places, where the kernel still reads them the same way.

    It takes a single score for a share when no vote is negative, and its label passes over a class
    without votes. Votes that lose or gain their last negative sign would change what that means,
    so the node becomes a regressor with label and link written out.
    """
    ensemble, kind, labels = _read(node)
    attributes = write_back(ensemble, tuned, "class")
    if not (kind in ("first", "second") or _often_silent(ensemble, kind)):
        return attributes
    limit = _label_limit(ensemble.values)
    if "leaf_values" not in tuned or _label_limit(np.asarray(tuned["leaf_values"])) == limit:
        return attributes

    def build(builder: Builder) -> Sequence[ir.Value]:
        targets = len(ensemble.columns)
        scores = as_regressor(builder, node, "class", attributes, targets)
        return _finish(builder, scores, kind, labels, post_transform(node), limit)

    return Replacement(
        "the operator would take its labels in another way from votes of these signs", build
    )


_TREES = """nodes_treeids = [0, 0, 0, 0, 0, 1, 1, 1], nodes_nodeids = [0, 1, 2, 3, 4, 0, 1, 2],
    nodes_featureids = [0, 1, 0, 0, 0, 2, 0, 0],
    nodes_values = [0.5, -0.25, 0.0, 0.0, 0.0, 1.5, 0.0, 0.0],
    nodes_truenodeids = [1, 2, 0, 0, 0, 1, 0, 0],
    nodes_falsenodeids = [4, 3, 0, 0, 0, 2, 0, 0],
    nodes_modes = ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF",
    "BRANCH_LEQ", "LEAF", "LEAF"]"""


def _votes(ids: list[int], weights: list[float], per_leaf: int = 1) -> str:
    leaves = [(0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]
    trees = [tree for tree, _ in leaves for _ in range(per_leaf)]
    nodes = [leaf for _, leaf in leaves for _ in range(per_leaf)]
    return (
        f"class_treeids = {trees}, class_nodeids = {nodes}, "
        f"class_ids = {ids}, class_weights = {weights}"
    )


def _text(*attributes: str, classes: int = 2, label: str = "int64", x: str = "float") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g ({x}[N, 3] x) => ({label}[N] label, float[N, {classes}] p) {{
        [trees] label, p = ai.onnx.ml.TreeEnsembleClassifier <
            {", ".join((_TREES, *attributes))}> (x)
    }}"""


_SHARES = _votes([0] * 5, [0.5, 0.125, 0.25, 0.375, 0.0])
_MIXED = _votes([0] * 5, [1.0, -2.0, 0.5, 0.25, -0.75])
_SECOND = _votes([1] * 5, [1.0, -2.0, 0.5, 0.25, -0.75])
_PAIR = _votes([0, 1] * 5, [0.4, 0.6, 0.5, -0.5, 0.1, 0.9, -0.3, 0.3, 0.2, -0.8], 2)
_DISTRIBUTIONS = _votes(
    [0, 1, 2] * 5,
    [0.25, 0.125, 0.125, 0.5, 0.0, 0.0, 0.0, 0.25, 0.25, 0.125, 0.25, 0.125, 0.0, 0.125, 0.375],
    3,
)
_ONE_CLASS_A_TREE = """class_treeids = [0, 0, 0, 1, 1, 1, 1], class_nodeids = [2, 3, 4, 1, 2, 1, 2],
    class_ids = [0, 0, 0, 1, 1, 2, 2], class_weights = [1.0, -2.0, 0.5, 0.25, -0.75, 0.5, 0.3]"""
_LABELS = "classlabels_int64s = [3, 5]"
_WORDS = 'classlabels_strings = ["no", "yes"]'
_LOGISTIC = 'post_transform = "LOGISTIC"'
_SOFTMAX = 'post_transform = "SOFTMAX"'

REWRITE = Rewrite(
    operator="TreeEnsembleClassifier",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    differentiable=((0, 1),),
    cases=(
        Case("shares of one of two classes", _text(_SHARES, _LABELS)),
        Case("shares with LOGISTIC", _text(_SHARES, _LABELS, _LOGISTIC)),
        Case("signed votes", _text(_MIXED, _LABELS)),
        Case("integer input", _text(_MIXED, _LABELS, x="int64")),
        Case("double input", _text(_MIXED, _LABELS, _LOGISTIC, x="double")),
        Case(
            "signed votes with LOGISTIC and a base value, string labels",
            _text(_MIXED, _WORDS, _LOGISTIC, "base_values = [0.25]", label="string"),
        ),
        Case("votes for the second class", _text(_SECOND, _LABELS)),
        Case("votes for the second class with SOFTMAX", _text(_SECOND, _LABELS, _SOFTMAX)),
        Case("votes for both classes", _text(_PAIR, _LABELS)),
        Case(
            "votes for both classes, string labels, LOGISTIC",
            _text(_PAIR, _WORDS, _LOGISTIC, label="string"),
        ),
        Case(
            "distributions over three classes",
            _text(_DISTRIBUTIONS, "classlabels_int64s = [2, 4, 7]", classes=3),
        ),
        Case(
            "votes here and there, SOFTMAX, base values",
            _text(
                _ONE_CLASS_A_TREE,
                "classlabels_int64s = [0, 1, 2], base_values = [0.5, -0.25, 0.125]",
                _SOFTMAX,
                classes=3,
            ),
        ),
        Case("a single class", _text(_MIXED, "classlabels_int64s = [4]", classes=1)),
    ),
)
