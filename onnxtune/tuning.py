"""`tune`: fine-tune a model on data, and keep the original where that does not help."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch

import onnxtune
from onnxtune.calibration import feed_spreads
from onnxtune.classes import class_labels
from onnxtune.conversion import check_temperature
from onnxtune.data import Table, check_numbers, encode_labels, take
from onnxtune.data import load as load_data
from onnxtune.errors import ArgumentError, DataError, UnsupportedError
from onnxtune.export import native
from onnxtune.losses import Loss, RowLoss, choose_loss
from onnxtune.metrics import paired
from onnxtune.model import ModelLike, load
from onnxtune.parameters import standardised
from onnxtune.partition import Partition, partition
from onnxtune.preparation import Prepared, prepare
from onnxtune.result import TuneResult, Verdict
from onnxtune.runtime import input_types
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
    labels = class_labels(prepared.source.proto, name)
    spreads = feed_spreads(prepared, fitted.feed)
    mode = _MODES[routing]
    module = OnnxModule(prepared, cut, spreads, mode, width).to(where)
    columns = _columns(module, fitted)
    labelled = labels is not None and len(labels) == columns
    chosen = choose_loss(loss, module.links[name].link, columns, labelled)
    target = _target(fitted, chosen, labels, columns)
    if held_out is None:
        kept, out = _split(target, chosen.classes, float(valid), rng)  # type: ignore[arg-type]
        if min(len(kept), len(out)) < 2:
            raise ArgumentError(
                f"valid={valid} leaves {len(kept)} rows to train on and {len(out)} to validate on; "
                "give a share that leaves two or more of each."
            )
        held_out = Table(take(fitted.feed, out), None, len(out))
        fitted = Table(take(fitted.feed, kept), None, len(kept))
        valid_target, target = target[out], target[kept]
    else:
        valid_target = _target(held_out, chosen, labels, columns)

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
    rows = _rows(module, fitted, target)
    valid_rows = _rows(module, held_out, valid_target)
    prefix_seconds = time.perf_counter() - prefix_started
    original = evaluate(module, {}, valid_rows, settings, "hard")
    trained = train(module, parameters, rows, valid_rows, settings)

    needed = _NEEDED_Z.get(routing, 1.0)
    hard_tensors = _as_written(prepared, trained.hard)
    verdicts = {"hard": _judge(module, hard_tensors, valid_rows, settings, original, needed)}
    soft_tensors: dict[str, Array] = {}
    if trained.soft is not None:
        soft_written = _as_written(prepared, trained.soft)
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


def _tables(
    prepared: Prepared, X: Any, y: Any, valid: float | tuple[Any, Any]
) -> tuple[Table, Table | None]:
    """The rows to train on, and those to validate on where they were given."""
    inputs = input_types(prepared.source.proto)
    given = load_data(X, inputs, y)
    if isinstance(valid, tuple):
        if len(valid) != 2:
            raise ArgumentError("valid must be a share of the rows, or (X, y).")
        return given, load_data(valid[0], inputs, valid[1], origin="the validation data")
    if isinstance(valid, bool) or not isinstance(valid, int | float) or not 0 < valid < 1:
        raise ArgumentError(
            "valid must be a share between 0 and 1, or (X, y) such as (path, column), "
            f"not {valid!r}."
        )
    if given.rows < 10:
        raise DataError(f"{given.rows} rows are too few to train and validate on; give 10 or more.")
    return given, None


def _columns(module: OnnxModule, table: Table) -> int:
    """The number of columns of the output, by a trial on two rows."""
    few = module.core_inputs(take(table.feed, slice(0, 2)))
    module.eval()
    with torch.no_grad():
        found = module(*module.to_tensors(few))
    value = next(iter(found.values()))
    return int(value.reshape(min(2, table.rows), -1).shape[1])


def _target(table: Table, loss: Loss, labels: Sequence[int | str] | None, columns: int) -> Array:
    """Class indices [N] or floats [N, K].

    Raises:
        DataError: unknown labels, values that are no numbers, or another number of columns.
    """
    if table.target is None:
        raise DataError("y is missing: give the target values, or the name of their column.")
    if loss.classes and labels is not None:
        return encode_labels(table.target, labels)
    numbers = check_numbers(table.target)
    shaped = numbers.reshape(table.rows, -1)
    if shaped.shape[1] != columns:
        raise DataError(f"y has {shaped.shape[1]} columns, but the output has {columns}.")
    if loss.name == "poisson" and (shaped < 0).any():
        raise DataError("the Poisson loss needs a target without negative values.")
    return shaped


def _split(
    target: Array, classes: bool, share: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Row numbers to train on and to validate on; every class is split alike."""
    order = rng.permutation(len(target))
    if not classes:
        count = round(share * len(target))
        return np.sort(order[count:]), np.sort(order[:count])
    ranked = order[np.argsort(target[order], kind="stable")]
    place = np.arange(len(ranked))
    # Along the rows sorted by class, every 1/share-th one is held out.
    held = np.floor((place + 1) * share) > np.floor(place * share)
    return np.sort(ranked[~held]), np.sort(ranked[held])


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


def _rows(module: OnnxModule, table: Table, target: Array) -> Rows:
    inputs = module.to_tensors(module.core_inputs(table.feed))
    wanted = torch.as_tensor(target, device=inputs[0].device if inputs else None)
    if wanted.is_floating_point():
        wanted = wanted.to(next(iter(module.parameters())).dtype)
    return Rows(inputs, wanted)


def _as_written(prepared: Prepared, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors as the native form holds them: a double threshold may become a float."""
    written = native(prepared, tensors)
    if not written.changed:
        return {}
    again = prepare(load(written.proto))
    held = learned_tensors(again, partition(again), {})
    return {name: held[name].value if name in held else value for name, value in tensors.items()}


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
    held = [value for part in (rows, valid) for value in part.inputs]
    return {
        "nodes": sum(role in ("prefix", "cut") for role in module.cut.roles.values()),
        "rows": len(rows) + len(valid),
        "bytes": sum(value.element_size() * value.nelement() for value in held),
        "seconds": seconds,
    }
