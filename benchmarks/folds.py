"""Few rows: five folds in turn and their mean, against one fifth of the rows held out.

    python benchmarks/folds.py [--seeds 2] [--only NAME ...]

Pipelines of the quality benchmark, tuned on rows that they were not fitted on, 900 at most: once
with the default `valid=0.2`, where every row is validated on in turn and the mean of the folds'
tensors is handed out, once with every fifth row named, which is validated on throughout. Both are
tested on the same further rows. Prints test losses over the original's.
"""

from __future__ import annotations

import argparse

import numpy as np
from quality_bench.original import fit, predictions
from quality_bench.pipelines import PIPELINES
from quality_bench.tasks import mean_loss

import onnxtune
from onnxtune import output

MOST = 900


def ratios(name: str, seed: int) -> tuple[int, float, float]:
    """The rows, and the test loss over the original's: of one fifth held out, and of the folds."""
    case = PIPELINES[name]
    original = fit(case, seed)
    split = original.split
    half = len(split.y_test) // 2
    X = np.concatenate([split.X_valid, split.X_test[:half]])[:MOST]
    y = np.concatenate([split.y_valid, split.y_test[:half]])[:MOST]
    X_test, y_test = split.X_test[half:], split.y_test[half:]

    def loss(proto: object) -> float:
        return mean_loss(case.task, predictions(proto, X_test, case.task), y_test)  # type: ignore[arg-type]

    before = loss(original.proto)
    one = onnxtune.tune(original.proto, X, y, valid=np.arange(0, len(X), 5))
    turns = onnxtune.tune(original.proto, X, y)
    return len(X), loss(one.model()) / before, loss(turns.model()) / before


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(PIPELINES), choices=list(PIPELINES))
    options = parser.parse_args()
    lines, found = [], []
    for name in options.only:
        for seed in range(options.seeds):
            rows, one, turns = ratios(name, seed)
            found.append((one, turns))
            lines.append([name, seed, rows, f"{one:.3f}", f"{turns:.3f}"])
    print(output.table(["pipeline", "seed", "rows", "one fifth", "five folds"], lines))
    one, turns = np.exp(np.log(np.array(found)).mean(axis=0))
    print(f"\nGeometric mean of {len(found)} runs: one fifth {one:.3f}, five folds {turns:.3f}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
