"""Nearest neighbours with shares of all candidates (`neighbours` puts these nodes in)."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxtune.torch_node import Converted, Converter, Holder, Node, of_all

_SMALLEST = 1e-12


def _shares(values: Tensor, distances: Tensor, sharpness: Tensor) -> Tensor:
    """How much each candidate is the one at each place: [rows, k], [rows, N] -> [rows, k, N].

    By how far its distance is from that of the place, in units of the usual distance.
    """
    unit = values.abs().mean(-1, keepdim=True).unsqueeze(-1) + _SMALLEST
    apart = (values.unsqueeze(-1) - distances.unsqueeze(-2)).abs()
    return torch.softmax(-apart * sharpness / unit, -1)


def _soft_neighbours(node: Node) -> Converted:
    """Inputs: places [rows, k], shares [rows, k, N], and what the two graphs read."""
    found, where = node.subgraph("found"), node.subgraph("where")
    straight = bool(node.attributes["straight"])

    def soften(places: Tensor, shares: Tensor, *around: Tensor) -> Tensor:
        count = shares.shape[-1]
        numbers = torch.arange(places.numel(), device=places.device).reshape(places.shape)
        origin = where(numbers, *around)[0].reshape(-1)

        def with_one(candidate: Tensor) -> Tensor:
            made: Tensor = found(candidate.expand(places.shape), *around)[0]
            return made

        every = torch.vmap(with_one)(torch.arange(count, device=places.device))
        # Straight through, numbers that are looked up have the gradient of the nearest's place.
        every = every.detach() if straight else every
        weights = shares.reshape(-1, count)[origin]
        mean = (weights * every.reshape(count, -1).T).sum(-1).reshape(every.shape[1:])
        if not straight:
            return mean
        hard: Tensor = found(places, *around)[0]
        return hard + mean - mean.detach()

    return Holder(soften, found, where), list(range(len(node.inputs)))


def _places_of_lookup(node: Node) -> Converted:
    axis = int(node.attributes["axis"])

    def spread(places: Tensor, table: Tensor) -> Tensor:
        start = axis % table.dim()
        before, after = table.shape[:start], table.shape[start + 1 :]
        shaped = places.reshape(*[1] * len(before), *places.shape, *[1] * len(after))
        return shaped.expand(*before, *places.shape, *after)

    return Holder(spread), [0, 1]


def _places_of_each(places: Tensor, *others: Tensor) -> Tensor:
    shapes = [value.shape for value in others]
    together = torch.broadcast_shapes(places.shape, *shapes)  # type: ignore[no-untyped-call]
    return places.expand(together)


CONVERTERS: dict[str, Converter] = {
    "NeighbourShares": of_all(_shares),
    "PlacesOfEach": of_all(_places_of_each),
    "PlacesOfLookup": _places_of_lookup,
    "SoftNeighbours": _soft_neighbours,
}
