"""What tuning gains: test losses of tuned pipelines over those of the originals.

    python benchmarks/quality.py [--sizes 1 4] [--seeds 5] [--apart] [--peers] [--null]

Thirteen pipelines, each fitted, exported, tuned and judged on test rows with several seeds; the
original with its temperature scaled is judged beside it. `--apart` measures other pipelines,
`--tables` real ones, `--null` labels from which nothing can be learned. Prints tables, and writes
benchmarks/results/quality.json; a run of some parts writes only where `--json` says.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from quality_bench import report
from quality_bench.apart import APART
from quality_bench.null import NULL_PIPELINES, NULL_SEEDS
from quality_bench.pipelines import PIPELINES
from quality_bench.runs import Plan, run, warm_up
from quality_bench.tables import TABLE_CASES

import onnxtune
from onnxtune import output
from onnxtune.model import write

RESULTS = Path(__file__).parent / "results" / "quality.json"
_PACKAGES = ("onnx", "onnxruntime", "torch", "numpy", "scikit-learn", "lightgbm", "skl2onnx",
             "onnxmltools")  # fmt: skip
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", type=float, default=[1, 4], help="max_size")
    parser.add_argument("--seeds", type=int, help="how many; 5, of the null test 20")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="pipelines by name")
    parser.add_argument("--apart", action="store_true", help="the pipelines set apart instead")
    parser.add_argument("--tables", type=Path, help="real tables instead, from this folder")
    parser.add_argument("--null", action="store_true", help="the null test instead")
    parser.add_argument("--peers", action="store_true", help="other ways to a better model; slow")
    parser.add_argument("--companion", action="store_true", help="allow a companion network")
    parser.add_argument("--routing", help="of onnxtune.tune")
    parser.add_argument("--device", default="cpu", help="of onnxtune.tune")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--plot", type=Path, help="file for a plot of the ratios")
    options = parser.parse_args()
    if sum((options.apart, options.null, options.tables is not None)) > 1:
        parser.error("--apart, --tables and --null are one at a time")
    known = _names(options)
    unknown = [name for name in options.only or () if name not in known]
    if unknown:
        parser.error(f"no pipeline {unknown[0]}: there are {', '.join(known)}")
    return options


def work(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Names and seeds, seed by seed, so that early results cover all pipelines."""
    names = options.only or _names(options)
    if options.null:
        seeds = range(options.seeds or NULL_SEEDS)
        return [(names[seed % len(names)], seed) for seed in seeds]
    return [(name, seed) for seed in range(options.seeds or 5) for name in names]


def measure(name: str, seed: int, plan: Plan, lines: Path) -> list[dict[str, Any]]:
    """All records of a pipeline and a seed; each is told and kept as soon as it is there."""
    records = []
    for record in run(name, seed, plan):
        records.append(record)
        print(_told(record), file=sys.stderr, flush=True)
        with lines.open("a") as file:
            file.write(json.dumps(json.loads(output.as_json(record))) + "\n")
    return records


def quiet() -> None:
    """Set up a process: one thread, no warnings of libraries, and everything loaded."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    warm_up()


def main() -> int:
    """Run the benchmark."""
    options = arguments()
    extra: dict[str, Any] = {"device": options.device}
    if options.companion:
        extra["companion"] = True
    if options.routing:
        extra["routing"] = options.routing
    plan = Plan(tuple(options.sizes), extra, options.peers, options.null, options.tables)
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    handle, lines = tempfile.mkstemp(prefix="quality-", suffix=".jsonl")
    os.close(handle)
    print(f"Finished runs are kept in {lines}", file=sys.stderr)
    runs: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, quiet) as pool:
        jobs = [pool.submit(measure, *job, plan, Path(lines)) for job in work(options)]
        for job in as_completed(jobs):
            runs += job.result()
    order = _names(options)
    runs.sort(key=lambda one: (order.index(one["name"]), one["seed"], one.get("size", 0)))
    print(report.null_text(runs) if options.null else report.text(runs))
    narrowed = (options.only, options.apart, options.null, options.tables, options.seeds)
    whole = options.sizes == [1, 4] and not any(narrowed) and not extra.keys() - {"device"}
    to = options.json or (RESULTS if whole else None)
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        found = facts(options) | {
            "summary": report.summary(runs),
            "peers": report.peer_summary(runs),
            "runs": runs,
        }
        write(to, output.as_json(found).encode() + b"\n")
    if options.plot is not None:
        write(options.plot, report.plot(runs))
    return 1 if any("error" in one for one in runs) else 0


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    hidden = {"json": None, "plot": None, "tables": options.tables and "FOLDER"}
    return {
        "options": {**vars(options), **hidden},
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "cpus": os.cpu_count(),
        "threads": 1,
        "python": platform.python_version(),
        "onnxtune": onnxtune.__version__,
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _names(options: argparse.Namespace) -> list[str]:
    if options.null:
        return list(NULL_PIPELINES)
    if options.tables is not None:
        return list(TABLE_CASES)
    return list(APART if options.apart else PIPELINES)


def _told(record: dict[str, Any]) -> str:
    start = f"{record['name']} seed {record['seed']}"
    if "size" in record:
        start += f" size {record['size']:g}"
    for key in ("error", "refused"):
        if key in record:
            return f"{start}: {key}: {record[key]}"
    if "peers" in record:
        ratios = {peer: found.get("ratio") for peer, found in record["peers"].items()}
        told = (f"{peer} {output.number(ratio)}" for peer, ratio in ratios.items())
        return f"{start}: {', '.join(told)}"
    taken = record["taken"].get("hard", "the original")
    return (
        f"{start}: {record['ratio']:.3f}, {record['scaled_ratio']:.3f} vs scaled; {taken}; "
        f"tuned in {record['tune_seconds']:.1f} s, fitted in {record['fit_seconds']:.3f} s"
    )


def _version(name: str) -> str | None:
    for candidate in (name, name + "-gpu"):
        try:
            return version(candidate)
        except PackageNotFoundError:
            continue
    return None


if __name__ == "__main__":
    raise SystemExit(main())
