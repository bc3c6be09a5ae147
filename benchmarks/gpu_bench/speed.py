"""How fast: the hard form on the card beside the CPU and the peers, in turns and over batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tree_bench.ensembles import rows

from onnxtune import machine, memory, runtime
from onnxtune.bench_candidates import session_calls
from onnxtune.bench_report import BenchReport
from onnxtune.bench_turns import Call, take_turns
from onnxtune.benchmark import bench
from onnxtune.runner import Runner

Array = np.ndarray[Any, Any]
BASE = "original, CPU, all cores"


def at_one_batch(folder: Path, provider: str, batch: int, seconds: float) -> dict[str, Any]:
    """Every candidate on one batch, in turns; figures are medians, ratios to the CPU."""
    X = np.ascontiguousarray(rows(batch, seed=3)[0])
    candidates, refused = _candidates(folder, provider, X)
    answers = _answers(candidates, refused)
    turns = take_turns(
        candidates,
        50,
        seconds,
        lambda error, key: " ".join(str(error).split())[:200],
        lambda key: None,
        lambda: memory.device_memory_at_hand() if provider == "cuda" else None,
    )
    found: dict[str, Any] = {name: {"error": reason} for name, reason in refused.items()}
    found |= {name: {"error": reason} for name, reason in turns.failed.items()}
    for name in candidates:
        times = [taken[name] for taken in turns.taken if name in taken]
        if not times or name in turns.failed:
            continue
        pairs = [taken[BASE] / taken[name] for taken in turns.taken if {BASE, name} <= taken.keys()]
        found[name] = {
            "median_s": float(np.median(times)),
            "low_s": float(np.quantile(times, 0.1)),
            "high_s": float(np.quantile(times, 0.9)),
            "rows_per_s": batch / float(np.median(times)),
            "times_as_fast": float(np.median(pairs)) if pairs else None,
            "first_s": turns.first[name],
            "device_bytes": turns.device_grown[name],
            "runs": len(times),
            "deviation": answers.get(name),
        }
    return {"batch": batch, "candidates": found}


def _candidates(
    folder: Path, provider: str, X: Array
) -> tuple[dict[str, list[Call]], dict[str, str]]:
    """Calls by name, the CPU's first; and why others are not there."""
    made: dict[str, list[Call]] = {}
    refused: dict[str, str] = {}
    original = _quickest((folder / "trees.original.onnx").read_bytes(), X)
    name = original.get_inputs()[0].name
    made[BASE] = [lambda: original.run(None, {name: X})]
    for form in ("hard", "soft"):
        content = (folder / f"trees.{form}.onnx").read_bytes()
        try:
            runner = Runner(content, provider)
            runner.run(X)
            made[f"{form}, {provider}"] = [lambda runner=runner: runner.run(X)]
            session = runtime.session(content, provider)
            size = runner.chunk or len(X)
            made[f"{form}, {provider}, without transfers"] = session_calls(
                session, provider, transfers=False, chunk=size
            )([{name: X}])
        except Exception as error:
            refused[f"{form}, {provider}, or without transfers"] = runtime.one_line(error)
    peers: Mapping[str, Callable[[], dict[str, list[Call]]]] = {
        "Hummingbird": lambda: _hummingbird(folder, provider, X),
        "LightGBM": lambda: _lightgbm(folder, X),
        "nvForest": lambda: _nvforest(folder, provider, X),
    }
    for peer, make in peers.items():
        try:
            found = make()
            for calls in found.values():
                calls[0]()  # what it cannot do is told here
            made |= found
        except Exception as error:  # whatever the peers raise
            refused[peer] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return made, refused


def _quickest(content: bytes, X: Array) -> Any:
    """A session on the CPU with onnxruntime's number of threads, or with one for every core."""
    sessions = [runtime.session(content, "cpu", threads) for threads in (None, machine.cores())]
    seconds = []
    for session in sessions:
        name = session.get_inputs()[0].name
        session.run(None, {name: X})
        start = time.perf_counter()
        for _ in range(3):
            session.run(None, {name: X})
        seconds.append(time.perf_counter() - start)
    return sessions[int(np.argmin(seconds))]


def _hummingbird(folder: Path, provider: str, X: Array) -> dict[str, list[Call]]:
    files = sorted(folder.glob("trees.hummingbird.*.pt"))
    if not files:
        raise FileNotFoundError("no trace in the folder; prepare it with --peers")
    device = torch.device("cuda" if provider == "cuda" else "cpu")
    made: dict[str, list[Call]] = {}
    resident = torch.from_numpy(X).to(device)
    for file in files:
        module = torch.jit.load(file, map_location=device).eval()

        def call(module: Any = module, back: bool = True) -> Any:
            with torch.no_grad():
                given = torch.from_numpy(X).to(device) if back else resident
                found = module(given)
                first = found[0] if isinstance(found, tuple | list) else found
                if back:
                    return first.cpu().numpy()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                return first

        setting = file.name.split(".")[2]
        shown = f"Hummingbird's torch, {setting}, {provider}"
        made[shown] = [call]
        made[f"{shown}, without transfers"] = [lambda call=call: call(back=False)]
    return made


def _lightgbm(folder: Path, X: Array) -> dict[str, list[Call]]:
    import lightgbm

    booster = lightgbm.Booster(model_file=folder / "trees.lightgbm.txt")
    return {"LightGBM, CPU, all cores": [lambda: booster.predict(X)]}


def _nvforest(folder: Path, provider: str, X: Array) -> dict[str, list[Call]]:
    import nvforest  # type: ignore[import-not-found]

    loaded = nvforest.load_model(
        folder / "trees.lightgbm.txt",
        model_type="lightgbm",
        device="gpu" if provider == "cuda" else "cpu",
    )
    loaded = loaded.optimize(batch_size=len(X))
    made: dict[str, list[Call]] = {f"nvForest, {provider}": [lambda: loaded.predict(X)]}
    if provider == "cuda":
        import cupy  # type: ignore[import-not-found]

        resident = cupy.asarray(X)

        def call() -> None:
            loaded.predict(resident)
            cupy.cuda.get_current_stream().synchronize()

        made[f"nvForest, {provider}, without transfers"] = [call]
    return made


def _answers(candidates: dict[str, list[Call]], refused: dict[str, str]) -> dict[str, float]:
    """How far each one's answers are from the CPU's, over their root mean square.

    Those with transfers only: the others return nothing. What fails drops out.
    """
    expected = np.ravel(candidates[BASE][0]()[0]).astype(np.float64)
    scale = float(np.sqrt(np.mean(expected**2)))
    found = {}
    for name, calls in list(candidates.items()):
        try:
            made: Any = calls[0]()
        except Exception as error:  # whatever it raises
            refused[name] = " ".join(str(error).split())[:200]
            del candidates[name]
            continue
        if isinstance(made, dict):
            made = next(iter(made.values()))
        elif isinstance(made, list) and made and isinstance(made[0], np.ndarray):
            made = made[0]
        if isinstance(made, np.ndarray):
            found[name] = float(np.abs(np.ravel(made) - expected).max() / scale)
    return found


def over_batches(
    folder: Path, provider: str, sizes: list[int], seconds: float, chunk: int
) -> BenchReport:
    """Throughput from single rows to the largest batch: the CPU's original, the card's forms."""
    X = rows(min(max(sizes), 100_000), seed=3)[0]
    cpu = bench({"original": folder / "trees.original.onnx"}, X, ["cpu"], sizes, seconds=seconds)
    forms = {form: folder / f"trees.{form}.onnx" for form in ("hard", "soft")}
    card = bench(
        forms,
        X,
        [provider],
        sizes,
        seconds=seconds,
        transfers=["with", "without"],
        chunk=chunk,
        placement=True,
    )
    models = {**cpu.environment["models"], **card.environment["models"]}
    shown = [replace(row, ratio=None) for row in card.rows]
    return BenchReport((*cpu.rows, *shown), {**card.environment, "models": models}, card.placements)


def small_batches(folder: Path, provider: str, calls: int) -> dict[str, Any]:
    """Single rows and a few, with and without a captured graph."""
    content = (folder / "trees.hard.onnx").read_bytes()
    X = rows(16, seed=3)[0]
    found: dict[str, Any] = {}
    graphs = {"without graph": (), "with graph": (1, 16)} if provider == "cuda" else {"": ()}
    for name, sizes in graphs.items():
        with Runner(content, provider, cuda_graph=sizes) as runner:
            for size in (1, 16):
                batch = np.ascontiguousarray(X[:size])
                turns = take_turns(
                    {"it": [lambda runner=runner, batch=batch: runner.run(batch)]},
                    calls,
                    5.0,
                    lambda error, key: str(error),
                    lambda key: None,
                    lambda: None,
                )
                times = [taken["it"] for taken in turns.taken]
                found[f"{size} rows {name}".strip()] = {
                    "median_s": float(np.median(times)),
                    "p99_s": float(np.quantile(times, 0.99)),
                }
    return found
