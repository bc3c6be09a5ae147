"""A fitted pipeline as ONNX, what it predicts in onnxruntime, and whether the export is right."""

from __future__ import annotations

import statistics
import time
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from sklearn.base import clone
from sklearn.pipeline import Pipeline

import onnxtune
from quality_bench.cases import Case, Split
from quality_bench.tasks import Array, Task, best_factor, is_classes, mean_loss, scaled

_TOLERANCE, _WRONG_SHARE, _MOVE = 1e-4, 0.01, 1e-4
# Short fits are timed several times.
_FITS, _SHORT_FIT = 5, 0.5


@dataclass(frozen=True)
class Seconds:
    """Time by the clock, and of the processor: the latter where other programs run, too."""

    wall: float
    cpu: float


class Stopwatch:
    """Measures from its making on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> Seconds:
        """What has passed."""
        return Seconds(time.perf_counter() - self._wall, time.process_time() - self._cpu)


class ExportError(Exception):
    """The exported pipeline predicts something else than the pipeline."""


@dataclass(frozen=True)
class Original:
    """The pipeline before tuning.

    `differing` is the share of test rows on which the file differs from the pipeline: values that
    sit on a threshold. `factor` is the temperature that validation chose; `scaled_loss` is the
    test loss with it.
    """

    case: Case
    split: Split
    pipeline: Pipeline
    proto: onnx.ModelProto
    fit_seconds: Seconds
    differing: float
    valid: Array
    test: Array
    loss: float
    factor: float
    scaled_loss: float


def fit(case: Case, seed: int) -> Original:
    """Fit, export and score a pipeline.

    Raises:
        ExportError: the export is wrong.
    """
    split = case.split(seed)
    pipeline, seconds = _timed_fit(case.pipeline(seed), split)
    # The public way from an estimator to its file: a module that nothing has trained.
    module = onnxtune.to_torch(pipeline, routing="hard", data=split.X_train)
    proto = module.model("native")
    test = predictions(proto, split.X_test, case.task)
    differing = _check(pipeline, proto, split.X_test, case)
    valid = predictions(proto, split.X_valid, case.task)
    factor = best_factor(case.task, valid, split.y_valid)
    return Original(
        case, split, pipeline, proto, seconds, differing, valid, test,
        mean_loss(case.task, test, split.y_test), factor,
        mean_loss(case.task, scaled(case.task, test, factor), split.y_test),
    )  # fmt: skip


def predictions(proto: onnx.ModelProto, X: Any, task: Task) -> Array:
    """What the file's float output says in onnxruntime: [N, K] for classes, else [N]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = session.get_inputs()
    if isinstance(X, np.ndarray):
        feed = {inputs[0].name: X}
    else:
        kinds = {"tensor(string)": object, "tensor(float)": np.float32}
        feed = {
            one.name: X[one.name].to_numpy(dtype=kinds[one.type]).reshape(-1, 1) for one in inputs
        }
    name = next(one.name for one in session.get_outputs() if one.type == "tensor(float)")
    found = np.asarray(session.run([name], feed)[0])
    return found if is_classes(task) else found.reshape(-1)


def estimated(estimator: Any, X: Any, task: Task) -> Array:
    """The same by an estimator itself."""
    return np.asarray(estimator.predict_proba(X) if is_classes(task) else estimator.predict(X))


def _timed_fit(pipeline: Pipeline, split: Split) -> tuple[Pipeline, Seconds]:
    times: list[Seconds] = []
    while not times or (len(times) < _FITS and sum(one.wall for one in times) < _SHORT_FIT):
        pipeline = clone(pipeline)
        watch = Stopwatch()
        pipeline.fit(split.X_train, split.y_train)
        times.append(watch.seconds())
    wall, cpu = (statistics.median(kind) for kind in zip(*map(astuple, times), strict=True))
    return pipeline, Seconds(wall, cpu)


def _differing(pipeline: Pipeline, proto: onnx.ModelProto, X: Any, task: Task) -> float:
    """The share of rows on which the file differs from the pipeline."""
    expected, found = estimated(pipeline, X, task), predictions(proto, X, task)
    if expected.shape != found.shape:
        return 1.0
    away = np.abs(found - expected) > _TOLERANCE * np.maximum(1, np.abs(expected))
    return float(away.reshape(len(away), -1).any(axis=1).mean())


def _check(pipeline: Pipeline, proto: onnx.ModelProto, X: Any, case: Case) -> float:
    """The share of test rows that differ.

    Where these are many, a second look moves every number a little: it removes the rows whose
    values sit on a threshold, and leaves a wrong export wrong.
    """
    share = _differing(pipeline, proto, X, case.task)
    if share >= _WRONG_SHARE and _differing(pipeline, proto, _moved(X), case.task) >= _WRONG_SHARE:
        raise ExportError(f"{case.name}: the export is wrong on {100 * share:.1f}% of the rows")
    return share


def _moved(X: Any) -> Any:
    if isinstance(X, np.ndarray):
        return X + np.float32(_MOVE) * X.std(axis=0)
    numbers = X.select_dtypes(np.number)
    return X.assign(**{name: numbers[name] + _MOVE * numbers[name].std() for name in numbers})
