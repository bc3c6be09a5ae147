"""`tune`: fine-tune a model on data, and keep the original where that does not help."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch

from onnxtune.candidates import ROUTINGS, Run, Task, TuneRouting, candidates
from onnxtune.companion import accompanied, check_companion
from onnxtune.conversion import check_temperature
from onnxtune.errors import ArgumentError
from onnxtune.fold_mean import FoldMean
from onnxtune.judging import Court, best, convene, pooled
from onnxtune.losses import RowLoss
from onnxtune.metric_report import measured, with_metrics
from onnxtune.model import ModelLike, load
from onnxtune.outcome import outcome
from onnxtune.preparation import prepare
from onnxtune.problem import pose, splits, trainable
from onnxtune.result import FORMS, TuneResult
from onnxtune.saved_form import check_native
from onnxtune.scorers import named_scorers
from onnxtune.smaller import ALLOWED_LOSS
from onnxtune.target_transforms import TargetTransform
from onnxtune.targets import warn_of_doubt
from onnxtune.training_loop import LEARNING_RATES, Settings
from onnxtune.validation import features, given_tables, reported_table
from rewrites.core.rewrite import Array

_log = logging.getLogger(__name__)

STARTS = ("model", "random")

# How far beyond its standard error a gain must be. Of few rows the error is itself uncertain, and a
# model that is worse may be much worse: there chance alone gets through once in twenty times.
_NEEDED_Z, _NEEDED_Z_OF_FEW, _FEW_ROWS = 1.0, 1.64, 500


def tune(
    model: ModelLike,
    X: Any,
    y: Any,
    *,
    valid: Any = 0.2,
    test: tuple[Any, Any] | None = None,
    metrics: Any = (),
    loss: str | RowLoss = "auto",
    output: str | None = None,
    routing: TuneRouting = "auto",
    temperature: float | Literal["auto"] = "auto",
    max_size: float = 1,
    companion: bool = False,
    init: Literal["model", "random"] = "model",
    target_transform: TargetTransform | None = None,
    epochs: int = 30,
    batch_size: int | None = None,
    lr: float | None = None,
    freeze: str | Iterable[str] = (),
    patience: int = 8,
    device: str = "auto",
    seed: int = 0,
) -> TuneResult:
    """Fine-tune the learned numbers of a model end to end.

    Give rows that the model has not been fitted on. A tuned model is taken only where it beats the
    original on the validation rows beyond the standard error of the difference; otherwise the
    result holds the original, unchanged.

    Args:
        model: a path, bytes, an `onnx.ModelProto` or a fitted estimator.
        X: the rows, as a 2-D array, a mapping of input name to array, a DataFrame or a path.
        y: the target: an array, or the name of a column of `X`.
        valid: the share of rows to keep for validation (of up to 1,000 rows every fifth takes its
            turn), (X, y) to validate on, "last" for the last fifth of the rows, the name of a
            column whose groups are kept whole (or an array of them), an array of booleans, or the
            numbers of the rows.
        test: (X, y) to report on besides; nothing is chosen by it.
        metrics: names of scikit-learn's scorers ("accuracy", "roc_auc", "r2"), scorers (estimator,
            X, y) -> float, several of these, or a mapping of names to them: figures of the original
            and of what was taken, on validation rows and test rows; nothing is chosen by them.
        loss: "log", "focal", "hinge", "squared", "absolute", "huber", "pinball", "poisson",
            "gamma" or "tweedie", with a parameter such as "pinball(0.9)"; a callable
            (output [N, K], target) -> [N]; or "auto": the log loss for class probabilities,
            Poisson behind an Exp, else squared.
        output: which float output to tune, where there are several.
        routing: how trees pass rows on in training: "straight-through" (steps with a sigmoid's
            gradient), "soft" (sigmoids; what comes out is made hard again), "leaves" (steps; leaf
            values alone are tuned); "auto" tries leaves, and soft where its forecast is within a
            minute, else straight-through. Models without trees are trained as they are.
        temperature: width of a gate in units of its feature's spread; "auto" takes the one with
            which the untrained soft model validates best.
        max_size: how many trees the tuned model may have, over those of the original. From 2 on,
            copies with other thresholds may stand for a soft model; below 1, a part of the trees
            is kept and follows the whole ensemble, and is taken where it loses no more than 2 %.
        companion: whether to try a small network beside the model, blended with it on validation.
        init: "model" starts from the model's own numbers; "random" from random ones in the same
            graph, and hands out what comes of it: a baseline.
        target_transform: "log1p", "log", "sqrt" or "asinh", for a model that was fitted on that of
            the target: it is compared with that in training, and the written graph ends in the
            inverse, so that it predicts y.
        epochs: passes over the rows at most.
        batch_size: rows a step; None takes an eighth of the rows, within 32 and 256.
        lr: Adam's step in standardised units for every tensor; None takes 0.01 for thresholds
            and 0.003 for all others, twice that for straight-through routing, and tries both for
            models without trees.
        freeze: globs of tensors that stay as they are, such as "scaler/*".
        patience: epochs without a better validation loss before training stops.
        device: "cpu", "cuda" or another of torch's, or "auto": CUDA where there is one.
        seed: of the split and of the order of rows.

    Raises:
        ModelError: the model is unreadable or invalid.
        DataError: the data or the target do not fit the model.
        ArgumentError: an argument has no such value.
        UnsupportedError: nothing can be tuned; the message names the node in the way.
    """
    started = time.perf_counter()
    _check_whole(epochs=epochs, patience=patience, batch_size=batch_size)
    _check_positive(lr=lr, max_size=max_size)
    _check_seed(seed)
    _check_choice("Routing", routing, ROUTINGS)
    _check_choice("init", init, STARTS)
    scorers = named_scorers(metrics)
    width = check_temperature(temperature)
    prepared = prepare(check_native(load(model, features(X, y, valid))))
    given, apart = given_tables(prepared, X, y, valid)
    tested = None if test is None else reported_table(prepared, test, valid)
    problem = pose(prepared, given, output, loss, target_transform, width, _device(device))
    parts = splits(problem, given, apart, valid, seed)
    if companion:
        check_companion(problem, parts[0])
    target = np.concatenate([part.valid.target for part in parts])
    warn_of_doubt(target, problem.loss, problem.labels)
    needed_z = _NEEDED_Z_OF_FEW if len(target) < _FEW_ROWS else _NEEDED_Z
    original = problem.original
    trained = trainable(original, routing == "leaves", freeze)
    settings = Settings(
        loss=problem.loss,
        output=problem.output,
        epochs=epochs,
        batch_size=batch_size or int(np.clip(parts[0].table.rows // 8, 32, 256)),
        rates={n: lr or LEARNING_RATES[original.learned[n].group] for n in trained},
        patience=patience,
        seed=seed,
    )
    reported = None if tested is None else problem.held(tested)
    before = measured(scorers, problem, parts[0].valid, reported) if scorers else None
    courts: list[Court] = []
    runs: list[Run] = []
    losses: list[dict[str, Array]] = []
    # Folds that start from other numbers, or keep other trees, have no mean to speak of.
    mean, blend = FoldMean(), init != "random" and max_size >= 1
    for split in parts:
        court = convene(
            original,
            split.valid,
            reported,
            settings,
            problem.scored,
            needed_z=needed_z,
            allowed_loss=ALLOWED_LOSS if max_size < 1 else 0.0,
        )
        task = Task(
            problem,
            split,
            trained,
            court,
            temperature=None if temperature == "auto" else width,
            own_rate=lr is not None,
            turns=len(parts),
            random=init == "random",
        )
        run = candidates(task, routing, float(max_size))
        # Of all folds but the first the models are let go, which may be large.
        losses.append({candidate.name: candidate.losses for candidate in run.candidates})
        if blend:
            mean.add(court, run.candidates)
        runs.append(run if not runs else replace(run, candidates=[]))
        courts.append(replace(court, whole=run.whole))
    if all(run.known_by_heart for run in runs):
        _log.warning(
            "The model gets every validation row right. If it was fitted on some of the rows, give "
            "others: tuned on what it has seen, it becomes too sure of itself."
        )
    court, found = pooled(courts, runs[0].candidates, losses[1:])
    run = replace(runs[0], candidates=found)
    taken = {form: best(found, form, accepted=init != "random") for form in FORMS}
    taken = {f: c if c is None else mean.judged(courts[0], c) for f, c in taken.items()}
    beneath = taken["hard"]
    # A part of the trees that is refused is not made up for by all of them and a network.
    if companion and (max_size >= 1 or (beneath is not None and beneath.size < 1)):
        beside, helps = accompanied(problem, parts[0], courts[0], beneath)
        run.candidates.append(beside)
        if helps:
            taken["hard"] = beside
    asked = {
        "routing": routing,
        "max_size": float(max_size),
        "init": init,
        "target_transform": target_transform,
        "companion": companion,
        "seed": seed,
    }
    result = outcome(problem, parts, trained, court, run, taken, beneath, asked, started)
    return result if before is None else with_metrics(result, before)


def _check_whole(**counts: Any) -> None:
    for name, value in counts.items():
        if value is not None and not (isinstance(value, Integral) and int(value) >= 1):
            raise ArgumentError(f"{name} must be a whole number of at least 1, not {value!r}.")


def _check_positive(**numbers: Any) -> None:
    for name, value in numbers.items():
        if value is not None and not (isinstance(value, Real) and 0 < float(value) < float("inf")):
            raise ArgumentError(f"{name} must be a positive number, not {value!r}.")


def _check_choice(what: str, given: Any, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ArgumentError(f"{what} '{given}' is none of {', '.join(allowed)}.")


def _check_seed(seed: Any) -> None:
    if not (isinstance(seed, Integral) and 0 <= int(seed) < 2**63):
        raise ArgumentError(f"seed must be a whole number from 0, not {seed!r}.")


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(f"device '{device}' cannot be used: {reason}") from None
    return found
