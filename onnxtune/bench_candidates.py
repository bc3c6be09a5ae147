"""What `bench` times: sessions with and without transfers, and the libraries' own predictions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxtune import bindings, runtime
from onnxtune.bench_turns import Call
from onnxtune.errors import ArgumentError, UnsupportedError
from onnxtune.model import is_estimator
from onnxtune.runtime import ValueType

Feed = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Candidate:
    """Something that predicts.

    Attributes:
        model: its name.
        provider: where it runs.
        transfers: whether a call takes arrays and gives arrays; else both stay on the device.
        calls: batches -> a call for each.
        load_s: seconds that it took to load; None where it was there.
    """

    model: str
    provider: str
    transfers: bool
    calls: Callable[[Sequence[Feed]], list[Call]]
    load_s: float | None = None


def session_calls(
    session: Any, provider: str, transfers: bool, chunk: int | None
) -> Callable[[Sequence[Feed]], list[Call]]:
    """Calls of a session; a batch of more rows than `chunk` runs in pieces."""

    def make(batches: Sequence[Feed]) -> list[Call]:
        one = partial(session.run, None) if transfers else partial(_resident, session, provider)
        made = []
        for batch in batches:
            parts = _cut(batch, chunk)
            if transfers:
                made.append(_each([partial(one, part) for part in parts]))
            else:
                made.append(_each([one(part) for part in parts]))
        return made

    return make


def _cut(batch: Feed, chunk: int | None) -> list[Feed]:
    rows = max(map(len, batch.values()), default=0)
    if chunk is None or rows <= chunk:
        return [batch]
    return [
        {
            name: each[start : start + chunk] if len(each) == rows else each
            for name, each in batch.items()
        }
        for start in range(0, rows, chunk)
    ]


def _each(calls: list[Call]) -> Call:
    return calls[0] if len(calls) == 1 else lambda: [call() for call in calls]


def _resident(session: Any, provider: str, batch: Feed) -> Call:
    """A call whose inputs lie on the device already, and whose outputs stay there.

    Raises:
        UnsupportedError: a value is no tensor of numbers, and so not on a device.
    """
    import onnxruntime

    for value in (*session.get_inputs(), *session.get_outputs()):
        declared = ValueType(value.name, value.type)
        if declared.is_string or not declared.kind.startswith("tensor"):
            raise UnsupportedError(f"'{value.name}' is a {value.type}, which no device holds")
    device = bindings.device_of(provider)
    binding = session.io_binding()
    for name, array in batch.items():
        binding.bind_ortvalue_input(
            name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
        )
    for value in session.get_outputs():
        binding.bind_output(value.name, device)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.clear_binding_outputs()
        for value in session.get_outputs():
            binding.bind_output(value.name, device)

    return call


def own_prediction(name: str, estimator: Any) -> Candidate:
    """What an estimator's own library takes for probabilities, or else for predictions."""
    method = _method(estimator)
    calls = partial(_of_table, getattr(estimator, method))
    return Candidate(f"{name}.{method}", "cpu", True, calls)


def _method(estimator: Any) -> str:
    return "predict_proba" if hasattr(estimator, "predict_proba") else "predict"


def _of_table(predict: Callable[[Any], object], batches: Sequence[Feed]) -> list[Call]:
    """Calls with what an estimator takes: the array of the only input, or a DataFrame."""
    return [partial(predict, _table(batch)) for batch in batches]


def _table(batch: Feed) -> Any:
    if len(batch) == 1:
        return next(iter(batch.values()))
    import pandas as pd

    return pd.DataFrame({name: column.ravel() for name, column in batch.items()})


def peers(
    name: str, estimator: Any, provider: str, feed: Feed
) -> tuple[list[Candidate], dict[str, str]]:
    """Hummingbird's and nvForest's versions of an estimator, where these are installed.

    Returns:
        The candidates, and of those that refuse the estimator the reasons by name.
    """
    import importlib.util

    made, refused = [], {}
    for peer, package, make in (
        ("Hummingbird", "hummingbird", _hummingbird),
        ("nvForest", "nvforest", _nvforest),
    ):
        if provider not in ("cpu", "cuda") or importlib.util.find_spec(package) is None:
            continue
        shown = f"{name}, {peer}"
        start = time.perf_counter()
        try:
            predict = make(estimator, provider, _table(feed))
        except Exception as error:  # whatever the peer and its backends raise
            refused[shown] = f"{peer} refuses it: {runtime.one_line(error)}"
            continue
        seconds = time.perf_counter() - start
        calls = partial(_of_table, predict)
        made.append(Candidate(shown, provider, True, calls, seconds))
    return made, refused


def _hummingbird(estimator: Any, provider: str, sample: Any) -> Callable[[Any], object]:
    from hummingbird.ml import convert

    container = convert(estimator, "torch.jit", sample, device=provider)
    found: Callable[[Any], object] = getattr(container, _method(estimator))
    return found


def _nvforest(estimator: Any, provider: str, sample: Any) -> Callable[[Any], object]:
    import tempfile
    from pathlib import Path

    import nvforest

    device = "gpu" if provider == "cuda" else "cpu"
    library = re.match(r"\w+", type(estimator).__module__)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model"
        if library and library[0] == "lightgbm":
            estimator.booster_.save_model(file)
            loaded = nvforest.load_model(file, model_type="lightgbm", device=device)
        elif library and library[0] == "xgboost":
            file = file.with_suffix(".ubj")
            estimator.save_model(file)
            loaded = nvforest.load_model(file, model_type="xgboost_ubj", device=device)
        else:
            loaded = nvforest.load_from_sklearn(estimator, device=device)
    loaded = loaded.optimize(batch_size=len(sample))
    found: Callable[[Any], object] = getattr(loaded, _method(estimator))
    return found


def named(estimators: Any) -> Mapping[str, Any]:
    """Estimators by name; one alone is called like its class.

    Raises:
        ArgumentError: one of them is something else.
    """
    if estimators is None:
        return {}
    many = isinstance(estimators, Mapping)
    found = estimators if many else {type(estimators).__name__: estimators}
    for one in found.values():
        if not is_estimator(one):
            raise ArgumentError(f"native takes fitted estimators, not {type(one).__name__}.")
    return {str(name): one for name, one in found.items()}


def read_estimator(path: str) -> Any:
    """A fitted estimator from a file that joblib or pickle wrote; loading it runs what is in it.

    Raises:
        ArgumentError: it cannot be read, or holds something else.
    """
    import joblib

    try:
        found = joblib.load(path)
    except Exception as error:  # whatever unpickling raises
        words = " ".join(f"{type(error).__name__} {error}".split())
        raise ArgumentError(f"{path}: cannot be loaded ({words}).") from None
    if not is_estimator(found):
        raise ArgumentError(f"{path}: holds no estimator, but a {type(found).__name__}.")
    return found
