"""What the training loop costs beside the arithmetic, and what caching saves.

    python benchmarks/trainer.py TABLE.csv [--rows 22792] [--repeats 5]

TABLE.csv is UCI Adult: a header row, values separated by commas and spaces, "?" where one is
missing, and the target 0/1 in the column `label(IsOver50K)`. The model is LightGBM with 100 trees
of 31 leaves behind one-hot and scaled columns; torch and onnxruntime have one thread.

- overhead: `training_loop.step` over batches of 256 rows, taken in random order, against forward,
  backward and Adam's step of the same module on batches that lie ready. Of the soft model, of
  straight-through routing and of a linear model in place of the trees.
- cache: an epoch of leaves alone, whose rows' leaves are known, against one of the soft model whose
  rows go through the whole core every time; both train everything that their routing can.

Prints ratios within one run, medians of the repeats, and writes benchmarks/results/trainer.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import drift
import torch
from facts import environment, facts
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from onnxtune import output
from onnxtune.data import Table
from onnxtune.estimators import to_onnx
from onnxtune.model import load, write
from onnxtune.parameters import standardised
from onnxtune.preparation import prepare
from onnxtune.problem import Problem, pose, trainable
from onnxtune.row_losses import row_losses
from onnxtune.rows import Rows, core_rows
from onnxtune.settings import LEARNING_RATES, Settings
from onnxtune.training_loop import step
from rewrites.core.rewrite import Routing

RESULTS = Path(__file__).parent / "results" / "trainer.json"
BATCH = 256


def problem_of(estimator: Any, table: Any, target: Any) -> tuple[Problem, Table]:
    """The pipeline fitted on the first rows, to be tuned on all."""
    numeric = table.select_dtypes("number").columns.tolist()
    others = [name for name in table.columns if name not in numeric]
    columns = ColumnTransformer(
        [
            ("strings", OneHotEncoder(handle_unknown="ignore"), others),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numeric),
        ]
    )
    some = slice(0, 10_000)
    fitted = make_pipeline(columns, estimator).fit(table.iloc[some], target[some])
    prepared = prepare(load(to_onnx(fitted, table.iloc[:100])))
    rows = Table(drift.feed(table), target, len(table))
    return pose(prepared, rows, None, "auto", None, 0.1, torch.device("cpu")), rows


def settings_of(problem: Problem, names: list[str]) -> Settings:
    """As `tune` trains by default."""
    learned = problem.original.learned
    rates = {name: LEARNING_RATES[learned[name].group] for name in names}
    return Settings(problem.loss, problem.output, 1, BATCH, rates, 1, 0)


def seconds(function: Callable[[], None]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def ready(problem: Problem, table: Table, routing: Routing, names: list[str]) -> Rows:
    """The rows up to where training begins."""
    module = problem.original
    module.routing = routing
    return core_rows(module, table, problem.target(table), [routing], names)


def loop(problem: Problem, rows: Rows, routing: Routing, names: list[str]) -> Callable[[], None]:
    """An epoch as `tune` runs it."""
    module, settings = problem.original, settings_of(problem, names)
    parameters = standardised(dict(module.learned), names, torch.device("cpu"))
    optimizer = torch.optim.Adam([p.delta for p in parameters.values()], lr=1e-3, fused=True)
    generator = torch.Generator().manual_seed(0)

    def epoch() -> None:
        for several in torch.split(torch.randperm(len(rows), generator=generator), 16 * BATCH):
            taken = rows.take(several)
            for at in range(0, len(several), BATCH):
                part = taken.take(slice(at, at + BATCH))
                step(module, parameters, optimizer, part, settings, routing)

    return epoch


def bare(problem: Problem, rows: Rows, routing: Routing, names: list[str]) -> Callable[[], None]:
    """Forward, backward and Adam's step, of batches that lie ready."""
    module, settings = problem.original, settings_of(problem, names)
    tensors = module.tensors()
    optimizer = torch.optim.Adam([tensors[name] for name in names], lr=1e-3)
    batches = [rows.take(slice(at, at + BATCH)) for at in range(0, len(rows), BATCH)]

    def epoch() -> None:
        for batch in batches:
            optimizer.zero_grad()
            row_losses(module, {}, batch, settings, routing).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return epoch


def uncached(problem: Problem, table: Table) -> Callable[[], None]:
    """An epoch of the soft model from the core's inputs on."""
    module = problem.original
    names = trainable(module, False, ())
    module.routing = "soft"
    arrays = module.run_prefix(table.feed)
    inputs = module.to_tensors(arrays)
    target = torch.as_tensor(problem.target(table))
    settings = settings_of(problem, names)
    parameters = standardised(dict(module.learned), names, torch.device("cpu"))
    optimizer = torch.optim.Adam([p.delta for p in parameters.values()], lr=1e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    value = module.links[problem.output].value if problem.loss.of_source else problem.output

    def epoch() -> None:
        module.routing = "soft"
        for batch in torch.split(torch.randperm(len(target), generator=generator), BATCH):
            optimizer.zero_grad()
            moved = {**module.tensors(), **{n: p.value() for n, p in parameters.items()}}
            found = module.evaluate([each[batch] for each in inputs], moved)
            columns = found[value].reshape(len(batch), -1)
            settings.loss.rows(columns, target[batch]).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return epoch


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("table", type=Path)
    parser.add_argument("--rows", type=int, default=22_792)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    frame, target = drift.read(options.table)
    frame, target = frame.iloc[: options.rows], target[: options.rows]

    trees, rows = problem_of(drift.lightgbm(), frame, target)
    linear, _ = problem_of(LogisticRegression(max_iter=2000), frame, target)
    records: dict[str, Any] = {}
    cases: list[tuple[str, Problem, Routing, bool]] = [
        ("soft", trees, "soft", False),
        ("straight-through", trees, "straight-through", False),
        ("leaves", trees, "hard", True),
        ("linear", linear, "hard", False),
    ]
    for name, problem, routing, leaves in cases:
        names = trainable(problem.original, leaves, ())
        held = ready(problem, rows, routing, names)
        some = held.take(slice(0, 20 * BATCH)) if name in ("soft", "straight-through") else held
        ours, theirs = (make(problem, some, routing, names) for make in (loop, bare))
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(options.repeats + 1)][1:]
        records[name] = {
            "rows": len(some),
            "loop_s": statistics.median(first for first, _ in pairs),
            "bare_s": statistics.median(second for _, second in pairs),
            "ratio": statistics.median(first / second for first, second in pairs),
        }
    names = trainable(trees.original, True, ())
    fast = loop(trees, ready(trees, rows, "hard", names), "hard", names)
    slow = uncached(trees, rows)
    fast()
    leaf_s = statistics.median(seconds(fast) for _ in range(options.repeats))
    soft_s = seconds(slow)
    records["cache"] = {"leaves_s": leaf_s, "soft_s": soft_s, "ratio": soft_s / leaf_s}

    lines = [
        [name, f"{record['rows']:,}", output.duration(record["loop_s"]),
         output.duration(record["bare_s"]), f"{record['ratio']:.2f}"]
        for name, record in records.items() if name != "cache"
    ]  # fmt: skip
    print(output.table(["trained", "rows", "loop", "bare", "ratio"], lines))
    print(f"\nEpoch of {rows.rows:,} rows: leaves alone {output.duration(leaf_s)}, uncached soft "
          f"{output.duration(soft_s)}: {soft_s / leaf_s:.1f} times.")  # fmt: skip
    arguments = [options.table.name if a == str(options.table) else a for a in sys.argv[1:]]
    found = facts(" ".join(["python", "benchmarks/trainer.py", *arguments]))
    RESULTS.parent.mkdir(exist_ok=True)
    write(
        RESULTS,
        output.as_json(
            {**found, "environment": environment(drift.PACKAGES), "figures": records}
        ).encode()
        + b"\n",
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
