"""What must hold on the card: the CPU's answers, no copies, memory given back, the same losses."""

from __future__ import annotations

import gc
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tree_bench.ensembles import rows

import onnxtune
from onnxtune import memory, runtime
from onnxtune.profiles import placement
from onnxtune.runner import Runner

Array = np.ndarray[Any, Any]
_CLASSIFIERS = ("raw", "scaled", "projected")
_PIECE = 50_000


def agreement(folder: Path, provider: str, count: int) -> dict[str, Any]:
    """The hard form on the card against the original on the CPU, row by row."""
    X = rows(count, seed=7)[0]
    return {name: _agreement(folder, name, provider, X) for name in (*_CLASSIFIERS, "trees")}


def _agreement(folder: Path, name: str, provider: str, X: Array) -> dict[str, Any]:
    content = (folder / f"{name}.original.onnx").read_bytes()
    with Runner(content, "cpu", chunk=_PIECE) as runner:
        expected = runner.run(X)
    with Runner((folder / f"{name}.hard.onnx").read_bytes(), provider) as runner:
        found = runner.run(X)
        chunk = runner.chunk
    record: dict[str, Any] = {"rows": len(X), "chunk": chunk}
    numbers = next(key for key, value in expected.items() if value.dtype.kind == "f")
    want = expected[numbers].astype(np.float64)
    away = np.abs(found[numbers].astype(np.float64) - want)
    limit = 1e-5 * np.maximum(np.abs(want), np.sqrt(np.mean(want**2)))
    beyond = (away > limit).reshape(len(X), -1).any(axis=1)
    record |= {"floats_beyond": int(beyond.sum()), "worst": float(away.max())}
    labels = [key for key, value in expected.items() if value.dtype.kind in "iU"]
    if labels:
        ranked = np.sort(want, axis=1)
        clear = ranked[:, -1] - ranked[:, -2] > 1e-5
        wrong = expected[labels[0]] != found[labels[0]]
        record |= {"labels_wrong": int((wrong & clear).sum()), "near_ties": int((~clear).sum())}
    return record


def placements(folder: Path, provider: str) -> dict[str, Any]:
    """Nodes by provider, and copies between."""
    X = rows(256)[0]
    found = {}
    for file in sorted(folder.glob("*.onnx")):
        if ".original." in file.name:
            continue
        content = file.read_bytes()
        feed = {runtime.session(content).get_inputs()[0].name: X}
        where = placement(content, provider, feed)
        elsewhere = {p: ops for p, ops in where.operators.items() if p != provider}
        found[file.name] = {
            "nodes": where.nodes,
            "copies": where.copies,
            "elsewhere": elsewhere,
        }
    return found


def threads(folder: Path, provider: str, seconds: float) -> dict[str, Any]:
    """Eight threads: errors, other answers than one thread's, and the growth of memory."""
    content = (folder / "trees.hard.onnx").read_bytes()
    X = rows(4000, seed=5)[0]
    batches = [np.ascontiguousarray(X[i : i + 1 + 400 * i]) for i in range(8)]
    before = memory.device_memory_at_hand() if provider == "cuda" else None
    with Runner(content, provider) as runner:
        answers = [next(iter(runner.run(batch).values())) for batch in batches]
        end = time.monotonic() + seconds
        lock = threading.Lock()
        counts = {"calls": 0, "errors": 0, "different": 0}

        def work(number: int) -> None:
            turn = number
            while time.monotonic() < end:
                turn += 1
                place = turn % 8
                try:
                    made = next(iter(runner.run(batches[place]).values()))
                    away = float(np.abs(made - answers[place]).max())
                except Exception:
                    with lock:
                        counts["errors"] += 1
                    continue
                with lock:
                    counts["calls"] += 1
                    counts["different"] += away > 1e-5

        with ThreadPoolExecutor(8) as pool:
            workers = [pool.submit(work, number) for number in range(8)]
            time.sleep(seconds / 3)
            held = memory.resident()
            free = memory.device_memory_at_hand() if provider == "cuda" else None
            for worker in workers:
                worker.result()
        grown = memory.resident() - held
        left = memory.device_memory_at_hand() if provider == "cuda" else None
    gc.collect()
    closed = memory.device_memory_at_hand() if provider == "cuda" else None
    return {
        **counts,
        "seconds": seconds,
        "grown_bytes": grown,
        "device_grown_bytes": None if free is None or left is None else free - left,
        "device_kept_bytes": None if before is None or closed is None else before - closed,
    }


def tuning(folder: Path, provider: str, count: int, epochs: int) -> dict[str, Any]:
    """`tune` on the card and on the CPU, of one seed: the losses of every epoch."""
    X, y = rows(count, seed=11)
    target = (y > np.median(y)).astype(int)
    found: dict[str, Any] = {}
    for routing in ("soft", "straight-through"):
        histories = {}
        seconds = {}
        for device in ("cpu", provider):
            start = time.perf_counter()
            result = onnxtune.tune(
                folder / "scaled.original.onnx",
                X,
                target,
                routing=routing,
                epochs=epochs,
                seed=0,
                device=device,
                temperature=0.1,
                valid="last",
            )
            seconds[device] = time.perf_counter() - start
            histories[device] = [(one.train, one.valid) for one in result.history]
        there, here = (np.array(histories[device]) for device in ("cpu", provider))
        same = there.shape == here.shape
        worst = float((np.abs(there - here) / np.abs(there)).max()) if same else None
        found[routing] = {"epochs": len(there), "worst": worst, "seconds": seconds}
    return found


def shown_error(error: BaseException) -> str:
    """An error in one line, without folders of this machine."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return re.sub(r"(?<!\w)/[\w./-]+/", "", text)[:300]
