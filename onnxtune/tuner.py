"""Tuning online: rows come in one batch after the other, and are tested on before they teach."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import onnx

from onnxtune.argument_checks import check_positive, check_whole
from onnxtune.conversion import check_temperature
from onnxtune.cuda_form import finish
from onnxtune.data import Table
from onnxtune.data import load as load_data
from onnxtune.errors import ArgumentError
from onnxtune.export import SavedForm, as_held, with_metadata, written
from onnxtune.losses import RowLoss
from onnxtune.model import ModelLike, check_output, load, write
from onnxtune.optimizers import adam
from onnxtune.parameters import Parameter, standardised
from onnxtune.preparation import prepare
from onnxtune.problem import Problem, pose, trainable
from onnxtune.row_losses import evaluate
from onnxtune.rows import Rows, core_rows
from onnxtune.runtime import input_types
from onnxtune.saved_form import check_native
from onnxtune.settings import Settings
from onnxtune.training_loop import step
from onnxtune.tune_arguments import (
    LearningRate,
    check_choice,
    check_rate,
    device_of,
    rates,
)
from onnxtune.validation import features
from onnxtune.weights import sample_weights
from rewrites.core.rewrite import Array, Provider, Routing

_ROUTINGS: dict[str, Routing] = {"leaves": "hard", "straight-through": "straight-through"}


class Tuner:
    """A model that goes on learning from rows as they come.

    Every batch is tested on first, with the model as it was tuned so far and as it came, and then
    learned from once (Dawid 1984, "Statistical Theory: The Prequential Approach"); so `gain` and
    `z` tell whether tuning helps on rows that it has not seen. No rows are kept.

    Args:
        model: a path, bytes, an `onnx.ModelProto` or a fitted estimator.
        loss: as of `onnxtune.tune`.
        output: which float output to tune, where there are several.
        routing: "leaves" tunes leaf values alone, "straight-through" thresholds as well; models
            without trees are trained as they are.
        freeze: globs of tensors that stay as they are.
        batch_size: rows a step.
        lr: Adam's step in standardised units, or a mapping of globs to it.
        clip: the norm that a step's gradients together are cut to.
        device: "cpu", "cuda" or another of torch's, or "auto": CUDA where there is one.

    Raises:
        ArgumentError: an argument has no such value.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        loss: str | RowLoss = "auto",
        output: str | None = None,
        routing: Literal["leaves", "straight-through"] = "leaves",
        freeze: str | Iterable[str] = (),
        batch_size: int = 32,
        lr: LearningRate | None = None,
        clip: float | None = None,
        device: str = "auto",
    ) -> None:
        """Take a model; it is read with the first rows."""
        check_choice("Routing", routing, _ROUTINGS)
        check_whole(batch_size=batch_size)
        check_positive(clip=clip)
        check_rate(lr)
        self._model, self._loss, self._output = model, loss, output
        self._routing, self._freeze, self._batch_size = routing, freeze, int(batch_size)
        self._lr, self._clip, self._device = lr, clip, device_of(device)
        self._run: _Run | None = None
        self.rows = 0
        # Of all rows seen: their weights, and with weights the gains and the squares of these.
        self._counted, self._weight = 0, 0.0
        self._sum = self._square = 0.0

    @property
    def gain(self) -> float:
        """How much lower the loss of a row was than the original's, on average; NaN before any.

        Rows count by their weights.
        """
        return self._sum / self._weight if self._weight else math.nan

    @property
    def z(self) -> float:
        """The gain over its standard error; NaN before there are two rows with weight."""
        count = self._counted
        if count < 2:
            return math.nan
        square = self._square * (count / self._weight) ** 2
        variance = (square - count * self.gain**2) / (count - 1)
        error = math.sqrt(max(variance, 0.0) / count)
        return self.gain / error if error else math.copysign(math.inf, self.gain) * bool(self.gain)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Tuner:
        """Test on the rows, then learn from them, once; returns itself.

        Args:
            X: the rows, as `onnxtune.tune` takes them.
            y: the target.
            sample_weight: how much each row counts, beside all that came before; 1 where it is not
                given.

        Raises:
            ModelError: the model is unreadable or invalid.
            DataError: the rows or the target do not fit the model.
            UnsupportedError: nothing can be tuned.
        """
        run = self._begun(X, y)
        table = load_data(X, input_types(run.problem.prepared.source.proto), y)
        weights = np.ones(table.rows)
        if sample_weight is not None:
            weights = sample_weights(sample_weight, table.rows, none=True)
        counting = weights > 0
        if not counting.any():
            self.rows += table.rows
            return self
        # The mean over the stream and not the batch: else a batch of one row could weigh nothing
        # but 1.
        total = self._weight + float(weights.sum())
        mean = total / (self.rows + table.rows)
        rows = run.rows(table, weights / mean)
        before = run.losses({}, rows)
        difference = mean * (before - run.losses(run.parameters, rows))[counting]
        self.rows += table.rows
        self._counted += len(difference)
        self._weight = total
        self._sum += float(difference.sum())
        self._square += float(np.square(difference).sum())
        for at in range(0, table.rows, self._batch_size):
            part = rows.take(slice(at, at + self._batch_size))
            if not counting[at : at + self._batch_size].any():
                continue
            step(
                run.problem.original,
                run.parameters,
                run.optimizer,
                part,
                run.settings,
                run.routing,
            )
        return self

    def tensors(self) -> dict[str, Array]:
        """The trained tensors by their ONNX names; empty before the first rows."""
        if self._run is None:
            return {}
        return {name: p.settled().cpu().numpy() for name, p in self._run.parameters.items()}

    def model(self, form: SavedForm = "native", provider: Provider = "cpu") -> onnx.ModelProto:
        """The model as it is now; what it came as before the first rows.

        Args:
            form: "native", "hard" or "soft".
            provider: where a hard or soft form is to run, as in `onnxtune.convert`.

        Raises:
            ArgumentError: no such form or provider, or the native form for "cuda".
            UnsupportedError: nothing of the model can run on a GPU.
        """
        if self._run is None:
            prepared = prepare(check_native(load(self._model)))
            proto = written(prepared, {}, form, check_temperature("auto"), {}, [], provider)
            finish(proto, provider, prepared.source.origin)
            return proto
        problem = self._run.problem
        held = as_held(problem.prepared, self.tensors())
        proto = written(
            problem.prepared,
            held,
            form,
            problem.original.temperature,
            problem.original.spreads,
            [problem.output],
            provider,
        )
        finish(proto, provider, problem.prepared.source.origin)
        with_metadata(proto, problem.prepared.source, {"rows": str(self.rows)})
        return proto

    def save(
        self,
        path: str | os.PathLike[str],
        form: SavedForm = "native",
        provider: Provider = "cpu",
    ) -> None:
        """Write the model as it is now.

        Args:
            path: the file.
            form: as in `model`.
            provider: as in `model`.

        Raises:
            ArgumentError: no such form or provider, or the native form for "cuda"; the path is the
                input's, or cannot be written.
            UnsupportedError: nothing of the model can run on a GPU.
        """
        source = None if self._run is None else self._run.problem.prepared.source.path
        write(check_output(path, [source]), self.model(form, provider).SerializeToString())

    def _begun(self, X: Any, y: Any) -> _Run:
        """What the first rows begin."""
        if self._run is None:
            prepared = prepare(check_native(load(self._model, features(X, y, 0.0))))
            table = load_data(X, input_types(prepared.source.proto), y)
            if table.rows < 2:
                raise ArgumentError(
                    "the first rows tell how far each column spreads; give ten or more."
                )
            width = check_temperature("auto")
            problem = pose(prepared, table, self._output, self._loss, None, width, self._device)
            self._run = _Run(problem, self)
        return self._run


class _Run:
    """A tuner's model with its optimizer."""

    def __init__(self, problem: Problem, tuner: Tuner) -> None:
        module = problem.original
        trees = any(tensor.group == "leaves" for tensor in module.learned.values())
        leaves = trees and tuner._routing == "leaves"
        names = trainable(module, leaves, tuner._freeze)
        by_name = rates(tuner._lr, names, module.learned)
        self.problem = problem
        self.routing: Routing = _ROUTINGS[tuner._routing] if trees else "straight-through"
        self.names = names
        self.parameters: dict[str, Parameter] = standardised(
            dict(module.learned), names, problem.device
        )
        self.optimizer = adam(self.parameters, by_name)
        self.settings = Settings(
            problem.loss, problem.output, 1, tuner._batch_size, by_name, 1, 0, clip=tuner._clip
        )

    def rows(self, table: Table, weight: Array | None) -> Rows:
        """The rows up to where training begins."""
        target = self.problem.target(table)
        routings = {self.routing, "hard"}
        return core_rows(
            self.problem.original, table, target, sorted(routings), self.names, weight=weight
        )

    def losses(self, parameters: dict[str, Parameter], rows: Rows) -> Array:
        """[N]: the loss of each row with these parameters, with hard routing."""
        return evaluate(self.problem.original, parameters, rows, self.settings, "hard")
