"""Nearest neighbours with shares of all candidates (`neighbours` puts these nodes in)."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxtune.clipping import within
from onnxtune.torch_node import Converted, Converter, Holder, Node, Operation, of_all

_SMALLEST = 1e-12
# The usual distance is no less than this share of the candidates' size: where all are equally far,
# shares would turn in no time.
_LEAST = 1e-3


def _shares(node: Node) -> Converted:
    """How much each candidate is the one at each place.

    Inputs: distances or scores with N candidates along the axis, the inverse temperature, and of a
    TopK the values at its places; the shares have a last axis of N more than the places.
    """
    axis, keep = int(node.attributes["axis"]), bool(node.attributes["keepdims"])
    largest = bool(node.attributes["largest"])

    def of_nearest(distances: Tensor, sharpness: Tensor, values: Tensor) -> Tensor:
        """By how far its distance is from that of the place, over the usual distance."""
        start = axis % distances.dim()
        held = distances.movedim(start, -1)
        order = torch.argsort(held, dim=-1, descending=largest, stable=True)
        places = torch.arange(values.shape[start], device=values.device)
        near = held.gather(-1, order[..., : len(places)])
        # By rank, not by an absolute value: of candidates as far as each other, such as equal
        # trained rows, either is taken for the nearer, and the gradient is that of its side.
        after = torch.argsort(order, dim=-1).unsqueeze(-2) >= places.unsqueeze(-1)
        apart = held.unsqueeze(-2) - near.unsqueeze(-1)
        apart = torch.where(after ^ largest, apart, -apart).movedim(-2, start)
        return shared(apart, sharpness, near.abs().movedim(-1, start), distances)

    def of_best(scores: Tensor, sharpness: Tensor) -> Tensor:
        """By how far its score is from the best, over the usual distance from it."""
        # No absolute value is taken: it would have no gradient where two are the best.
        apart = scores.amax(axis, True) - scores if largest else scores - scores.amin(axis, True)
        start = axis % scores.dim()
        found = shared(apart.movedim(start, -1).unsqueeze(start), sharpness, apart, scores)
        return found if keep else found.squeeze(start)

    def shared(apart: Tensor, sharpness: Tensor, usual: Tensor, sizes: Tensor) -> Tensor:
        unit = usual.mean(axis, keepdim=True) + _LEAST * sizes.abs().mean(axis, keepdim=True)
        return torch.softmax(-apart * sharpness / (unit.unsqueeze(-1) + _SMALLEST), -1)

    def of_first(truths: Tensor, sharpness: Tensor) -> Tensor:
        """By how likely it is the first that is true; where none is, that is the first of all."""
        start = axis % truths.dim()
        held = truths.movedim(start, -1)
        held = within(torch.where(held.isnan(), 0, held), 0, 1)
        none = torch.cumprod(1 - held, -1)
        before = torch.cat([torch.ones_like(none[..., :1]), none[..., :-1]], -1)
        first = torch.arange(held.shape[-1], device=held.device) == 0
        found = (held * before + first * none[..., -1:]).unsqueeze(start)
        return found if keep else found.squeeze(start)

    if len(node.inputs) == 3:
        return Operation(of_nearest), [0, 1, 2]
    if node.attributes["first"]:
        return Operation(of_first), [0, 1]
    return Operation(of_best), [0, 1]


def _soft_neighbours(node: Node) -> Converted:
    """Inputs: places, shares with a last axis of N more, and what the two graphs read."""
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
        return hard + (mean - mean.detach())

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
    "NeighbourShares": _shares,
    "PlacesOfEach": of_all(_places_of_each),
    "PlacesOfLookup": _places_of_lookup,
    "SoftNeighbours": _soft_neighbours,
}
