"""What is asked of one model. Each answer is "holds", a reason, or a figure.

Where the answers differ, the torch module runs once more in double precision. What of it differs
from the same module in single precision is the rounding of the model's own arithmetic: support
vectors with coefficients of 3e5 that cancel, probabilities of log likelihoods of -1000. As much as
four times that is not wrong: onnxruntime's own answers, summed in another order, are as far from
the true ones.
"""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import onnxtune
from coverage_bench.gradients import in_double, wrong_gradients
from coverage_bench.learned import learned_numbers
from onnxtune.errors import OnnxTuneError
from onnxtune.export import native
from onnxtune.model import Model, load
from onnxtune.preparation import Prepared, prepare
from onnxtune.runtime import input_types, output_types, run, session
from onnxtune.sampling import sample
from onnxtune.torch_module import OnnxModule
from rewrites.core.graph_pass import STANDARD_DOMAINS

HOLDS = "holds"
SECONDS = 10.0
# Rows that may come out on the other side of a threshold, whose last bits a matrix product changes.
_TURNED = 0.01
# Of the usual size; more than this is not put down to rounding.
_MOST_ROUNDING = 3e-3

Feed = dict[str, Any]


def check(path: Path) -> dict[str, Any]:
    """Everything about one model.

    Returns:
        Check -> outcome, beside `seconds`, `learned` (numbers by tensor), `tunable` (names).
    """
    record: dict[str, Any] = {"readable": HOLDS}

    def attempt(name: str, work: Callable[[], str]) -> None:
        try:
            record[name] = work()
        except OnnxTuneError as error:
            record[name] = f"refused: {error}"
        except Exception as error:  # whatever it is, it is to be counted
            record[name] = f"CRASH {type(error).__name__}: {' '.join(str(error).split())}"
            record.setdefault("tracebacks", {})[name] = traceback.format_exc()

    model: Model | None = None
    feeds: list[Feed] = []

    def read() -> str:
        nonlocal model, feeds
        model = load(path)
        feeds = [feed for feed in (sampled(model, 256), stored(model, path)) if feed is not None]
        return HOLDS if feeds else "no rows: neither sampled nor stored ones run"

    attempt("readable", read)
    if model is None or not feeds:
        return record
    held: Model = model
    record["scope"] = _in_scope(held)
    started = time.perf_counter()
    attempt("hard", lambda: _hard(held, feeds, record))
    module = _torch_checks(held, feeds, record, attempt)
    if module is not None and record["hard"].startswith("WRONG"):
        built = module
        attempt("hard", lambda: _hard(held, feeds, record, lambda feed: _rounding(built, feed)))
    record["seconds"] = record.get("hard_seconds", 0.0) + record.get("torch_seconds", 0.0)
    record["wall"] = time.perf_counter() - started
    return record


def _torch_checks(
    model: Model, feeds: list[Feed], record: dict[str, Any], attempt: Callable[..., None]
) -> OnnxModule | None:
    prepared: Prepared | None = None

    def count() -> str:
        nonlocal prepared
        prepared = prepare(model)
        numbers = learned_numbers(prepared)
        record["learned"], record["waiting"] = numbers.all, sorted(numbers.waiting)
        return HOLDS

    attempt("prepared", count)
    if prepared is None or not record.get("learned"):
        return None
    module: OnnxModule | None = None

    def build() -> str:
        nonlocal module
        started = time.perf_counter()
        module = onnxtune.to_torch(model, routing="hard")
        record["torch_seconds"] = time.perf_counter() - started
        record["tunable"] = sorted(set(module.learned) & record["learned"].keys())
        return _same_in_torch(model, module, feeds, record)

    attempt("torch", build)
    if module is None:
        record["tunable"] = []
        return None
    built: OnnxModule = module
    attempt("native", lambda: _native(prepared, built))
    single = copy.deepcopy(built)
    attempt("gradients", lambda: _gradients(built, feeds))
    return single


def sampled(model: Model, rows: int) -> Feed | None:
    """Rows from the model's own graph, where it takes them."""
    try:
        feed = sample(model.proto, rows)
        run(model.proto, feed)
    except OnnxTuneError:
        return None
    return feed


def stored(model: Model, path: Path) -> Feed | None:
    """Arrays in a .npz file beside the model, or in `data.npz` of a folder that has one model.

    They are called like the inputs, or in0, in1, ... in their order.
    """
    alone = len(list(path.parent.glob("*.onnx"))) == 1
    places = [path.with_suffix(".npz"), *([path.parent / "data.npz"] if alone else [])]
    source = next((place for place in places if place.is_file()), None)
    if source is None:
        return None
    feed = {}
    try:
        with np.load(source, allow_pickle=False) as held:
            for number, value in enumerate(input_types(model.proto)):
                array = held[value.name if value.name in held else f"in{number}"]
                feed[value.name] = array.astype(object) if array.dtype.kind == "U" else array
        run(model.proto, feed)
    except (KeyError, ValueError, OnnxTuneError):
        return None  # maps, pickled objects, inputs in another order
    return feed


def _in_scope(model: Model) -> bool:
    """Whether the model has nodes of ai.onnx.ml, and inputs and outputs that are all numbers."""
    own = [node for node in nodes(model.proto.graph) if node.domain == "ai.onnx.ml"]
    values = [*input_types(model.proto), *output_types(model.proto)]
    return bool(own) and not any("string" in value.kind for value in values)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def _hard(
    model: Model,
    feeds: list[Feed],
    record: dict[str, Any],
    rounding: Callable[[Feed], dict[str, float]] = lambda feed: {},
) -> str:
    """The hard form loads and gives the original's answers."""
    started = time.perf_counter()
    converted = onnxtune.convert(model, form="hard")
    record["hard_seconds"] = time.perf_counter() - started
    left = {
        f"{node.domain}:{node.op_type}"
        for node in nodes(converted.graph)
        # No standard operator makes maps: ZipMap stays for whoever wants them.
        if node.domain not in STANDARD_DOMAINS and node.op_type != "ZipMap"
    }
    record["left"] = sorted(left)
    session(converted)
    for feed in feeds:
        slack = max(rounding(feed).values(), default=0.0)
        verdict = onnxtune.verify(model, converted, feed, rtol=1e-4, atol=slack)
        if not verdict.agrees:
            said = [output.problem or "" for output in verdict.outputs] + list(verdict.problems)
            return "WRONG " + "; ".join(filter(None, said))
    return HOLDS


def _native(prepared: Prepared, module: OnnxModule) -> str:
    """Untouched tensors leave the original's bytes."""
    values = {name: tensor.value for name, tensor in module.learned.items()}
    written = native(prepared, values).proto.SerializeToString()
    same = written == prepared.source.proto.SerializeToString()
    return HOLDS if same else "WRONG: other bytes"


def _same_in_torch(
    model: Model, module: OnnxModule, feeds: list[Feed], record: dict[str, Any]
) -> str:
    """The torch module in hard routing gives the original's answers."""
    trees = any(tensor.group == "thresholds" for tensor in module.learned.values())
    for feed in feeds:
        expected = run(model.proto, feed)
        for name, value in module.predict(feed).items():
            wanted = _as_array(expected[name])
            got = value.detach().numpy()
            if got.size != wanted.size:
                return f"WRONG: shape {got.shape} for {wanted.shape}"
            far = _far(got.reshape(wanted.shape), wanted)
            if far.any():
                far = _far(got.reshape(wanted.shape), wanted, _rounding(module, feed)[name])
            rows = far.reshape(len(far), -1).any(axis=1) if far.ndim else far
            if rows.mean() > (_TURNED if trees else 0):
                difference = np.abs(got.reshape(wanted.shape) - wanted)[far].max()
                return f"WRONG: {name} differs in {rows.sum()} rows by up to {difference:.3g}"
            record["turned"] = record.get("turned", 0) + int(rows.sum())
    return HOLDS


def _as_array(output: Any) -> np.ndarray:
    if isinstance(output, list):
        return np.array([list(row.values()) for row in output])
    return np.asarray(output)


def _far(got: np.ndarray, wanted: np.ndarray, rounding: float = 0.0) -> np.ndarray:
    """Where two arrays differ by more than 1e-4 of the number or of the usual size, and more than
    rounding makes of it."""
    slack = 1e-4 * _usual(wanted) + rounding
    return ~np.isclose(got, wanted, rtol=1e-4, atol=slack, equal_nan=True)


def _usual(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)].astype(np.float64)
    return float(np.sqrt(np.mean(np.square(finite)))) if finite.size else 0.0


def _rounding(module: OnnxModule, feed: Feed) -> dict[str, float]:
    """Four times the largest difference that single precision makes to each output of a module."""
    with torch.no_grad():
        single = {name: value.numpy() for name, value in module.predict(feed).items()}
        if any(tensor.group == "thresholds" for tensor in module.learned.values()):
            return dict.fromkeys(single, 0.0)  # rows that turn at a threshold are no rounding
        inputs = module.to_tensors(module.core_inputs(feed))
        double = in_double(copy.deepcopy(module), inputs)
    found = {}
    for name, value in single.items():
        difference = float(np.nanmax(np.abs(value - double[name].numpy()), initial=0.0))
        found[name] = min(4 * difference, _MOST_ROUNDING * _usual(value))
    return found


def _gradients(module: OnnxModule, feeds: list[Feed]) -> str:
    module.routing = "soft"
    wrong = wrong_gradients(module, feeds[0])
    kinds = {name.rsplit("/", 1)[-1] if "/" in name else "initializer" for name in wrong}
    return "WRONG: " + "; ".join(f"{n} {w}" for n, w in wrong.items()) if kinds else HOLDS
