"""Operators that find places, and those that write to them."""

from __future__ import annotations

from typing import Any

import torch
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


def _top_k(node: Node) -> Converted:
    axis = int(node.attributes.get("axis", -1))
    largest = bool(node.attributes.get("largest", 1))

    def build(count: Integers) -> Function:
        def top(data: Tensor) -> Any:
            k = (count or [1])[0]
            if k == 1 and data.is_floating_point():
                # NaN is passed over as in ArgMax; among more onnxruntime has no order for it.
                places = _place_of_best(data, largest, axis, keep=True)
                return data.gather(axis, places), places
            # Of equal numbers the first comes first, which torch.topk does not promise.
            values, places = data.sort(dim=axis, descending=largest, stable=True)
            return values.narrow(axis, 0, k), places.narrow(axis, 0, k)

        return top

    return with_integers(node, [1], build, "k")


def _place_of_best(
    data: Tensor, largest: bool, axis: int, *, keep: bool, last: bool = False
) -> Tensor:
    """The place of the largest or smallest number along an axis, of equal ones the first or last.

    NaN is passed over, but nothing is compared with one in front, as in onnxruntime: there the
    place is 0.
    """
    absent = data.isnan()
    worst = -torch.inf if largest else torch.inf
    seen = torch.where(absent, worst, data) if data.is_floating_point() else data
    # Of equal numbers the first or last, which torch.argmax does not promise.
    best = seen.amax(axis, True) if largest else seen.amin(axis, True)
    size, start = seen.shape[axis], axis % seen.dim()
    along = torch.arange(size, device=seen.device)
    along = along.reshape([-1] + [1] * (seen.dim() - 1 - start))
    hit = (seen == best) & ~absent & ~absent.narrow(axis, 0, 1)
    if last:
        return torch.where(hit, along, 0).amax(axis, keep)
    return torch.where(hit, along, size).amin(axis, keep) % size


def _arg(largest: bool) -> Converter:
    def convert(node: Node) -> Converted:
        axis = int(node.attributes.get("axis", 0))
        keep = bool(node.attributes.get("keepdims", 1))
        last = bool(node.attributes.get("select_last_index", 0))
        return Operation(lambda data: _place_of_best(data, largest, axis, keep=keep, last=last)), [
            0
        ]

    return convert


def _one_hot(node: Node) -> Converted:
    axis = int(node.attributes.get("axis", -1))

    def encode(places: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        count = int(depth.reshape(-1)[0].item())
        at = places.long()
        inside = (at >= -count) & (at < count)
        at = torch.where(inside, at % count, count).unsqueeze(-1)
        hot = (at == torch.arange(count, device=at.device)).movedim(-1, axis)
        return torch.where(hot, values[1], values[0])

    def known(count: int) -> Function:
        return lambda places, values: encode(places, torch.tensor(count), values)

    depth = node.constant(1)
    if depth is not None:
        return Operation(known(int(depth.ravel()[0]))), [0, 2]
    return Operation(encode), [0, 1, 2]


_REDUCED = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _reduction(node: Node) -> str:
    how = str(node.attributes.get("reduction", "none"))
    if how not in ("none", *_REDUCED):
        raise UnsupportedError(f"'{node.name}': reduction '{how}' has no torch form.")
    return _REDUCED.get(how, "")


def _scatter_elements(node: Node) -> Converted:
    axis, how = int(node.attributes.get("axis", 0)), _reduction(node)

    def write(data: Tensor, places: Tensor, updates: Tensor) -> Tensor:
        at = places.long()
        at = torch.where(at < 0, at + data.shape[axis], at)
        if how:
            return data.scatter_reduce(axis, at, updates, how)
        return data.scatter(axis, at, updates)

    return Operation(write), [0, 1, 2]


def _scatter_nd(node: Node) -> Converted:
    how = _reduction(node)

    def write(data: Tensor, places: Tensor, updates: Tensor) -> Tensor:
        depth = places.shape[-1]
        at = places.long().reshape(-1, depth)
        flat = torch.zeros_like(at[:, 0])
        for axis in range(depth):
            step = at[:, axis]
            size = data.shape[axis]
            flat = flat * size + torch.where(step < 0, step + size, step)
        inner = data.shape[depth:]
        rows = data.reshape(-1, *inner)
        new = updates.reshape(-1, *inner)
        if not how:
            return rows.index_put((flat,), new).reshape(data.shape)
        around = flat.reshape(-1, *[1] * len(inner)).expand(new.shape)
        return rows.scatter_reduce(0, around, new, how).reshape(data.shape)

    return Operation(write), [0, 1, 2]


def _compress(node: Node) -> Converted:
    axis = node.attributes.get("axis")

    def keep(data: Tensor, wanted: Tensor) -> Tensor:
        rows = data.reshape(-1) if axis is None else data
        at = torch.nonzero(wanted).reshape(-1)
        return rows.index_select(0 if axis is None else int(axis), at)

    return Operation(keep), [0, 1]


CONVERTERS: dict[str, Converter] = {
    "ArgMax": _arg(True),
    "ArgMin": _arg(False),
    "Compress": _compress,
    "NonZero": elementwise(lambda data: torch.nonzero(data).T),
    "OneHot": _one_hot,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TopK": _top_k,
}
