"""How to train, and the record of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from onnxtune.interruption import Stop
from onnxtune.losses import Loss
from rewrites.core.rewrite import Group, Routing

# Steps of Adam in standardised units, per group.
LEARNING_RATES: dict[Group, float] = {
    "thresholds": 1e-2,
    "leaves": 3e-3,
    "weights": 3e-3,
    "offsets": 3e-3,
}


@dataclass(frozen=True)
class Epoch:
    """What one pass over the rows brought; losses are means per row.

    `routing` is how trees passed the rows on, `valid` the loss of the model with hard routing,
    `valid_soft` that of the soft model where it is what is trained. `training` says which of a
    run's trainings it belongs to, and `fold` in which part of the rows, counted from 1.
    """

    routing: Routing
    epoch: int
    train: float
    valid: float
    valid_soft: float | None
    seconds: float
    training: str = ""
    fold: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The record as a dictionary."""
        return asdict(self)


# Called after every epoch; a true value ends the run with the best so far.
EpochFunction = Callable[[Epoch], object]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        loss: of a row.
        output: the one that is tuned.
        epochs: at most.
        batch_size: rows a step.
        rates: learning rate by tensor, in standardised units.
        patience: epochs without a better validation loss.
        seed: of the order of rows.
        by_tensor: whether all numbers of a tensor take steps of one size.
        clip: the norm that all gradients together are cut to, in standardised units.
        precision: of the forward pass in training; None for that of the model.
        on_epoch: called after every epoch.
        stop: asks to end.
    """

    loss: Loss
    output: str
    epochs: int
    batch_size: int
    rates: Mapping[str, float]
    patience: int
    seed: int
    by_tensor: bool = False
    clip: float | None = None
    precision: torch.dtype | None = None
    on_epoch: EpochFunction | None = None
    stop: Stop = field(default_factory=Stop)
