"""What onnx2torch lacks or does in a way that cannot be tuned or compiled.

The operators here replace onnx2torch's in our own cores: before the conversion such a node moves
to a private domain, so onnx2torch's registry stays as it is. Integer constants (axes, shapes,
bounds) become Python numbers, index arrays become buffers; so `torch.compile(fullgraph=True)` sees
no data-dependent control flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxtune import tree_ops
from onnxtune.errors import UnsupportedError
from onnxtune.torch_node import Function, Node, Operation


def _gather(node: Node) -> tuple[Operation, list[int]]:
    axis = int(node.attributes.get("axis", 0))
    index = node.constant(1)
    if index is None:

        def look_up(data: Tensor, places: Tensor) -> Tensor:
            flat = data.index_select(axis, places.reshape(-1).long())
            around = data.shape[: axis % data.dim()], data.shape[axis % data.dim() + 1 :]
            return flat.reshape(*around[0], *places.shape, *around[1])

        return Operation(look_up), [0, 1]
    if index.ndim == 0:
        place = int(index)
        return Operation(lambda data: data.select(axis, place)), [0]
    if (index < 0).any():

        def from_the_end(at: Tensor, data: Tensor) -> Tensor:
            flat = data.index_select(axis, (at % data.shape[axis]).reshape(-1))
            start = axis % data.dim()
            return flat.reshape(*data.shape[:start], *at.shape, *data.shape[start + 1 :])

        return Operation(from_the_end, index.astype(np.int64)), [0]
    if index.ndim == 1:
        return Operation(lambda at, data: data.index_select(axis, at), index.astype(np.int64)), [0]
    shape = index.shape

    def spread_out(at: Tensor, data: Tensor) -> Tensor:
        start = axis % data.dim()
        flat = data.index_select(axis, at)
        return flat.reshape(*data.shape[:start], *shape, *data.shape[start + 1 :])

    return Operation(spread_out, index.ravel().astype(np.int64)), [0]


def _gather_elements(node: Node) -> tuple[Operation, list[int]]:
    axis = int(node.attributes.get("axis", 0))
    return Operation(lambda data, at: data.gather(axis, at.long())), [0, 1]


def _slice(node: Node) -> tuple[Operation, list[int]]:
    starts, ends = node.integers(1) or [], node.integers(2) or []
    axes = node.integers(3) or list(range(len(starts)))
    steps = node.integers(4) or [1] * len(starts)
    if any(step < 1 for step in steps):
        raise UnsupportedError(f"Slice '{node.name}': steps must be positive.")

    def cut(data: Tensor) -> Tensor:
        where = [slice(None)] * data.dim()
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            where[axis] = slice(start, min(end, data.shape[axis]), step)
        return data[tuple(where)]

    return Operation(cut), [0]


def _reshape(node: Node) -> tuple[Operation, list[int]]:
    wanted = node.integers(1) or []
    keep_zero = bool(node.attributes.get("allowzero", 0))

    def shape_of(data: Tensor) -> list[int]:
        return [
            data.shape[place] if size == 0 and not keep_zero else size
            for place, size in enumerate(wanted)
        ]

    def reshape(data: Tensor) -> Tensor:
        shape = shape_of(data)
        if data.numel() == 0 and -1 in shape:
            # With no rows torch cannot tell what -1 stands for; it can only be the rows.
            shape[shape.index(-1)] = 0
        return data.reshape(shape)

    return Operation(reshape), [0]


def _flatten(node: Node) -> tuple[Operation, list[int]]:
    axis = int(node.attributes.get("axis", 1))

    def flatten(data: Tensor) -> Tensor:
        return data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))

    return Operation(flatten), [0]


def _squeeze(node: Node) -> tuple[Operation, list[int]]:
    axes = node.integers(1, "axes")
    if axes is None:
        return Operation(lambda data: data.squeeze()), [0]
    return Operation(lambda data: data.squeeze(tuple(axes))), [0]


def _unsqueeze(node: Node) -> tuple[Operation, list[int]]:
    axes = node.integers(1, "axes") or []

    def unsqueeze(data: Tensor) -> Tensor:
        rank = data.dim() + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            data = data.unsqueeze(axis)
        return data

    return Operation(unsqueeze), [0]


def _expand(node: Node) -> tuple[Operation, list[int]]:
    shape = node.constant(1)
    if shape is None:
        return Operation(lambda data, sizes: data.expand(_together(data, tuple(sizes.tolist())))), [
            0,
            1,
        ]
    wanted = tuple(int(size) for size in shape)
    return Operation(lambda data: data.expand(_together(data, wanted))), [0]


def _together(data: Tensor, wanted: tuple[int, ...]) -> torch.Size:
    shape: torch.Size = torch.broadcast_shapes(data.shape, wanted)  # type: ignore[no-untyped-call]
    return shape


def _shape(node: Node) -> tuple[Operation, list[int]]:
    start = int(node.attributes.get("start", 0))
    end = node.attributes.get("end")
    return Operation(lambda data: torch.tensor(tuple(data.shape)[start:end], device=data.device)), [
        0
    ]


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Any:
    def convert(node: Node) -> tuple[Operation, list[int]]:
        axes = node.integers(1, "axes")
        keep = bool(node.attributes.get("keepdims", 1))
        if not axes and node.attributes.get("noop_with_empty_axes", 0):
            return Operation(lambda data: data), [0]

        def reduce(data: Tensor) -> Tensor:
            return function(data, axes or list(range(data.dim())), keep)

        return Operation(reduce), [0]

    return convert


def _clip(node: Node) -> tuple[Operation, list[int]]:
    low, high = node.constant(1), node.constant(2)
    if (node.has(1) and low is None) or (node.has(2) and high is None):
        raise UnsupportedError(f"Clip '{node.name}': its bounds must be constants.")
    bounds = [
        node.attributes.get(word) if held is None else held.item()
        for word, held in (("min", low), ("max", high))
    ]
    if bounds == [None, None]:
        return Operation(lambda data: data), [0]
    return Operation(lambda data: data.clamp(bounds[0], bounds[1])), [0]


def _gemm(node: Node) -> tuple[Operation, list[int]]:
    alpha, beta = (float(node.attributes.get(word, 1.0)) for word in ("alpha", "beta"))
    flip_a, flip_b = (bool(node.attributes.get(word, 0)) for word in ("transA", "transB"))

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.T if flip_a else a, b.T if flip_b else b
        product = a @ b
        if alpha != 1:
            product = alpha * product
        if c is None:
            return product
        return product + (c if beta == 1 else beta * c)

    return Operation(gemm), [place for place in range(3) if node.has(place)]


def _cast(node: Node) -> tuple[Operation, list[int]]:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16}
    kinds |= {11: torch.float64, 2: torch.uint8, 3: torch.int8, 5: torch.int16}
    to = int(node.attributes["to"])
    if to not in kinds:
        raise UnsupportedError(f"Cast '{node.name}': element type {to} has no torch form.")
    return Operation(lambda data: data.to(kinds[to])), [0]


def _concat(node: Node) -> tuple[Operation, list[int]]:
    axis = int(node.attributes["axis"])
    return Operation(lambda *parts: torch.cat(parts, axis)), list(range(len(node.inputs)))


def _where(node: Node) -> tuple[Operation, list[int]]:
    return Operation(torch.where), [0, 1, 2]


def _is_nan(node: Node) -> tuple[Operation, list[int]]:
    return Operation(torch.isnan), [0]


def _compare(function: Function) -> Any:
    return lambda node: (Operation(function), [0, 1])


def _batch_normalization(node: Node) -> tuple[Operation, list[int]]:
    """In inference mode; onnxruntime keeps the running figures as they are."""
    epsilon = float(node.attributes.get("epsilon", 1e-5))

    def normalise(data: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        along = [1, -1] + [1] * (data.dim() - 2)
        slope = (scale / (var + epsilon).sqrt()).reshape(along)
        return (data - mean.reshape(along)) * slope + bias.reshape(along)

    return Operation(normalise), [0, 1, 2, 3, 4]


def _lp_normalization(node: Node) -> tuple[Operation, list[int]]:
    """Rows over their norm; a norm of 0 leaves them."""
    axis, power = (
        int(node.attributes.get(word, usual)) for word, usual in (("axis", -1), ("p", 2))
    )

    def normalise(data: Tensor) -> Tensor:
        size = data.abs().sum(axis, True) if power == 1 else data.square().sum(axis, True)
        size = torch.where(size == 0, torch.ones_like(size), size)
        return data / (size if power == 1 else size.sqrt())

    return Operation(normalise), [0]


def _gelu(node: Node) -> tuple[Operation, list[int]]:
    how = str(node.attributes.get("approximate", "none"))
    return Operation(lambda data: torch.nn.functional.gelu(data, approximate=how)), [0]


def _elementwise(function: Function) -> Any:
    return lambda node: (Operation(function), [0])


def _constant_of_shape(node: Node) -> tuple[Operation, list[int]]:
    held = node.attributes.get("value")
    fill = torch.zeros(1) if held is None else held.to_torch()
    return Operation(
        lambda sizes: torch.full(
            tuple(sizes.tolist()), fill.item(), dtype=fill.dtype, device=sizes.device
        )
    ), [0]


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": lambda data, axes, keep: data.sum(axes, keep, dtype=data.dtype),
    "ReduceMean": lambda data, axes, keep: data.mean(axes, keep),
    "ReduceMax": lambda data, axes, keep: data.amax(axes, keep),
    "ReduceMin": lambda data, axes, keep: data.amin(axes, keep),
    "ReduceL1": lambda data, axes, keep: data.abs().sum(axes, keep),
    # Unlike a root of squares, it has a finite gradient at 0.
    "ReduceL2": lambda data, axes, keep: torch.linalg.vector_norm(data, 2, axes, keep),
    "ReduceSumSquare": lambda data, axes, keep: data.square().sum(axes, keep),
    "ReduceLogSum": lambda data, axes, keep: data.sum(axes, keep).log(),
    "ReduceLogSumExp": lambda data, axes, keep: data.logsumexp(axes, keep),
}

CONVERTERS: dict[str, Callable[[Node], tuple[Operation, list[int]]]] = {
    **tree_ops.CONVERTERS,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Cosh": _elementwise(torch.cosh),
    "Gelu": _gelu,
    "LpNormalization": _lp_normalization,
    "Mish": _elementwise(torch.nn.functional.mish),
    "Sinh": _elementwise(torch.sinh),
    "ConstantOfShape": _constant_of_shape,
    "Equal": _compare(torch.eq),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gemm": _gemm,
    "Greater": _compare(torch.gt),
    "GreaterOrEqual": _compare(torch.ge),
    "Held": _elementwise(torch.detach),  # private: no gradient passes
    "IsNaN": _is_nan,
    "Less": _compare(torch.lt),
    "LessOrEqual": _compare(torch.le),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    **{name: _reduce(function) for name, function in _REDUCTIONS.items()},
}
