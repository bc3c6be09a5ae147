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
import collections
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from coverage_bench.checks import HOLDS, SECONDS, check
from coverage_bench.processes import each_apart

from onnxtune import output
from onnxtune.model import write
from onnxtune.output import progress

RESULTS = Path(__file__).parent / "results" / "coverage.json"

Records = dict[str, dict[str, Any]]


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


def reasons(records: Records) -> list[tuple[str, str, list[str]]]:
    """(check, reason, names of models), the most frequent first.

    Names and numbers apart, alike reasons are one.
    """
    found: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for name, record in records.items():
        for stage in ("died", "readable", "prepared", "hard", "torch", "native", "gradients"):
            outcome = record.get(stage, HOLDS)
            if outcome != HOLDS:
                plain = re.sub(r"\S+\.onnx: |'[^']*'|-?\d[\d.e+-]*|\[[^]]*\]", "_", outcome)
                if stage == "gradients" and plain.startswith("WRONG"):
                    plain = "WRONG"
                found[stage, plain].append(name)
    order = sorted(found, key=lambda key: (key[0], -len(found[key])))
    return [(*key, found[key]) for key in order]


def main() -> int:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--id", help="only models whose path contains this")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    paths = sorted(options.folder.rglob("*.onnx"))
    if options.id:
        paths = [path for path in paths if options.id in str(path.relative_to(options.folder))]
    paths = paths[: options.limit]
    if not paths:
        parser.error(f"{options.folder}: holds no such .onnx file")
    torch.set_num_threads(1)
    records: Records = {}
    with progress(len(paths), "models") as bar:
        for path, record in each_apart(check, paths, options.jobs, options.timeout):
            records[str(path.relative_to(options.folder))] = record
            bar.update(1)
    records = dict(sorted(records.items()))
    if options.id:
        for name, record in records.items():
            traces = record.pop("tracebacks", {})
            print(name, output.as_json(record))
            print("\n".join(traces.values()), file=sys.stderr)
        return int(any(map(_is_wrong, records.values())))
    figures = summary(records)
    lines = [
        [line, held, of, f"{held / of:.1%}" if of else ""] for line, (held, of) in figures.items()
    ]
    print(f"{len(records)} models\n")
    print(output.table(["", "hold", "of", "share"], lines))
    grouped = reasons(records)
    rows = [[stage, len(names), why[:140], names[0][:24]] for stage, why, names in grouped]
    print("\n" + output.table(["check", "models", "reason", "such as"], rows, "lrll"))
    whole = {
        "models": len(records),
        "figures": figures,
        "reasons": [{"check": s, "reason": why, "models": names} for s, why, names in grouped],
        "records": records,
    }
    if options.json.parent == RESULTS.parent:
        RESULTS.parent.mkdir(exist_ok=True)
    write(options.json, output.as_json(whole).encode() + b"\n")
    return int(any(map(_is_wrong, records.values())))


def _is_wrong(record: dict[str, Any]) -> bool:
    texts = [value for value in record.values() if isinstance(value, str)]
    return "died" in record or any(text.startswith(("WRONG", "CRASH")) for text in texts)


if __name__ == "__main__":
    raise SystemExit(main())
