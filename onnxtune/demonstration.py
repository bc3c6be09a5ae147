"""`onnxtune demo`: the whole road on bundled data, from a fitted pipeline to a tuned ONNX file."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from onnxtune import output
from onnxtune.benchmark import bench
from onnxtune.conversion import FORMS, convert
from onnxtune.errors import ArgumentError
from onnxtune.estimators import to_onnx
from onnxtune.export import SAVED_FORMS
from onnxtune.inspection import inspect
from onnxtune.model import write
from onnxtune.result import TuneResult
from onnxtune.tuning import tune
from onnxtune.verification import verify


@dataclass(frozen=True)
class Task:
    """A pipeline with rows to train on, to validate on while tuning, and to test on."""

    name: str
    pipeline: Any
    train: tuple[Any, Any]
    valid: tuple[Any, Any]
    test: tuple[Any, Any]
    target: str


@dataclass(frozen=True)
class Row:
    """One metric of one model on the test rows, before and after."""

    model: str
    metric: str
    before: float
    after: float
    z: float
    accepted: bool
    native_equals_hard: bool
    native_time_ratio: float | None


@dataclass(frozen=True)
class DemoReport:
    """What the demo found, and where its files are."""

    rows: tuple[Row, ...]
    folder: str
    files: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The report as dictionaries and lists."""
        return asdict(self)

    def text(self) -> str:
        """The table of before and after, and what to try next."""
        headers = ["model", "test metric", "before", "after", "change", "z", "outcome"]
        rows = [
            [
                row.model,
                row.metric,
                row.before,
                row.after,
                f"{100 * (row.after / row.before - 1):+.1f}%" if row.before else "-",
                output.number(row.z),
                _outcome(row),
            ]
            for row in self.rows
        ]
        checks = sorted({(row.model, row.native_equals_hard) for row in self.rows})
        differing = [name for name, equal in checks if not equal]
        parity = (
            "The native and the hard form agree on every test row."
            if not differing
            else f"The native and the hard form differ for {', '.join(differing)}."
        )
        return "\n".join(
            [
                output.table(headers, rows),
                "",
                "z: mean difference over its standard error on the same test rows. " + parity,
                f"{len(self.files)} files in {self.folder}, in {output.duration(self.seconds)}. "
                "Try:",
                f"  onnxtune inspect {self.folder}/hours.onnx",
                f"  onnxtune tune {self.folder}/cancer.onnx --data {self.folder}/cancer.train.csv "
                f"--valid {self.folder}/cancer.valid.csv --target benign -o tuned.onnx",
            ]
        )


def _outcome(row: Row) -> str:
    if not row.accepted:
        return "no gain on validation: kept the original"
    better = row.after > row.before if row.metric in _HIGHER else row.after < row.before
    return "better" if better else "not better on the test rows"


_HIGHER = ("accuracy", "R2")


def demonstrate(folder: str, say: Callable[[str], None]) -> DemoReport:
    """Run the demo.

    Args:
        folder: where its files go; made where it is not there.
        say: takes a line of progress.

    Raises:
        ArgumentError: the folder cannot be used.
    """
    started = time.perf_counter()
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"{place}: cannot be made ({error.strerror}).") from None
    rows: list[Row] = []
    for number, task in enumerate((_cancer(), _hours()), 1):
        say(f"[{number}/2] {task.name}: train, export, inspect, convert, tune, verify, time")
        rows.extend(_run(task, place, say))
    names = {row.model for row in rows}
    files = tuple(sorted(p.name for p in place.iterdir() if p.name.split(".")[0] in names))
    return DemoReport(tuple(rows), folder, files, time.perf_counter() - started)


def _cancer() -> Task:
    """Breast cancer (scikit-learn's copy): standardise, rotate, vote."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = load_breast_cancer()
    columns = [str(name).replace(" ", "_") for name in table.feature_names]
    X = pd.DataFrame(table.data.astype(np.float32), columns=columns)
    pipeline = make_pipeline(
        StandardScaler(), PCA(10), RandomForestClassifier(100, max_depth=6, random_state=0)
    )
    return _task("cancer", pipeline, X, pd.Series(table.target, name="benign"), stratify=True)


def _hours() -> Task:
    """UCI adult: hours worked a week, from strings and numbers."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    with (resources.files("onnxtune") / "bundled" / "adult.csv").open() as file:
        X = pd.read_csv(file)
    y = X.pop("hours-per-week").astype(float)
    words = [name for name in X if not pd.api.types.is_numeric_dtype(X[name])]
    numbers = [name for name in X if name not in words]
    X[numbers] = X[numbers].astype(np.float32)
    encoder = OneHotEncoder(handle_unknown="ignore", min_frequency=5, sparse_output=False)
    columns = ColumnTransformer([("words", encoder, words), ("numbers", StandardScaler(), numbers)])
    pipeline = make_pipeline(columns, GradientBoostingRegressor(random_state=0))
    return _task("hours", pipeline, X, y, stratify=False)


def _task(name: str, pipeline: Any, X: pd.DataFrame, y: pd.Series, stratify: bool) -> Task:
    from sklearn.model_selection import train_test_split

    rest, test, rest_y, test_y = train_test_split(
        X, y, test_size=0.3, random_state=0, stratify=y if stratify else None
    )
    train, valid, train_y, valid_y = train_test_split(
        rest, rest_y, test_size=0.3, random_state=0, stratify=rest_y if stratify else None
    )
    return Task(name, pipeline, (train, train_y), (valid, valid_y), (test, test_y), str(y.name))


def _run(task: Task, folder: Path, say: Callable[[str], None]) -> list[Row]:
    task.pipeline.fit(*task.train)
    original = to_onnx(task.pipeline, task.train[0])
    path = folder / f"{task.name}.onnx"
    write(path, original.SerializeToString())
    for part in ("train", "valid", "test"):
        X, y = getattr(task, part)
        text = X.assign(**{task.target: y}).to_csv(index=False)
        write(folder / f"{task.name}.{part}.csv", text.encode())

    report = inspect(path)
    say(f"      {report.tunable:,} of {report.learned:,} learned numbers can be tuned")
    for form in FORMS:
        proto = convert(path, form, data=task.train[0])
        write(folder / f"{task.name}.{form}.onnx", proto.SerializeToString())
    same = verify(path, folder / f"{task.name}.hard.onnx", task.test[0])
    say(f"      hard form: {'equals' if same.agrees else 'DIFFERS FROM'} the original")

    result = tune(path, *task.train, valid=task.valid)
    verdict = result.verdicts["hard"]
    say(
        f"      {len(result.history)} epochs, validation {result.report['loss']} loss "
        f"{verdict.before:.4g} -> {verdict.after:.4g} (z {verdict.z:.1f})"
    )
    for saved in SAVED_FORMS:
        place = folder / f"{task.name}.tuned.{saved}.onnx"
        if saved == "soft":
            # Here to be looked at; `save` would warn that it was not judged.
            write(place, result.model(saved).SerializeToString())
        else:
            result.save(place, saved)
    write(
        folder / f"{task.name}.history.json",
        output.as_json({"report": result.report, "history": result.history}).encode(),
    )
    write(folder / f"{task.name}.history.png", _plot(result, task.name))

    tuned = folder / f"{task.name}.tuned.native.onnx"
    forms = verify(tuned, folder / f"{task.name}.tuned.hard.onnx", task.test[0])
    compared = verify(path, tuned, *task.test)
    timings = bench([path, tuned], task.test[0], batch_sizes=[1000], seconds=0.5)
    ratio = timings.rows[1].ratio
    say(f"      tuned native form: {output.number(ratio, 2)} of the original's time, 1,000 rows")
    return [
        Row(
            task.name,
            metric.name,
            metric.original,
            metric.candidate,
            metric.z,
            bool(result.tensors),
            forms.agrees,
            ratio,
        )
        for metric in compared.metrics or ()
    ]


def _plot(result: TuneResult, name: str) -> bytes:
    """Losses over the epochs, with the original's validation loss as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = [record.epoch for record in result.history]
    axes.plot(epochs, [record.train for record in result.history], label="training rows")
    axes.plot(epochs, [record.valid for record in result.history], label="validation rows")
    before = result.verdicts["hard"].before
    axes.axhline(before, color="grey", linestyle="--", label="original, validation rows")
    axes.set(xlabel="epoch", ylabel=f"{result.report['loss']} loss a row", title=name)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()
