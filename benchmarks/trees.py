"""Tree ensembles in their forms: conversion, size, memory, latency, tuning, against peers.

    python benchmarks/trees.py [--only shapes tuning scaling] [--peers FOLDER] [--quick]

The original in onnxruntime, the hard and the soft form, the model's own library, and Hummingbird
(in an environment of its own, which the script makes) predict the same arrays in one run and take
turns; ratios are to the original. Prints tables, and writes benchmarks/results/trees.json and a
plot beside it; a run of some parts, or a quick one, writes only where `--output` says.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tree_bench import latency, report, steps
from tree_bench.ensembles import rows
from tree_bench.latency import Bounds
from tree_bench.peers import Hummingbird, PeerError, install, requirements
from tree_bench.shapes import Shape, boosted, forest, isolation

import onnxtune
from onnxtune import output
from onnxtune.model import write

RESULTS = Path(__file__).parent / "results" / "trees.json"
PARTS = ("shapes", "tuning", "scaling")
_PACKAGES = ("onnx", "onnxruntime", "torch", "numpy", "scikit-learn", "lightgbm", "skl2onnx",
             "onnxmltools")  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--shapes", help="only shapes with this text in their names")
    parser.add_argument("--batch-sizes", nargs="+", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="of turns, for each candidate and batch")
    parser.add_argument("--limit", type=float, default=20, help="seconds of one call, at most")
    parser.add_argument("--memory", type=float, default=8, help="GiB of one call, at most")
    parser.add_argument("--peers", type=Path, help="folder to keep Hummingbird's environment in")
    parser.add_argument("--requirements", nargs="+", default=requirements(), help="what pip gets")
    parser.add_argument("--no-hummingbird", action="store_true")
    parser.add_argument("--quick", action="store_true", help="small shapes; no peer to install")
    parser.add_argument("--output", type=Path, help="JSON file; the plot goes beside it")
    return parser.parse_args()


def shapes(options: argparse.Namespace) -> Iterator[Shape]:
    """The shapes asked for, each fitted when its turn comes."""
    threads = options.threads
    makers: dict[str, Callable[[], Shape]]
    if options.quick:
        makers = {
            "LightGBM, 20 x depth 3": partial(boosted, 20, 3, 2000, threads),
            "RandomForest, 10 on 500 rows": partial(forest, 10, 500, threads),
        }
    else:
        makers = {
            f"LightGBM, {trees} x depth {depth}": partial(boosted, trees, depth, 40_000, threads)
            for trees, depth in ((100, 4), (100, 6), (500, 8))
        }
        makers["RandomForest, 100 on 20,000 rows"] = partial(forest, 100, 20_000, threads)
        makers["IsolationForest, 100 trees"] = partial(isolation, 100, 20_000, threads)
    for name, make in makers.items():
        if options.shapes is None or options.shapes in name:
            yield make()


def hummingbird(options: argparse.Namespace, stack: ExitStack) -> Hummingbird | str:
    """Hummingbird's process, or the reason why there is none."""
    if options.no_hummingbird or (options.quick and options.peers is None):
        return "left out"
    folder = options.peers or Path(stack.enter_context(tempfile.TemporaryDirectory()))
    try:
        process = Hummingbird(install(folder, options.requirements), options.threads)
    except (PeerError, OSError) as error:
        return str(error) if isinstance(error, PeerError) else "its environment could not be made"
    stack.callback(process.close)
    return process


def command() -> str:
    """The command, without the folders of the machine it ran on."""
    words = iter(sys.argv[1:])
    shown = []
    for word in words:
        shown.append(word)
        if word in ("--peers", "--output"):
            next(words, None)
            shown.append("FOLDER" if word == "--peers" else "FILE")
    return " ".join(["python", "benchmarks/trees.py", *shown])


def main() -> int:
    """Run the benchmark."""
    options = arguments()
    torch.set_num_threads(options.threads)
    bounds = Bounds(
        options.threads,
        options.seconds or (0.05 if options.quick else 1.0),
        options.limit,
        options.memory,
        sorted(options.batch_sizes or ([1, 100] if options.quick else [1, 1000, 20_000, 100_000])),
    )
    X, _ = rows(max(2000 if options.quick else 100_000, *bounds.batch_sizes), seed=3)
    facts: dict[str, Any] = {
        "command": command(),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "cpus": os.cpu_count(),
        "threads": options.threads,
        "python": platform.python_version(),
        "onnxtune": onnxtune.__version__,
        "versions": {name: _version(name) for name in _PACKAGES},
    }
    found: dict[str, list[Any]] = {part: [] for part in PARTS if part in options.only}
    with ExitStack() as stack:
        peer = hummingbird(options, stack) if "shapes" in options.only else "left out"
        facts["hummingbird"] = peer if isinstance(peer, str) else peer.versions
        process = None if isinstance(peer, str) else peer
        for shape in shapes(options) if {"shapes", "tuning"} & set(options.only) else ():
            print(f"{shape.name}: fitted", file=sys.stderr)
            with tempfile.TemporaryDirectory() as folder:
                if "shapes" in found:
                    record = latency.measure(shape, X, bounds, process, Path(folder))
                    found["shapes"].append(record)
                if "tuning" in found:
                    record = steps.measure(shape, X, bounds, Path(folder))
                    found["tuning"].append(record)
    if "scaling" in found:
        found["scaling"] = steps.scaling(X, bounds, options.quick)
    print(report.text(found, facts["hummingbird"]))
    whole = not options.quick and options.shapes is None and set(options.only) == set(PARTS)
    to = options.output or (RESULTS if whole else None)
    if to is not None:
        to.parent.mkdir(exist_ok=True)
        write(to, output.as_json({**facts, **found}).encode() + b"\n")
        if found.get("shapes"):
            write(to.with_suffix(".png"), report.plot(found["shapes"], options.threads))
    beyond = sum(record.get("agreement", {}).get("beyond", 0) for record in found.get("shapes", []))
    return 1 if beyond else 0


def _version(name: str) -> str | None:
    for candidate in (name, name + "-gpu"):
        try:
            return version(candidate)
        except ModuleNotFoundError:  # PackageNotFoundError is one
            continue
    return None


if __name__ == "__main__":
    raise SystemExit(main())
