"""The training loop: plain torch, Adam on standardised steps, early stopping on validation."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxtune.errors import ArgumentError, OnnxTuneError
from onnxtune.losses import Loss
from onnxtune.optimizers import TensorAdam
from onnxtune.output import progress
from onnxtune.parameters import Parameter
from onnxtune.rows import Rows
from onnxtune.torch_module import OnnxModule
from rewrites.core.rewrite import Array, Group, Routing

# Steps of Adam in standardised units, per group.
LEARNING_RATES: dict[Group, float] = {
    "thresholds": 1e-2,
    "leaves": 3e-3,
    "weights": 3e-3,
    "offsets": 3e-3,
}


# Rows that are evaluated at once.
_PIECE = 4096


@dataclass(frozen=True)
class Epoch:
    """What one pass over the rows brought; losses are means per row.

    `routing` is how trees passed the rows on, `valid` the loss of the model with hard routing,
    `valid_soft` that of the soft model where it is what is trained.
    """

    routing: Routing
    epoch: int
    train: float
    valid: float
    valid_soft: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The record as a dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """How to train; `by_tensor` takes one step size for all numbers of a tensor."""

    loss: Loss
    output: str
    epochs: int
    batch_size: int
    rates: Mapping[str, float]
    patience: int
    seed: int
    by_tensor: bool = False


@dataclass(frozen=True)
class Trained:
    """Tensors at the best epoch for hard routing, and for soft routing where that is trained."""

    hard: dict[str, Array]
    soft: dict[str, Array] | None
    history: tuple[Epoch, ...]


def train(
    module: OnnxModule,
    parameters: Mapping[str, Parameter],
    rows: Rows,
    valid: Rows,
    settings: Settings,
    routing: Routing,
) -> Trained:
    """Train the parameters; the module's own tensors stand in for all others.

    Raises:
        OnnxTuneError: the loss is no longer a number.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    groups = [{"params": [p.delta], "lr": settings.rates[name]} for name, p in parameters.items()]
    optimizer = TensorAdam(groups) if settings.by_tensor else torch.optim.Adam(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(settings.epochs))
    best = {"hard": _Best(parameters), "soft": _Best(parameters)}
    history: list[Epoch] = []
    soft = routing == "soft"
    with progress(settings.epochs, "tuning") as bar:
        for number in range(1, settings.epochs + 1):
            start = time.perf_counter()
            order = torch.randperm(len(rows), generator=generator)
            total = 0.0
            for batch in torch.split(order, settings.batch_size):
                optimizer.zero_grad()
                part = rows.take(batch.to(rows.target.device))
                mean = row_losses(module, parameters, part, settings, routing).mean()
                mean.backward()  # type: ignore[no-untyped-call]
                total += mean.item() * len(batch)
                _drop_undefined(parameters)
                optimizer.step()
            scheduler.step()
            if not math.isfinite(total):
                raise OnnxTuneError(
                    f"the loss became {total / len(rows)} in epoch {number}; "
                    "lower lr, or look for extreme values in the data."
                )
            judged = {"hard": evaluate(module, parameters, valid, settings, "hard")}
            if soft:
                judged["soft"] = evaluate(module, parameters, valid, settings, "soft")
            for form, values in judged.items():
                best[form].offer(float(values.mean()), number, parameters)
            record = Epoch(
                routing,
                number,
                total / len(rows),
                float(judged["hard"].mean()),
                float(judged["soft"].mean()) if soft else None,
                time.perf_counter() - start,
            )
            history.append(record)
            bar.set_postfix_str(f"train {record.train:.4g}, valid {record.valid:.4g}")
            bar.update()
            if number - max(best[form].epoch for form in judged) >= settings.patience:
                break
    return Trained(best["hard"].tensors, best["soft"].tensors if soft else None, tuple(history))


def _drop_undefined(parameters: Mapping[str, Parameter]) -> None:
    """Gradients that are no number say nothing: 0 times inf, where an Exp overflows, say."""
    for parameter in parameters.values():
        if parameter.delta.grad is not None:
            parameter.delta.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


class _Best:
    """The tensors at the lowest validation loss so far."""

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self.loss, self.epoch = math.inf, 0
        self.tensors = _values(parameters)

    def offer(self, loss: float, epoch: int, parameters: Mapping[str, Parameter]) -> None:
        if loss < self.loss:
            self.loss, self.epoch, self.tensors = loss, epoch, _values(parameters)


def _values(parameters: Mapping[str, Parameter]) -> dict[str, Array]:
    return {name: np.array(p.settled().cpu().numpy()) for name, p in parameters.items()}


def _cosine(epochs: int) -> Any:
    """From 1 to 0.02 over the epochs."""
    return lambda epoch: 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * epoch / max(epochs, 1)))


def loss_input(
    module: OnnxModule,
    parameters: Mapping[str, Parameter],
    rows: Rows,
    settings: Settings,
    routing: Routing,
) -> Tensor:
    """[N, K]: what the loss takes, the output or the value in front of its link."""
    module.routing = routing
    tensors: dict[str, Tensor] = {**module.tensors()}
    tensors |= {name: parameter.value() for name, parameter in parameters.items()}
    values = module.evaluate_settled(rows.settled[routing], tensors)
    name = module.links[settings.output].value if settings.loss.of_source else None
    return values[name or module.cut.outputs[settings.output]].reshape(len(rows), -1)


def row_losses(
    module: OnnxModule,
    parameters: Mapping[str, Parameter],
    rows: Rows,
    settings: Settings,
    routing: Routing,
) -> Tensor:
    """The loss of each row, [N], with gradient."""
    columns = loss_input(module, parameters, rows, settings, routing)
    loss = settings.loss
    if loss.target != "classes" and rows.target.shape != columns.shape:
        raise OnnxTuneError(
            f"the target has shape {tuple(rows.target.shape)}, "
            f"the output '{settings.output}' {tuple(columns.shape)}."
        )
    found = loss.rows(columns, rows.target)
    if rows.teacher is not None:
        found = (found + expected_loss(loss, columns, rows.teacher)) / 2
    if not isinstance(found, Tensor) or found.shape != (len(rows),):
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ArgumentError(
            f"the loss '{loss.name}' returned {shape}; it must return one number a row, [N], "
            f"here [{len(rows)}]."
        )
    return found


def expected_loss(loss: Loss, columns: Tensor, teacher: Tensor) -> Tensor:
    """[N]: the loss of each row where its target is drawn from what the teacher [N, K] says.

    Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural Network", section 2; of
    numbers, the loss toward the teacher's.
    """
    if loss.target == "numbers":
        return loss.rows(columns, teacher)
    if loss.target == "binary":
        one = torch.ones_like(columns)
        return (teacher * loss.rows(columns, one)[:, None]
                + (1 - teacher) * loss.rows(columns, 0 * one)[:, None]).mean(1)  # fmt: skip
    share = teacher.clamp(min=0) / teacher.clamp(min=0).sum(1, keepdim=True).clamp(min=1e-12)
    losses = [
        loss.rows(columns, torch.full((len(columns),), place, device=columns.device))
        for place in range(columns.shape[1])
    ]
    return (share * torch.stack(losses, dim=1)).sum(1)


@torch.no_grad()
def evaluate(
    module: OnnxModule,
    parameters: Mapping[str, Parameter],
    rows: Rows,
    settings: Settings,
    routing: Routing,
) -> Array:
    """The loss of each row, [N] float64, without gradient, in pieces that fit into memory."""
    found: Sequence[Tensor] = [
        row_losses(module, parameters, rows.take(slice(at, at + _PIECE)), settings, routing)
        for at in range(0, len(rows), _PIECE)
    ]
    return torch.cat(list(found)).double().cpu().numpy()
