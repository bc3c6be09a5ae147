"""Scores and label of a classifier with two classes, by the rules of onnxruntime's kernel.

A row that reaches no vote for the second class is read in another way than one that does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rewrites.core.builder import Builder, numpy_dtype
from rewrites.scores.links import apply_link, as_float


@dataclass(frozen=True)
class Column:
    """One class: its sum of votes, [N, 1], and whether a row has votes for it.

    `voted` is a [N, 1] bool value where that depends on the row; `score` None where no row has.
    """

    score: ir.Value | None
    voted: ir.Value | bool


@dataclass(frozen=True)
class Rule:
    """What the kernel makes of one score alone.

    Attributes:
        one_class: whether all votes are for one of the classes.
        shares: whether that class's votes are all positive, and so mean a probability.
    """

    one_class: bool
    shares: bool

    @property
    def limit(self) -> float:
        """What the score must exceed for the second label."""
        return 0.5 if self.one_class and self.shares else 0.0


def two_classes(
    builder: Builder,
    columns: Sequence[Column],
    base: Sequence[ir.Value],
    link: str,
    rule: Rule,
) -> tuple[ir.Value, ir.Value]:
    """Two classes and 0, 1 or 2 base values -> what the label goes by [N, 1], outputs [N, 2]."""
    first, second = columns
    some = first.score if first.score is not None else second.score
    assert some is not None
    dtype = numpy_dtype(some)
    nothing = builder.constant("nothing", 0.0, dtype)
    zero = builder.op("Mul", some, nothing)

    def where(voted: ir.Value | bool, yes: ir.Value, no: ir.Value) -> ir.Value:
        if isinstance(voted, bool):
            return yes if voted else no
        return builder.op("Where", voted, yes, no)

    def linked(left: ir.Value, right: ir.Value) -> ir.Value:
        pair = as_float(builder, builder.op("Concat", left, right, axis=1), dtype)
        return apply_link(builder, pair, link)

    own = zero if first.score is None else first.score
    if len(base) == 2:
        # The second class counts as voted for: its base value joins the first class's sum.
        turned = builder.op("Add", own, base[1])
        plain = where(first.voted, builder.op("Add", own, base[0]), zero)
        mirrored = where(first.voted, builder.op("Neg", turned), zero)
        left = where(second.voted, mirrored, plain)
        right = where(second.voted, turned, zero)
        return where(second.voted, turned, plain), linked(left, right)
    if base:
        own = builder.op("Add", own, base[0])
    own = where(first.voted, own, zero)
    if second.score is None:
        return own, _alone(builder, own, dtype, link, rule)
    label = where(second.voted, second.score, own)
    both = linked(own, second.score)
    if second.voted is True:
        return label, both
    return label, where(second.voted, both, _alone(builder, own, dtype, link, rule))


def _alone(
    builder: Builder, score: ir.Value, dtype: np.dtype[np.generic], link: str, rule: Rule
) -> ir.Value:
    """The outputs of rows with votes for the first class only."""
    if rule.one_class and rule.shares and link != "LOGISTIC":
        other = builder.op("Sub", builder.constant("whole", 1.0, dtype), score)
        return as_float(builder, builder.op("Concat", other, score, axis=1), dtype)
    score = as_float(builder, score, dtype)
    pair = builder.op("Concat", builder.op("Neg", score), score, axis=1)
    return apply_link(builder, pair, "LOGISTIC") if link == "LOGISTIC" else pair
