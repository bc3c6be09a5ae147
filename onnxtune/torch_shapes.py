"""Operators that move numbers: parts, orders, shapes, and tensors made of shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from onnxtune.errors import UnsupportedError
from onnxtune.torch_node import (
    Converted,
    Converter,
    Function,
    Integers,
    Node,
    Operation,
    elementwise,
    with_integers,
)

ELEMENT_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def _gather(node: Node) -> Converted:
    axis = int(node.attributes.get("axis", 0))
    index = node.constant(1)
    if index is None:

        def look_up(data: Tensor, places: Tensor) -> Tensor:
            start = axis % data.dim()
            at = places.reshape(-1).long()
            flat = data.index_select(axis, torch.where(at < 0, at + data.shape[axis], at))
            return flat.reshape(*data.shape[:start], *places.shape, *data.shape[start + 1 :])

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


def _gather_elements(node: Node) -> Converted:
    axis = int(node.attributes.get("axis", 0))

    def look_up(data: Tensor, at: Tensor) -> Tensor:
        at = at.long()
        return data.gather(axis, torch.where(at < 0, at + data.shape[axis], at))

    return Operation(look_up), [0, 1]


def _gather_nd(node: Node) -> Converted:
    batch = int(node.attributes.get("batch_dims", 0))

    def look_up(data: Tensor, places: Tensor) -> Tensor:
        lead = data.shape[:batch]
        rows = math.prod(lead)
        flat = data.reshape(rows, *data.shape[batch:])
        # Counted, for with no rows torch cannot tell what -1 stands for.
        each = math.prod(places.shape[batch:-1])
        at = places.long().reshape(rows, each, places.shape[-1])
        which = torch.arange(rows, device=data.device)[:, None].expand(at.shape[:2])
        found = flat[(which, *at.unbind(-1))]
        return found.reshape(*places.shape[:-1], *data.shape[batch + places.shape[-1] :])

    return Operation(look_up), [0, 1]


def _slice(node: Node) -> Converted:
    def build(starts: list[int], ends: list[int], axes: Integers, steps: Integers) -> Function:
        along = axes or list(range(len(starts)))
        strides = steps or [1] * len(starts)

        def cut(data: Tensor) -> Tensor:
            for axis, start, end, step in zip(along, starts, ends, strides, strict=True):
                data = _cut(data, axis, start, end, step)
            return data

        return cut

    if "starts" in node.attributes:  # before opset 10
        starts, ends = node.attributes["starts"], node.attributes["ends"]
        return Operation(build(starts, ends, node.attributes.get("axes"), None)), [0]
    return with_integers(node, (1, 2, 3, 4), build)


def _cut(data: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    if step > 0:
        where = [slice(None)] * data.dim()
        where[axis] = slice(start, min(end, data.shape[axis]), step)
        return data[tuple(where)]
    # torch has no negative steps; Python knows which places are meant.
    end = max(end, -data.shape[axis] - 1)
    places = range(data.shape[axis])[slice(start, end, step)]
    return data.index_select(axis, torch.tensor(list(places), dtype=torch.int64).to(data.device))


def _reshape(node: Node) -> Converted:
    keep_zero = bool(node.attributes.get("allowzero", 0))

    def build(wanted: Integers) -> Function:
        def reshape(data: Tensor) -> Tensor:
            shape = [
                data.shape[place] if size == 0 and not keep_zero else size
                for place, size in enumerate(wanted or [])
            ]
            if data.numel() == 0 and -1 in shape:
                # With no rows torch cannot tell what -1 stands for; it can only be the rows.
                shape[shape.index(-1)] = 0
            return data.reshape(shape)

        return reshape

    return with_integers(node, [1], build, "shape")


def _flatten(node: Node) -> Converted:
    axis = int(node.attributes.get("axis", 1))

    def flatten(data: Tensor) -> Tensor:
        return data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))

    return Operation(flatten), [0]


def _squeeze(node: Node) -> Converted:
    def build(axes: Integers) -> Function:
        if axes is None:
            return lambda data: data.squeeze()
        return lambda data: data.squeeze(tuple(axes))

    return with_integers(node, [1], build, "axes")


def _unsqueeze(node: Node) -> Converted:
    def build(axes: Integers) -> Function:
        def unsqueeze(data: Tensor) -> Tensor:
            rank = data.dim() + len(axes or [])
            for axis in sorted(axis % rank for axis in axes or []):
                data = data.unsqueeze(axis)
            return data

        return unsqueeze

    return with_integers(node, [1], build, "axes")


def _expand(node: Node) -> Converted:
    def build(wanted: Integers) -> Function:
        return lambda data: data.expand(_together(data, tuple(wanted or ())))

    return with_integers(node, [1], build)


def _together(data: Tensor, wanted: tuple[int, ...]) -> torch.Size:
    shape: torch.Size = torch.broadcast_shapes(data.shape, wanted)  # type: ignore[no-untyped-call]
    return shape


def _tile(node: Node) -> Converted:
    return with_integers(node, [1], lambda repeats: lambda data: data.repeat(repeats))


def _transpose(node: Node) -> Converted:
    order = node.attributes.get("perm")
    return Operation(lambda data: data.permute(order or list(reversed(range(data.dim()))))), [0]


def _concat(node: Node) -> Converted:
    axis = int(node.attributes["axis"])
    return Operation(lambda *parts: torch.cat(parts, axis)), list(range(len(node.inputs)))


def _split(node: Node) -> Converted:
    axis, count = int(node.attributes.get("axis", 0)), len(node.outputs)

    def build(sizes: Integers) -> Function:
        def split(data: Tensor) -> Any:
            # The last part is smaller where it does not come out even.
            whole = -(-data.shape[axis] // count)
            parts = sizes or [whole] * (count - 1) + [data.shape[axis] - whole * (count - 1)]
            found = torch.split(data, parts, axis)
            return found if count > 1 else found[0]

        return split

    return with_integers(node, [1], build, "split")


_PAD_MODES = ("constant", "reflect", "edge", "wrap")


def _pad(node: Node) -> Converted:
    mode = str(node.attributes.get("mode", "constant"))
    held = node.constant(2)
    if node.has(2) and held is None:
        raise UnsupportedError(f"Pad '{node.name}': what it pads with must be a constant.")
    value = float(node.attributes.get("value", 0.0)) if held is None else held.item()
    if mode not in _PAD_MODES:
        raise UnsupportedError(f"Pad '{node.name}': mode '{mode}' has no torch form.")

    def build(pads: list[int], axes: Integers) -> Function:
        half = len(pads) // 2

        def pad(data: Tensor) -> Tensor:
            along = [axis % data.dim() for axis in (axes or range(half))]
            for number, axis in enumerate(along):
                before, after = pads[number], pads[number + half]
                data = _padded(data, axis, before, after, mode, value)
            return data

        return pad

    return with_integers(node, (1, 3), build, "pads")


def _padded(data: Tensor, axis: int, before: int, after: int, mode: str, value: float) -> Tensor:
    """One axis; a negative number of places takes some away."""
    size = data.shape[axis]
    if mode == "constant":
        widths = [0, 0] * (data.dim() - 1 - axis) + [before, after]
        return torch.nn.functional.pad(data, widths, value=value)
    places = np.arange(-before, size + after)
    if mode == "edge":
        places = places.clip(0, size - 1)
    elif mode == "wrap":
        places %= size
    else:
        period = max(2 * (size - 1), 1)
        places = np.abs((places + size - 1) % period - (size - 1))
    return data.index_select(axis, torch.from_numpy(places).to(data.device))


def _shape(node: Node) -> Converted:
    start = int(node.attributes.get("start", 0))
    end = node.attributes.get("end")
    return Operation(
        lambda data: torch.tensor(tuple(data.shape)[start:end], dtype=torch.int64).to(data.device)
    ), [0]


def _size(node: Node) -> Converted:
    return Operation(lambda data: torch.tensor(data.numel()).to(data.device)), [0]


def _constant_of_shape(node: Node) -> Converted:
    held = node.attributes.get("value")
    fill = torch.zeros(1) if held is None else held.to_torch()

    def build(sizes: Sequence[int] | None) -> Function:
        return lambda read: torch.full(
            tuple(sizes or ()), fill.item(), dtype=fill.dtype, device=read.device
        )

    sizes = node.constant(0)
    if sizes is not None:
        return Operation(build([int(size) for size in sizes])), [0]
    return Operation(lambda read: build(read.tolist())(read)), [0]


def _range(node: Node) -> Converted:
    def count(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        return torch.arange(
            start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device
        )

    return Operation(count), [0, 1, 2]


def _eye_like(node: Node) -> Converted:
    offset, to = int(node.attributes.get("k", 0)), node.attributes.get("dtype")
    kind = None if to is None else ELEMENT_TYPES[int(to)]

    def eye(data: Tensor) -> Tensor:
        ones = torch.ones_like(data, dtype=kind)
        return ones.triu(offset).tril(offset)

    return Operation(eye), [0]


def _trilu(node: Node) -> Converted:
    upper = bool(node.attributes.get("upper", 1))

    def build(offset: Integers) -> Function:
        k = offset[0] if offset else 0
        return lambda data: data.triu(k) if upper else data.tril(k)

    return with_integers(node, [1], build)


def _cast(node: Node) -> Converted:
    to = int(node.attributes["to"])
    if to not in ELEMENT_TYPES:
        raise UnsupportedError(f"Cast '{node.name}': element type {to} has no torch form.")
    if to == TensorProto.FLOAT:
        # A buffer goes along with `module.double()`, as all else in the module does.
        number = np.zeros(0, np.float32)
        return Operation(lambda like, data: data.to(like.dtype), number), [0]
    return Operation(lambda data: data.to(ELEMENT_TYPES[to])), [0]


def _cast_like(node: Node) -> Converted:
    return Operation(lambda data, like: data.to(like.dtype)), [0, 1]


def _first_of(node: Node) -> Converted:
    """Dropout as it is at inference: its data, and a mask of ones."""
    count = len(node.outputs)
    return Operation(
        lambda data: data if count == 1 else (data, torch.ones_like(data, dtype=torch.bool))
    ), [0]


CONVERTERS: dict[str, Converter] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Dropout": _first_of,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": elementwise(lambda data: data),
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
