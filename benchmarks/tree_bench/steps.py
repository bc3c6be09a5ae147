"""Forward and backward of each tuning form, and how all forms scale."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch

import onnxtune
from tree_bench.ensembles import grown
from tree_bench.footprint import module_of, outputs, step
from tree_bench.latency import Bounds, footprint, session
from tree_bench.shapes import Shape
from tree_bench.turns import Array, Taken, Timer, take_turns, timer

ROUTINGS = ("soft", "straight-through", "hard")
BY_HAND = "by hand"
_BATCH = 256


def measure(shape: Shape, X: Array, bounds: Bounds, folder: Path) -> dict[str, Any]:
    """Time and memory of a step in every form of one shape."""
    path, rows = folder / "tuned.onnx", folder / "batch.npy"
    onnx.save(shape.proto, path)
    np.save(rows, X[:_BATCH])
    ways = [*ROUTINGS, *([BY_HAND] if shape.plain else [])]
    sizes = {
        way: footprint("tune", path, way, "--rows", rows, memory=bounds.memory) for way in ways
    }
    modules = {
        way: module_of(str(path), way, X[:_BATCH]) for way in ways if "error" not in sizes[way]
    }
    first = [BY_HAND] if BY_HAND in modules else []
    batches = [X[:_BATCH], X[_BATCH : 2 * _BATCH]]
    timers = {way: timer(partial(step, modules[way]), batches) for way in [*first, *modules]}
    taken = take_turns(timers, bounds.seconds * 2, bounds.limit) if timers else {}
    deviation = None
    if first and "soft" in modules:
        with torch.no_grad():
            theirs, ours = (outputs(modules[way], X[:_BATCH]) for way in (BY_HAND, "soft"))
        deviation = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"{shape.name}: tuning done", file=sys.stderr)
    return {
        "shape": shape.name,
        "batch": _BATCH,
        "deviation_by_hand": deviation,
        "ratio_to": BY_HAND if first else None,
        "forms": [
            {"form": way}
            | sizes[way]
            | asdict(taken.get(way, Taken(skipped=sizes[way].get("error"))))
            for way in ways
        ],
    }


# Scaling

Point = tuple[float, int, Callable[[], onnx.ModelProto]]  # the measure, rows, the model


def _points(form: str, quick: bool) -> dict[str, list[Point]]:
    """Each measure over a factor of 16, while the others stay."""
    factors = (1, 2, 4) if quick else (1, 2, 4, 8, 16)
    trees, rows = (25, 32) if quick else (100, 256)
    if form == "hard":
        rows *= 4
    made: dict[str, list[Point]] = {
        "rows": [(rows * f, rows * f, partial(grown, trees, 6, 64)) for f in factors],
        "trees": [(trees // 4 * f, rows, partial(grown, trees // 4 * f, 6, 64)) for f in factors],
    }
    if form == "soft":
        made["nodes"] = [
            (trees * (32 * f - 1), rows, partial(grown, trees, 3 + f.bit_length(), 16 * f))
            for f in factors
        ]
    else:  # trees of the same number of leaves, and a path of another length in them
        leaves = 16 * factors[-1]
        made["depth"] = [(8 * f, rows, partial(grown, trees // 2, 8 * f, leaves)) for f in factors]
    return made


def scaling(X: Array, bounds: Bounds, quick: bool) -> list[dict[str, Any]]:
    """Time against one measure at a time, and the slope of its logarithm."""
    found = []
    for form in ("hard", "soft", "straight-through"):
        for measure, points in _points(form, quick).items():
            timers = {
                str(value): _form_timer(make(), form, X[:size], bounds.threads)
                for value, size, make in points
            }
            taken = take_turns(timers, bounds.seconds, bounds.limit)
            kept = [(float(name), one.median_s) for name, one in taken.items() if one.median_s]
            values, times = [value for value, _ in kept], [time for _, time in kept]
            slope = None
            if len(kept) > 1:
                slope = float(np.polyfit(np.log(values), np.log(times), 1)[0])
            found.append({"form": form, "measure": measure, "values": values, "median_s": times,
                          "slope": slope})  # fmt: skip
            print(f"scaling: {form}, {measure} done", file=sys.stderr)
    return found


def _form_timer(proto: onnx.ModelProto, form: str, X: Array, threads: int) -> Timer:
    if form == "straight-through":
        module = onnxtune.to_torch(proto, "straight-through")
        return timer(partial(step, module), [X])
    kind: Literal["hard", "soft"] = "hard" if form == "hard" else "soft"
    converted = onnxtune.convert(proto, form=kind, batch_size=len(X))
    ready = session(converted.SerializeToString(), threads)
    return timer(lambda batch: ready.run(None, {"X": batch}), [X])
