"""Imputer: missing values are replaced by learned ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rewrites.core.attributes import describe, numbers
from rewrites.core.builder import Builder
from rewrites.core.rewrite import Array, Attributes, Case, Rewrite, Tensor
from rewrites.core.shapes import rank, size
from rewrites.errors import UnsupportedError


def tensors(node: ir.Node, spread: Array | None) -> dict[str, Tensor]:
    """`fill` [F] or [1]; integers are not tuned.

    Raises:
        UnsupportedError: values of another type than the input; one for each column of an input
            with more than two axes.
    """
    fill = _fill(node)
    if len(fill) > 1 and (rank(node.inputs[0]) or 0) > 2:
        raise UnsupportedError(
            f"{describe(node)}: a value for each column of an input with more than two axes."
        )
    if fill.dtype.kind != "f":
        return {}
    unit: Array | float = 1.0
    if spread is not None and len(spread) and np.max(spread) > 0:
        usable = np.where(spread > 0, spread, np.mean(spread[spread > 0]))
        unit = usable if usable.shape == fill.shape else float(usable.mean())
    return {"fill": Tensor(fill, "offsets", unit)}


def _fill(node: ir.Node) -> Array:
    """What can stand for a missing value: one for each column, or one for all."""
    whole = _is_whole(node)
    name, dtype = ("int64s", np.int64) if whole else ("floats", np.float32)
    fill = numbers(node, f"imputed_value_{name}", dtype)
    if fill is None or not len(fill):
        raise UnsupportedError(f"{describe(node)}: its values have another type than its input.")
    width = size(node.inputs[0], 0 if rank(node.inputs[0]) == 1 else 1)
    # Where they are not as many as the columns, the kernel takes the first for all.
    return fill if width is None or width == len(fill) else fill[:1]


def _is_whole(node: ir.Node) -> bool:
    source = node.inputs[0]
    return source is not None and source.dtype == ir.DataType.INT64


def soften(node: ir.Node, builder: Builder) -> Sequence[ir.Value]:
    """Where(missing, fill, x): NaN in x has no share in the gradient."""
    x = node.inputs[0]
    assert x is not None
    whole = _is_whole(node)
    name, dtype = ("int64", np.int64) if whole else ("float", np.float32)
    held = numbers(node, f"replaced_value_{name}", dtype)
    replaced = np.zeros(1, dtype) if held is None else held.reshape(1)
    if not whole and np.isnan(replaced).any():
        missing = builder.op("IsNaN", x)
    else:
        missing = builder.op("Equal", x, builder.constant("replaced", replaced))
    fill = builder.constant("fill", _fill(node)) if whole else builder.tensor("fill")
    axis = 0 if rank(x) == 1 else 1
    if len(_fill(node)) > 1 and size(x, axis) is None:
        fill = _by_width(builder, x, axis, fill, len(_fill(node)))
    return [builder.op("Where", missing, fill, x)]


def _by_width(builder: Builder, x: ir.Value, axis: int, fill: ir.Value, count: int) -> ir.Value:
    """All of `fill` where x has as many columns, which nothing tells before, else its first."""
    start = builder.constant("start", [0], np.int64)
    whole, first = (builder.constant(f"{n}_values", [n], np.int64) for n in (count, 1))
    width = builder.op("Gather", builder.op("Shape", x), builder.constant("axis", [axis], np.int64))
    end = builder.op("Where", builder.op("Equal", width, whole), whole, first)
    return builder.op("Slice", fill, start, end)


def harden(node: ir.Node, tuned: Mapping[str, Array]) -> Attributes:
    """The fill values into their place; others stay."""
    if "fill" not in tuned:
        return {}
    held = numbers(node, "imputed_value_floats", np.float32)
    assert held is not None  # `tensors` has read them
    values = np.full(len(held), np.nan, np.float32)
    values[: len(tuned["fill"])] = tuned["fill"]
    return {"imputed_value_floats": values}


def _text(attributes: str, columns: str = "3", kind: str = "float", behind: str = "") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g ({kind}[N, {columns}] x) => ({"float" if behind else kind}[N, {columns}] y) {{
        [imputer] {"filled" if behind else "y"} = ai.onnx.ml.Imputer <{attributes}> (x)
        {behind}
    }}"""


_SCALED = (
    """y = ai.onnx.ml.Scaler <offset = [0.5, -1.0, 2.0], scale = [2.0, 0.25, -1.5]> (filled)"""
)

REWRITE = Rewrite(
    operator="Imputer",
    domain="ai.onnx.ml",
    tensors=tensors,
    soften=soften,
    harden=harden,
    cases=(
        Case(
            "NaN, a value for each column",
            _text("imputed_value_floats = [0.5, -1.0, 3.0], replaced_value_float = nan"),
        ),
        Case(
            "NaN, one value for all",
            _text("imputed_value_floats = [0.5], replaced_value_float = nan", behind=_SCALED),
        ),
        Case(
            "a number that means missing",
            _text("imputed_value_floats = [0.5, -1.0, 3.0], replaced_value_float = -1.0"),
        ),
        Case(
            "not as many values as columns",
            _text("imputed_value_floats = [0.5, -1.0], replaced_value_float = nan"),
        ),
        Case(
            "columns that nothing counts",
            _text("imputed_value_floats = [0.5, -1.0], replaced_value_float = nan", "M"),
            skips={"soft converges to hard": "the check needs to know the columns"},
        ),
        Case(
            "whole numbers",
            _text("imputed_value_int64s = [5, 7, 9], replaced_value_int64 = -1", kind="int64",
                  behind=_SCALED),
        ),
    ),
)  # fmt: skip
