"""`bench`: how long models take, side by side.

All models of a batch size and provider take turns (A B A B ...), so that a machine that slows down
or speeds up meanwhile does so for all alike; the ratio between two is the median over the turns.
"""

from __future__ import annotations

import operator
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxtune import runtime
from onnxtune.bench_report import BenchReport, Timing
from onnxtune.errors import ArgumentError, DataError, ModelError, ProviderError
from onnxtune.model import Model, is_estimator, load

Feed = dict[str, np.ndarray[Any, Any]]

_SAMPLED_ROWS = 10_000  # enough to be varied; larger batches repeat them
_SLICES = 64  # small batches go through the rows, so that no single one is learned by heart
_WARM_UP = 3  # runs; the first ones allocate memory and choose kernels


def bench(
    models: Any,
    data: Any = None,
    providers: Sequence[str] | str = ("cpu",),
    batch_sizes: Sequence[int] | int = (1, 1000, 100_000),
    *,
    threads: int | None = None,
    repeats: int = 200,
    seconds: float = 2.0,
    seed: int = 0,
    sample: Any = None,
) -> BenchReport:
    """Time models against each other, as a caller sees it: arrays in, arrays out.

    For every provider and batch size, each model warms up, and then the models take turns until
    each ran `repeats` times or the time is up; at least once each. The time on an accelerator
    includes the copies to it and back. Batches go through the rows and repeat them as needed.
    Sessions rest between runs: without that, the waiting threads of one session keep a core busy
    for a second or more while another one is timed, and double its time.

    Args:
        models: model arguments, one of them, or a mapping from name to model argument.
        data: rows for every model, in any form that `onnxtune.verify` takes, too; None samples
            rows from the models' graphs. Models of the same inputs get the same rows.
        providers: keys of `onnxtune.runtime.PROVIDERS`.
        batch_sizes: rows in a run, each at least 1.
        threads: intra-op threads of a session; None leaves the choice to onnxruntime.
        repeats: timed runs of a model at one batch size on one provider, at most.
        seconds: bound on the time of those runs, for each model; the run under way ends first.
        seed: of the sampled rows.
        sample: rows like those that estimators were fitted on; None takes the data.

    Returns:
        A report with a row for every provider, batch size and model. A provider that is not
        there, a batch for which memory runs out or that the model does not take, is a row with
        its reason.

    Raises:
        ArgumentError: no model, provider or batch size, or a value out of range.
        ModelError: a model cannot be read, or onnxruntime refuses it.
        DataError: the data do not fit a model's inputs.
        ProviderError: none of the providers is there.
    """
    import onnxruntime

    names = _checked_providers(providers)
    sizes = _checked_sizes(batch_sizes)
    if threads is not None and threads < 1:
        raise ArgumentError(f"The number of threads is at least 1, not {threads}.")
    if repeats < 1:
        raise ArgumentError(f"The number of repeats is at least 1, not {repeats}.")
    if not 0 < seconds < float("inf"):
        raise ArgumentError(f"The seconds for each model are more than 0, not {seconds}.")
    loaded = _load(models, data if sample is None else sample)
    for model in loaded.values():
        # onnxruntime judges every model before anything is read off its graph.
        runtime.session(model.content, threads=threads, origin=model.origin)
    feeds = _feeds(loaded, data, min(max(sizes), _SAMPLED_ROWS), seed)
    rows: list[Timing] = []
    missing: list[str] = []
    proven: set[str] = set()
    for provider in names:
        try:
            sessions, refused = _sessions(loaded, provider, threads, proven)
        except ProviderError as error:
            missing.append(str(error))
            sessions, refused = {}, dict.fromkeys(loaded, str(error))
        for size in sizes:
            reasons = dict(refused)
            batches = _batches({name: loaded[name] for name in sessions}, feeds, size, reasons)
            ready = {name: sessions[name][0] for name in batches}
            turns = _measure(ready, batches, repeats, seconds, reasons, proven)
            for name in loaded:
                load_s = sessions[name][1] if name in sessions else None
                if name in reasons:
                    rows.append(Timing(name, provider, size, load_s=load_s, error=reasons[name]))
                else:
                    first = next(iter(loaded))
                    rows.append(_timing(name, provider, size, turns, first, load_s))
    if len(missing) == len(names):
        raise ProviderError(" ".join(missing))
    files = {name: {"bytes": len(m.content), "sha256": m.fingerprint} for name, m in loaded.items()}
    environment = {
        "onnxruntime": onnxruntime.__version__,
        "available": runtime.available_providers(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": threads,
        "repeats": repeats,
        "seconds": seconds,
        "seed": seed if data is None else None,
        "models": files,
    }
    return BenchReport(tuple(rows), environment)


def _checked_providers(providers: Sequence[str] | str) -> list[str]:
    names = [providers] if isinstance(providers, str) else list(dict.fromkeys(providers))
    if not names:
        raise ArgumentError("There is no provider to run on; the usual one is 'cpu'.")
    for name in names:
        if name not in runtime.PROVIDERS:
            known = ", ".join(runtime.PROVIDERS)
            raise ArgumentError(f"Provider '{name}' is none of {known}.")
    return names


def _checked_sizes(sizes: Sequence[int] | int) -> list[int]:
    given = list(sizes) if isinstance(sizes, Iterable) else [sizes]
    if not given:
        raise ArgumentError("There is no batch size; give at least one, such as 1000.")
    try:
        checked = [operator.index(size) for size in given]
    except TypeError:
        checked = [0]
    if min(checked) < 1:
        raise ArgumentError(f"Batch sizes are whole numbers from 1, not {given}.")
    return list(dict.fromkeys(checked))


def _load(models: Any, data: Any) -> dict[str, Model]:
    """The models by name, in their order."""
    if isinstance(models, Mapping):
        loaded = {str(name): load(one, data) for name, one in models.items()}
    else:
        file = isinstance(models, str | bytes | os.PathLike | onnx.ModelProto | Model)
        # A scikit-learn Pipeline has a length and entries, but is one model.
        if file or is_estimator(models):
            models = [models]
        elif not isinstance(models, Iterable):
            raise ArgumentError(f"Models come as a list or a mapping, not {type(models).__name__}.")
        listed = [load(one, data) for one in models]
        loaded = dict(zip(_names(listed), listed, strict=True))
    if not loaded:
        raise ArgumentError("There is no model to time; give at least one.")
    return loaded


def _names(models: Sequence[Model]) -> list[str]:
    """File names, whole paths where those are alike, and a count where these are too."""
    short = [
        model.path.name if model.path else model.origin.removeprefix("the given ")
        for model in models
    ]
    long = [
        str(model.path or name) if short.count(name) > 1 else name
        for name, model in zip(short, models, strict=True)
    ]
    return [
        f"{name} ({long[:i].count(name) + 1})" if long.count(name) > 1 else name
        for i, name in enumerate(long)
    ]


def _feeds(models: Mapping[str, Model], data: Any, rows: int, seed: int) -> dict[str, Feed]:
    """Rows for every model, read or sampled once for all models of the same inputs."""
    from onnxtune import data as tables
    from onnxtune import sampling

    made: dict[tuple[runtime.ValueType, ...], Feed] = {}
    feeds = {}
    for name, model in models.items():
        inputs = tuple(runtime.input_types(model.proto))
        if inputs not in made:
            made[inputs] = (
                sampling.sample(model.proto, rows, seed)
                if data is None
                else tables.load(data, inputs).feed
            )
        feeds[name] = made[inputs]
    return feeds


def _sessions(
    models: Mapping[str, Model], provider: str, threads: int | None, proven: set[str]
) -> tuple[dict[str, tuple[Any, float]], dict[str, str]]:
    """Sessions with the seconds that each took to load, and the reasons for those that failed."""
    made, refused = {}, {}
    for name, model in models.items():
        try:
            made[name] = _session(model.content, provider, threads)
        except (ModelError, MemoryError) as error:
            refused[name] = _reason(error, name in proven)
    return made, refused


def _session(content: bytes, provider: str, threads: int | None) -> tuple[Any, float]:
    """A session, and the seconds that it took to load.

    The first one is given up: it loads the provider's libraries, which the second finds in place.
    """
    runtime.session(content, provider, threads)
    start = time.perf_counter()
    return runtime.session(content, provider, threads), time.perf_counter() - start


def _reason(error: Exception, proven: bool) -> str:
    """Why a model did not run; raised instead where memory has no part and it never ran before."""
    text = runtime.one_line(error)
    memory = r"failed to allocate|bad.alloc|alloc_failed|CUDA failure 2\b|out of memory"
    found = re.search(memory + "|integer overflow", text, re.IGNORECASE)
    if isinstance(error, MemoryError) or found:
        detail = text[found.start() :] if found else text
        return f"out of memory ({detail})" if detail else "out of memory"
    if proven:
        return text
    if isinstance(error, ModelError):
        raise error
    raise DataError(f"onnxruntime cannot run these data: {text}") from error


def _batches(
    models: Mapping[str, Model], feeds: Mapping[str, Feed], size: int, reasons: dict[str, str]
) -> dict[str, list[Feed]]:
    """Batches of so many rows for every model, or the reason why there are none."""
    made = {}
    for name, model in models.items():
        fixed = {
            value.name: value.shape[0] or 0
            for value in runtime.input_types(model.proto)
            if value.shape and (value.shape[0] or 0) > 0
        }
        if fixed and len(fixed) == len(feeds[name]) and max(fixed.values()) != size:
            reasons[name] = f"the model takes batches of {max(fixed.values()):,} only"
            continue
        try:
            made[name] = _cut(feeds[name], size, fixed)
        except (MemoryError, OverflowError, ValueError):  # numpy's words for far too many rows
            reasons[name] = "out of memory (the batch alone does not fit)"
    return made


def _cut(feed: Feed, size: int, fixed: Mapping[str, int]) -> list[Feed]:
    """Batches of so many rows: pieces of the rows, or the rows over and over.

    An input beside the rows whose first dimension is fixed keeps that length in every batch.
    """
    rows = min((len(column) for name, column in feed.items() if name not in fixed), default=1)
    batches = []
    for start in range(0, min(max(rows // size, 1), _SLICES) * size, size):
        batch = {}
        for name, column in feed.items():
            first, length = (0, fixed[name]) if name in fixed else (start, size)
            piece = column[first : first + length]
            if len(piece) < length:
                piece = column[np.arange(length) % len(column)]
            batch[name] = np.ascontiguousarray(piece)
        batches.append(batch)
    return batches


def _measure(
    sessions: Mapping[str, Any],
    batches: Mapping[str, Sequence[Feed]],
    repeats: int,
    seconds: float,
    reasons: dict[str, str],
    proven: set[str],
) -> list[dict[str, float]]:
    """Seconds that each model took, turn by turn; one that fails drops out with its reason."""
    alive = dict(sessions)

    def turn(count: int) -> dict[str, float]:
        taken = {}
        for name, session in list(alive.items()):
            feed = batches[name][count % len(batches[name])]
            start = time.perf_counter()
            try:
                made = session.run(None, feed)
            except Exception as error:  # onnxruntime's exceptions share no public base class
                reasons[name] = _reason(error, name in proven)
                del alive[name]
                continue
            taken[name] = max(time.perf_counter() - start, 1e-9)
            proven.add(name)
            del made  # freed outside the time, and before the next model needs the memory
        return taken

    end = time.perf_counter() + seconds * len(alive) / 4
    for count in range(_WARM_UP):
        turn(count)
        if time.perf_counter() > end:
            break
    turns: list[dict[str, float]] = []
    end = time.perf_counter() + seconds * len(alive)
    while alive and (not turns or (len(turns) < repeats and time.perf_counter() < end)):
        turns.append(turn(len(turns)))
    return turns


def _timing(
    name: str,
    provider: str,
    size: int,
    turns: Sequence[Mapping[str, float]],
    first: str,
    load: float | None,
) -> Timing:
    times = [taken[name] for taken in turns]
    low, median, high = (float(x) for x in np.quantile(times, [0.1, 0.5, 0.9]))
    pairs = [taken[name] / taken[first] for taken in turns if first in taken]
    ratio = float(np.median(pairs)) if pairs and name != first else None
    return Timing(name, provider, size, median, low, high, size / median, ratio, len(times), load)
