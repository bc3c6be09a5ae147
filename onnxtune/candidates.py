"""Candidates of a tuning run: what is trained, and the models that come of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import Tensor

from onnxtune.augmentation import Augmentation
from onnxtune.caching import Cost
from onnxtune.centring import centred
from onnxtune.checkpoint import Checkpoint
from onnxtune.data import Table
from onnxtune.errors import ArgumentError
from onnxtune.judging import Court
from onnxtune.parameters import standardised
from onnxtune.problem import Problem, Split
from onnxtune.random_start import random_start
from onnxtune.resizing import dithered, holders, tree_nodes, tree_shapes
from onnxtune.result import Candidate
from onnxtune.row_order import RowOrder
from onnxtune.rows import Rows, core_rows
from onnxtune.scaling import known_by_heart, scaled
from onnxtune.settings import Epoch
from onnxtune.smaller import smaller, teacher_for
from onnxtune.torch_module import OnnxModule
from onnxtune.training_loop import Trained, Training, train
from rewrites.core.rewrite import Array, Routing
from rewrites.core.rewrite import Tensor as Learned
from rewrites.trees.costs import step_cost

TuneRouting = Literal["auto", "soft", "straight-through", "leaves"]
ROUTINGS: tuple[TuneRouting, ...] = ("auto", "soft", "straight-through", "leaves")

# All trees, where a part was asked for.
WHOLE = "scaled, all trees"

# Copies of the trees that may stand for a soft model, as far as `max_size` allows.
_COPIES = (1, 2, 4, 8, 16)

# A protobuf holds no more than 2 GiB.
_MOST_BYTES = 1.9e9

# Widths of gates that are tried, in units of their features' spread; narrower ones than the least
# let no gradient through.
_WIDTHS, _LEAST_WIDTH = (0.01, 0.02, 0.05, 0.1, 0.2), 0.03

# The width of a step's gradient.
_STEP_WIDTH = 0.1

# A factor of the learning rates of straight-through routing, unless these were given.
_STEP_SPEED = 2.0

# The learning rate where the step has one size a tensor. It goes as far as rows that have drifted
# away want it, and fits few rows by heart: so it must beat the usual steps.
_TENSOR_RATE = 2e-2

# The name of a model without trees that took the usual steps.
_TRAINED = "trained"

# Seconds that soft routing may take by forecast; beyond, straight-through routing stands in.
_AFFORDABLE = 60.0


@dataclass(frozen=True)
class Task:
    """What to tune, and on what.

    Attributes:
        problem: the model and what its output is tuned toward.
        split: the rows.
        trained: names of the tensors to train.
        court: judges what comes of it.
        temperature: of soft gates; None to choose it on the validation rows.
        fold: which of the turns it is, from 1.
        turns: how many times it will all be done.
        random: whether to start from random numbers.
        order: of the training rows.
        augmentation: what is done to them in each epoch.
        checkpoint: where the state of every training is kept.
        own_rates: names of the tensors whose learning rates were given.
        only_numbers: whether links stay as they are.
    """

    problem: Problem
    split: Split
    trained: list[str]
    court: Court
    temperature: float | None
    fold: int
    turns: int
    random: bool
    order: RowOrder
    augmentation: Augmentation | None = None
    checkpoint: Checkpoint | None = None
    own_rates: frozenset[str] = frozenset()
    only_numbers: bool = False

    @property
    def own_rate(self) -> bool:
        """Whether the learning rates of all tensors were given."""
        return self.own_rates.issuperset(self.trained)


@dataclass(frozen=True)
class Run:
    """What was trained and found.

    `routing` is that of the last training; `cached` what was kept of the rows, and what that
    spared; `temperature` the width of soft gates; `known_by_heart` whether the model seems to have
    been fitted on the validation rows; `whole` [N] the losses on them that a smaller model is held
    against; `cut` whether somebody asked to stop before its end.
    """

    candidates: list[Candidate]
    history: list[Epoch]
    routing: Routing
    cached: Cost
    temperature: float
    known_by_heart: bool
    whole: Array
    cut: bool = False


def candidates(task: Task, routing: TuneRouting, max_size: float) -> Run:
    """Train, and judge every model that may be taken.

    Raises:
        ArgumentError: everything that is left is frozen.
        UnsupportedError: `max_size` below 1, and no trees that could be left out.
        OnnxTuneError: the loss is no longer a number.
    """
    court, start, size, teacher = task.court, task.problem.original, 1.0, None
    logits = not task.only_numbers
    better = None if task.random else scaled(court, start, task.trained, logits)
    known = not task.random and known_by_heart(court, start)
    found: list[Candidate] = []
    if max_size < 1:
        # The part follows the whole model as it is once its scores have the right size, and is
        # held against it; where none is as good, that is what remains.
        whole = better or start
        if better is not None:
            # One factor cannot fit chance by much: any gain will do.
            lenient = replace(court, needed_z=0.0)
            found.append(lenient.judge(WHOLE, "hard", 1.0, whole.prepared, {}))
            court = replace(court, whole=found[0].losses)
        teacher = teacher_for(task.problem, whole, task.split)
        start, size = smaller(court, whole, task.split, task.trained, max_size)
        better = None if task.random else scaled(court, start, task.trained)
    # Trees that are single leaves have no thresholds.
    trained = [name for name in task.trained if name in start.learned]
    if not trained:
        raise ArgumentError("freeze leaves nothing to tune.")
    if better is not None:
        start = better
        found.append(court.judge("scaled", "hard", size, start.prepared, {}))
    start, learned = _started(task, start, trained)
    history: list[Epoch] = []
    held = Cost()
    trainings = _trainings(task, start, routing)
    soft = any(training.routing == "soft" for training in trainings)
    if soft and task.temperature is None:
        court = replace(court, temperature=_temperature(court, start))
    work = _Work(task, court, start, learned, trained, size, max_size, teacher)
    if soft:
        # Untrained, a soft model often beats the hard one.
        found.extend(_softened(work, {}, "softened"))
    cut = False
    for training in trainings:
        if training.routing == "hard" and not any(_is_leaves(work, name) for name in trained):
            continue
        if task.court.settings.stop.asked:
            cut = True
            break
        outcome, cost = _train(work, training)
        held, cut = _both(held, cost), outcome.cut
        history.extend(outcome.history)
        found.extend(_judged(work, outcome, training))
    mode, width = trainings[-1].routing, court.temperature
    return Run(found, history, mode, held, width, known, court.whole, cut)


@dataclass(frozen=True)
class _Plan:
    """How to train once.

    `speed` is a factor of the learning rates that were not given; `by_tensor` says that each tensor
    has one step size.
    """

    name: str
    routing: Routing
    speed: float = 1.0
    by_tensor: bool = False


@dataclass(frozen=True)
class _Work:
    """A model to train.

    `court` has the temperature of its soft gates, `learned` the numbers to start from.
    """

    task: Task
    court: Court
    start: OnnxModule
    learned: dict[str, Learned]
    trained: list[str]
    size: float
    max_size: float
    teacher: Tensor | None


def _train(work: _Work, training: _Plan) -> tuple[Trained, Cost]:
    """Train once; returns the outcome, and what was cached of the rows."""
    task, court, start, mode = work.task, work.court, work.start, training.routing
    trained = [name for name in work.trained if mode != "hard" or _is_leaves(work, name)]
    start.routing = mode
    start.temperature = court.temperature if mode == "soft" else _STEP_WIDTH
    if task.temperature is not None:
        start.temperature = task.temperature
    split = task.split

    def rows_of(table: Table) -> Rows:
        made = core_rows(start, table, split.target, [mode], trained, weight=split.weight)
        return replace(made, teacher=work.teacher)

    def fresh(epoch: int) -> Rows:
        assert task.augmentation is not None
        return rows_of(replace(split.table, feed=task.augmentation.apply(split.table.feed, epoch)))

    rows = rows_of(split.table)
    judged: list[Routing] = ["hard", "soft"] if mode == "soft" else ["hard"]
    valid = court.rows(start, judged, trained)
    parameters = standardised(work.learned, trained, court.device)
    settings = court.settings_for(start)
    rates = {
        name: _TENSOR_RATE if training.by_tensor else rate * training.speed
        for name, rate in settings.rates.items()
    }
    rates |= {name: settings.rates[name] for name in task.own_rates}
    settings = replace(settings, rates=rates, by_tensor=training.by_tensor)
    kept = None if task.checkpoint is None else task.checkpoint.slot(task.fold, training.name)
    how = Training(
        training.name,
        task.fold,
        mode,
        task.order,
        None if task.augmentation is None else fresh,
        kept,
    )
    trained_to = train(start, parameters, rows, valid, settings, how)
    passes = len(trained_to.history)
    return trained_to, _cost(rows, valid, passes, how.fresh is not None)


def _is_leaves(work: _Work, name: str) -> bool:
    return work.learned[name].group == "leaves"


def _started(
    task: Task, start: OnnxModule, trained: list[str]
) -> tuple[OnnxModule, dict[str, Learned]]:
    """The model with the numbers that training starts from, and these with their units."""
    feed, seed = task.split.table.feed, task.court.settings.seed
    moved = random_start(start, feed, seed) if task.random else centred(start, feed, trained)
    moved = {name: value for name, value in moved.items() if name in trained}
    module = task.court.module(start.prepared, "hard")
    module.load_tensors(moved)
    learned = {
        n: replace(held, value=moved.get(n, held.value)) for n, held in start.learned.items()
    }
    return module, learned


def _temperature(court: Court, start: OnnxModule) -> float:
    """The width of gates with which the untrained soft model validates best."""
    losses = []
    for width in _WIDTHS:
        start.routing, start.temperature = "soft", width
        losses.append(float(court.losses(start, "soft").mean()))
    return max(_LEAST_WIDTH, _WIDTHS[int(np.argmin(losses))])


def _judged(work: _Work, trained: Trained, training: _Plan) -> Iterator[Candidate]:
    """The models that come of one training."""
    court, prepared = work.court, work.start.prepared
    # What was not trained this time was trained upon all the same.
    tensors = {name: work.learned[name].value for name in work.trained} | trained.hard
    if trained.soft is None:
        milder = _TRAINED if training.by_tensor else None
        yield court.judge(training.name, "hard", work.size, prepared, tensors, milder)
        return
    yield court.judge("soft, thresholds kept", "hard", work.size, prepared, tensors)
    yield from _softened(work, trained.soft, "soft")


def _softened(work: _Work, tensors: Mapping[str, Array], name: str) -> Iterator[Candidate]:
    """A soft model, and copies of its trees that stand for it."""
    court, prepared, learned = work.court, work.start.prepared, work.learned
    tensors = {name: tensor.value for name, tensor in learned.items()} | dict(tensors)
    yield court.judge(name, "soft", work.size, prepared, tensors)
    # Copies differ in their thresholds alone.
    moved = [name for name in work.task.trained if name.endswith("/thresholds")]
    trees = tree_nodes(prepared, holders(moved))
    for copies in _COPIES if trees else ():
        fits = copies * prepared.source.proto.ByteSize() < _MOST_BYTES
        if fits and copies * work.size <= work.max_size * (1 + 1e-9):
            new, numbers = dithered(
                prepared, learned, tensors, trees, copies, court.temperature, court.settings.seed
            )
            title = f"{name}, dithered x{copies}"
            yield court.judge(title, "hard", copies * work.size, new.prepared, numbers)


def _trainings(task: Task, module: OnnxModule, routing: TuneRouting) -> list[_Plan]:
    """How to train: models without trees twice, which is cheap."""
    shapes = tree_shapes(module.prepared, list(module.cut.roles))
    if not shapes:
        trained = _Plan(_TRAINED, "straight-through")
        by_tensor = _Plan(f"{_TRAINED} boldly", "straight-through", by_tensor=True)
        return [trained] if task.own_rate else [trained, by_tensor]
    speed = 1.0 if task.own_rate else _STEP_SPEED
    steps = _Plan("straight-through", "straight-through", speed)
    leaves, soft = _Plan("leaves", "hard"), _Plan("soft", "soft")
    if routing == "leaves":
        return [leaves]
    if routing == "soft":
        return [soft]
    if routing == "straight-through":
        return [steps]
    seconds = 1e-9 * sum(step_cost(shape, "soft") for shape in shapes)
    passes = task.split.table.rows * task.court.settings.epochs * task.turns
    # Leaves alone cost next to nothing, since it is known which of them every row reaches.
    return [leaves, soft if seconds * passes <= _AFFORDABLE else steps]


def _cost(rows: Rows, valid: Rows, passes: int, fresh: bool) -> Cost:
    """Of cached rows, with the seconds that they spared in so many passes."""
    parts = [(rows, 0 if fresh else passes - 1), (valid, passes - 1)]
    costs = [(c.cost, n) for each, n in parts for c in each.settled.values()]
    return Cost(
        sum(cost.bytes for cost, _ in costs),
        sum(cost.disk_bytes for cost, _ in costs),
        sum(cost.seconds * max(count, 0) for cost, count in costs),
    )


def _both(first: Cost, second: Cost) -> Cost:
    """Of two trainings, one after the other."""
    return Cost(
        max(first.bytes, second.bytes),
        max(first.disk_bytes, second.disk_bytes),
        first.seconds + second.seconds,
    )
