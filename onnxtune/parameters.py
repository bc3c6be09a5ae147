"""Learned tensors in standardised units: one learning rate fits all, and constraints hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rewrites.core.rewrite import Constraint, Group
from rewrites.core.rewrite import Tensor as Learned

# A leaf's share of a class below this is lifted to it before the logarithm is taken.
_SMALLEST_SHARE = 0.02

# A positive number is at most exp of this away from where it was, so that it stays one.
_FARTHEST = 20.0


@dataclass(frozen=True)
class Parameter:
    """A learned tensor as a function of a step `delta` that starts at 0.

    Free tensors are `initial + unit * delta`, positive ones `initial * exp(delta)`. Under another
    constraint they are distributions: `delta` moves logits, and the value keeps its sum and sign.
    """

    initial: Tensor
    unit: Tensor
    group: Group
    constraint: Constraint | None
    delta: nn.Parameter

    def value(self) -> Tensor:
        """The tensor after the step, with gradient."""
        if self.constraint is None:
            return self.initial + self.unit * self.delta
        if self.constraint.kind == "positive":
            return self.initial * self.delta.clamp(-_FARTHEST, _FARTHEST).exp()
        if self.constraint.kind == "simplex":
            total = self.initial.sum(dim=1, keepdim=True)
            return _moved(self.initial, total, self.delta)
        share = torch.full_like(self.initial, self.constraint.high)
        both = torch.stack([self.initial, (share - self.initial).clamp(min=0)], dim=-1)
        step = torch.stack([self.delta, -self.delta], dim=-1)
        return _moved(both, share.unsqueeze(-1), step)[..., 0]

    @torch.no_grad()
    def settled(self) -> Tensor:
        """The tensor after the step, with its initial bits where the step is 0."""
        still = self.delta == 0
        if self.constraint is not None and self.constraint.kind == "simplex":
            still = still.all(dim=1, keepdim=True)
        return torch.where(still, self.initial, self.value())


def _moved(initial: Tensor, total: Tensor, delta: Tensor) -> Tensor:
    """Rows of distributions times `total`, their logits moved by `delta`.

    The change of the softmax is added to the initial row, so that a leaf with empty classes
    starts exactly where it was and still can fill them; then cut at 0 and brought to its total.
    """
    floor = torch.finfo(initial.dtype).tiny
    logits = (initial / total.clamp(min=floor)).clamp(min=_SMALLEST_SHARE).log()
    change = torch.softmax(logits + delta, -1) - torch.softmax(logits, -1)
    shifted = initial + total * change
    # Not clamp, whose gradient at 0 differs between versions of torch: an empty class is at 0, and
    # must be able to leave it.
    shifted = torch.where(shifted >= 0, shifted, torch.zeros_like(shifted))
    return shifted * (total / shifted.sum(-1, keepdim=True).clamp(min=floor))


def standardised(
    learned: Mapping[str, Learned], names: list[str], device: torch.device
) -> dict[str, Parameter]:
    """Parameters of the named tensors, each at its initial value."""
    return {name: _parameter(learned[name], device) for name in names}


def _parameter(tensor: Learned, device: torch.device) -> Parameter:
    initial = torch.from_numpy(np.array(tensor.value)).to(device)
    unit = torch.as_tensor(np.array(tensor.unit), dtype=initial.dtype, device=device)
    delta = nn.Parameter(torch.zeros_like(initial))
    return Parameter(initial, unit, tensor.group, tensor.constraint, delta)
