"""The small networks of a companion: several at once, each with rows of its own left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxtune.output import progress
from rewrites.core.rewrite import Array

# Neurons of each hidden layer.
_HIDDEN = (64, 64)

# Adam's step and weight decay, and passes over the rows at most.
_RATE, _DECAY, _EPOCHS = 3e-3, 1e-4, 150

# Steps at most, whatever the number of rows.
_STEPS = 20_000

# Epochs without a better loss before a network stops.
_PATIENCE = 15

# How much of the averaged weights a step keeps (Polyak and Juditsky 1992).
_KEPT = 0.99

# The least standard deviation of a column that is divided by it.
_LEAST_SPREAD = 1e-12

# Scores [M, B, K] and targets [M, B, ...] -> losses [M, B].
NetLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Inputs:
    """How numbers of a row become inputs of a network: empty ones filled, cut to the range of the
    training rows, standardised. All [F].
    """

    low: Array
    high: Array
    mean: Array
    spread: Array

    def apply(self, columns: Array) -> Array:
        """[N, F] float32."""
        filled = np.where(np.isnan(columns), self.mean, columns).clip(self.low, self.high)
        return np.asarray((filled - self.mean) / self.spread, np.float32)


@dataclass(frozen=True)
class Networks:
    """M networks as stacks: weights [M, in, out] and biases [M, 1, out], layer by layer.

    Their scores are cut to `low` and `high` [M, 1, K], what they are on their training rows.
    """

    inputs: Inputs
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    low: Array
    high: Array

    @torch.no_grad()
    def scores(self, columns: Array) -> Array:
        """[M, N, K] of rows [N, F]."""
        layers = [torch.from_numpy(array) for pair in zip(self.weights, self.biases, strict=True)
                  for array in pair]  # fmt: skip
        x = torch.from_numpy(self.inputs.apply(columns))
        found = _forward(layers, x.expand(len(self.low), -1, -1)).numpy()
        return np.asarray(found.clip(self.low, self.high))


def measured(columns: Array) -> Inputs:
    """The range and spread of the training rows [N, F]; columns without a number become 0."""
    finite = np.where(np.isfinite(columns), columns, np.nan).astype(np.float64)
    empty = np.isnan(finite).all(axis=0)
    finite[:, empty] = 0.0
    mean, spread = np.nanmean(finite, axis=0), np.nanstd(finite, axis=0)
    spread = np.where(spread > _LEAST_SPREAD, spread, 1.0)
    low, high = np.nanmin(finite, axis=0), np.nanmax(finite, axis=0)
    return Inputs(*(np.asarray(each, np.float32) for each in (low, high, mean, spread)))


def trained(
    columns: Array,
    target: Tensor,
    scores: int,
    loss: NetLoss,
    trains: Sequence[Array],
    stops: Sequence[Array],
    batch_size: int,
    seed: int,
    weight: Tensor | None = None,
) -> Networks:
    """Train one network on each set of rows, from nothing, and stop each where it is best.

    Args:
        columns: [N, F], all rows.
        target: [N, ...].
        scores: K, of a network.
        loss: of their scores.
        trains: M sets of row numbers to train on, about equally large.
        stops: M sets, on whose loss each network keeps its best weights.
        batch_size: rows a step.
        seed: of the weights and the order of rows.
        weight: [N], how much each row counts; None for all alike.
    """
    if weight is None:
        weight = torch.ones(len(columns))
    inputs = measured(columns[np.unique(np.concatenate(trains))])
    x = torch.from_numpy(inputs.apply(columns))
    generator = torch.Generator().manual_seed(seed)
    layers = _initial(len(trains), [x.shape[1], *_HIDDEN, scores], generator)
    average = [layer.detach().clone() for layer in layers]
    best = [layer.detach().clone() for layer in layers]
    lowest = torch.full((len(trains),), torch.inf)
    since = torch.zeros(len(trains))
    optimizer = torch.optim.Adam(layers, lr=_RATE, weight_decay=_DECAY)
    held = [torch.from_numpy(rows) for rows in stops]
    fewest = min(len(rows) for rows in trains)
    steps = 0
    epochs = min(_EPOCHS, max(1, _STEPS * batch_size // fewest))
    with progress(epochs, "companion") as bar:
        for _ in range(epochs):
            order = _shuffled(trains, fewest, generator)
            for rows in torch.split(order, batch_size, dim=1):
                optimizer.zero_grad()
                found = loss(_forward(layers, x[rows]), target[rows]) * weight[rows]
                mean = found.mean(dim=1).sum()
                mean.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                steps += 1
                kept = min(_KEPT, (1 + steps) / (10 + steps))
                with torch.no_grad():
                    for own, layer in zip(average, layers, strict=True):
                        own.lerp_(layer, 1 - kept)
            losses = _each_loss(average, x, target, held, loss, weight)
            better = losses < lowest
            lowest = torch.where(better, losses, lowest)
            for kept_layer, own in zip(best, average, strict=True):
                kept_layer[better] = own[better]
            since = torch.where(better, 0, since + 1)
            bar.update()
            if bool((since >= _PATIENCE).all()):
                break
    return _networks(inputs, best, x, trains)


def _initial(count: int, sizes: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Weights and biases in turn; the last layer's are 0, so that training starts from there."""
    layers = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        last = number == len(sizes) - 2
        for shape in ((count, inputs, outputs), (count, 1, outputs)):
            drawn = (2 * torch.rand(shape, generator=generator) - 1) / inputs**0.5
            layers.append((0 * drawn if last else drawn).requires_grad_())
    return layers


def _forward(layers: Sequence[Tensor], x: Tensor) -> Tensor:
    """[M, B, F] -> [M, B, K]: GELU between the layers (Hendrycks and Gimpel 2016, section 2)."""
    for place in range(0, len(layers), 2):
        x = torch.baddbmm(layers[place + 1], x, layers[place])
        if place + 2 < len(layers):
            x = F.gelu(x)
    return x


def _shuffled(trains: Sequence[Array], fewest: int, generator: torch.Generator) -> Tensor:
    """[M, fewest] row numbers, other ones each time."""
    drawn = [
        torch.from_numpy(rows)[torch.randperm(len(rows), generator=generator)[:fewest]]
        for rows in trains
    ]
    return torch.stack(drawn)


@torch.no_grad()
def _each_loss(
    layers: Sequence[Tensor],
    x: Tensor,
    target: Tensor,
    held: Sequence[Tensor],
    loss: NetLoss,
    weight: Tensor,
) -> Tensor:
    """[M]: of each network, on its own rows."""
    found = []
    for number, rows in enumerate(held):
        own = [layer[number : number + 1] for layer in layers]
        each = loss(_forward(own, x[rows][None]), target[rows][None])
        found.append((each * weight[rows]).mean())
    return torch.stack(found)


@torch.no_grad()
def _networks(
    inputs: Inputs, layers: Sequence[Tensor], x: Tensor, trains: Sequence[Array]
) -> Networks:
    ranges = []
    for number, rows in enumerate(trains):
        own = [layer[number : number + 1] for layer in layers]
        made = _forward(own, x[torch.from_numpy(rows)][None])[0]
        ranges.append((made.amin(dim=0, keepdim=True), made.amax(dim=0, keepdim=True)))
    low, high = (torch.stack(list(each)).numpy() for each in zip(*ranges, strict=True))
    arrays = [layer.detach().numpy() for layer in layers]
    return Networks(inputs, tuple(arrays[::2]), tuple(arrays[1::2]), low, high)
