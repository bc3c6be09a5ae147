"""`tune`: fine-tune a model on data, and keep the original where that does not help."""

from __future__ import annotations

import time
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch

import onnxtune
from onnxtune.calibration import feed_spreads
from onnxtune.candidates import ALLOWED_LOSS, ROUTINGS, Task, TuneRouting, candidates
from onnxtune.classes import Labels
from onnxtune.conversion import check_temperature
from onnxtune.data import Table, take
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.export import native
from onnxtune.judging import Court, best, check_file
from onnxtune.losses import Loss, Output, RowLoss, choose_loss
from onnxtune.model import ModelLike, load
from onnxtune.partition import Partition, partition
from onnxtune.preparation import Prepared, prepare
from onnxtune.result import FORMS, TuneResult, Verdict
from onnxtune.rows import core_rows, given_tables, hard_output, some_rows
from onnxtune.targets import labels_of, split_rows, target_for
from onnxtune.torch_module import OnnxModule, matching
from onnxtune.training_loop import LEARNING_RATES, Settings, evaluate
from rewrites.core.rewrite import Array

# How far beyond its standard error a gain must be; leaves alone gain less, and so need more.
_NEEDED_Z = {"leaves": 1.64}


def tune(
    model: ModelLike,
    X: Any,
    y: Any,
    *,
    valid: float | tuple[Any, Any] = 0.2,
    loss: str | RowLoss = "auto",
    output: str | None = None,
    routing: TuneRouting = "auto",
    temperature: float | Literal["auto"] = "auto",
    max_size: float = 1,
    epochs: int = 30,
    batch_size: int | None = None,
    lr: float | None = None,
    freeze: str | Iterable[str] = (),
    patience: int = 8,
    device: str = "auto",
    seed: int = 0,
) -> TuneResult:
    """Fine-tune the learned numbers of a model end to end.

    The tuned model is taken only where it beats the original on the validation rows by more than
    the standard error of the difference; otherwise the result holds the original, unchanged.

    Args:
        model: a path, bytes, an `onnx.ModelProto` or a fitted estimator.
        X: the rows, as a 2-D array, a mapping of input name to array, a DataFrame or a path.
        y: the target: an array, or the name of a column of `X`.
        valid: the share of rows to keep for validation, or (X, y) to validate on.
        loss: "log", "squared", "absolute", "poisson", a callable (output [N, K], target) -> [N],
            or "auto": the log loss for class probabilities, Poisson behind an Exp, else squared.
        output: which float output to tune, where there are several.
        routing: how trees pass rows on in training: "straight-through" (steps with a sigmoid's
            gradient), "soft" (sigmoids; what comes out is made hard again), "leaves" (steps; leaf
            values alone are tuned); "auto" tries straight-through and, where it costs little
            more, soft, and takes what validates best.
        temperature: width of a gate in units of its feature's spread; "auto" is 0.1.
        max_size: how many trees the tuned model may have, over those of the original. From 2 on,
            copies with other thresholds may stand for a soft model; below 1, a part of the trees
            is kept and follows the whole ensemble, and is taken where it loses no more than 2 %.
        epochs: passes over the rows at most.
        batch_size: rows a step; None takes an eighth of the rows, within 32 and 256.
        lr: Adam's step in standardised units for every tensor; None takes 0.01 for thresholds
            and 0.003 for all others.
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
    if routing not in ROUTINGS:
        raise ArgumentError(f"Routing '{routing}' is none of {', '.join(ROUTINGS)}.")
    width = check_temperature(temperature)
    where = _device(device)
    prepared = prepare(load(model, X))
    cut = _one_output(prepared, output)
    name = next(iter(cut.outputs))
    fitted, held_out = given_tables(prepared, X, y, valid)
    labels = labels_of(prepared, name)
    spreads = feed_spreads(prepared, fitted.feed)
    original = OnnxModule(prepared, cut, spreads, "hard", width).to(where)
    scored = _look_at(original, fitted, name, labels)
    chosen = choose_loss(loss, scored)
    target = target_for(fitted, chosen, labels, scored.columns)
    if held_out is None:
        rng = np.random.default_rng(seed)
        kept, out = _split(target, chosen, valid, rng)
        held_out = Table(take(fitted.feed, out), None, len(out))
        fitted = Table(take(fitted.feed, kept), None, len(kept))
        valid_target, target = target[out], target[kept]
    else:
        valid_target = target_for(held_out, chosen, labels, scored.columns)

    names = _trainable(original, routing, freeze)
    settings = Settings(
        loss=chosen,
        output=name,
        epochs=epochs,
        batch_size=batch_size or int(np.clip(fitted.rows // 8, 32, 256)),
        rates={n: lr or LEARNING_RATES[original.learned[n].group] for n in names},
        patience=patience,
        seed=seed,
    )
    prefix_started = time.perf_counter()
    entering = original.run_prefix(held_out.feed)
    untouched = core_rows(original, held_out, valid_target, ["hard"], names, entering)
    prefix_seconds = time.perf_counter() - prefix_started
    court = Court(
        table=held_out,
        target=valid_target,
        entering=entering,
        settings=settings,
        original=evaluate(original, {}, untouched, settings, "hard"),
        spreads=spreads,
        temperature=width,
        device=where,
        needed_z=_NEEDED_Z.get(routing, 1.0),
        allowed_loss=ALLOWED_LOSS if max_size < 1 else 0.0,
    )
    task = Task(original, fitted, target, scored, names, court)
    run = candidates(task, routing, float(max_size))
    hard, soft = best(run.candidates, "hard"), best(run.candidates, "soft")
    judged = {
        form: best([c for c in run.candidates if c.form == form], form, accepted=False)
        for form in FORMS
    }
    verdicts: dict[str, Verdict] = {
        form: (taken or found).verdict
        for (form, found), taken in zip(judged.items(), (hard, soft), strict=True)
        if found is not None
    }
    module, written = original, native(prepared, {})
    if hard is not None:
        module = court.module(hard.prepared, "hard")
        module.load_tensors(hard.tensors)
        written = native(hard.prepared, hard.tensors)
        check_file(module, written.proto, held_out, name)
    elif soft is not None:
        written = native(soft.prepared, soft.tensors)
    module.routing = run.routing
    report = {
        "accepted": hard is not None or soft is not None,
        "output": name,
        "loss": chosen.name,
        "routing": routing,
        "temperature": width,
        "max_size": float(max_size),
        "rows": fitted.rows,
        "validation_rows": held_out.rows,
        "epochs": len(run.history),
        "verdicts": {
            form: vars(verdict) | {"accepted": verdict.accepted}
            for form, verdict in verdicts.items()
        },
        "candidates": [candidate.to_dict() for candidate in run.candidates],
        "taken": {form: c.name for form, c in (("hard", hard), ("soft", soft)) if c is not None},
        "size": next((c.size for c in (hard, soft) if c is not None), 1.0),
        "tensors": {n: list(original.learned[n].value.shape) for n in names},
        "changed": written.changed,
        "replaced": written.replaced,
        "prefix": {
            "nodes": sum(role in ("prefix", "cut") for role in original.cut.roles.values()),
            "rows": fitted.rows + held_out.rows,
            "bytes": run.cached_bytes,
            "seconds": prefix_seconds,
        },
        "seed": seed,
        "device": str(where),
        "seconds": time.perf_counter() - started,
    }
    metadata = {
        "version": onnxtune.__version__,
        "source_sha256": prepared.source.fingerprint,
        "seed": str(seed),
        "loss": chosen.name,
        "rows": str(fitted.rows),
    }
    if "soft" not in verdicts:
        soft = hard
    history = tuple(run.history)
    return TuneResult(
        prepared, hard, soft, verdicts, history, report, width, spreads, module, metadata
    )


def _split(target: Array, loss: Loss, share: Any, rng: np.random.Generator) -> tuple[Array, Array]:
    """Row numbers to train on and to validate on.

    Raises:
        ArgumentError: too few of either.
    """
    kept, out = split_rows(target, loss.target != "numbers", float(share), rng)
    if min(len(kept), len(out)) < 2:
        raise ArgumentError(
            f"valid={share} leaves {len(kept)} rows to train on and {len(out)} to validate on; "
            "give a share that leaves two or more of each."
        )
    return kept, out


def _check_whole(**counts: Any) -> None:
    for name, value in counts.items():
        if value is not None and not (isinstance(value, Integral) and int(value) >= 1):
            raise ArgumentError(f"{name} must be a whole number of at least 1, not {value!r}.")


def _check_positive(**numbers: Any) -> None:
    for name, value in numbers.items():
        if value is not None and not (isinstance(value, Real) and 0 < float(value) < float("inf")):
            raise ArgumentError(f"{name} must be a positive number, not {value!r}.")


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


def _one_output(prepared: Prepared, output: str | None) -> Partition:
    cut = partition(prepared, None if output is None else [output])
    if len(cut.outputs) > 1:
        names = ", ".join(repr(name) for name in cut.outputs)
        raise ArgumentError(
            f"{prepared.source.origin}: has several float outputs ({names}); "
            "choose one with output=."
        )
    return cut


def _trainable(module: OnnxModule, routing: TuneRouting, freeze: str | Iterable[str]) -> list[str]:
    patterns = [freeze] if isinstance(freeze, str) else list(freeze)
    frozen = {name for pattern in patterns for name in matching(pattern, module.learned)}
    names = [name for name in module.learned if name not in frozen]
    if routing == "leaves":
        names = [name for name in names if module.learned[name].group == "leaves"]
        if not names:
            raise UnsupportedError("routing 'leaves' needs trees, and this model has none to tune.")
    if not names:
        raise ArgumentError("freeze leaves nothing to tune.")
    return names


def _look_at(module: OnnxModule, table: Table, output: str, labels: Labels | None) -> Output:
    """What the output is, by its link and its values on some rows."""
    found = hard_output(module, some_rows(table), output)
    value = found.reshape(len(found), -1)
    share = bool(((value >= -1e-6) & (value <= 1 + 1e-6)).all())
    even = bool(((value.sum(dim=1) - 1).abs() < 1e-3).all())
    return Output(module.links[output], value.shape[1], len(labels or ()), share and even, share)
