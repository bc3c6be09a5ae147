"""What is common to the benchmarks that check a folder of models, one record a model."""

from __future__ import annotations

import argparse
import collections
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from coverage_bench.checks import HOLDS
from coverage_bench.processes import Work, each_apart
from onnxtune import output
from onnxtune.model import write

RESULTS = Path(__file__).parents[1] / "results"

Records = dict[str, dict[str, Any]]
Reasons = list[tuple[str, str, list[str]]]


def models(
    parser: argparse.ArgumentParser, options: argparse.Namespace, taken: slice
) -> list[Path]:
    """The models of `options.folder`, a slice of those whose path contains `options.id`."""
    paths = sorted(options.folder.rglob("*.onnx"))
    if options.id:
        paths = [path for path in paths if options.id in str(path.relative_to(options.folder))]
    if not paths[taken]:
        parser.error(f"{options.folder}: holds no such .onnx file")
    return paths[taken]


def recorded(check: Work, paths: list[Path], options: argparse.Namespace) -> Records:
    """A record of every model by its path in the folder, each made in a process of its own."""
    records: Records = {}
    with output.progress(len(paths), "models") as bar:
        for path, record in each_apart(check, paths, options.jobs, options.timeout):
            records[str(path.relative_to(options.folder))] = record
            bar.update(1)
    return dict(sorted(records.items()))


def reasons(records: Records, stages: Iterable[str], alike: Collection[str] = ()) -> Reasons:
    """(check, reason, names of models), the most frequent first.

    Names and numbers apart, alike reasons are one; wrong answers of the checks in `alike` are, too.
    """
    found: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    stages = list(stages)
    for name, record in records.items():
        for stage in stages:
            outcome = record.get(stage, HOLDS)
            if outcome != HOLDS:
                plain = re.sub(r"\S+\.onnx: |'[^']*'|-?\d[\d.e+-]*|\[[^]]*\]", "_", outcome)
                if stage in alike and plain.startswith("WRONG"):
                    plain = "WRONG"
                found[stage, plain].append(name)
    order = sorted(found, key=lambda key: (key[0], -len(found[key])))
    return [(*key, found[key]) for key in order]


def print_shares(count: int, figures: Mapping[str, tuple[int, int]]) -> None:
    """The table of what holds, of so many models."""
    lines = [
        [line, held, of, f"{held / of:.1%}" if of else ""] for line, (held, of) in figures.items()
    ]
    print(f"{count} models\n")
    print(output.table(["", "hold", "of", "share"], lines))


def print_reasons(grouped: Reasons) -> None:
    """The table of `reasons`."""
    rows = [[stage, len(names), why[:140], names[0][:24]] for stage, why, names in grouped]
    print("\n" + output.table(["check", "models", "reason", "such as"], rows, "lrll"))


def store(
    path: Path,
    records: Records,
    figures: Mapping[str, tuple[int, int]],
    grouped: Reasons,
    told: Mapping[str, Any] | None = None,
) -> None:
    """Write all of it as JSON, behind what else is to be told; makes the folder of results."""
    whole = {
        **(told or {}),
        "models": len(records),
        "figures": figures,
        "reasons": [{"check": s, "reason": why, "models": names} for s, why, names in grouped],
        "records": records,
    }
    if path.parent == RESULTS:
        RESULTS.mkdir(exist_ok=True)
    write(path, output.as_json(whole).encode() + b"\n")


def is_wrong(record: Mapping[str, Any]) -> bool:
    """Whether an answer is another one, or the process ended in an error that is not ours."""
    texts = [value for value in record.values() if isinstance(value, str)]
    return "died" in record or any(text.startswith(("WRONG", "CRASH")) for text in texts)
