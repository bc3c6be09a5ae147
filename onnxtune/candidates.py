"""Candidates of a tuning run: what is trained, and the models that come of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from onnxtune.data import Table, take
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.export import native
from onnxtune.judging import Court
from onnxtune.losses import Loss, Output
from onnxtune.model import load
from onnxtune.parameters import standardised
from onnxtune.preparation import prepare
from onnxtune.resizing import carried, dithered, resized, tree_nodes, tree_shapes
from onnxtune.result import Candidate
from onnxtune.rows import Rows, core_rows, hard_output
from onnxtune.torch_module import OnnxModule
from onnxtune.training_loop import Epoch, Trained, evaluate, train
from rewrites.core.rewrite import Array, Routing
from rewrites.trees.costs import step_cost

TuneRouting = Literal["auto", "soft", "straight-through", "leaves"]
ROUTINGS: tuple[TuneRouting, ...] = ("auto", "soft", "straight-through", "leaves")

# What a model that is to become smaller may lose of the original's loss.
ALLOWED_LOSS = 0.02

# Copies of the trees that may stand for a soft model, as far as `max_size` allows.
_COPIES = (1, 2, 4, 8, 16)

# Factors of the remaining trees' leaves that are tried where a part is kept.
_FACTORS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)

# Seconds that soft routing may take by forecast to be tried beside straight-through routing.
_AFFORDABLE = 60.0


@dataclass(frozen=True)
class Task:
    """What to tune, and on what.

    Attributes:
        original: the model, hard.
        table, target: the rows to train on.
        scored: what its output is.
        trained: names of the tensors to train.
        court: judges what comes of it.
    """

    original: OnnxModule
    table: Table
    target: Array
    scored: Output
    trained: list[str]
    court: Court


@dataclass(frozen=True)
class Run:
    """What was trained and found.

    `routing` is that of the last training; `cached_bytes` what was kept of the rows.
    """

    candidates: list[Candidate]
    history: list[Epoch]
    routing: Routing
    cached_bytes: int


def candidates(task: Task, routing: TuneRouting, max_size: float) -> Run:
    """Train, and judge every model that may be taken.

    Raises:
        ArgumentError: everything that is left is frozen.
        UnsupportedError: `max_size` below 1, and no trees that could be left out.
        OnnxTuneError: the loss is no longer a number.
    """
    start, size, teacher = task.original, 1.0, None
    if max_size < 1:
        start, size = _smaller(task, max_size)
        teacher = _teacher(task)
    # Trees that are single leaves have no thresholds.
    trained = [name for name in task.trained if name in start.learned]
    if not trained:
        raise ArgumentError("freeze leaves nothing to tune.")
    found: list[Candidate] = []
    history: list[Epoch] = []
    held = 0
    modes = _modes(task, start, routing)
    for mode in modes:
        start.routing = mode
        rows = core_rows(start, task.table, task.target, [mode], trained)
        judged: list[Routing] = ["hard", "soft"] if mode == "soft" else ["hard"]
        court = task.court
        valid = core_rows(start, court.table, court.target, judged, trained, court.entering)
        held = max(held, _bytes(rows) + _bytes(valid))
        parameters = standardised(start.learned, trained, court.device)
        rows = replace(rows, teacher=teacher)
        outcome = train(start, parameters, rows, valid, court.settings, mode)
        history.extend(outcome.history)
        found.extend(_judged(task, start, outcome, mode, size, max_size))
    return Run(found, history, modes[-1], held)


def _judged(
    task: Task, start: OnnxModule, trained: Trained, mode: Routing, size: float, max_size: float
) -> Iterator[Candidate]:
    """The models that come of one training."""
    court, prepared = task.court, start.prepared
    if trained.soft is None:
        name = "leaves" if mode == "hard" else str(mode)
        yield court.judge(name, "hard", size, prepared, trained.hard)
        return
    yield court.judge("soft", "soft", size, prepared, trained.soft)
    yield court.judge("soft, thresholds kept", "hard", size, prepared, trained.hard)
    # Copies differ in their thresholds alone.
    moved = [name for name in task.trained if name.endswith("/thresholds")]
    trees = tree_nodes(prepared, _holders(moved))
    for copies in _COPIES if trees else ():
        if copies * size <= max_size * (1 + 1e-9):
            new, tensors = dithered(
                prepared, start.learned, trained.soft, trees, copies, court.temperature,
                court.settings.seed,
            )  # fmt: skip
            name = f"soft, dithered x{copies}"
            yield court.judge(name, "hard", copies * size, new.prepared, tensors)


def _modes(task: Task, module: OnnxModule, routing: TuneRouting) -> tuple[Routing, ...]:
    """The routings to train with."""
    if routing == "leaves":
        return ("hard",)
    if routing != "auto":
        return (routing,)
    shapes = tree_shapes(module.prepared, list(module.cut.roles))
    seconds = 1e-9 * sum(step_cost(shape, "soft") for shape in shapes)
    passes = task.table.rows * task.court.settings.epochs
    if shapes and seconds * passes <= _AFFORDABLE:
        return ("straight-through", "soft")
    return ("straight-through",)


def _smaller(task: Task, max_size: float) -> tuple[OnnxModule, float]:
    """The model with a part of its trees, their leaves scaled, and its size.

    Of every group of trees that vote for the same columns the first ones are kept: in boosting
    these matter most, and in a forest all matter alike.

    Raises:
        UnsupportedError: there are no trees that could be left out.
    """
    original, court = task.original, task.court
    groups = tree_nodes(original.prepared, _holders(task.trained))
    place = f"{original.prepared.source.origin}: max_size={max_size:g} wants fewer trees"
    if not groups:
        others = tree_nodes(original.prepared, list(original.cut.roles))
        reason = (
            "freeze keeps them all."
            if others
            else "the model has none that can be left out (of a sum or an average of trees)."
        )
        raise UnsupportedError(f"{place}, and {reason}")
    kept = {node: _first_of_each(group, max_size) for node, group in groups.items()}
    trees = sum(len(group) for group in groups.values())
    size = sum(len(numbers) for numbers in kept.values()) / trees
    if size > max_size * (1 + 1e-9):
        raise UnsupportedError(
            f"{place}, and one for each output is {size:.3g} times the model's {trees}; give at "
            f"least {np.ceil(1000 * size) / 1000:g}."
        )
    new = resized(original.prepared, kept)
    own = {name: learned.value for name, learned in original.learned.items()}
    shares = {node: new.taken[node].share for node in kept}
    bound = any(
        original.learned[name].constraint is not None
        for name in (f"{node}/leaf_values" for node in kept)
        if name in original.learned
    )
    module = court.module(new.prepared, "hard")
    some = min(task.table.rows, 5000)
    part = Table(take(task.table.feed, slice(some)), None, some)
    rows = core_rows(module, part, task.target[:some], ["hard"], list(module.learned))
    # Leaves that are distributions must keep their sum; of others training rows tell the size.
    tried = [shares] if bound else [dict.fromkeys(kept, f) for f in _FACTORS] + [shares]
    losses = []
    for scale in tried:
        module.load_tensors(carried(new, own, scale))
        losses.append(float(evaluate(module, {}, rows, court.settings, "hard").mean()))
    scale = tried[min(range(len(tried)), key=losses.__getitem__)]
    proto = native(new.prepared, carried(new, own, scale)).proto
    return court.module(prepare(load(proto)), "hard"), size


def _first_of_each(groups: Array, share: float) -> Array:
    """[T'] the first trees of every group, one at least, in order."""
    order = np.argsort(groups, kind="stable")
    counts = np.bincount(groups)
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    allowed = np.maximum(1, np.floor(share * counts + 1e-9))
    return np.flatnonzero(rank < allowed[groups])


def _teacher(task: Task) -> Tensor:
    """What the original puts out for the training rows, as the loss takes a target, [N, K]."""
    output = task.court.settings.output
    found = hard_output(task.original, task.table.feed, output)
    value = found.reshape(len(found), -1)
    return as_target(value, task.court.settings.loss, task.scored)


def as_target(value: Tensor, loss: Loss, scored: Output) -> Tensor:
    """Scores as probabilities where the loss wants classes; numbers as they are."""
    if loss.target == "classes" and not scored.share:
        return torch.softmax(value, dim=1)
    if loss.target == "binary" and not scored.share:
        return torch.sigmoid(value)
    return value


def _holders(names: list[str]) -> list[str]:
    """The nodes that hold these tensors."""
    return list(dict.fromkeys(name.rsplit("/", 1)[0] for name in names))


def _bytes(rows: Rows) -> int:
    return sum(
        value.element_size() * value.nelement()
        for settled in rows.settled.values()
        for value in settled.values
    )
