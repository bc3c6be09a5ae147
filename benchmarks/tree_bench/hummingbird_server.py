"""Runs inside Hummingbird's own environment: answers lines of JSON on stdin with lines on stdout.

    {"do": "versions"}
    {"do": "rows", "file": X.npy, "expected": Y.npy}
    {"do": "convert", "file": model.joblib, "method": "predict", "setting": ["torch.jit", "gemm"]}
    {"do": "time", "setting": "torch.jit gemm", "size": 1000, "calls": 3, "piece": 0}

peers.py starts it; it imports nothing of onnxtune.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
import warnings
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import onnx
import onnxruntime
import torch

from tree_bench.turns import Array, growth_of, slices, timer


class Server:
    """The containers of one model, by setting."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.containers: dict[str, Any] = {}
        self.timers: dict[tuple[str, int, int], Any] = {}
        self.rows: Array = np.zeros((0, 0), dtype=np.float32)
        self.expected: Array = np.zeros(0)

    def do_versions(self) -> dict[str, Any]:
        """The versions in this environment; everything is loaded when the answer comes."""
        import hummingbird  # type: ignore[import-not-found]
        import lightgbm
        import sklearn

        found = {"hummingbird-ml": getattr(hummingbird, "__version__", None)}
        _warm_up()
        for module in (torch, onnx, onnxruntime, np, lightgbm, sklearn):
            found[module.__name__] = module.__version__
        return found

    def do_rows(self, file: str, expected: str) -> dict[str, Any]:
        """Take rows, and what the original makes of the first of them."""
        self.rows, self.expected = np.load(file), np.load(expected)
        self.containers.clear()
        self.timers.clear()
        return {}

    def do_convert(self, file: str, method: str, setting: list[str]) -> dict[str, Any]:
        """Convert, and compare with the original."""
        from hummingbird.ml import constants, convert  # type: ignore[import-not-found]

        backend, implementation = setting
        name = " ".join(setting)
        extra: dict[str, Any] = {constants.N_THREADS: self.threads}
        if implementation != "default":
            extra[constants.TREE_IMPLEMENTATION] = implementation
        model = joblib.load(file)
        sample = None if backend == "torch" else self.rows[:1000]
        seconds = 0.0

        def make() -> None:
            nonlocal seconds
            start = time.perf_counter()
            self.containers[name] = convert(model, backend, sample, extra_config=extra)
            seconds = time.perf_counter() - start

        growth = growth_of(make)
        call = self.containers[name] = getattr(self.containers[name], method)
        made = np.ravel(call(self.rows[: len(self.expected)])).astype(np.float64)
        size = np.sqrt(np.mean(np.square(self.expected)))
        scale = np.maximum(np.abs(self.expected), size)
        worst = float(np.max(np.abs(made - self.expected) / scale))
        onnx_file = getattr(call.__self__, "model", None)
        count = onnx_file.ByteSize() if isinstance(onnx_file, onnx.ModelProto) else None
        return {"seconds": seconds, "growth": growth, "deviation": worst, "bytes": count}

    def do_time(self, setting: str, size: int, calls: int, piece: int) -> dict[str, Any]:
        """Seconds of a call, over so many in a row; the batch in pieces, if they have a size."""
        key = (setting, size, piece)
        call = self.containers[setting]

        def in_pieces(batch: Array) -> Array:
            made = [call(batch[i : i + piece]) for i in range(0, len(batch), piece)]
            return np.concatenate(made)

        if key not in self.timers:
            self.timers[key] = timer(in_pieces if piece else call, slices(self.rows, size))
        return {"seconds": self.timers[key](calls)}


def _warm_up() -> None:
    """Convert a tree of one decision, so that no measured conversion pays for late imports."""
    from hummingbird.ml import convert
    from sklearn.tree import DecisionTreeRegressor

    X = np.arange(8, dtype=np.float32).reshape(4, 2)
    tree = DecisionTreeRegressor().fit(X, X[:, 0])
    for backend in ("torch", "torch.jit", "onnx"):
        with contextlib.suppress(Exception):
            convert(tree, backend, X).predict(X)


def main() -> int:
    """Answer until stdin ends."""
    warnings.filterwarnings("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    threads = int(sys.argv[1])
    torch.set_num_threads(threads)
    # Of PyTorch's two exporters the old one works with the onnx that Hummingbird needs.
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    onnxruntime.set_default_logger_severity(4)
    server = Server(threads)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(server, "do_" + request.pop("do"))(**request)
        except Exception as error:  # whatever Hummingbird and its backends raise
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
