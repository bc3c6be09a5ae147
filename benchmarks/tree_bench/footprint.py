"""Measures one conversion, or one step of tuning, in a process of its own, and prints JSON.

In the folder benchmarks:

    python -m tree_bench.footprint convert MODEL FORM --to FILE [--memory GIB] [--seconds S]
    python -m tree_bench.footprint tune MODEL ROUTING --rows X.npy [--memory GIB]

Memory is the growth of the process over what it holds after the imports and a first, tiny
conversion. The tree benchmark calls it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
import time
from typing import Any, cast

import numpy as np
import onnx
import torch

import onnxtune
from onnxtune.errors import OnnxTuneError
from tree_bench.ensembles import Ensemble, ensembles, grown
from tree_bench.turns import growth_of


def bounded(gib: float) -> None:
    """Let no more memory be taken than that; the machine stays usable."""
    size = int(gib * 2**30)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def convert(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and growth of a conversion, from the file to the model."""
    onnxtune.convert(grown(2, 2, 4), form=options.how)
    made: list[onnx.ModelProto] = []
    times: list[float] = []

    def once() -> None:
        made.clear()
        start = time.perf_counter()
        made.append(onnxtune.convert(options.model, form=options.how))
        times.append(time.perf_counter() - start)

    growth = growth_of(once)
    while len(times) < 5 and sum(times) < options.seconds:
        once()
    onnx.save(made[0], options.to)
    return {"growth": growth, "seconds": float(np.median(times)), "bytes": made[0].ByteSize()}


def tune(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and growth of making a module, and the growth of forward and backward."""
    rows = np.load(options.rows)
    step(module_of(grown(2, 2, 4), options.how, rows), rows)
    made: list[Any] = []
    start = time.perf_counter()
    growth = growth_of(lambda: made.append(module_of(options.model, options.how, rows)))
    seconds = time.perf_counter() - start
    return {
        "build_growth": growth,
        "build_s": seconds,
        "growth": growth_of(lambda: step(made[0], rows)),
    }


def module_of(model: Any, routing: str, rows: np.ndarray[Any, Any]) -> torch.nn.Module:
    """A module to tune; "by hand" is the yardstick, with the gates of "soft"."""
    if routing != "by hand":
        return onnxtune.to_torch(model, cast(Any, routing), data=rows)
    from tree_bench.by_hand import SoftTrees

    proto = onnx.load(model) if isinstance(model, str) else model
    return SoftTrees(Ensemble.of(ensembles(proto)[0]), 0.1 * rows.std(axis=0))


def outputs(module: torch.nn.Module, rows: np.ndarray[Any, Any]) -> torch.Tensor:
    """The first float output for these rows."""
    found = module(torch.from_numpy(rows))
    return cast(
        torch.Tensor, found if isinstance(found, torch.Tensor) else next(iter(found.values()))
    )


def step(module: torch.nn.Module, rows: np.ndarray[Any, Any]) -> None:
    """Forward and backward, from a squared loss to the gradient of every tensor."""
    for parameter in module.parameters():
        parameter.grad = None
    outputs(module, rows).square().mean().backward()  # type: ignore[no-untyped-call]


def main() -> int:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("convert", "tune"))
    parser.add_argument("model")
    parser.add_argument("how")
    parser.add_argument("--to")
    parser.add_argument("--rows")
    parser.add_argument("--memory", type=float, default=8)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bounded(options.memory)
    try:
        result = convert(options) if options.what == "convert" else tune(options)
    except OnnxTuneError as error:
        reason, *_ = str(error).replace(options.model, "the model").split(". ")
        result = {"error": reason}
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        result = {"error": f"takes more than {options.memory:g} GiB"}
    json.dump(result, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
