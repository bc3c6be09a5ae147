"""Each shape's forms against the original and the peers: conversion, agreement, latency."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import onnx
import onnxruntime

from tree_bench.ensembles import hard_rows, size_of
from tree_bench.peers import Hummingbird, PeerError, settings
from tree_bench.shapes import Shape
from tree_bench.turns import Array, SkipError, Taken, Timer, growth_of, slices, take_turns, timer

FOLDER = Path(__file__).parents[1]
PEER = "Hummingbird"
PIECES = ", in pieces"  # large batches cut by the caller: what is allocated stays in the caches
_PIECE = 1000
_SUBPROCESS_LIMIT_S = 600
_PROBE = 64  # rows that tell how much memory a row takes
_COMPARED = 1000  # rows of the peers' answers


@dataclass(frozen=True)
class Bounds:
    """How thoroughly to measure, and when to leave something out."""

    threads: int
    seconds: float  # of a candidate's turns at a batch size
    limit: float  # seconds of one call
    memory: float  # GiB that a call or a conversion may take
    batch_sizes: list[int]


def footprint(*words: str | Path, memory: float) -> dict[str, Any]:
    """What footprint.py measures, or its error."""
    command = [sys.executable, "-m", "tree_bench.footprint", *map(str, words)]
    command += ["--memory", str(memory)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_SUBPROCESS_LIMIT_S,
            check=False,
            env=environment,
            cwd=FOLDER,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"takes longer than {_SUBPROCESS_LIMIT_S} s"}
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return {"error": f"the process ended with {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def session(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU whose idle threads do not spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def measure(
    shape: Shape, X: Array, bounds: Bounds, peer: Hummingbird | None, folder: Path
) -> dict[str, Any]:
    """Everything about one shape."""
    trees, nodes, depth = size_of(shape.proto)
    path = folder / "original.onnx"
    onnx.save(shape.proto, path)
    record: dict[str, Any] = {"shape": shape.name, "trees": trees, "nodes": nodes, "depth": depth,
                              "bytes": path.stat().st_size}  # fmt: skip
    contents = {"original": path.read_bytes()}
    record["forms"] = {}
    for form in ("hard", "soft"):
        to = folder / f"{form}.onnx"
        words = ("convert", path, form, "--to", to, "--seconds", str(bounds.seconds * 3))
        record["forms"][form] = found = footprint(*words, memory=bounds.memory)
        if "error" not in found:
            contents[form] = to.read_bytes()
    answers = _answers(contents["original"], X[:_COMPARED], shape.output, bounds.threads)
    own = np.ravel(shape.predict(X[:_COMPARED]))
    record["peers"] = {shape.library: {"deviation": float(_deviations(answers, own).max())}}
    if "hard" in contents:
        record["agreement"] = _agreement(shape, contents, len(X), bounds.threads)
    usable = []
    if peer is not None:
        converted = _convert_peer(peer, shape, X, answers, nodes // max(trees, 1), depth, folder)
        record["peers"] |= {f"{PEER}, {name}": found for name, found in converted.items()}
        usable = [name for name, found in converted.items() if "error" not in found]
    record["latency"] = _latency(shape, contents, X, bounds, peer, usable)
    return record


def _answers(content: bytes, X: Array, output: str, threads: int) -> Array:
    """The scores, in pieces that take little memory."""
    ready = session(content, threads)
    name = ready.get_inputs()[0].name
    made = [
        np.ravel(ready.run([output], {name: X[i : i + 5000]})[0]) for i in range(0, len(X), 5000)
    ]
    return np.concatenate(made).astype(np.float64)


def _deviations(expected: Array, found: Array) -> Array:
    """|difference| over max(|expected|, rms), 0 where both are NaN or the same infinity."""
    scale = np.maximum(np.abs(expected), np.sqrt(np.nanmean(np.square(expected))))
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    with np.errstate(invalid="ignore"):
        relative = np.abs(found - expected) / scale
    return np.where(same, 0.0, np.where(np.isnan(relative), np.inf, relative))


def _agreement(shape: Shape, contents: dict[str, bytes], rows: int, threads: int) -> dict[str, Any]:
    X = hard_rows(shape.proto, rows)
    expected, found = (
        _answers(contents[form], X, shape.output, threads) for form in ("original", "hard")
    )
    away = _deviations(expected, found)
    return {"rows": rows, "beyond": int((away > 1e-5).sum()), "worst": float(away.max())}


def _convert_peer(
    peer: Hummingbird, shape: Shape, X: Array, answers: Array, size: int, depth: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """Hummingbird's conversions by setting; of all settings the same error where it fails."""
    model, rows, expected = (folder / name for name in ("model.joblib", "X.npy", "expected.npy"))
    joblib.dump(shape.estimator, model)
    np.save(rows, X)
    np.save(expected, answers)
    try:
        peer.ask(60, do="rows", file=str(rows), expected=str(expected))
    except PeerError as error:
        return {"all": {"error": str(error)}}
    return peer.convert(model, shape.method, settings(size // 2 + 1, depth))


class Local:
    """A candidate in this process: calls, and what is known of their time and memory."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.size = self.took_size = 0
        self.growth = 0
        self.took: float | None = None

    def timer(self, call: Any, X: Array, size: int) -> Timer:
        """Times calls of a size.

        Raises:
            SkipError: by what smaller batches took, a call would take too long or too much memory.
        """
        if self.took and (guess := self.took * size / self.took_size) > self.bounds.limit:
            raise SkipError(f"a call would take about {guess:.0f} s")
        if size > _PROBE > self.size:
            self._grow(call, X, _PROBE)
        if self.size >= _PROBE:
            guess = self.growth * size / self.size / 2**30
            if guess > self.bounds.memory:
                raise SkipError(f"a call would take about {guess:.0f} GiB")
        self._grow(call, X, size)
        return timer(call, slices(X, size))

    def _grow(self, call: Any, X: Array, size: int) -> None:
        try:
            self.growth = growth_of(lambda: call(X[:size]))
        except (MemoryError, onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException) as error:
            raise SkipError("out of memory") from error
        self.size = size


def _latency(
    shape: Shape, contents: dict[str, bytes], X: Array, bounds: Bounds,
    peer: Hummingbird | None, alive: list[str],
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for every batch size and candidate."""
    names = [*contents, *(["hard" + PIECES] if "hard" in contents else []), shape.library]
    local = {name: Local(bounds) for name in names}
    rows: list[dict[str, Any]] = []
    for size in bounds.batch_sizes:
        timers: dict[str, Timer] = {}
        found: dict[str, Taken] = {}
        details: dict[str, dict[str, Any]] = {name: {} for name in local}
        for name, known in local.items():
            if name.endswith(PIECES) and size <= _PIECE:
                continue
            try:
                call = _call(shape, contents.get(name.removesuffix(PIECES)), bounds.threads)
                call = _in_pieces(call) if name.endswith(PIECES) else call
                timers[name] = known.timer(call, X, size)
                details[name] = {"growth": known.growth}
            except SkipError as reason:
                found[name] = Taken(skipped=str(reason))
        if alive and peer is not None:
            try:
                setting, tried, alive = peer.best(alive, size, bounds.limit)
                timers[PEER] = peer.timer(setting, size)
                details[PEER] = {"setting": setting, "tried": tried}
                if size > _PIECE:
                    timers[PEER + PIECES] = peer.timer(setting, size, _PIECE)
                    details[PEER + PIECES] = {"setting": setting}
            except SkipError as reason:
                found[PEER] = Taken(skipped=str(reason))
        found |= take_turns(timers, bounds.seconds, bounds.limit)
        for name in [one for one in (*local, PEER, PEER + PIECES) if one in found]:
            taken = found[name]
            if name in local and taken.median_s:
                local[name].took, local[name].took_size = taken.median_s, size
            rows_per_s = size / taken.median_s if taken.median_s else None
            rows.append({"batch": size, "model": name, "rows_per_s": rows_per_s}
                        | asdict(taken) | details.get(name, {}))  # fmt: skip
        print(f"{shape.name}: batch {size:,} done", file=sys.stderr)
    return rows


def _call(shape: Shape, content: bytes | None, threads: int) -> Callable[[Array], Any]:
    """A session's run, or the library's own predict."""
    if content is None:
        return shape.predict
    ready = session(content, threads)
    name = ready.get_inputs()[0].name
    return lambda batch: ready.run(None, {name: batch})


def _in_pieces(call: Callable[[Array], list[Array]]) -> Callable[[Array], Any]:
    """A session's run on one piece of a batch after the other."""

    def run(batch: Array) -> list[Array]:
        made = [call(batch[i : i + _PIECE]) for i in range(0, len(batch), _PIECE)]
        return [np.concatenate(pieces) for pieces in zip(*made, strict=True)]

    return run
