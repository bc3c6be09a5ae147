"""A tuned estimator's answers beside a bare call of onnxruntime on the same model and rows.

    python benchmarks/sklearn_face.py [--repeats 2000]

Both sides take turns in one run. The bare call is `session.run` of the same outputs on the same
float32 array, in a session made with onnxruntime's defaults but for the number of threads, which is
one on both sides. `float64` rows are what the estimator has to round first. Prints the medians and
their ratio, and writes benchmarks/results/sklearn_face.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from facts import environment, facts
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onnxtune import output
from onnxtune.model import write
from onnxtune.sklearn import TunedClassifier, TunedRegressor, TunedTransformer

RESULTS = Path(__file__).parent / "results" / "sklearn_face.json"
PACKAGES = ("numpy", "onnx", "scikit-learn", "skl2onnx", "torch")
FEATURES = 20
SECONDS = 1.5  # of each side, for models that take long


def estimators() -> Iterator[tuple[str, Any, str]]:
    """Name, estimator and the kind of its target."""
    yield "logistic regression", TunedClassifier(LogisticRegression()), "classes"
    yield "the same, labels of words", TunedClassifier(LogisticRegression()), "words"
    yield "ridge", TunedRegressor(Ridge()), "numbers"
    scaled = make_pipeline(StandardScaler(), LogisticRegression())
    yield "scaler, logistic regression", TunedClassifier(scaled), "classes"
    forest = RandomForestClassifier(100, max_depth=8)
    yield "forest of 100", TunedClassifier(forest), "classes"
    boosted = make_pipeline(StandardScaler(), GradientBoostingRegressor())
    yield "scaler, 100 boosted trees", TunedRegressor(boosted), "numbers"
    yield "scaler", TunedTransformer(StandardScaler()), "numbers"
    yield "PCA to 10", TunedTransformer(PCA(10)), "numbers"


def in_turns(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> list[float]:
    """The median seconds of each."""
    seconds = np.empty((repeats, 2))
    for turn in range(repeats):
        for place, call in enumerate((first, second)):
            start = time.perf_counter()
            call()
            seconds[turn, place] = time.perf_counter() - start
    return [float(value) for value in np.median(seconds, axis=0)]


def measured(name: str, fitted: Any, repeats: int) -> Iterator[dict[str, Any]]:
    """The figures of one estimator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        fitted.onnx_.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    entering = session.get_inputs()[0].name
    outputs = [value.name for value in session.get_outputs()]
    rng = np.random.default_rng(1)
    methods = {"predict": outputs[:1], "predict_proba": outputs[1:2], "transform": outputs[:1]}
    for rows in (1, 10_000):
        single = rng.normal(size=(rows, FEATURES)).astype(np.float32)
        for method, wanted in methods.items():
            if not (wanted and hasattr(fitted, method)):
                continue
            for given in (single, single.astype(np.float64)):
                sides = (
                    lambda m=method, X=given: getattr(fitted, m)(X),
                    lambda w=wanted, X=single: session.run(w, {entering: X}),
                )
                once = max(in_turns(*sides, 3))
                own, bare = in_turns(*sides, int(np.clip(SECONDS / once, 10, repeats)))
                yield {
                    "model": name,
                    "method": method,
                    "rows": rows,
                    "given": str(given.dtype),
                    "own_s": own,
                    "bare_s": bare,
                    "ratio": own / bare,
                }


def main() -> int:
    """Fit, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, FEATURES))
    number = X[:, 0] + X[:, 1] ** 2 + 0.5 * rng.normal(size=600)
    classes = (number > 1).astype(int)
    targets = {"numbers": number, "classes": classes, "words": np.array(["low", "high"])[classes]}
    found: list[dict[str, Any]] = []
    for name, own, kind in estimators():
        own.set_params(epochs=3, threads=1, random_state=0).fit(X, targets[kind])
        found += measured(name, own, arguments.repeats)
    table = [
        [
            one["model"],
            one["method"],
            f"{one['rows']:,}",
            one["given"],
            output.duration(one["own_s"]),
            output.duration(one["bare_s"]),
            f"{one['ratio']:.2f}",
        ]
        for one in found
    ]
    print(
        output.table(["model", "method", "rows", "given", "own", "bare", "ratio"], table, "llrlrrr")
    )
    head = facts(" ".join(["python", *sys.argv])) | environment(PACKAGES)
    write(RESULTS, output.as_json(head | {"rows": found}).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
