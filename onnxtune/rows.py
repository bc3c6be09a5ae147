"""The rows to tune on: as the model takes them, and as its core does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onnxtune.caching import Settled
from onnxtune.data import Table, take
from onnxtune.errors import UnsupportedError
from onnxtune.torch_module import OnnxModule
from rewrites.core.rewrite import Array, Routing


@dataclass(frozen=True)
class Rows:
    """Rows by routing, with what does not change computed, and the target as the loss takes it.

    `teacher` [N, K] is what another model puts out for them, where that is to be followed too;
    `weight` [N] how much each counts, 1 on average.
    """

    settled: Mapping[Routing, Settled]
    target: Tensor
    teacher: Tensor | None = None
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: Tensor | slice) -> Rows:
        """Some of the rows."""
        taken = {routing: settled.take(rows) for routing, settled in self.settled.items()}
        teacher = None if self.teacher is None else self.teacher[rows]
        weight = None if self.weight is None else self.weight[rows]
        return Rows(taken, self.target[rows], teacher, weight)


def core_rows(
    module: OnnxModule,
    table: Table,
    target: Array,
    routings: Iterable[Routing],
    trained: Sequence[str],
    entering: Sequence[Array] | None = None,
    weight: Array | None = None,
) -> Rows:
    """What enters the core for these rows, run on to where training begins.

    `entering` is what the prefix makes of them, where that is known; `weight` [N] how much each
    counts.

    Raises:
        UnsupportedError: something enters the core that is not one entry a row.
    """
    arrays = module.run_prefix(table.feed) if entering is None else entering
    for name, array in zip(module.input_names, arrays, strict=True):
        if array.shape[:1] != (table.rows,):
            raise UnsupportedError(
                f"'{name}', which enters the tuned part of the graph, has shape "
                f"{list(array.shape)} and not one entry a row ({table.rows})."
            )
    inputs = module.to_tensors(arrays)
    wanted = torch.as_tensor(target, device=inputs[0].device if inputs else None)
    if wanted.is_floating_point():
        wanted = wanted.to(next(iter(module.parameters())).dtype)
    settled = {}
    for routing in sorted(routings):
        module.routing = routing
        settled[routing] = module.settled(inputs, trained)
    weights = None if weight is None else torch.as_tensor(weight, device=wanted.device)
    if weights is not None:
        weights = weights.to(next(iter(module.parameters())).dtype)
    return Rows(settled, wanted, None, weights)


def some_rows(table: Table) -> dict[str, Array]:
    """Enough of them to look at."""
    return take(table.feed, slice(0, 1000))


@torch.no_grad()
def hard_output(module: OnnxModule, feed: Mapping[str, Array], output: str) -> Tensor:
    """What the model with hard routing says, without gradient; the module's routing stays."""
    routing, module.routing = module.routing, "hard"
    arrays = module.run_prefix(feed)
    pieces = [
        module(*module.to_tensors([np.asarray(array)[at : at + 4096] for array in arrays]))[output]
        for at in range(0, max(1, len(arrays[0])), 4096)
    ]
    module.routing = routing
    return torch.cat(pieces)
