"""How much of a folder of ONNX models is covered: conversion, torch, tunable numbers, gradients.

    python benchmarks/coverage.py FOLDER [--id NAME] [--limit N] [--jobs N] [--json FILE]

Models lie anywhere below the folder. Each gets rows sampled from its graph, and the arrays of a
.npz file beside it where there is one. Every model has a process of its own: one that is killed,
or is not done after `--timeout` seconds, counts as a failure. Prints shares and the reasons of
failures, and writes them with each model's record to benchmarks/results/coverage.json. `--id`
takes the models whose path contains NAME and prints their records; tracebacks go to stderr. The
exit status is 1 where anything gives another answer or ends in an error that is not ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from coverage_bench.checks import HOLDS, SECONDS, check
from coverage_bench.report import (
    RESULTS,
    Records,
    is_wrong,
    models,
    print_reasons,
    print_shares,
    reasons,
    recorded,
    store,
)

from onnxtune import output

STAGES = ("died", "readable", "prepared", "hard", "torch", "native", "gradients")


def share(records: Iterable[dict[str, Any]], name: str) -> tuple[int, int]:
    """How many records hold in a check, and how many there are."""
    held = [record.get(name) == HOLDS for record in records]
    return sum(held), len(held)


def summary(records: Records) -> dict[str, tuple[int, int]]:
    """Line of the table -> (how many hold, of how many)."""
    every = list(records.values())
    learned = [record for record in every if record.get("learned")]
    own = [record for record in learned if not record["waiting"]]
    scope = [record for record in every if record.get("scope")]
    built = [record for record in learned if "native" in record]
    timed = [record["seconds"] <= SECONDS for record in every if "seconds" in record]
    plain = [not record["left"] for record in scope if "left" in record]
    return {
        "readable, with rows that run": share(every, "readable"),
        "hard form valid and equal": share(every, "hard"),
        "standard operators only, of those with ai.onnx.ml and numbers": (sum(plain), len(scope)),
        "with a learned tensor": (len(learned), len(every)),
        "torch equals onnxruntime, of those": share(learned, "torch"),
        "torch equals onnxruntime, all operators having rewrites": share(own, "torch"),
        "learned tensors that are tunable": _tunable(learned, numbers=False),
        "learned tensors that are tunable, all operators having rewrites": _tunable(own, False),
        "learned numbers that are tunable": _tunable(learned, numbers=True),
        "gradients right": share(built, "gradients"),
        "native form untouched": share(built, "native"),
        f"converted to hard and torch within {SECONDS:g} s": (sum(timed), len(every)),
    }


def _tunable(records: list[dict[str, Any]], numbers: bool) -> tuple[int, int]:
    sizes = [record["learned"] for record in records]
    tuned = [{name: r["learned"][name] for name in r.get("tunable", ())} for r in records]

    def count(tensors: list[dict[str, int]]) -> int:
        return sum(sum(held.values()) if numbers else len(held) for held in tensors)

    return count(tuned), count(sizes)


def main() -> int:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--id", help="only models whose path contains this")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--json", type=Path, default=RESULTS / "coverage.json")
    options = parser.parse_args()
    paths = models(parser, options, slice(options.limit))
    torch.set_num_threads(1)
    records = recorded(check, paths, options)
    if options.id:
        for name, record in records.items():
            traces = record.pop("tracebacks", {})
            print(name, output.as_json(record))
            print("\n".join(traces.values()), file=sys.stderr)
        return int(any(map(is_wrong, records.values())))
    figures = summary(records)
    print_shares(len(records), figures)
    grouped = reasons(records, STAGES, alike=["gradients"])
    print_reasons(grouped)
    store(options.json, records, figures, grouped)
    return int(any(map(is_wrong, records.values())))


if __name__ == "__main__":
    raise SystemExit(main())
