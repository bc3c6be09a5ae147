"""Comparisons with shares of truth (`comparisons` puts these nodes in)."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxtune.torch_node import Converted, Converter, Function, Node, Operation

_LOGIC: dict[str, Function] = {
    "And": lambda a, b: a * b,
    "Not": lambda a: 1 - a,
    "Or": lambda a, b: a + b - a * b,
    "Xor": lambda a, b: a + b - 2 * a * b,
}


def _as_share(value: Tensor) -> Tensor:
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())


def _share_of_truth(node: Node) -> Converted:
    """Inputs: what is compared, and one over the width of the step."""
    above = bool(node.attributes["above"])

    def share(first: Tensor, second: Tensor, slope: Tensor) -> Tensor:
        far = first - second if above else second - first
        # A missing number is neither above nor below, and passes no gradient.
        missing = far.isnan()
        return torch.where(missing, 0, torch.sigmoid(torch.where(missing, 0, far) * slope))

    return Operation(share), [0, 1, 2]


def _shares_of_logic(node: Node) -> Converted:
    function = _LOGIC[str(node.attributes["logic"])]
    places = list(range(len(node.inputs)))
    return Operation(lambda *shares: function(*map(_as_share, shares))), places


def _share_where(node: Node) -> Converted:
    """Inputs: the exact condition, its share, and the two branches."""
    straight = bool(node.attributes.get("straight", 0))

    def choose(exact: Tensor, share: Tensor, a: Tensor, b: Tensor) -> Tensor:
        a, b, share = _as_share(a), _as_share(b), _as_share(share)
        chosen = torch.where(exact, a, b)
        apart = a - b
        # A branch that is no number, such as the logarithm of what the other is for, is not mixed.
        known = apart.isfinite()
        apart = torch.where(known, apart, 0)
        if straight:
            return chosen + (share - share.detach()) * apart.detach()
        return torch.where(known, torch.where(known, b, 0) + share * apart, chosen)

    return Operation(choose), [0, 1, 2, 3]


CONVERTERS: dict[str, Converter] = {
    "ShareOfTruth": _share_of_truth,
    "ShareWhere": _share_where,
    "SharesOfLogic": _shares_of_logic,
}
