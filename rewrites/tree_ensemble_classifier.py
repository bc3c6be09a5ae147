"""TreeEnsembleClassifier: leaf votes, a link, and a label by onnxruntime's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe
from rewrites.core.builder import Builder, numpy_dtype
from rewrites.core.memory import once
from rewrites.core.rewrite import (
    Array,
    Attributes,
    Case,
    Constraint,
    Replacement,
    Rewrite,
    Tensor,
)
from rewrites.errors import ModelError, UnsupportedError
from rewrites.scores.labels import beyond, class_labels, largest
from rewrites.scores.links import apply_link, as_float, post_transform
from rewrites.trees.ensemble import Ensemble, ensemble_of
from rewrites.trees.evaluate import Scores, add_base, raw_scores
from rewrites.trees.hardening import in_standard_operators, still_the_same
from rewrites.trees.listed import read_listed
from rewrites.trees.listed_taking import take_listed
from rewrites.trees.logits import many_classes, one_class
from rewrites.trees.regressor import as_regressor
from rewrites.trees.taking import Lists, ensemble_operator
from rewrites.trees.tensors import declare, is_dense, write_back
from rewrites.trees.two_classes import Column, Rule, two_classes

_NAMES = {
    "thresholds": "nodes_values",
    "leaf_values": "class_weights",
    "base_values": "base_values",
}


@dataclass(frozen=True)
class _Reading:
    """What a node says; `rule` for two classes."""

    ensemble: Ensemble
    labels: tuple[int, ...] | tuple[str, ...]
    link: str
    rule: Rule


def _ensemble(node: ir.Node, count: int, tuned: Attributes | None = None) -> Ensemble:
    source = node.inputs[0]
    dtype = np.float32 if source is None else numpy_dtype(source)
    nodes = read_listed(node, "class", count, dtype, tuned)
    # Of two classes a column may have no votes at all; it is left out.
    columns = np.unique(nodes.targets) if count == 2 and len(nodes.targets) else np.arange(count)
    return ensemble_of(nodes, columns)


@once
def _read(node: ir.Node) -> _Reading:
    labels = class_labels(node, "classlabels_int64s")
    if not labels:
        raise ModelError(f"{describe(node)}: it has no class labels.")
    ensemble = _ensemble(node, len(labels))
    rule = Rule(len(labels) == 2 and len(ensemble.columns) == 1, not ensemble.votes.negative)
    reading = _Reading(ensemble, labels, post_transform(node), rule)
    _refuse_undefined(node, reading)
    return reading


def _refuse_undefined(node: ir.Node, reading: _Reading) -> None:
    """Refuse what the kernel refuses, and what it writes beside its output or not at all."""
    ensemble, classes = reading.ensemble, len(reading.labels)
    base = len(ensemble.base_values)
    allowed = (0, 1) if classes == 1 else (0, 1, 2) if classes == 2 else (0, classes)
    if base not in allowed:
        raise UnsupportedError(
            f"{describe(node)}: {base} base values for {classes} classes have no meaning to "
            f"onnxruntime; give {' or '.join(map(str, allowed))}."
        )
    if classes != 2 or base == 2:
        return
    always = dict(zip(ensemble.columns.tolist(), ensemble.always_voted.tolist(), strict=True))
    unclear = reading.link == "PROBIT" or (base == 1 and not reading.rule.one_class)
    if not always.get(1, False) and unclear:
        what = "PROBIT" if reading.link == "PROBIT" else "a single base value"
        raise UnsupportedError(
            f"{describe(node)}: with {what}, onnxruntime leaves the second score of rows "
            "without votes for the second class unwritten; give every leaf a vote for it."
        )


def _constraint(reading: _Reading) -> Constraint | None:
    """A forest's leaves are distributions; tuned, they stay so."""
    ensemble = reading.ensemble
    values = ensemble.values.astype(np.float64)
    if reading.link != "NONE" or not is_dense(ensemble) or ensemble.votes.negative:
        return None
    if len(reading.labels) == 1 or (len(ensemble.base_values) and ensemble.base_values.any()):
        return None
    tree = ensemble.tree_of_leaf
    if reading.rule.one_class:
        # The votes of one class alone: each tree's share of the forest bounds them.
        share = 1.0 / ensemble.roots
        if ensemble.columns[0] == 0 and values.max(initial=0) <= share * (1 + 1e-5):
            return Constraint("interval", 0.0, float(np.float32(share)))
        return None
    totals = values.sum(axis=1)
    first = np.zeros(ensemble.roots)
    first[tree] = totals
    even = np.allclose(totals, first[tree], rtol=1e-4) and np.isclose(first.sum(), 1, rtol=1e-3)
    return Constraint("simplex") if even else None


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`thresholds` [I], `leaf_values` [L, K] or [E], `base_values`."""
    reading = _read(node)
    declared = declare(reading.ensemble, spread, _constraint(reading))
    if declared["leaf_values"].constraint is not None:
        # Beside votes that are probabilities the base values are 0, and stay so.
        declared.pop("base_values", None)
    return declared


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Sum over trees, base values, label, link."""
    reading = _read(node)
    x = builder.as_float(node.inputs[0], keep_double=True)
    # Base values settle which of many classes have votes: all.
    ask = len(reading.labels) == 2 or not len(reading.ensemble.base_values)
    found = raw_scores(builder, reading.ensemble, x, ask_votes=ask)
    found.scores.dtype = ir.DataType.from_numpy(reading.ensemble.thresholds.dtype)
    return _finish(builder, reading, found)


def _finish(builder: Builder, reading: _Reading, found: Scores) -> Sequence[ir.Value]:
    """Typed scores -> label and outputs, as the kernel does for one, two or many classes."""
    labels, scores = reading.labels, found.scores
    dtype = numpy_dtype(scores)
    plain: Sequence[int | str] = (0, 1) if isinstance(labels[0], int) else labels
    if len(labels) == 2:
        score, outputs = two_classes(
            builder,
            _columns(builder, reading, found),
            _base(builder, reading, dtype),
            reading.link,
            reading.rule,
        )
        score.dtype = ir.DataType.from_numpy(dtype)
        # The kernel does not look at the labels with votes for both, but for strings.
        known: Sequence[int | str] = labels if reading.rule.one_class else plain
        return [beyond(builder, score, reading.rule.limit, known), outputs]
    scores = add_base(builder, scores)
    scores.dtype = ir.DataType.from_numpy(dtype)
    if len(labels) == 1:
        known = plain if len(plain) == 2 else (labels[0], labels[0])
        link = "PROBIT" if reading.link == "PROBIT" else "NONE"
        label = beyond(builder, scores, 0.0, known)
    else:
        link = reading.link
        voted = scores
        if found.voted is not None:
            # Its label passes over classes without votes.
            lowest = builder.constant("lowest_score", np.finfo(dtype).min, dtype)
            voted = builder.op("Where", found.voted, scores, lowest)
        label = largest(builder, voted, labels)
    return [label, apply_link(builder, as_float(builder, scores, dtype), link)]


def _columns(builder: Builder, reading: _Reading, found: Scores) -> list[Column]:
    """The two classes' scores, each [N, 1]."""
    ensemble = reading.ensemble
    always = ensemble.always_voted
    if len(ensemble.columns) == 1:
        own = Column(found.scores, True if found.voted is None else found.voted)
        none = Column(None, False)
        return [own, none] if ensemble.columns[0] == 0 else [none, own]
    columns = []
    for place in range(2):
        index = builder.constant(f"class_{place}", [place], np.int64)
        score = builder.op("Gather", found.scores, index, axis=1)
        score.dtype = ir.DataType.from_numpy(numpy_dtype(found.scores))
        voted: ir.Value | bool = True
        if found.voted is not None and not always[place]:
            voted = builder.op("Gather", found.voted, index, axis=1)
        columns.append(Column(score, voted))
    return columns


def _base(builder: Builder, reading: _Reading, dtype: np.dtype[np.generic]) -> list[ir.Value]:
    """The base values, each [1]."""
    count = len(reading.ensemble.base_values)
    if not count or "base_values" not in builder.tensors:
        zero = builder.constant("no_base", np.zeros(1), dtype)
        return [zero] * count
    held = builder.tensor("base_values")
    if count == 1:
        return [held]
    places = [builder.constant(f"class_{place}", [place], np.int64) for place in range(count)]
    return [builder.op("Gather", held, place, axis=0) for place in places]


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes | Replacement:
    """Thresholds and votes into their places, where the kernel still reads them the same way.

    It takes the score of one class alone for a share when no vote is negative. Votes that lose or
    gain their last negative sign would change what that means, so the node becomes a regressor
    with label and link written out.
    """
    reading = _read(node)
    ensemble, rule = reading.ensemble, reading.rule
    attributes = write_back(ensemble, tuned, _NAMES)

    def again(numbers: Attributes) -> Ensemble:
        return _ensemble(node, len(reading.labels), numbers)

    if not still_the_same(ensemble, again, attributes):
        return in_standard_operators(node, soften, tensors(node, None), tuned)
    if not rule.one_class or "leaf_values" not in tuned:
        return attributes
    below = bool((np.asarray(tuned["leaf_values"]) < 0).any())
    if (below or ensemble.votes.others_negative) != rule.shares:
        return attributes

    def build(builder: Builder) -> Sequence[ir.Value]:
        ask = not ensemble.always_voted.all() or bool(ensemble.votes.further)
        held = tuned.get("base_values", ensemble.base_values)
        if len(held):
            builder.tensors = {"base_values": Tensor(np.asarray(held, np.float32), "leaves")}
        found = as_regressor(builder, node, "class", attributes, ask)
        return _finish(builder, reading, found)

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
_HERE_AND_THERE = _votes([0, 1, 0, 1, 0], [0.5, -1.0, 0.25, 0.75, -0.5])
_LABELS = "classlabels_int64s = [3, 5]"
_WORDS = 'classlabels_strings = ["no", "yes"]'
_LOGISTIC = 'post_transform = "LOGISTIC"'
_SOFTMAX = 'post_transform = "SOFTMAX"'


def _take(node: ir.Node, trees: Array) -> Lists:
    count = len(class_labels(node, "classlabels_int64s"))
    nodes = read_listed(node, "class", count, np.float32)
    return take_listed(node, nodes, "class", trees, signed=count == 2)


def _logits(node: ir.Node, factor: float) -> tuple[ir.Attr, ...] | None:
    reading = _read(node)
    if _constraint(reading) is None:
        return None
    moved = one_class if len(reading.labels) == 2 else many_classes
    return moved(node, reading.ensemble, factor)


REWRITE = Rewrite(
    operator="TreeEnsembleClassifier",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    ensemble=ensemble_operator(lambda node: _read(node).ensemble, _take, _logits),
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
        Case(
            "votes here and there for both classes",
            _text(_HERE_AND_THERE, _LABELS, _LOGISTIC),
        ),
        Case(
            "votes for both classes and two base values",
            _text(_PAIR, _LABELS, _SOFTMAX, "base_values = [0.25, -0.5]"),
        ),
        Case(
            "negative votes here and there for three classes, SOFTMAX_ZERO",
            _text(
                _ONE_CLASS_A_TREE,
                "classlabels_int64s = [4, 5, 6]",
                'post_transform = "SOFTMAX_ZERO"',
                classes=3,
            ),
        ),
        Case("a single class", _text(_MIXED, "classlabels_int64s = [4]", classes=1)),
    ),
)
