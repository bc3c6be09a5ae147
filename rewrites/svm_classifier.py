"""SVMClassifier: every pair of classes decided by a weighted sum of kernels, the votes counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, numbers, required
from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array, Attributes, Case, Rewrite, Tensor
from rewrites.errors import ModelError, UnsupportedError
from rewrites.scores.labels import beyond, class_labels, largest, look_up
from rewrites.scores.links import apply_link, post_transform
from rewrites.svm.coupling import pairs, probabilities
from rewrites.svm.kernels import cancels, kernel_of, kernel_values
from rewrites.svm.tensors import linear_machine, vector_machine, written


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`support_vectors` [S, F], `coefficients` [K - 1, S], `rho` [P], `gamma` [1] and, where there
    are probabilities, `prob_a` [P], `prob_b` [P], P being the number of pairs of classes.

    Without support vectors `coefficients` [K, F] and `rho` [1].
    """  # fmt: skip
    link = post_transform(node)
    classes, counts = len(class_labels(node, "classlabels_ints")), _counts(node)
    if not classes:
        raise ModelError(f"{describe(node)}: it has no class labels.")
    if not counts:
        return linear_machine(node, classes, spread)
    if len(counts) != classes:
        raise ModelError(f"{describe(node)}: vectors_per_class does not fit {classes} classes.")
    if classes == 1:
        raise UnsupportedError(f"{describe(node)}: one class with support vectors has no scores.")
    scaling = _scaling(node, len(pairs(classes)))
    if classes == 2 and link == "PROBIT" and not scaling:
        raise UnsupportedError(
            f"{describe(node)}: onnxruntime leaves the second score of PROBIT unwritten."
        )
    declared = vector_machine(node, sum(counts), classes - 1, len(pairs(classes)), spread)
    return declared | scaling


def _counts(node: ir.Node) -> list[int]:
    """Support vectors of each class; empty where there are none."""
    found = numbers(node, "vectors_per_class", np.int64)
    counts = [] if found is None else [int(count) for count in found]
    return counts if sum(counts) > 0 else []


def _scaling(node: ir.Node, scores: int) -> dict[str, Tensor]:
    """`prob_a` and `prob_b`, where the node has probabilities."""
    slopes, shifts = (numbers(node, name, np.float32) for name in ("prob_a", "prob_b"))
    if slopes is None or not len(slopes):
        return {}
    if shifts is None or len(shifts) != len(slopes) or len(slopes) < scores:
        raise ModelError(f"{describe(node)}: prob_a and prob_b do not have {scores} numbers each.")
    slopes, shifts = slopes[:scores], shifts[:scores]
    size = float(np.sqrt(np.mean(np.square(slopes, dtype=np.float64)))) or 1.0
    return {"prob_a": Tensor(slopes, "weights", size), "prob_b": Tensor(shifts, "offsets", 1.0)}


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Scores, votes, label and link, by the rules of onnxruntime's kernel."""
    link = post_transform(node)
    labels, counts = class_labels(node, "classlabels_ints"), _counts(node)
    x = builder.as_float(node.inputs[0])
    if not counts:
        return _linear(node, builder, x, labels, link)
    kernels = kernel_values(builder, kernel_of(node), x)
    exact = _pair_scores(builder, kernels, counts)
    scores = builder.op("Cast", exact, to=int(ir.DataType.FLOAT))
    label = _elected(builder, exact, labels)
    if "prob_a" in builder.tensors:
        return [label, apply_link(builder, probabilities(builder, scores, len(labels)), link)]
    if len(labels) > 2:
        return [label, apply_link(builder, scores, link)]
    # One score makes two: a softmax is taken to be done, and leaves (1 - s, s).
    if link in ("NONE", "LOGISTIC"):
        other = builder.op("Neg", scores)
    else:
        other, link = builder.op("Sub", builder.constant("one", 1.0, np.float32), scores), "NONE"
    return [label, apply_link(builder, builder.op("Concat", other, scores, axis=1), link)]


def _pair_scores(builder: Builder, kernels: ir.Value, counts: Sequence[int]) -> ir.Value:
    """Kernels [N, S] -> scores of the pairs [N, P], in doubles like the kernel's own sums.

    Row r of the coefficients holds for the vectors of class c how they count against class r, or
    r + 1 from c on. So each class has K - 1 sums, and each pair adds two of them.
    """

    def doubles(value: ir.Value) -> ir.Value:
        return builder.op("Cast", value, to=int(ir.DataType.DOUBLE))

    weights, rho = builder.tensor("coefficients"), doubles(builder.tensor("rho"))
    rounded = cancels(builder)
    if rounded:  # products are floats in the kernel, and only their sum has doubles
        products = builder.op(
            "Mul",
            builder.op("Unsqueeze", kernels, builder.constant("rows", [1], np.int64)),
            weights,
        )
        kernels, last = doubles(products), builder.constant("vectors", [2], np.int64)
    else:
        kernels, weights = doubles(kernels), doubles(weights)
    if len(counts) == 2 and rounded:
        return builder.op("Add", builder.op("ReduceSum", kernels, last, keepdims=0), rho)
    if len(counts) == 2:
        return builder.op("Gemm", kernels, weights, rho, transB=1)
    axis = builder.constant("columns", [1], np.int64)
    ends = np.cumsum([0, *counts])
    limits = [builder.constant(f"until_{i}", [end], np.int64) for i, end in enumerate(ends)]
    sums = []
    for start, end in pairwise(limits):
        if rounded:
            own = builder.op("Slice", kernels, start, end, last)
            sums.append(builder.op("ReduceSum", own, last, keepdims=0))
        else:
            own = builder.op("Slice", kernels, start, end, axis)
            theirs = builder.op("Slice", weights, start, end, axis)
            sums.append(builder.op("Gemm", own, theirs, transB=1))
    others = len(counts) - 1
    of_class = builder.op("Concat", *sums, axis=1)
    first = [i * others + j - 1 for i, j in pairs(len(counts))]
    second = [j * others + i for i, j in pairs(len(counts))]
    both = builder.op(
        "Add",
        builder.op("Gather", of_class, builder.constant("first", first, np.int64), axis=1),
        builder.op("Gather", of_class, builder.constant("second", second, np.int64), axis=1),
    )
    return builder.op("Add", both, rho)


def _elected(builder: Builder, scores: ir.Value, labels: Sequence[int | str]) -> ir.Value:
    """The class with most votes, the first of several: a positive score is one for the first."""
    scores.dtype = ir.DataType.DOUBLE
    if len(labels) == 2:
        return beyond(builder, scores, 0.0, labels[::-1])
    listed = pairs(len(labels))
    change = np.zeros((len(listed), len(labels)), np.float32)
    base = np.zeros((1, len(labels)), np.float32)
    for number, (i, j) in enumerate(listed):
        change[number, i], change[number, j] = 1, -1
        base[0, j] += 1
    won = builder.op("Greater", scores, builder.constant("label_limit", 0.0, np.float64))
    votes = builder.op(
        "Gemm",
        builder.op("Cast", won, to=int(ir.DataType.FLOAT)),
        builder.constant("votes", change),
        builder.constant("votes_lost", base),
    )
    return largest(builder, votes, labels)


def _linear(
    node: ir.Node, builder: Builder, x: ir.Value, labels: Sequence[int | str], link: str
) -> Sequence[ir.Value]:
    """Scores of the classes themselves, [N, K]."""
    weights, rho = builder.tensor("coefficients"), builder.tensor("rho")
    scores = builder.op("Gemm", x, weights, rho, transB=1)
    if len(labels) == 1 and link != "PROBIT":
        link = "NONE"
    scaled = numbers(node, "prob_a", np.float32)
    if len(labels) != 2 or (scaled is not None and len(scaled)):
        return [largest(builder, scores, labels), apply_link(builder, scores, link)]
    place = builder.op("ArgMax", scores, axis=1, keepdims=1)
    most = builder.op("GatherElements", scores, place, axis=1)
    positive = bool(np.all(required(node, "coefficients", np.float32) >= 0))
    limit = builder.constant("label_limit", 0.5 if positive else 0.0, np.float32)
    second = builder.op("GreaterOrEqual" if positive else "Greater", most, limit)
    index = builder.op("Where", second, builder.constant("second", 1, np.int64), place)
    flat = builder.op("Squeeze", index, builder.constant("axis_1", [1], np.int64))
    return [look_up(builder, flat, labels), apply_link(builder, scores, link)]


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes:
    """The tensors, flat; gamma is the first of the kernel's parameters."""
    return written(node, tuned)


_RBF = 'kernel_type = "RBF", kernel_params = [0.5, 0.0, 3.0]'
_TWO = f"""coefficients = [0.7, -1.0, 0.4, -0.25], rho = [0.1], vectors_per_class = [1, 3],
    support_vectors = [0.5, -1.0, 1.5, 0.25, -0.75, 0.5, 1.0, 1.25], {_RBF}"""
_THREE = """coefficients = [0.7, 1.0, -0.4, -0.6, 0.3, 0.8, 0.2, 0.5, -0.25, -0.75],
    rho = [0.1, -0.2, 0.05], vectors_per_class = [2, 1, 2],
    support_vectors = [0.5, -1.0, 1.5, 0.25, -0.75, 0.5, 1.0, 1.25, -0.5, -0.5]"""
_SCALING = "prob_a = [-1.5, -2.0, -1.0], prob_b = [0.25, -0.1, 0.05]"
_INTEGERS = "classlabels_ints = [3, 5, 9]"
_WORDS = 'classlabels_strings = ["a", "b", "c"]'
_WEIGHTS = "coefficients = [-0.5, 1.0, 0.5, -1.0], rho = [0.25], kernel_params = [0.0, 0.0, 0.0]"


def _text(attributes: str, scores: int, label: str = "int64", kind: str = "float") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g ({kind}[N, 2] x) => ({label}[N] label, float[N, {scores}] p) {{
        [machine] label, p = ai.onnx.ml.SVMClassifier <{attributes}> (x)
    }}"""


REWRITE = Rewrite(
    operator="SVMClassifier",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    differentiable=((0, 1),),
    cases=(
        Case("two classes", _text(f"{_TWO}, classlabels_ints = [0, 1]", 2)),
        Case(
            "two classes, LOGISTIC",
            _text(f'{_TWO}, classlabels_ints = [4, 2], post_transform = "LOGISTIC"', 2),
        ),
        Case(
            "two classes, a link that the kernel leaves out",
            _text(f'{_TWO}, classlabels_ints = [4, 2], post_transform = "SOFTMAX"', 2),
        ),
        Case(
            "two classes, probabilities, strings",
            _text(
                f'{_TWO}, classlabels_strings = ["no", "yes"], prob_a = [-1.5], prob_b = [0.25]',
                2,
                "string",
            ),
        ),
        Case(
            "three classes, doubles in",
            _text(f"{_THREE}, {_RBF}, {_INTEGERS}", 3, kind="double"),
        ),
        Case(
            "three classes, LINEAR, LOGISTIC, strings",
            _text(
                f'{_THREE}, kernel_type = "LINEAR", kernel_params = [0.5, 0.0, 3.0], {_WORDS}, '
                'post_transform = "LOGISTIC"',
                3,
                "string",
            ),
        ),
        Case(
            "three classes, POLY, SOFTMAX_ZERO, integers in",
            _text(
                f'{_THREE}, kernel_type = "POLY", kernel_params = [0.1, 0.5, 2.0], {_INTEGERS}, '
                'post_transform = "SOFTMAX_ZERO"',
                3,
                kind="int64",
            ),
        ),
        Case(
            "three classes, probabilities", _text(f"{_THREE}, {_RBF}, {_INTEGERS}, {_SCALING}", 3)
        ),
        Case(
            "three classes, SIGMOID, probabilities, LOGISTIC",
            _text(
                f'{_THREE}, kernel_type = "SIGMOID", kernel_params = [0.25, 0.5, 3.0], {_WORDS}, '
                f'{_SCALING}, post_transform = "LOGISTIC"',
                3,
                "string",
            ),
        ),
        Case("two rows of weights", _text(f"{_WEIGHTS}, classlabels_ints = [0, 1]", 2)),
        Case(
            "two rows of positive weights, LOGISTIC, strings",
            _text(
                f'{_WEIGHTS.replace("-", "")}, classlabels_strings = ["no", "yes"], '
                'post_transform = "LOGISTIC"',
                2,
                "string",
            ),
        ),
        Case(
            "three rows of weights, SOFTMAX",
            _text(
                "coefficients = [-0.5, 1.0, 0.5, -1.0, 0.25, 0.75], rho = [0.25, 0.5, 0.75], "
                f'kernel_params = [0.0, 0.0, 0.0], {_INTEGERS}, post_transform = "SOFTMAX"',
                3,
            ),
        ),
        Case(
            "one row of weights",
            _text(
                "coefficients = [-0.5, 1.0], rho = [0.25], kernel_params = [0.0, 0.0, 0.0], "
                'classlabels_ints = [7], post_transform = "LOGISTIC"',
                1,
            ),
        ),
    ),
)
