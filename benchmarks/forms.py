"""The three forms of a model against the original in onnxruntime: time, file size, agreement.

    python benchmarks/forms.py [--providers cpu cuda] [--batch-sizes 1 1000 20000] [--threads 1]

Prints a table and writes benchmarks/results/forms.json. Times are compared within one run, the
models taking turns; the ratio is the one to quote.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from facts import facts
from sklearn.datasets import make_friedman1
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import onnxtune
from onnxtune import output
from onnxtune.estimators import to_onnx
from onnxtune.model import write

RESULTS = Path(__file__).parent / "results" / "forms.json"


def models() -> dict[str, Any]:
    """Fitted pipelines of several shapes."""
    return {
        "boosting, 100 x depth 4": GradientBoostingRegressor(max_depth=4, random_state=0),
        "forest, 100 x depth 8": RandomForestRegressor(100, max_depth=8, random_state=0, n_jobs=-1),
        "scaler, PCA, forest of 50": make_pipeline(
            StandardScaler(),
            PCA(10),
            RandomForestClassifier(50, max_depth=7, random_state=0, n_jobs=-1),
        ),
    }


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--providers", nargs="+", default=["cpu"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 1000, 20_000])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    X, y = make_friedman1(6000, n_features=20, noise=1, random_state=0)
    X = X.astype(np.float32)
    lines, records = [], []
    for name, estimator in models().items():
        target = (y > np.median(y)).astype(int) if "PCA" in name else y
        original = to_onnx(estimator.fit(X[:4000], target[:4000]), X[:4000])
        forms: dict[str, onnx.ModelProto] = {"original": original}
        seconds = {}
        for form in ("hard", "soft"):
            start = time.perf_counter()
            forms[form] = onnxtune.convert(original, form=form, data=X[:4000])  # type: ignore[arg-type]
            seconds[form] = time.perf_counter() - start
        same = onnxtune.verify(original, forms["hard"], X[4000:]).agrees
        report = onnxtune.bench(
            forms, X, options.providers, options.batch_sizes, threads=options.threads, seconds=1.0
        )
        for row in report.rows:
            size = forms[row.model].ByteSize()
            record = {"shape": name, "bytes": size, "convert_s": seconds.get(row.model)}
            records.append(record | vars(row) | {"hard_equals_original": same})
            lines.append(
                [
                    name,
                    row.model,
                    row.provider,
                    row.batch_size,
                    row.error or output.duration(row.median_s),
                    row.ratio,
                    size,
                    output.duration(seconds.get(row.model)),
                ]
            )
        print(f"{name}: hard form {'equals' if same else 'DIFFERS FROM'} the original",
              file=sys.stderr)  # fmt: skip
    headers = ["shape", "form", "provider", "batch", "median", "ratio", "bytes", "conversion"]
    print(output.table(headers, lines))
    found = {**facts(" ".join(["python", *sys.argv])), "environment": report.environment}
    RESULTS.parent.mkdir(exist_ok=True)
    write(RESULTS, output.as_json({**found, "rows": records}).encode() + b"\n")
    return 0 if all(record["hard_equals_original"] for record in records) else 1


if __name__ == "__main__":
    raise SystemExit(main())
