"""Which training rows an epoch sees, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from onnxtune.errors import ArgumentError
from rewrites.core.rewrite import Array

# (epoch from 1, numbers of the training rows in X [N], generator) -> numbers of rows, in order.
OrderFunction = Callable[[int, Array, np.random.Generator], Array]
Order = Literal["shuffle", "given"] | OrderFunction
ORDERS = ("shuffle", "given")

Sampling = Literal["over", "under"]
SAMPLINGS: tuple[Sampling, ...] = ("over", "under")


@dataclass(frozen=True)
class RowOrder:
    """How the rows of an epoch are chosen.

    Attributes:
        numbers: [N], the numbers that the training rows have among all rows, ascending.
        order: "shuffle", "given", or a callable that returns the numbers of rows, of which some
            may be left out or come more than once.
        sampling: "over" draws rows of rarer classes again until all are as many as the most
            frequent, "under" takes of each class as many as there are of the rarest.
        classes: [N], the class of each row, for `sampling`.
        seed: of what callables draw.
    """

    numbers: Array
    order: Order = "shuffle"
    sampling: Sampling | None = None
    classes: Array | None = None
    seed: int = 0

    def rows(self, epoch: int, generator: torch.Generator) -> Tensor:
        """Positions of the epoch's rows, int64.

        Raises:
            ArgumentError: the callable returns no row numbers.
        """
        if callable(self.order):
            return torch.from_numpy(self._called(self.order, epoch))
        chosen = None
        if self.sampling is not None and self.classes is not None:
            chosen = _balanced(self.classes, self.sampling, generator)
        count = len(self.numbers) if chosen is None else len(chosen)
        if self.order == "given":
            return torch.arange(count) if chosen is None else chosen.sort().values
        order = torch.randperm(count, generator=generator)
        return order if chosen is None else chosen[order]

    def _called(self, order: OrderFunction, epoch: int) -> Array:
        rng = np.random.default_rng([self.seed, epoch])
        found = np.asarray(order(epoch, self.numbers.copy(), rng))
        name = getattr(order, "__name__", "order")
        if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
            raise ArgumentError(
                f"order: '{name}' returned {found.dtype} of shape {list(found.shape)} in epoch "
                f"{epoch}; it must return the numbers of one row or more."
            )
        places = np.searchsorted(self.numbers, found)
        known = places < len(self.numbers)
        known[known] = self.numbers[places[known]] == found[known]
        if not known.all():
            raise ArgumentError(
                f"order: '{name}' returned row {found[np.argmin(known)]} in epoch {epoch}, which "
                "is none of the training rows that it was given."
            )
        return places


def _balanced(classes: Array, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Positions of as many rows of every class."""
    parts = [torch.from_numpy(np.flatnonzero(classes == label)) for label in np.unique(classes)]
    sizes = [len(part) for part in parts]
    found = []
    for part in parts:
        if sampling == "under":
            found.append(part[torch.randperm(len(part), generator=generator)[: min(sizes)]])
        else:
            more = torch.randint(len(part), (max(sizes) - len(part),), generator=generator)
            found.append(torch.cat([part, part[more]]))
    return torch.cat(found)
