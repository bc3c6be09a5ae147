"""The training loop: plain torch, Adam on standardised steps, early stopping on validation."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxtune.checkpoint import Slot
from onnxtune.errors import ArgumentError
from onnxtune.optimizers import OF_TENSORS, adam, tensor_adam
from onnxtune.output import progress
from onnxtune.parameters import Parameter
from onnxtune.row_losses import evaluate, row_losses
from onnxtune.row_order import RowOrder
from onnxtune.rows import Rows
from onnxtune.settings import Epoch, Settings
from onnxtune.torch_module import OnnxModule
from rewrites.core.rewrite import Array, Routing

# Batches whose rows are taken at once, which is quicker than one by one.
_BATCHES = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """Tensors at the best epoch for hard routing, and for soft routing where that is trained.

    `cut` says that somebody asked to stop before its end.
    """

    hard: dict[str, Array]
    soft: dict[str, Array] | None
    history: tuple[Epoch, ...]
    cut: bool = False


@dataclass(frozen=True)
class Training:
    """One training of a run.

    Attributes:
        name: in records.
        fold: in records, from 1.
        routing: how trees pass rows on.
        order: of the rows.
        fresh: makes an epoch's rows where these change from epoch to epoch.
        slot: where its state is kept.
    """

    name: str
    fold: int
    routing: Routing
    order: RowOrder
    fresh: Callable[[int], Rows] | None = None
    slot: Slot | None = None


def train(
    module: OnnxModule,
    parameters: Mapping[str, Parameter],
    rows: Rows,
    valid: Rows,
    settings: Settings,
    training: Training,
) -> Trained:
    """Train the parameters; the module's own tensors stand in for all others.

    A loss that is no longer a number, or somebody who asks to stop, ends it with the best so far.
    """
    state = _State(parameters, settings, training)
    state.load()
    routing = training.routing
    forms: list[Routing] = ["hard", "soft"] if routing == "soft" else ["hard"]
    with progress(settings.epochs, "tuning") as bar:
        bar.update(state.epoch)
        while not state.done and not settings.stop.asked:
            start, number = time.perf_counter(), state.epoch + 1
            given = rows if training.fresh is None else training.fresh(number)
            mean = _pass(module, state, given, number)
            if mean is None:
                break  # in the middle of an epoch: what came of it so far is let go
            if not math.isfinite(mean):
                _log.warning(
                    "%s: the loss became %s in epoch %d; what was best before is kept. Lower lr, "
                    "or look for extreme values in the data.",
                    training.name,
                    mean,
                    number,
                )
                state.done = True
                break
            judged: dict[str, float] = {
                form: float(evaluate(module, parameters, valid, settings, form).mean())
                for form in forms
            }
            record = Epoch(
                routing,
                number,
                mean,
                judged["hard"],
                judged.get("soft"),
                time.perf_counter() - start,
                training.name,
                training.fold,
            )
            state.end_epoch(record, judged)
            bar.set_postfix_str(f"train {record.train:.4g}, valid {record.valid:.4g}")
            bar.update()
            if settings.on_epoch is not None and settings.on_epoch(record):
                settings.stop.asked = state.stopped = True
            state.save()
    best = state.best
    soft = best["soft"].tensors if routing == "soft" else None
    return Trained(best["hard"].tensors, soft, tuple(state.history), cut=not state.done)


def _pass(module: OnnxModule, state: _State, rows: Rows, number: int) -> float | None:
    """One pass over the rows: their mean loss; None where it was cut short."""
    settings, training = state.settings, state.training
    device = rows.target.device
    state.set_rates(number)
    order = training.order.rows(number, state.generator)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for several in torch.split(order, settings.batch_size * _BATCHES):
        taken = rows.take(several.to(device))
        for at in range(0, len(several), settings.batch_size):
            if settings.stop.asked:
                return None
            part = taken.take(slice(at, at + settings.batch_size))
            mean = step(module, state.parameters, state.optimizer, part, settings, training.routing)
            total += mean * len(part)
    return float(total) / len(order)


def step(
    module: OnnxModule,
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    settings: Settings,
    routing: Routing,
) -> Tensor:
    """Move the parameters once, on all of the rows; returns the mean loss before, a scalar."""
    half = (
        torch.autocast(rows.target.device.type, settings.precision)
        if settings.precision is not None
        else contextlib.nullcontext()
    )
    for parameter in parameters.values():
        parameter.delta.grad = None
    with half:
        mean = row_losses(module, parameters, rows, settings, routing).mean()
    mean.backward()  # type: ignore[no-untyped-call]
    _drop_undefined(parameters)
    if settings.clip is not None:
        torch.nn.utils.clip_grad_norm_([p.delta for p in parameters.values()], settings.clip)
    optimizer.step()
    return mean.detach()


def _drop_undefined(parameters: Mapping[str, Parameter]) -> None:
    """Gradients that are no number say nothing: 0 times inf, where an Exp overflows, say."""
    for parameter in parameters.values():
        if parameter.delta.grad is not None:
            parameter.delta.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


class _State:
    """What a training has come to; all that it needs to go on."""

    def __init__(
        self, parameters: Mapping[str, Parameter], settings: Settings, training: Training
    ) -> None:
        self.parameters, self.settings, self.training = parameters, settings, training
        self.generator = torch.Generator().manual_seed(settings.seed)
        make = tensor_adam if settings.by_tensor else adam
        self.optimizer = make(parameters, settings.rates)
        self.best = {"hard": _Best(parameters), "soft": _Best(parameters)}
        self.history: list[Epoch] = []
        self.epoch = 0
        self.done = False
        self.stopped = False  # by `on_epoch`, and so for good; Ctrl-C is of the process

    def set_rates(self, epoch: int) -> None:
        """The learning rates of an epoch, from 1: along a cosine from their full size to 2 %."""
        along = (epoch - 1) / max(self.settings.epochs, 1)
        factor = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * along))
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor

    def end_epoch(self, record: Epoch, judged: Mapping[str, float]) -> None:
        """Take the epoch in, and see whether it was the last."""
        self.epoch = record.epoch
        self.history.append(record)
        for form, loss in judged.items():
            self.best[form].offer(loss, self.epoch, self.parameters)
        since = self.epoch - max(self.best[form].epoch for form in judged)
        self.done = self.epoch >= self.settings.epochs or since >= self.settings.patience

    def save(self) -> None:
        """Write it where it is kept, if it is."""
        if self.training.slot is None:
            return
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for name, parameter in self.parameters.items():
            tensors[f"delta/{name}"] = parameter.delta
            for key, value in self.optimizer.state[parameter.delta].items():
                tensors[f"optimizer/{key}/{name}"] = value
        for form, best in self.best.items():
            for name, array in best.tensors.items():
                tensors[f"{form}/{name}"] = torch.from_numpy(array)
        facts = {
            "epoch": self.epoch,
            "done": self.done,
            "stopped": self.stopped,
            "best": {form: [best.loss, best.epoch] for form, best in self.best.items()},
            "history": [record.to_dict() for record in self.history],
        }
        self.training.slot.save(tensors, facts)

    def load(self) -> None:
        """Go on from where it was kept, if it was.

        Raises:
            ArgumentError: what was kept is of something else.
        """
        slot = self.training.slot
        found = None if slot is None else slot.load()
        if slot is None or found is None:
            return
        try:
            self._take(*found)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(slot.unreadable(error)) from None

    @torch.no_grad()
    def _take(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.generator.set_state(tensors["generator"])
        for name, parameter in self.parameters.items():
            parameter.delta.copy_(tensors[f"delta/{name}"])
            held = [key.split("/")[1] for key in tensors
                    if key.startswith("optimizer/") and key.split("/", 2)[2] == name]  # fmt: skip
            self.optimizer.state[parameter.delta] = {
                key: self._placed(tensors[f"optimizer/{key}/{name}"], key, parameter)
                for key in held
            }
        for form, best in self.best.items():
            best.loss, best.epoch = facts["best"][form]
            best.tensors = {name: tensors[f"{form}/{name}"].numpy() for name in self.parameters}
        self.history = [Epoch(**record) for record in facts["history"]]
        self.epoch, self.done = facts["epoch"], facts["done"]
        self.stopped = facts["stopped"]
        self.settings.stop.asked |= self.stopped

    def _placed(self, value: Tensor, key: str, parameter: Parameter) -> Tensor:
        """Where the optimizer has it: `TensorAdam` keeps what it counts of a tensor on the CPU."""
        stays = self.settings.by_tensor and key in OF_TENSORS
        return value if stays else value.to(parameter.delta.device)


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
