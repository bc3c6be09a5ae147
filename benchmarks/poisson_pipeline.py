"""A pipeline of four steps with a Poisson regression at its end, tuned as one network.

    python benchmarks/poisson_pipeline.py [--seeds 5] [--components 4] [--lr LR] [--epochs N]

After Yu, Amizadeh, Kim, Pagnoni, Chun, Weimer and Interlandi, "Making Classical Machine Learning
Pipelines Differentiable: A Neural Translation Approach" (2018, arXiv:1906.03822): categories become
one-hot, PCA and a min-max scaling follow, the score of a linear classifier is appended to what they
give, and a Poisson regression ends it. Each step is fitted for itself, on 2,300 rows. The data are
those of the RAND health insurance experiment that come with statsmodels: visits to a doctor in a
year, by insurance, income and health. The classifier's question is whether there was any visit.

The PCA keeps 4 components, 98 % of the variance: it knows nothing of the visits, and what it drops
is what tuning can win back. With 8 that is a quarter of it, with 12 nothing. After the one-hot
columns all steps are affine up to the exponential, the classifier's score too.

For each seed, which draws the rows: the original, the same network trained from random weights,
and the tuned one. Both are trained on the rows that the original was fitted on, with 1,150 further
rows to validate on; all others, some 17,000, are test rows. The table counts visits of people over
several years, so that a person can be on both sides; it does not say who is who.

"direct" is what such a network can come to at best: one Poisson regression on the one-hot and the
scaled columns, without the steps between, its penalty the best of five on the validation rows.

Figures are means over the test rows: the Poisson loss, rate - y log(rate); the deviance, twice that
plus what depends on y alone; L1, the absolute error; L2, the squared error. z is the difference to
the original's Poisson loss over its standard error: below -2 a model is better, above 2 worse.

Prints a table and writes benchmarks/results/poisson_pipeline.json. The exit status is 1 where a
network's answers are not those of its scikit-learn steps.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from facts import environment, facts
from onnx import TensorProto, helper, numpy_helper
from scipy.special import xlogy
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

import onnxtune
from onnxtune import output
from onnxtune.estimators import to_onnx
from onnxtune.model import write

RESULTS = Path(__file__).parent / "results" / "poisson_pipeline.json"
TARGET = "mdvis"
# Co-insurance has five values, coded by their rank; the others are 0 or 1.
CATEGORIES = ("lncoins", "idp", "hlthg", "hlthf", "hlthp")
NUMBERS = ("lpi", "fmde", "physlm", "disea")
TRAINING, VALIDATION = 2300, 1150
PENALTIES = (1e-4, 0.01, 0.03, 0.1, 0.3)
MEASURES = ("poisson", "deviance", "l1", "l2")
PACKAGES = ("numpy", "onnx", "scikit-learn", "skl2onnx", "statsmodels", "torch")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Steps:
    """The fitted steps: features, classifier, regression."""

    features: Pipeline
    classifier: LogisticRegression
    regression: PoissonRegressor

    def predict(self, X: Array) -> Array:
        """The rates, [N], by scikit-learn."""
        features = self.features.transform(X)
        score = self.classifier.decision_function(features)
        found: Array = self.regression.predict(np.column_stack([features, score]))
        return found


def read() -> tuple[Array, Array]:
    """The columns as float32, [N, 9], categories first, and the visits, [N].

    Raises:
        ImportError: statsmodels is not installed.
    """
    from statsmodels.datasets import randhie

    table = randhie.load_pandas().data
    codes = [np.unique(table[name], return_inverse=True)[1] for name in CATEGORIES]
    columns = [*codes, *(table[name] for name in NUMBERS)]
    return np.column_stack(columns).astype(np.float32), table[TARGET].to_numpy(dtype=np.float64)


def fit(X: Array, y: Array, components: int) -> Steps:
    """Each step on what the steps before it give.

    The penalties weigh as much as one row does: nothing beside 2,300 of them.
    """
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    count = len(CATEGORIES)
    columns = ColumnTransformer([("categories", encoder, slice(0, count))], remainder="passthrough")
    features = make_pipeline(columns, PCA(components, svd_solver="full"), MinMaxScaler())
    made = features.fit_transform(X)
    classifier = LogisticRegression(max_iter=2000).fit(made, y > 0)
    joined = np.column_stack([made, classifier.decision_function(made)])
    regression = PoissonRegressor(alpha=1 / len(y), max_iter=2000).fit(joined, y)
    return Steps(features, classifier, regression)


def direct(X: Array, y: Array, train: Array, valid: Array, test: Array) -> Array:
    """Rates of a Poisson regression on the columns themselves, for the test rows [N]."""
    fitted = []
    for penalty in PENALTIES:
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        columns = ColumnTransformer(
            [("categories", encoder, slice(0, len(CATEGORIES)))], remainder=StandardScaler()
        )
        regression = PoissonRegressor(alpha=penalty, max_iter=3000)
        fitted.append(make_pipeline(columns, regression).fit(X[train], y[train]))
    losses = [measures(each.predict(X[valid]), y[valid])["poisson"].mean() for each in fitted]
    found: Array = fitted[int(np.argmin(losses))].predict(X[test])
    return found


def network(steps: Steps, X: Array) -> onnx.ModelProto:
    """The steps as one graph: X [N, 9] -> rate [N, 1].

    skl2onnx translates the features; the rest is written here, as it has no Poisson regression.
    """
    proto = to_onnx(steps.features, X)
    graph = proto.graph
    made = graph.output[0].name
    tensors = {
        "classifier_weights": steps.classifier.coef_.T,
        "classifier_intercept": steps.classifier.intercept_,
        "regression_weights": steps.regression.coef_[:, None],
        "regression_intercept": np.atleast_1d(steps.regression.intercept_),
    }
    graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()
    )
    graph.node.extend(
        [
            _gemm("classifier", made, "score"),
            helper.make_node("Concat", [made, "score"], ["features"], "appended", axis=1),
            _gemm("regression", "features", "log_rate"),
            helper.make_node("Exp", ["log_rate"], ["rate"], "exp"),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("rate", TensorProto.FLOAT, [None, 1]))
    onnx.checker.check_model(proto)
    return proto


def _gemm(name: str, read: str, made: str) -> onnx.NodeProto:
    return helper.make_node("Gemm", [read, f"{name}_weights", f"{name}_intercept"], [made], name)


def rates(proto: onnx.ModelProto, X: Array) -> Array:
    """What onnxruntime answers, [N]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = session.run(["rate"], {session.get_inputs()[0].name: X})[0]
    return np.asarray(found, dtype=np.float64)[:, 0]


def measures(rate: Array, y: Array) -> dict[str, Array]:
    """Each measure, by test row."""
    loss = rate - xlogy(y, rate)
    return {
        "poisson": loss,
        "deviance": 2 * (loss - y + xlogy(y, y)),
        "l1": np.abs(rate - y),
        "l2": (rate - y) ** 2,
    }


def z_value(differences: Array) -> float | None:
    """The mean over its standard error; None where all are 0."""
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean() / error) if error > 0 else None


def attempt(X: Array, y: Array, seed: int, components: int, options: dict[str, Any]) -> list[Any]:
    """The records of one seed, one a model."""
    order = np.random.default_rng(seed).permutation(len(y))
    train, valid, test = np.split(order, [TRAINING, TRAINING + VALIDATION])
    steps = fit(X[train], y[train], components)
    original = network(steps, X[train])
    expected = rates(original, X[test])
    agrees = bool(np.allclose(expected, steps.predict(X[test]), rtol=1e-4))
    untouched = measures(expected, y[test])
    records: list[Any] = [_record("original", seed, untouched, untouched) | {"agrees": agrees}]
    at_best = measures(direct(X, y, train, valid, test), y[test])
    records.append(_record("direct", seed, at_best, untouched))
    ways: dict[str, dict[str, Any]] = {"random": {"init": "random"}, "tuned": {}}
    for name, more in ways.items():
        start = time.perf_counter()
        result = onnxtune.tune(
            original,
            X[train],
            y[train],
            valid=(X[valid], y[valid]),
            loss="poisson",
            **options,
            **more,
        )
        found = measures(rates(result.model(), X[test]), y[test])
        records.append(
            _record(name, seed, found, untouched)
            | {
                "accepted": result.accepted,
                "epochs": result.report["epochs"],
                "seconds": time.perf_counter() - start,
            }
        )
    return records


def _record(name: str, seed: int, found: dict[str, Array], untouched: dict[str, Array]) -> Any:
    means = {measure: float(values.mean()) for measure, values in found.items()}
    return {"seed": seed, "model": name, **means,
            "z": z_value(found["poisson"] - untouched["poisson"])}  # fmt: skip


def conclusion(records: list[Any]) -> list[str]:
    """Where the tuned model is better: the Poisson loss by seed, L1 and L2 on their mean."""
    by_model: dict[str, list[Any]] = {}
    for record in records:
        by_model.setdefault(record["model"], []).append(record)
    tuned, lines = by_model["tuned"], []
    for name, others in by_model.items():
        if name == "tuned":
            continue
        won = sum(a["poisson"] < b["poisson"] for a, b in zip(tuned, others, strict=True))
        means = {
            measure: np.mean([r[measure] for r in tuned]) < np.mean([r[measure] for r in others])
            for measure in ("l1", "l2")
        }
        lines.append(
            f"Tuned against {name}: a lower Poisson loss on {won} of {len(tuned)} seeds, "
            f"mean L1 {'lower' if means['l1'] else 'NOT lower'}, "
            f"mean L2 {'lower' if means['l2'] else 'NOT lower'}."
        )
    return lines


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--components", type=int, default=4, help="of the PCA")
    parser.add_argument("--lr", type=float, help="of tune; its own choice without")
    parser.add_argument("--epochs", type=int, help="of tune; its own choice without")
    arguments = parser.parse_args()
    options = {
        name: value
        for name, value in (("lr", arguments.lr), ("epochs", arguments.epochs))
        if value is not None
    }
    torch.set_num_threads(1)
    try:
        X, y = read()
    except ImportError:
        print("The data come with statsmodels: pip install statsmodels", file=sys.stderr)
        return 2
    records = [
        record
        for seed in range(arguments.seeds)
        for record in attempt(X, y, seed, arguments.components, options)
    ]
    names = list(dict.fromkeys(record["model"] for record in records))
    shown = list(records)
    for name in names:
        some = [record for record in records if record["model"] == name]
        means = {measure: float(np.mean([r[measure] for r in some])) for measure in MEASURES}
        shown.append({"seed": "mean", "model": name, **means, "z": None})
    lines = [
        [
            r["seed"],
            r["model"],
            *(f"{r[measure]:.4f}" for measure in MEASURES),
            r["z"],
            r.get("accepted"),
            r.get("epochs"),
            output.duration(r.get("seconds")),
        ]
        for r in shown
    ]
    headers = ["seed", "model", "Poisson loss", "deviance", "L1", "L2", "z", "taken", "epochs",
               "time"]  # fmt: skip
    print(output.table(headers, lines), "", *conclusion(records), sep="\n")
    found = {
        **facts(" ".join(["python", "benchmarks/poisson_pipeline.py", *sys.argv[1:]])),
        "environment": environment(PACKAGES),
        "components": arguments.components,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    write(RESULTS, output.as_json({**found, "rows": records}).encode() + b"\n")
    agree = all(record.get("agrees", True) for record in records)
    print(
        f"The networks {'agree' if agree else 'DO NOT AGREE'} with scikit-learn.", file=sys.stderr
    )
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
