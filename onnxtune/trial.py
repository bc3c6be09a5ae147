"""The number of threads of a run, by trial of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from onnxtune.checkpoint import Checkpoint
from onnxtune.problem import Problem, Split
from onnxtune.row_losses import row_losses
from onnxtune.rows import core_rows
from onnxtune.settings import Settings
from onnxtune.threads import quickest
from rewrites.core.rewrite import Routing


def threads_for(
    asked: int | Literal["auto"],
    checkpoint: Checkpoint | None,
    problem: Problem,
    parts: Sequence[Split],
    trained: Sequence[str],
    settings: Settings,
) -> int:
    """The number that was asked for, that of the run to go on with, or what a batch likes best.

    Args:
        asked: or "auto".
        checkpoint: of a run to go on with, whose last bits hang on the number.
        problem: the model and its loss.
        parts: the rows.
        trained: names of the tensors.
        settings: how to train.
    """
    if asked != "auto":
        return int(asked)
    if checkpoint is not None and checkpoint.threads is not None:
        return checkpoint.threads
    split, module = parts[0], problem.original
    first = split.table.take(np.arange(min(split.table.rows, settings.batch_size)))
    target = split.target[: first.rows]
    routings: tuple[Routing, ...] = ("hard", "straight-through")
    rows = core_rows(module, first, target, routings, trained)
    # Places of nearest neighbours, say, have no gradients but through shares.
    hard = row_losses(module, {}, rows, settings, "hard").requires_grad
    routing = routings[0] if hard else routings[1]

    def step() -> None:
        module.zero_grad()
        row_losses(module, {}, rows, settings, routing).mean().backward()  # type: ignore[no-untyped-call]

    steps = len(parts) * settings.epochs * -(-split.table.rows // settings.batch_size)
    try:
        return quickest(step, steps)
    finally:
        module.zero_grad()
