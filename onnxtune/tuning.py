"""`tune`: fine-tune a model on data, and keep the original where that does not help."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import onnx
import torch

import onnxtune
from onnxtune.agreement import as_values
from onnxtune.calibration import feed_spreads
from onnxtune.classes import Labels
from onnxtune.conversion import check_temperature
from onnxtune.data import Table, take
from onnxtune.data import load as load_data
from onnxtune.errors import ArgumentError, DataError, OnnxTuneError, UnsupportedError
from onnxtune.export import native
from onnxtune.losses import Output, RowLoss, choose_loss
from onnxtune.metrics import paired
from onnxtune.model import ModelLike, load
from onnxtune.parameters import standardised
from onnxtune.partition import Partition, partition
from onnxtune.preparation import Prepared, prepare
from onnxtune.result import TuneResult, Verdict
from onnxtune.runtime import input_types, run
from onnxtune.targets import labels_of, split_rows, target_for
from onnxtune.torch_module import OnnxModule, learned_tensors, matching
from onnxtune.training_loop import LEARNING_RATES, Rows, Settings, evaluate, train
from rewrites.core.rewrite import Array, Routing

TuneRouting = Literal["auto", "soft", "straight-through", "leaves"]
ROUTINGS: tuple[TuneRouting, ...] = ("auto", "soft", "straight-through", "leaves")

_MODES: dict[TuneRouting, Routing] = {
    "auto": "straight-through",
    "straight-through": "straight-through",
    "soft": "soft",
    "leaves": "hard",
}

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
            gradient), "soft" (sigmoids), "leaves" (steps; leaf values alone are tuned); "auto" is
            straight-through.
        temperature: width of a gate in units of its feature's spread; "auto" is 0.1.
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
    _check_numbers_of(epochs=epochs, patience=patience, batch_size=batch_size, lr=lr, seed=seed)
    if routing not in ROUTINGS:
        raise ArgumentError(f"Routing '{routing}' is none of {', '.join(ROUTINGS)}.")
    width = check_temperature(temperature)
    where = _device(device)
    prepared = prepare(load(model, X))
    cut = _one_output(prepared, output)
    name = next(iter(cut.outputs))

    rng = np.random.default_rng(seed)
    fitted, held_out = _tables(prepared, X, y, valid)
    labels = labels_of(prepared, name)
    spreads = feed_spreads(prepared, fitted.feed)
    mode = _MODES[routing]
    module = OnnxModule(prepared, cut, spreads, mode, width).to(where)
    scored = _look_at(module, fitted, name, labels)
    columns = scored.columns
    chosen = choose_loss(loss, scored)
    target = target_for(fitted, chosen, labels, columns)
    if held_out is None:
        kept, out = split_rows(target, chosen.target != "numbers", float(valid), rng)  # type: ignore[arg-type]
        if min(len(kept), len(out)) < 2:
            raise ArgumentError(
                f"valid={valid} leaves {len(kept)} rows to train on and {len(out)} to validate on; "
                "give a share that leaves two or more of each."
            )
        held_out = Table(take(fitted.feed, out), None, len(out))
        fitted = Table(take(fitted.feed, kept), None, len(kept))
        valid_target, target = target[out], target[kept]
    else:
        valid_target = target_for(held_out, chosen, labels, columns)

    names = _trainable(module, routing, freeze)
    parameters = standardised(module.learned, names, where)
    settings = Settings(
        routing=mode,
        loss=chosen,
        output=name,
        epochs=epochs,
        batch_size=batch_size or int(np.clip(fitted.rows // 8, 32, 256)),
        rates={n: lr or LEARNING_RATES[module.learned[n].group] for n in names},
        patience=patience,
        seed=seed,
    )
    prefix_started = time.perf_counter()
    judged: set[Routing] = {"hard", "soft"} if mode == "soft" else {"hard"}
    rows = _rows(module, fitted, target, {mode}, names)
    valid_rows = _rows(module, held_out, valid_target, judged, names)
    prefix_seconds = time.perf_counter() - prefix_started
    original = evaluate(module, {}, valid_rows, settings, "hard")
    trained = train(module, parameters, rows, valid_rows, settings)

    needed = _NEEDED_Z.get(routing, 1.0)
    hard_tensors = _as_written(prepared, trained.hard, [name])
    verdicts = {"hard": _judge(module, hard_tensors, valid_rows, settings, original, needed)}
    soft_tensors: dict[str, Array] = {}
    if trained.soft is not None:
        soft_written = _as_written(prepared, trained.soft, [name])
        verdict = _judge(module, soft_written, valid_rows, settings, original, needed, "soft")
        verdicts["soft"] = verdict
        soft_tensors = soft_written if verdict.accepted else {}
    if not verdicts["hard"].accepted:
        hard_tensors = {}
    if trained.soft is None:
        soft_tensors = hard_tensors
    initial = {n: module.learned[n].value for n in names}
    module.load_tensors(initial | hard_tensors)
    module.routing = mode

    written = native(prepared, hard_tensors or soft_tensors)
    if hard_tensors:
        _check_file(module, written.proto, held_out, name)
    report = {
        "accepted": any(verdict.accepted for verdict in verdicts.values()),
        "output": name,
        "loss": chosen.name,
        "routing": "straight-through" if routing == "auto" else routing,
        "temperature": width,
        "rows": fitted.rows,
        "validation_rows": held_out.rows,
        "epochs": len(trained.history),
        "verdicts": {
            form: vars(verdict) | {"accepted": verdict.accepted}
            for form, verdict in verdicts.items()
        },
        "tensors": {n: list(module.learned[n].value.shape) for n in names},
        "changed": written.changed,
        "replaced": written.replaced,
        "prefix": _prefix_figures(module, rows, valid_rows, prefix_seconds),
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
    return TuneResult(
        prepared,
        hard_tensors,
        soft_tensors,
        verdicts,
        trained.history,
        report,
        width,
        spreads,
        module,
        metadata,
    )


def _check_numbers_of(*, seed: Any, lr: Any, **counts: Any) -> None:
    for name, value in counts.items():
        if value is not None and not (isinstance(value, Integral) and int(value) >= 1):
            raise ArgumentError(f"{name} must be a whole number of at least 1, not {value!r}.")
    if not (isinstance(seed, Integral) and 0 <= int(seed) < 2**63):
        raise ArgumentError(f"seed must be a whole number from 0, not {seed!r}.")
    if lr is not None and not (isinstance(lr, Real) and 0 < float(lr) < float("inf")):
        raise ArgumentError(f"lr must be a positive number, not {lr!r}.")


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


def _tables(prepared: Prepared, X: Any, y: Any, valid: Any) -> tuple[Table, Table | None]:
    """The rows to train on, and those to validate on where they were given."""
    inputs = input_types(prepared.source.proto)
    given = load_data(X, inputs, y)
    if isinstance(valid, tuple | list):
        if len(valid) != 2:
            raise ArgumentError("valid must be a share of the rows, or (X, y).")
        return given, load_data(valid[0], inputs, valid[1], origin="the validation data")
    if not isinstance(valid, Real) or not 0 < float(valid) < 1:
        shown = valid if isinstance(valid, Real | str) else type(valid).__name__
        raise ArgumentError(
            "valid must be a share between 0 and 1, or (X, y) such as (path, column), "
            f"not {shown!r}."
        )
    if given.rows < 10:
        raise DataError(f"{given.rows} rows are too few to train and validate on; give 10 or more.")
    return given, None


def _look_at(module: OnnxModule, table: Table, output: str, labels: Labels | None) -> Output:
    """What the output is, by its link and its values on some rows."""
    found = _hard_output(module, _some_rows(table), output)
    value = found.reshape(len(found), -1)
    share = bool(((value >= -1e-6) & (value <= 1 + 1e-6)).all())
    even = bool(((value.sum(dim=1) - 1).abs() < 1e-3).all())
    return Output(module.links[output], value.shape[1], len(labels or ()), share and even, share)


def _some_rows(table: Table) -> dict[str, Array]:
    return take(table.feed, slice(0, 1000))


def _hard_output(module: OnnxModule, feed: Mapping[str, Array], output: str) -> torch.Tensor:
    """What the model with hard routing says, without gradient; the module's routing stays."""
    routing, module.routing = module.routing, "hard"
    with torch.no_grad():
        found: torch.Tensor = module(*module.to_tensors(module.run_prefix(feed)))[output]
    module.routing = routing
    return found


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


def _rows(
    module: OnnxModule,
    table: Table,
    target: Array,
    routings: Iterable[Routing],
    trained: Sequence[str],
) -> Rows:
    arrays = module.run_prefix(table.feed)
    for name, array in zip(module.input_names, arrays, strict=True):
        if array.shape[:1] != (table.rows,):
            raise UnsupportedError(
                f"'{name}', which enters the tuned part of the graph, has shape "
                f"{list(array.shape)} and not one entry a row ({table.rows})."
            )
    inputs = module.to_tensors(arrays)
    wanted = torch.as_tensor(target, device=inputs[0].device if inputs else None)
    if wanted.is_floating_point():
        wanted = wanted.to(next(iter(module.parameters())).dtype)
    settled = {}
    for routing in sorted(routings):
        module.routing = routing
        settled[routing] = module.settled(inputs, trained)
    return Rows(settled, wanted)


def _as_written(
    prepared: Prepared, tensors: Mapping[str, Array], outputs: Sequence[str]
) -> dict[str, Array]:
    """The tensors as the native form holds them: a double threshold may become a float."""
    written = native(prepared, tensors)
    if not written.changed:
        return {}
    again = prepare(load(written.proto))
    held = learned_tensors(again, partition(again, outputs), {})
    return {name: held[name].value if name in held else value for name, value in tensors.items()}


def _check_file(module: OnnxModule, proto: onnx.ModelProto, table: Table, output: str) -> None:
    """Run the native form on validation rows: it must give what was judged in torch.

    Raises:
        OnnxTuneError: it does not; the model is not handed out.
    """
    few = _some_rows(table)
    expected = as_values(proto, run(proto, few, [output]))[output].numbers
    found = _hard_output(module, few, output).cpu().numpy()
    expected = expected.reshape(found.shape)
    size = float(np.sqrt(np.nanmean(np.square(expected)))) if expected.size else 0.0
    close = np.isclose(found, expected, rtol=1e-3, atol=1e-3 * size, equal_nan=True)
    past = ~close.reshape(len(close), -1).all(axis=1)
    # After a matrix product last bits differ, and a row on a threshold may turn.
    if past.mean() > 0.01 and past.sum() > 1:
        raise OnnxTuneError(
            f"{module.prepared.source.origin}: the written model differs from the tuned one on "
            f"{past.sum()} of {len(past)} rows, so it was not kept; please report this model."
        )


def _judge(
    module: OnnxModule,
    tensors: Mapping[str, Array],
    rows: Rows,
    settings: Settings,
    original: Array,
    needed: float,
    routing: Routing = "hard",
) -> Verdict:
    """Compare row by row with the original."""
    before = {name: value.detach().clone() for name, value in module.tensors().items()}
    module.load_tensors(tensors)
    tuned = evaluate(module, {}, rows, settings, routing)
    module.load_tensors(before)
    gain, error, z = paired(tuned, original)
    return Verdict(float(original.mean()), float(tuned.mean()), gain, error, z, needed)


def _prefix_figures(module: OnnxModule, rows: Rows, valid: Rows, seconds: float) -> dict[str, Any]:
    """What was computed once and kept over the epochs."""
    held = [v for part in (rows, valid) for kept in part.settled.values() for v in kept.values]
    return {
        "nodes": sum(role in ("prefix", "cut") for role in module.cut.roles.values()),
        "rows": len(rows) + len(valid),
        "bytes": sum(value.element_size() * value.nelement() for value in held),
        "seconds": seconds,
    }
