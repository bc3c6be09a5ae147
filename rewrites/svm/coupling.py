"""Probabilities of classes from scores of pairs of classes: Platt scaling and pairwise coupling.

Wu, Lin and Weng (2004), "Probability estimates for multi-class classification by pairwise
coupling": the p that minimise p'Qp, found by going round the classes. Like the kernel, a row stops
where its error falls below 0.005 / K.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder

# What the kernel cuts the probability of one class against another to.
_CERTAIN = 1e-7


def _rounds(classes: int) -> int:
    """How often the kernel goes round the classes at most before it stops by itself.

    It would go 100 times. Of two classes none needs more than 2; of more, a search for the worst
    scores found 5 rounds to leave a quarter of the error that stops it.
    """
    return 2 if classes == 2 else 5


def pairs(classes: int) -> list[tuple[int, int]]:
    """The pairs of classes in the order of their scores."""
    return [(i, j) for i in range(classes) for j in range(i + 1, classes)]


def probabilities(builder: Builder, scores: ir.Value, classes: int) -> ir.Value:
    """Scores of the pairs, [N, P] -> probabilities of the classes, [N, K]."""
    one = builder.constant("one", 1.0, np.float32)
    scaled = builder.op(
        "Add", builder.op("Mul", scores, builder.tensor("prob_a")), builder.tensor("prob_b")
    )
    first = builder.op(
        "Clip",
        builder.op("Sub", one, builder.op("Sigmoid", scaled)),
        builder.constant("least", _CERTAIN, np.float32),
        builder.constant("most", np.float32(1) - np.float32(_CERTAIN), np.float32),
    )
    matrix, diagonal = _matrix(builder, first, builder.op("Sub", one, first), classes)
    p = builder.constant("even", np.full((1, classes), 1 / classes), np.float32)
    for _ in range(_rounds(classes)):
        p = _round(builder, p, matrix, diagonal, classes)
    return p


def _matrix(
    builder: Builder, first: ir.Value, second: ir.Value, classes: int
) -> tuple[ir.Value, ir.Value]:
    """Probabilities of both classes of the pairs, [N, P] -> Q [N, K, K], its diagonal [N, K].

    Q_ij = -r_ij r_ji, Q_ii = sum over j of r_ji^2.
    """
    listed = pairs(classes)
    losing = np.zeros((2 * len(listed), classes), np.float32)
    place = np.zeros((classes, classes), np.int64)
    for number, (i, j) in enumerate(listed):
        losing[len(listed) + number, i] = losing[number, j] = 1
        place[i, j] = place[j, i] = number
    np.fill_diagonal(place, len(listed) + np.arange(classes))
    both = builder.op("Concat", first, second, axis=1)
    diagonal = builder.op(
        "MatMul", builder.op("Mul", both, both), builder.constant("losing", losing)
    )
    beside = builder.op("Neg", builder.op("Mul", first, second))
    matrix = builder.op(
        "Gather",
        builder.op("Concat", beside, diagonal, axis=1),
        builder.constant("places", place.ravel()),
        axis=1,
    )
    shape = builder.constant("square", [0, classes, classes], np.int64)
    return builder.op("Reshape", matrix, shape), diagonal


def _round(
    builder: Builder, p: ir.Value, matrix: ir.Value, diagonal: ir.Value, classes: int
) -> ir.Value:
    """Once round the classes; rows whose error is small keep their p."""
    # Axes from the front: onnxruntime sums no rows along the last one to a wrong shape.
    middle, last = (builder.constant(f"axis_{axis}", [axis], np.int64) for axis in (1, 2))
    column = [builder.constant(f"class_{i}", [i], np.int64) for i in range(classes)]

    def total(value: ir.Value) -> ir.Value:
        return builder.op("ReduceSum", value, middle, keepdims=1)

    def of_class(value: ir.Value, i: int) -> ir.Value:
        return builder.op("Gather", value, column[i], axis=1)

    weighed = builder.op("Mul", matrix, builder.op("Unsqueeze", p, middle))
    slope = builder.op("ReduceSum", weighed, last, keepdims=0)
    value = total(builder.op("Mul", p, slope))
    error = builder.op("Abs", builder.op("Sub", slope, value))
    large = builder.op(
        "GreaterOrEqual",
        error,
        builder.constant("enough", np.float32(0.005) / np.float32(classes)),
    )
    going = builder.op(
        "Greater",
        total(builder.op("Cast", large, to=int(ir.DataType.FLOAT))),
        builder.constant("none", 0.0, np.float32),
    )
    # p grows class by class and is brought back to a sum of 1 at the end.
    size = builder.constant("one", 1.0, np.float32)
    steps: list[ir.Value] = []
    for i in range(classes):
        own, mean = of_class(slope, i), builder.op("Div", value, size)
        step = builder.op("Div", builder.op("Sub", mean, own), of_class(diagonal, i))
        steps.append(step)
        row = builder.op("Squeeze", of_class(matrix, i), middle)
        slope = builder.op("Add", slope, builder.op("Mul", step, row))
        value = builder.op("Add", value, builder.op("Mul", step, builder.op("Add", mean, own)))
        size = builder.op("Add", size, step)
    return builder.op("Where", going, builder.op("Div", _grown(builder, p, steps), size), p)


def _grown(builder: Builder, p: ir.Value, steps: Sequence[ir.Value]) -> ir.Value:
    return builder.op("Add", p, builder.op("Concat", *steps, axis=1))
