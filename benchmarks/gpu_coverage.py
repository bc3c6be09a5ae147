"""How many of a folder's models run on a GPU as a whole, or but for what `split` takes off.

    python benchmarks/gpu_coverage.py FOLDER [--form hard|soft] [--id NAME] [--every N]

Needs no GPU. Each model, in a process of its own, is split; every node of its GPU part is looked up
in the table of kernels; the form for the CUDA provider, and the parts one after another, must give
the original's answers on the CPU, the soft form those of the soft form for a CPU. Where gcc is at
hand, onnxruntime is asked as well which nodes it would give to the CUDA provider and where it would
copy (see cuda_bench/stand_ins.py). Prints the shares, nodes outside the table by operator and the
reasons of failures, and writes them with each model's record to benchmarks/results, or to --json.
The exit status is 1 where a node is outside the table or an answer is another one.
"""

from __future__ import annotations

import argparse
import collections
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
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
from cuda_bench.checks import HOLDS, STANDING_IN, check, placed
from cuda_bench.stand_ins import build
from facts import facts

from onnxtune import output
from onnxtune.conversion import FORMS

STAGES = ("died", "split", "equal", "chained")

_ANY = '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Neg (x) }'


def summary(records: Records) -> dict[str, tuple[int, int]]:
    """Line of the table -> (how many hold, of how many)."""
    split = [record for record in records.values() if record.get("split") == HOLDS]
    asked = [record for record in split if "copies" in record]
    cpu = [record for record in split if "cpu" in record["nodes"]]
    return {
        "with a part for the GPU": (len(split), len(records)),
        "its nodes all in the table": (sum(not r["outside"] for r in split), len(split)),
        "no copy within it, by onnxruntime": (sum(not r["copies"] for r in asked), len(asked)),
        "form for CUDA equal": (sum("WRONG" not in r["equal"] for r in split), len(split)),
        "parts equal": (sum("WRONG" not in r["chained"] for r in split), len(split)),
        "one part, all on the GPU": (sum(len(r["nodes"]) == 1 for r in split), len(split)),
        "a CPU part before it": (len(cpu), len(split)),
        "one tensor from there to the GPU": (sum(len(r["between"]) == 1 for r in cpu), len(cpu)),
        "a tail": (sum("tail" in r["nodes"] for r in split), len(split)),
    }


def operators(records: Records, what: str) -> list[tuple[str, int, list[str]]]:
    """(operator, nodes, names of models) of a count in the records, the most frequent first."""
    nodes: collections.Counter[str] = collections.Counter()
    models = collections.defaultdict(list)
    for name, record in records.items():
        for operator, count in record.get(what, {}).items():
            nodes[operator] += count
            models[operator].append(name)
    return [(operator, count, models[operator]) for operator, count in nodes.most_common()]


def _with_stand_ins() -> None:
    """Start anew with stand-ins for CUDA's libraries: they are looked for when a process starts."""
    there = all(shutil.which(tool) for tool in ("gcc", "nm", "readelf"))
    if STANDING_IN in os.environ or not there or "gpu" not in onnxruntime.get_device().lower():
        return
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        environment = os.environ | {"LD_LIBRARY_PATH": folder, STANDING_IN: folder}
        status = os.spawnve(os.P_WAIT, sys.executable, [sys.executable, *sys.argv], environment)
    raise SystemExit(status)


def main() -> int:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--form", choices=FORMS, default="hard")
    parser.add_argument("--id", help="only models whose path contains this")
    parser.add_argument("--every", type=int, default=1, help="only every N-th model")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=120)
    parser.add_argument("--json", type=Path, default=RESULTS / "gpu_coverage.json")
    options = parser.parse_args()
    _with_stand_ins()
    paths = models(parser, options, slice(None, None, options.every))
    if STANDING_IN in os.environ:
        placed(onnx.parser.parse_model(_ANY))  # each process then has the provider's library
    records = recorded(partial(check, form=options.form), paths, options)
    if options.id:
        print(output.as_json(records))
        return int(any(map(_is_wrong, records.values())))
    figures = summary(records)
    print_shares(len(records), figures)
    listed = [
        [what, operator, nodes, len(names), names[0][:24]]
        for what in ("outside", "placed")
        for operator, nodes, names in operators(records, what)
    ]
    heads = ["outside the table, placed on the CPU", "operator", "nodes", "models", "such as"]
    print("\n" + output.table(heads, listed, "llrrl"))
    grouped = reasons(records, STAGES)
    print_reasons(grouped)
    told = facts(f"python benchmarks/gpu_coverage.py FOLDER --form {options.form}")
    store(options.json, records, figures, grouped, told)
    return int(any(map(_is_wrong, records.values())))


def _is_wrong(record: dict[str, Any]) -> bool:
    return is_wrong(record) or bool(record.get("outside"))


if __name__ == "__main__":
    raise SystemExit(main())
