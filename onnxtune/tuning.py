"""`tune`: fine-tune a model on data, and keep the original where that does not help."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any, Literal

import numpy as np

from onnxtune.argument_checks import check_positive, check_whole
from onnxtune.augmentation import Augment, Augmentation
from onnxtune.candidates import ROUTINGS, Task, TuneRouting
from onnxtune.checkpoint import data_fingerprint, described, open_checkpoint
from onnxtune.companion import accompanied, check_companion
from onnxtune.conversion import check_temperature
from onnxtune.errors import ArgumentError
from onnxtune.inner_outputs import with_inner
from onnxtune.interruption import stoppable
from onnxtune.joint_outputs import joint_problem
from onnxtune.judging import convene
from onnxtune.losses import Loss, RowLoss
from onnxtune.metric_report import measured, with_metrics
from onnxtune.model import ModelLike, load
from onnxtune.outcome import outcome
from onnxtune.preparation import prepare
from onnxtune.problem import Split, pose, splits, trainable, weighted
from onnxtune.result import TuneResult
from onnxtune.row_order import ORDERS, SAMPLINGS, Order, RowOrder, Sampling
from onnxtune.saved_form import check_native
from onnxtune.scorers import named_scorers
from onnxtune.settings import EpochFunction, Settings
from onnxtune.smaller import ALLOWED_LOSS
from onnxtune.target_transforms import TargetTransform
from onnxtune.targets import warn_of_doubt
from onnxtune.threads import torch_threads
from onnxtune.trial import threads_for
from onnxtune.tune_arguments import (
    PRECISIONS,
    LearningRate,
    check_callable,
    check_choice,
    check_noise,
    check_only_numbers,
    check_rate,
    check_seed,
    device_of,
    rates,
    with_own_rates,
)
from onnxtune.turns import in_turns
from onnxtune.validation import features, given_tables, reported_table
from onnxtune.weights import ClassWeight

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
    test: Any = None,
    metrics: Any = (),
    loss: str | RowLoss | Mapping[str, str | RowLoss] = "auto",
    output: str | Sequence[str] | None = None,
    output_weight: Mapping[str, float] | None = None,
    target_transform: TargetTransform | None = None,
    sample_weight: Any = None,
    class_weight: ClassWeight | None = None,
    sampling: Sampling | None = None,
    noise: float = 0.0,
    augment: Augment | None = None,
    order: Order = "shuffle",
    routing: TuneRouting = "auto",
    temperature: float | Literal["auto"] = "auto",
    max_size: float = 1,
    companion: bool = False,
    only_numbers: bool = False,
    init: Literal["model", "random"] = "model",
    freeze: str | Iterable[str] = (),
    epochs: int = 30,
    batch_size: int | None = None,
    lr: LearningRate | None = None,
    clip: float | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    patience: int = 8,
    on_epoch: EpochFunction | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    threads: int | Literal["auto"] = "auto",
    seed: int = 0,
) -> TuneResult:
    """Fine-tune the learned numbers of a model end to end.

    Give rows that the model has not been fitted on. A tuned model is taken only where it beats the
    original on the validation rows beyond the standard error of the difference; otherwise the
    result holds the original, unchanged. Ctrl-C ends a run with the best so far.

    Args:
        model: a path, bytes, an `onnx.ModelProto` or a fitted estimator.
        X: the rows, as a 2-D array, a mapping of input name to array, a DataFrame or a path.
        y: the target: an array, or the name of a column of `X`.
        valid: the share of rows to keep for validation (of up to 1,000 rows every fifth takes its
            turn), (X, y) or (X, y, weights) to validate on, "last" for the last fifth, the name of
            a column (or an array) of groups to be kept whole, booleans, or numbers of rows.
        test: (X, y) to report on besides; nothing is chosen by it.
        metrics: names of scikit-learn's scorers, scorers, or a mapping of names to them, to report.
        loss: "log", "focal", "hinge", "squared", "absolute", "huber", "pinball", "poisson",
            "gamma" or "tweedie", with a parameter such as "pinball(0.9)"; a callable
            (output [N, K], target) -> [N]; or "auto": the log loss for class probabilities,
            Poisson behind an Exp, else squared.
        output: which float output to tune, where there are several; or any float tensor inside
            the graph, toward a target of its own; or several outputs, `y` (and `loss`, if it
            differs) being mappings of these to their targets.
        output_weight: a mapping of several outputs to the weights of their losses.
        target_transform: "log1p", "log", "sqrt" or "asinh", for a model that was fitted on that of
            the target: it is compared with that, and the written graph ends in the inverse.
        sample_weight: how much each row counts: numbers from 0, or the name of a column.
        class_weight: "balanced", or a mapping of labels to weights.
        sampling: "over" draws rows of rarer classes again, "under" leaves out those of others.
        noise: added to float inputs in training, in standard deviations of each column.
        augment: (inputs by name, numpy Generator) -> the same, changed, for each epoch's rows.
        order: of the rows in an epoch: "shuffle", "given", or a curriculum (epoch, numbers of the
            training rows, numpy Generator) -> numbers of rows.
        routing: how trees pass rows on in training: "straight-through" (steps with a sigmoid's
            gradient), "soft" (sigmoids; made hard again afterwards), "leaves" (leaf values alone);
            "auto" tries leaves, and soft where that takes less than a minute by forecast, else
            straight-through.
        temperature: width of a gate in units of its feature's spread; "auto" takes the one with
            which the untrained soft model validates best.
        max_size: trees of the tuned model, over those of the original. From 2 on copies with other
            thresholds may stand for a soft model; below 1 a part of the trees is kept, where it is
            sure to lose less than 2 %.
        companion: whether to try a small network beside the model, blended with it.
        only_numbers: whether nothing but numbers may change, so that the result goes back into the
            fitted pipeline: no forest moves to logits.
        init: "model", or "random": a baseline of the same graph from random numbers.
        freeze: globs of tensors that stay as they are, such as "scaler/*".
        epochs: passes over the rows at most.
        batch_size: rows a step; None takes an eighth of the rows, within 32 and 256.
        lr: Adam's step in standardised units, or a mapping of globs to it; None takes 0.01 for
            thresholds and 0.003 for others, twice that for straight-through routing.
        clip: the norm that a step's gradients together are cut to.
        precision: of training's forward pass; "bfloat16" is mixed precision.
        patience: epochs without a better validation loss before training stops.
        on_epoch: called with each `Epoch`; a true value ends the run with the best so far.
        checkpoint: a folder for the state after each epoch.
        resume: go on with the run of that folder, to the very numbers that it would have come to.
        device: "cpu", "cuda" or another of torch's, or "auto": CUDA where there is one.
        threads: of torch; "auto" times a batch.
        seed: of all that is random. A run repeats bit for bit with the same number of threads.

    Raises:
        ModelError: the model is unreadable or invalid.
        DataError: the data or the target do not fit the model.
        ArgumentError: an argument has no such value, or the checkpoint is of another run.
        UnsupportedError: nothing can be tuned; the message names the node in the way.
    """
    asked_for = dict(locals())
    started = time.perf_counter()
    check_whole(epochs=epochs, patience=patience)
    if batch_size is not None:
        check_whole(batch_size=batch_size)
    if threads != "auto":
        check_whole(threads=threads)
    check_positive(max_size=max_size, clip=clip)
    check_rate(lr)
    check_noise(noise)
    check_seed(seed)
    check_choice("Routing", routing, ROUTINGS)
    check_choice("init", init, STARTS)
    check_only_numbers(only_numbers, max_size, companion)
    check_choice("precision", precision, PRECISIONS)
    if sampling is not None:
        check_choice("sampling", sampling, SAMPLINGS)
    if not callable(order):
        check_choice("order", order, ORDERS)
    if callable(order) and sampling is not None:
        raise ArgumentError(
            "sampling and an order of one's own exclude each other; draw the rows in the order."
        )
    check_callable(augment=augment, on_epoch=on_epoch)
    if resume and checkpoint is None:
        raise ArgumentError("resume needs the checkpoint folder of the run; give checkpoint=.")
    asked_for["metrics"] = scorers = named_scorers(metrics)  # an iterator is through by now
    width = check_temperature(temperature)
    prepared = prepare(check_native(load(model, features(X, y, valid, sample_weight, model))))
    inner: str | None = None
    added: str | None = None
    chosen: str | RowLoss | Loss
    if output is not None and not isinstance(output, str):
        joint = joint_problem(
            prepared,
            X,
            output,
            loss,
            output_weight,
            width,
            max_size,
            companion,
            valid,
            sample_weight,
        )
        prepared, output, chosen, inner = joint.prepared, joint.name, joint.loss, joint.name
        added = f"{joint.name}/"
        y, valid, test = joint.targets(y, valid, test)
    elif isinstance(loss, Mapping) or output_weight is not None:
        raise ArgumentError("a mapping of losses and output_weight are for several outputs.")
    else:
        chosen = loss
        exposed = None if output is None else with_inner(prepared, output)
        if exposed is not None:
            prepared, inner = exposed, output
    if inner is not None and target_transform is not None:
        raise ArgumentError(
            "target_transform is for an output of its own; give a target that is already on that "
            "scale."
        )
    given, apart = given_tables(prepared, X, y, valid, sample_weight)
    tested = None if test is None else reported_table(prepared, test, valid, sample_weight)
    problem = pose(prepared, given, output, chosen, target_transform, width, device_of(device))
    problem = weighted(problem, given, class_weight)
    parts = splits(problem, given, apart, valid, seed)
    if companion:
        check_companion(problem, parts[0])
    if sampling is not None and problem.loss.target == "numbers":
        raise ArgumentError("sampling is for classes, and this output is tuned toward numbers.")
    target = np.concatenate([part.valid.target for part in parts])
    warn_of_doubt(target, problem.loss, problem.labels)
    original = problem.original
    freeze = [freeze] if isinstance(freeze, str) else sorted(set(freeze))
    asked_for["freeze"] = freeze
    trained = trainable(original, routing == "leaves", freeze)
    asked = {
        "routing": routing,
        "max_size": float(max_size),
        "init": init,
        "target_transform": target_transform,
        "companion": companion,
        "seed": int(seed),
    }
    own_rates = with_own_rates(lr, trained, original.learned)
    size = batch_size or int(np.clip(parts[0].table.rows // 8, 32, 256))
    kept = None
    if checkpoint is not None:
        more = {
            "loss": loss, "output": asked_for["output"], "output_weight": output_weight,
            "temperature": temperature, "epochs": epochs,
            "batch_size": batch_size, "lr": lr, "freeze": freeze, "patience": patience,
            "valid": None if apart is not None else valid, "class_weight": class_weight,
            "sampling": sampling, "noise": noise, "augment": augment, "order": order,
            "clip": clip, "precision": precision, "device": str(problem.device),
            "only_numbers": only_numbers,
        }  # fmt: skip
        identity = {
            "model": prepared.source.fingerprint,
            "data": data_fingerprint(given, apart),
            "arguments": described(asked | more),
        }
        kept = open_checkpoint(checkpoint, identity, resume)
    with stoppable() as stop:
        settings = Settings(
            loss=problem.loss,
            output=problem.output,
            epochs=epochs,
            batch_size=size,
            rates=rates(lr, trained, original.learned),
            patience=patience,
            seed=seed,
            clip=clip,
            precision=PRECISIONS[precision],
            on_epoch=on_epoch,
            stop=stop,
        )
        count = threads_for(threads, kept, problem, parts, trained, settings)
        if kept is not None:
            kept.begin(count)
        changes = Augmentation(float(noise), augment, seed) if noise or augment else None
        with torch_threads(count):
            reported = None if tested is None else problem.held(tested)
            before = measured(scorers, problem, parts[0].valid, reported) if scorers else None

            def task_of(fold: int, split: Split) -> Task:
                classes = np.ravel(split.target) if sampling is not None else None
                return Task(
                    problem,
                    split,
                    trained,
                    convene(
                        original,
                        split.valid,
                        reported,
                        settings,
                        problem.scored,
                        needed_z=_NEEDED_Z_OF_FEW if len(target) < _FEW_ROWS else _NEEDED_Z,
                        allowed_loss=ALLOWED_LOSS if max_size < 1 else 0.0,
                    ),
                    temperature=None if temperature == "auto" else width,
                    fold=fold,
                    turns=len(parts),
                    random=init == "random",
                    order=RowOrder(split.numbers, order, sampling, classes, seed),
                    augmentation=changes,
                    checkpoint=kept,
                    own_rates=own_rates,
                    only_numbers=only_numbers,
                )

            found = in_turns(task_of, parts, routing, float(max_size))
            run, taken, done = found.run, found.taken, parts[: found.turns]
            beneath = taken["hard"]
            # A part of the trees that is refused is not made up for by all of them and a network.
            fits = max_size >= 1 or (beneath is not None and beneath.size < 1)
            if companion and fits and not stop.asked:
                # Of the rows that judge the networks, the mean of the folds has learned.
                own = found.alone["hard"]
                beside, helps = accompanied(problem, parts[0], found.first, own)
                run.candidates.append(beside)
                if helps:
                    taken["hard"], beneath = beside, own
            asked |= {"threads": count, "interrupted": stop.interrupted}
            result = outcome(
                problem, done, trained, found.court, run, taken, beneath, asked, started
            )
            if before is not None:
                result = with_metrics(result, before)
    again = {k: v for k, v in asked_for.items() if _holds_for_others(k, v)}
    return replace(result, inner=inner, added=added, again=partial(tune, **again))


def _holds_for_others(name: str, value: Any) -> bool:
    """Whether an argument says something of other rows as well."""
    if name in ("valid", "sample_weight"):
        return isinstance(value, str | Real)
    if name == "max_size":  # of a model that has become smaller, a part would be left out again
        return bool(value >= 1)
    return name not in ("init", "model", "X", "y", "test", "checkpoint", "resume")
