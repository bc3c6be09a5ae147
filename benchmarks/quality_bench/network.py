"""A small network from nothing, the peer that needs no trained pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quality_bench.tasks import Array, Task, is_classes

_HIDDEN = 64
_RATE, _DECAY = 3e-3, 1e-4
_EPOCHS, _PATIENCE = 200, 15


def train(
    task: Task, X: Array, y: Array, X_valid: Array, y_valid: Array, classes: int, seed: int
) -> Callable[[Array], Array]:
    """Train with early stopping on the validation rows; returns how to predict.

    Inputs are standardised on the training rows, and so is a target of numbers.
    """
    torch.manual_seed(seed)
    centre, spread = X.mean(axis=0), X.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    y_centre, y_spread = (y.mean(), y.std()) if task == "numbers" else (0.0, 1.0)

    def inputs(rows: Array) -> Tensor:
        return torch.tensor((rows - centre) / spread, dtype=torch.float32)

    def target(values: Array) -> Tensor:
        if is_classes(task):
            return torch.tensor(values, dtype=torch.int64)
        return torch.tensor((values - y_centre) / y_spread, dtype=torch.float32)

    wide = classes if is_classes(task) else 1
    network = nn.Sequential(
        nn.Linear(X.shape[1], _HIDDEN), nn.GELU(),
        nn.Linear(_HIDDEN, _HIDDEN), nn.GELU(),
        nn.Linear(_HIDDEN, wide),
    )  # fmt: skip
    _fit(network, task, (inputs(X), target(y)), (inputs(X_valid), target(y_valid)))

    @torch.no_grad()
    def predict(rows: Array) -> Array:
        found = network(inputs(rows)).double()
        if is_classes(task):
            return np.asarray(torch.softmax(found, dim=1))
        if task == "rates":
            return np.asarray(found[:, 0].exp())
        return np.asarray(found[:, 0]) * y_spread + y_centre

    return predict


def _fit(
    network: nn.Module, task: Task, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]
) -> None:
    X, y = train
    batch = int(np.clip(len(X) // 32, 16, 64))
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    best, kept, waited = float("inf"), copy.deepcopy(network.state_dict()), 0
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(X)).split(batch):
            optimizer.zero_grad()
            _loss(task, network(X[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            found = float(_loss(task, network(valid[0]), valid[1]))
        if found < best:
            best, kept, waited = found, copy.deepcopy(network.state_dict()), 0
        else:
            waited += 1
            if waited >= _PATIENCE:
                break
    network.load_state_dict(kept)


def _loss(task: Task, found: Tensor, y: Tensor) -> Tensor:
    if is_classes(task):
        return F.cross_entropy(found, y)
    if task == "rates":
        return F.poisson_nll_loss(found[:, 0], y, log_input=True)
    return F.mse_loss(found[:, 0], y)
