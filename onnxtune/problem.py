"""What is to be tuned: a model, one of its outputs, the loss, and the rows in their parts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch

from onnxtune.calibration import feed_spreads
from onnxtune.classes import Labels
from onnxtune.data import Table
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.folds import folds
from onnxtune.judging import Held
from onnxtune.losses import Loss, Output, RowLoss, choose_loss
from onnxtune.partition import Partition, partition
from onnxtune.preparation import Prepared
from onnxtune.rows import hard_output, some_rows
from onnxtune.target_transforms import transformed
from onnxtune.targets import labels_of, target_for
from onnxtune.torch_module import OnnxModule, matching
from onnxtune.validation import hold_out
from onnxtune.weights import ClassWeight, class_weights, row_weights
from rewrites.core.rewrite import Array

# Of up to so many rows a share is too few to judge by, and all take turns.
_FEW_ROWS = 1000

_FOLDS = 5


@dataclass(frozen=True)
class Problem:
    """A model, and what one of its outputs is tuned toward.

    Attributes:
        original: the model, hard.
        output: its name.
        scored: what that output is.
        labels: the classes that it scores; None for no classifier.
        loss: of it.
        transform: what the target goes through first; None for nothing.
        class_weights: [K], how much rows of each class count; None for all alike.
    """

    original: OnnxModule
    output: str
    scored: Output
    labels: Labels | None
    loss: Loss
    transform: str | None
    class_weights: Array | None = None

    @property
    def prepared(self) -> Prepared:
        """The model."""
        return self.original.prepared

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return next(self.original.parameters()).device

    def target(self, table: Table) -> Array:
        """The target as the loss takes it: class indices [N], or floats [N, K].

        Raises:
            DataError: it does not fit.
        """
        found = target_for(table, self.loss, self.labels, self.scored.columns)
        return found if self.transform is None else transformed(self.transform, found)

    def held(self, table: Table, target: Array | None = None) -> Held:
        """Rows to judge on: those that count."""
        wanted = self.target(table) if target is None else target
        rows = self.counting(table, wanted)
        if len(rows) < table.rows:
            table, wanted = table.take(rows), wanted[rows]
        start = time.perf_counter()
        entering = self.original.run_prefix(table.feed)
        seconds = time.perf_counter() - start
        return Held(table, wanted, entering, seconds, self.weight(table, wanted))

    def counting(self, table: Table, target: Array) -> Array:
        """Numbers of the rows whose weight is not 0."""
        weight = self.weight(table, target)
        return np.arange(table.rows) if weight is None else np.flatnonzero(weight)

    def weight(self, table: Table, target: Array) -> Array | None:
        """[N]: how much each row counts, 1 on average; None for all alike."""
        return row_weights(table.weights, self.class_weights, target)


@dataclass(frozen=True)
class Split:
    """Rows to train on, and rows to validate on.

    `numbers` [N] are those of the training rows among all that were given; `weight` [N] is how
    much each counts.
    """

    table: Table
    target: Array
    valid: Held
    numbers: Array
    weight: Array | None


def pose(
    prepared: Prepared,
    table: Table,
    output: str | None,
    loss: str | RowLoss | Loss,
    transform: str | None,
    temperature: float,
    device: torch.device,
) -> Problem:
    """Find out what is to be tuned.

    Raises:
        ArgumentError: several outputs and none chosen, or a loss that does not fit.
        UnsupportedError: nothing can be tuned.
    """
    cut = _one_output(prepared, output)
    name = next(iter(cut.outputs))
    labels = labels_of(prepared, name)
    spreads = feed_spreads(prepared, table.feed)
    original = OnnxModule(prepared, cut, spreads, "hard", temperature).to(device)
    scored = _look_at(original, table, name, labels)
    chosen = choose_loss(loss, scored)
    if transform is not None and not chosen.plain:
        raise ArgumentError(
            f"target_transform='{transform}' is for outputs that are plain numbers, and "
            f"'{name}' is tuned with the {chosen.name} loss."
        )
    problem = Problem(original, name, scored, labels, chosen, transform)
    if transform is not None:
        _check_scale(problem, table)
    return problem


def weighted(problem: Problem, table: Table, given: ClassWeight | None) -> Problem:
    """The problem with weights of classes.

    Raises:
        ArgumentError: they do not fit the classes.
    """
    if given is None:
        return problem
    target = problem.target(table)
    classes = problem.scored.labels if problem.loss.target != "numbers" else 0
    labels = problem.labels if classes else None
    return replace(problem, class_weights=class_weights(given, labels, target, classes))


def _check_scale(problem: Problem, table: Table) -> None:
    """Refuse a model that predicts the target itself where the target is to be transformed.

    Raises:
        ArgumentError: it does.
    """
    assert problem.transform is not None
    found = hard_output(problem.original, some_rows(table), problem.output)
    target = target_for(table, problem.loss, problem.labels, problem.scored.columns)
    plain = target[: len(found)]
    own = found.double().cpu().numpy().reshape(plain.shape)
    inner = transformed(problem.transform, plain)
    if np.abs(own - plain).mean() < np.abs(own - inner).mean():
        raise ArgumentError(
            f"target_transform='{problem.transform}' is for a model that was fitted on the "
            f"{problem.transform} of the target, and '{problem.output}' is nearer to the target "
            "itself; leave it out."
        )


def splits(
    problem: Problem, given: Table, apart: Table | None, valid: Any, seed: int
) -> list[Split]:
    """The rows in two parts; a few rows in five ways, so that all are validated on.

    Raises:
        ArgumentError: too few rows of either.
        DataError: the target does not fit.
    """
    target = problem.target(given)
    if apart is not None:
        return [_beside(problem, given, target, np.arange(given.rows), problem.held(apart))]
    rng = np.random.default_rng(seed)
    classes = problem.loss.target != "numbers"
    grouped = isinstance(valid, str) and given.groups is not None
    if given.rows > _FEW_ROWS or not (grouped or isinstance(valid, Real)):
        kept, out = hold_out(given, target, classes, valid, rng)
        return [_split(problem, given, target, kept, out)]
    parts = folds(target, classes, _FOLDS, rng, given.groups if grouped else None)
    every = np.arange(given.rows)
    return [_split(problem, given, target, np.setdiff1d(every, part), part) for part in parts]


def _split(problem: Problem, given: Table, target: Array, kept: Array, out: Array) -> Split:
    return _beside(problem, given, target, kept, problem.held(given.take(out), target[out]))


def _beside(problem: Problem, given: Table, target: Array, kept: Array, valid: Held) -> Split:
    """Of the rows that are kept for training, those that count."""
    kept = kept[problem.counting(given.take(kept), target[kept])]
    rest = given.take(kept)
    return Split(rest, target[kept], valid, kept, problem.weight(rest, target[kept]))


def _one_output(prepared: Prepared, output: str | None) -> Partition:
    cut = partition(prepared, None if output is None else [output])
    if len(cut.outputs) > 1:
        names = ", ".join(repr(name) for name in cut.outputs)
        raise ArgumentError(
            f"{prepared.source.origin}: has several float outputs ({names}); "
            "choose one with output=."
        )
    return cut


def trainable(module: OnnxModule, leaves: bool, freeze: str | Iterable[str]) -> list[str]:
    """Names of the tensors to train; of trees the leaves alone, where that is asked.

    Raises:
        ArgumentError: freeze matches nothing, or leaves nothing.
        UnsupportedError: leaves of a model without trees.
    """
    patterns = [freeze] if isinstance(freeze, str) else list(freeze)
    frozen = {name for pattern in patterns for name in matching(pattern, module.learned)}
    names = [name for name in module.learned if name not in frozen]
    if leaves:
        names = [name for name in names if module.learned[name].group == "leaves"]
        if not names:
            raise UnsupportedError("routing 'leaves' needs trees, and this model has none to tune.")
    if not names:
        raise ArgumentError("freeze leaves nothing to tune.")
    return names


def _look_at(
    module: OnnxModule, table: Table, output: str, labels: Sequence[int | str] | None
) -> Output:
    """What the output is, by its link and its values on some rows."""
    found = hard_output(module, some_rows(table), output)
    value = found.reshape(len(found), -1)
    share = bool(((value >= -1e-6) & (value <= 1 + 1e-6)).all())
    even = bool(((value.sum(dim=1) - 1).abs() < 1e-3).all())
    mirrored = value.shape[1] == 2 and torch.equal(value[:, 0], -value[:, 1])
    known = value[value.isfinite()].abs()
    return Output(
        module.links[output],
        value.shape[1],
        len(labels or ()),
        share and even,
        share,
        mirrored,
        (float(known.mean()) if len(known) else 0.0) or 1.0,
    )
