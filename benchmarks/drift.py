"""A model meets rows that have drifted: tuned on some of them, against refitted ones.

    python benchmarks/drift.py TABLE.csv [--rows 200 1000 5000] [--seeds 5]
        [--models lightgbm logistic] [--jobs 1]

TABLE.csv is UCI Adult: a header row, values separated by commas and spaces, "?" where one is
missing, and the target 0/1 in the column `label(IsOver50K)`. A model is trained on one part of the
table, some labelled rows of another part come in, and what counts is the log loss on further rows
of that part. There are two drifts:

- sex: trained on women, used on men. The original has seen one value of a column, and a third as
  many incomes above the line: its loss on men is a third above that of a model fitted on both. The
  labelled rows come from the first half of the men, the test rows are the second half.
- time: the table has no date, and of all columns age runs most like time. Trained on the youngest
  40 %; then the older people come, in no order: labelled rows from the first half of them, test
  rows are the second half. The original has never seen anybody of their age.

For each number of labelled rows and each seed, which draws them: the original, `onnxtune.tune` with
its default arguments, the same pipeline refitted on the labelled rows alone, and on old and
labelled rows together, which takes rows that a user of an ONNX file may not have.

ratio is the tuned loss over the original's. z is their difference over its standard error, with the
variance of its mean over rows and of its mean over seeds added: below -2 the tuned model is better,
above 2 it is worse. Prints a table and writes benchmarks/results/drift.json.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch
from facts import environment, facts
from joblib import Parallel, delayed
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import onnxtune
from onnxtune import output
from onnxtune.estimators import to_onnx
from onnxtune.model import write

RESULTS = Path(__file__).parent / "results" / "drift.json"
TARGET = "label(IsOver50K)"
PACKAGES = ("lightgbm", "numpy", "onnx", "scikit-learn", "skl2onnx", "torch")

# What float32 resolves beside 1: a probability never counts as less.
SMALLEST = 1e-7

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Drift:
    """Row numbers: to train the original on, to draw labelled rows from, and to test on."""

    name: str
    old: Array
    labelled: Array
    test: Array


@dataclass(frozen=True)
class Outcome:
    """What one draw of labelled rows brought: losses per test row, by way of making the model."""

    losses: dict[str, Array]
    accepted: bool  # in the native form, which is the one that is tested
    tune_s: float


def read(path: Path) -> tuple[pd.DataFrame, Array]:
    """The columns and the target; numbers as float32, a missing string as the empty string."""
    table = pd.read_csv(path, skipinitialspace=True, na_values="?")
    target = table.pop(TARGET).to_numpy().astype(int)
    numbers = table.select_dtypes("number").columns
    strings = table.columns.difference(numbers)
    table[numbers] = table[numbers].astype(np.float32)
    table[strings] = table[strings].astype(object).fillna("")
    return table, target


def drifts(table: pd.DataFrame) -> list[Drift]:
    """The two drifts; see the module's description."""
    women = (table["sex"] == "Female").to_numpy()
    men = np.flatnonzero(~women)
    half = len(men) // 2
    aging = np.argsort(table["age"].to_numpy(), kind="stable")
    young, later = np.split(aging, [int(0.4 * len(aging))])
    later = np.random.default_rng(0).permutation(later)
    return [
        Drift("sex", np.flatnonzero(women), men[:half], men[half:]),
        Drift("time", young, later[: len(later) // 2], later[len(later) // 2 :]),
    ]


def lightgbm() -> Any:
    """100 trees of 31 leaves."""
    return LGBMClassifier(n_estimators=100, num_leaves=31, n_jobs=1, verbose=-1)


def logistic() -> Any:
    """Scikit-learn's default penalty."""
    return LogisticRegression(max_iter=2000)


MODELS: dict[str, Callable[[], Any]] = {"lightgbm": lightgbm, "logistic": logistic}


def fitted(model: str, table: pd.DataFrame, target: Array, rows: Array) -> Pipeline:
    """The pipeline, fitted on these rows."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    strings = OneHotEncoder(handle_unknown="ignore")
    numeric = table.select_dtypes("number").columns.tolist()
    others = [name for name in table.columns if name not in numeric]
    columns = ColumnTransformer([("strings", strings, others), ("numbers", numbers, numeric)])
    return make_pipeline(columns, MODELS[model]()).fit(table.iloc[rows], target[rows])


def feed(table: pd.DataFrame) -> dict[str, Array]:
    """Each column as an input [N, 1]."""
    return {name: table[name].to_numpy()[:, None] for name in table.columns}


def predicted(proto: onnx.ModelProto, table: pd.DataFrame) -> Array:
    """Probabilities of class 1, by onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = session.run(["probabilities"], feed(table))[0]
    return np.asarray(found)[:, 1]


def losses(probability: Array, target: Array) -> Array:
    """The log loss of each row."""
    kept = np.clip(np.where(target == 1, probability, 1 - probability), SMALLEST, 1)
    found: Array = -np.log(kept.astype(np.float64))
    return found


def attempt(
    original: onnx.ModelProto,
    model: str,
    table: pd.DataFrame,
    target: Array,
    drift: Drift,
    count: int,
    seed: int,
) -> Outcome:
    """Draw `count` labelled rows; tune on them, and refit."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = np.random.default_rng(seed).permutation(drift.labelled)[:count]
    tested, answers = table.iloc[drift.test], target[drift.test]
    start = time.perf_counter()
    result = onnxtune.tune(original, feed(table.iloc[rows]), target[rows])
    seconds = time.perf_counter() - start
    found = {"tuned": losses(predicted(result.model(), tested), answers)}
    refits = {"new alone": rows, "old+new": np.concatenate([drift.old, rows])}
    for name, chosen in refits.items():
        estimator = fitted(model, table, target, chosen)
        found[name] = losses(estimator.predict_proba(tested)[:, 1], answers)
    return Outcome(found, result.hard is not None, seconds)


def z_value(differences: Array) -> float | None:
    """Of differences [seeds, rows]: their mean over its standard error; None where all are 0.

    The error has two parts, the choice of the test rows and that of the labelled rows.
    """
    seeds, rows = differences.shape
    variance = differences.mean(axis=0).var(ddof=1) / rows
    if seeds > 1:
        variance += differences.mean(axis=1).var(ddof=1) / seeds
    return float(differences.mean() / np.sqrt(variance)) if variance > 0 else None


def summary(untouched: Array, outcomes: list[Outcome]) -> dict[str, Any]:
    """Mean losses of every way, its ratio to the original's, and z against it and the tuned."""
    ways = {name: np.stack([o.losses[name] for o in outcomes]) for name in outcomes[0].losses}
    record: dict[str, Any] = {
        "original": float(untouched.mean()),
        "seeds": len(outcomes),
        "accepted": sum(outcome.accepted for outcome in outcomes),
        "tune_s": float(np.mean([outcome.tune_s for outcome in outcomes])),
    }
    for name, found in ways.items():
        record[name] = {
            "loss": float(found.mean()),
            "by_seed": found.mean(axis=1),
            "ratio": float(found.mean() / untouched.mean()),
            "z_to_original": z_value(found - untouched),
            "z_to_tuned": None if name == "tuned" else z_value(found - ways["tuned"]),
        }
    return record


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("table", type=Path)
    parser.add_argument("--rows", nargs="+", type=int, default=[200, 1000, 5000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()

    table, target = read(options.table)
    worker = Parallel(n_jobs=options.jobs)
    lines, records = [], []
    for drift, model in itertools.product(drifts(table), options.models):
        old = table.iloc[drift.old]
        original = to_onnx(fitted(model, table, target, drift.old), old)
        untouched = losses(predicted(original, table.iloc[drift.test]), target[drift.test])
        cases = [
            (n, s) for n in options.rows if n <= len(drift.labelled) for s in range(options.seeds)
        ]
        outcomes = worker(
            delayed(attempt)(original, model, table, target, drift, n, s) for n, s in cases
        )
        for count in dict.fromkeys(n for n, _ in cases):
            some = [o for o, (n, _) in zip(outcomes, cases, strict=True) if n == count]
            record = summary(untouched, some)
            records.append({"drift": drift.name, "model": model, "n": count} | record)
            lines.append(
                [
                    drift.name,
                    model,
                    count,
                    f"{record['original']:.4f}",
                    f"{record['tuned']['loss']:.4f}",
                    f"{record['tuned']['ratio']:.3f}",
                    record["tuned"]["z_to_original"],
                    f"{record['new alone']['loss']:.4f}",
                    f"{record['old+new']['loss']:.4f}",
                    f"{record['accepted']} of {record['seeds']}",
                    output.duration(record["tune_s"]),
                ]
            )
        print(f"{drift.name}, {model}: {len(drift.old):,} rows trained on, "
              f"{len(drift.labelled):,} to draw from, {len(drift.test):,} to test on",
              file=sys.stderr)  # fmt: skip
    headers = ["drift", "model", "n", "original", "tuned", "ratio", "z", "new alone", "old+new",
               "taken", "tuning"]  # fmt: skip
    print(output.table(headers, lines))
    arguments = [options.table.name if a == str(options.table) else a for a in sys.argv[1:]]
    found = facts(" ".join(["python", "benchmarks/drift.py", *arguments]))
    RESULTS.parent.mkdir(exist_ok=True)
    write(
        RESULTS,
        output.as_json({**found, "environment": environment(PACKAGES), "rows": records}).encode()
        + b"\n",
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
