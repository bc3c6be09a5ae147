"""The forms of hard trees side by side in onnxruntime: what the choice among them costs.

    python benchmarks/tree_forms.py [--batch-sizes 1 100 1000 20000] [--seconds 1]

The shapes are others than those that the prices in rewrites/trees/costs.py were set on. Prints a
table and writes benchmarks/results/tree_forms.json: of every shape and batch size the medians of
the forms (one thread, the forms taking turns), the form that was chosen, and its time over the
best one's.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.datasets import make_friedman1

import onnxtune
from onnxtune import output
from onnxtune.estimators import to_onnx
from onnxtune.model import write
from rewrites.core.rewrite import TREE_FORMS

RESULTS = Path(__file__).parent / "results" / "tree_forms.json"

# Trees, leaves a tree, depth (-1 for no limit), columns of scores.
SHAPES = [
    (trees, leaves, depth, columns)
    for trees in (25, 150)
    for leaves, depth in ((2, 1), (4, 2), (8, 3), (32, 5), (128, 7), (31, -1))
    for columns in (1, 3)
]

# A form whose nodes times rows are beyond this many is not timed: it takes minutes.
_MOST = 4e8


def fitted(trees: int, leaves: int, depth: int, columns: int) -> onnx.ModelProto:
    """An ensemble of the shape."""
    X, y = make_friedman1(6000, n_features=20, noise=1, random_state=0)
    options: dict[str, Any] = {
        "n_estimators": trees // columns,
        "num_leaves": leaves,
        "max_depth": depth,
        "min_child_samples": 3,
        "verbose": -1,
        "n_jobs": 1,
    }
    if columns == 1:
        return to_onnx(LGBMRegressor(**options).fit(X, y), X)
    classes = np.digitize(y, np.quantile(y, np.arange(1, columns) / columns))
    return to_onnx(LGBMClassifier(**options).fit(X, classes), X)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 100, 1000, 20_000])
    parser.add_argument("--seconds", type=float, default=1.0, help="for the forms of one batch")
    options = parser.parse_args()

    rows, _ = make_friedman1(20_000, n_features=20, random_state=1)
    rows = rows.astype(np.float32)
    records = []
    for shape in SHAPES:
        model = fitted(*shape)
        forms = {
            form: onnxtune.convert(model, form="hard", trees=form, batch_size=1)
            for form in TREE_FORMS
        }
        for batch in options.batch_sizes:
            report = onnxtune.inspect(model, batch_size=batch)
            chosen = next(node.trees.form for node in report.nodes if node.trees is not None)
            few = 2 * shape[0] * shape[1] * batch < _MOST
            timed = {form: forms[form] for form in TREE_FORMS if few or form == "traversal"}
            timings = onnxtune.bench(
                timed, rows, ["cpu"], [batch], threads=1, seconds=options.seconds
            )
            medians = {row.model: row.median_s for row in timings.rows if row.median_s}
            cost = medians[chosen] / min(medians.values())
            names = ("trees", "leaves", "depth", "columns")
            record = dict(zip(names, shape, strict=True)) | {"batch_size": batch}
            records.append(record | {"chosen": chosen, "cost": cost, "median_s": medians})
            print(f"{shape} {batch}: {chosen} {cost:.2f}", file=sys.stderr)
    table = [
        [r["trees"], r["leaves"], r["depth"], r["columns"], r["batch_size"]]
        + [output.duration(r["median_s"].get(form)) for form in TREE_FORMS]
        + [r["chosen"], f"{r['cost']:.2f}"]
        for r in records
    ]
    headers = ["trees", "leaves", "depth", "columns", "batch", *TREE_FORMS, "chosen", "cost"]
    print(output.table(headers, table))
    costs = [record["cost"] for record in records]
    print(f"\nThe choice costs at most {max(costs):.2f} of the best form, in the mean "
          f"{np.mean(costs):.2f}.")  # fmt: skip
    facts = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "onnxtune": onnxtune.__version__,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    write(RESULTS, output.as_json({**facts, "rows": records}).encode() + b"\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
