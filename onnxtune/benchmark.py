"""`bench`: how long models take, side by side.

All candidates of a batch size and provider take turns (A B A B ...), so that a machine that slows
down or speeds up meanwhile does so for all alike; the ratio between two is the median over the
turns.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import onnx

from onnxtune import machine, runtime
from onnxtune.argument_checks import check_whole
from onnxtune.bench_candidates import Feed, named
from onnxtune.bench_group import Group, Judge
from onnxtune.bench_report import BenchReport, Placed, Timing
from onnxtune.errors import ArgumentError, ProviderError, UnsupportedError
from onnxtune.model import Model, is_estimator, load

FORMS = ("original", "hard", "soft")
TRANSFERS = ("with", "without")

_SAMPLED_ROWS = 10_000  # enough to be varied; larger batches repeat them
_PACKAGES = ("onnxtune", "onnxruntime", "onnx", "numpy", "torch", "scikit-learn", "lightgbm",
             "xgboost", "catboost", "hummingbird-ml", "nvforest")  # fmt: skip


def bench(
    models: Any,
    data: Any = None,
    providers: Sequence[str] | str = ("cpu",),
    batch_sizes: Sequence[int] | int = (1, 1000, 100_000),
    *,
    forms: Sequence[str] | str = ("original",),
    transfers: Sequence[str] | str = ("with",),
    native: Any = None,
    chunk: int | None = None,
    placement: bool | None = None,
    threads: int | None = None,
    repeats: int = 200,
    seconds: float = 2.0,
    seed: int = 0,
    sample: Any = None,
) -> BenchReport:
    """Time models against each other, as a caller sees it: arrays in, arrays out.

    For every provider and batch size, each model warms up, and then the models take turns until
    each ran `repeats` times or the time is up; at least once each. Batches go through the rows and
    repeat them as needed. Sessions rest between runs: without that, the waiting threads of one
    session keep a core busy for a second or more while another one is timed, and double its time.

    An estimator among the models, or in `native`, is also timed by its own library on the CPU,
    and by Hummingbird and nvForest where these are installed.

    Args:
        models: model arguments, one of them, or a mapping from name to model argument.
        data: rows for every model, in any form that `onnxtune.verify` takes, too; None samples
            rows from the models' graphs. Models of the same inputs get the same rows.
        providers: keys of `onnxtune.runtime.PROVIDERS`.
        batch_sizes: rows in a run, each at least 1.
        forms: "original" for a model as it is, "hard" and "soft" for what `convert` makes of it
            for each provider.
        transfers: "with" times the copies to an accelerator and back, too; "without" leaves
            inputs and outputs on it.
        native: a fitted estimator, or a mapping from name to estimator.
        chunk: rows that are run at once; larger batches run in pieces. None cuts nothing.
        placement: whether a run of each model is profiled, to tell which provider ran its nodes;
            None does that for others than the CPU.
        threads: intra-op threads of a session; None leaves the choice to onnxruntime.
        repeats: timed runs of a model at one batch size on one provider, at most.
        seconds: bound on the time of those runs, for each model; the run under way ends first.
        seed: of the sampled rows.
        sample: rows like those that estimators were fitted on; None takes the data.

    Returns:
        A report with a row for every provider, batch size, model and way of transfers. A provider
        that is not there, a batch for which memory runs out or that the model does not take, is a
        row with its reason.

    Raises:
        ArgumentError: no model, provider or batch size, or a value out of range.
        ModelError: a model cannot be read, or onnxruntime refuses it.
        DataError: the data do not fit a model's inputs.
        ProviderError: none of the providers is there.
    """
    names = _checked("provider", providers, runtime.PROVIDERS)
    sizes = _checked_sizes(batch_sizes)
    shapes = _checked("form", forms, FORMS)
    ways = [way == "with" for way in _checked("way of transfers", transfers, TRANSFERS)]
    for name, value in (("threads", threads), ("repeats", repeats), ("chunk", chunk)):
        if value is not None:
            check_whole(**{name: value})
    if not 0 < seconds < float("inf"):
        raise ArgumentError(f"The seconds for each model are more than 0, not {seconds}.")
    loaded, estimators = _load(models, data if sample is None else sample)
    estimators |= named(native)
    for model in loaded.values():
        # onnxruntime judges every model before anything is read off its graph.
        runtime.session(model.content, threads=threads, origin=model.origin)
    feeds = _feeds(loaded, data, min(max(sizes), _SAMPLED_ROWS), seed)
    judge = Judge()
    rows: list[Timing] = []
    places: list[Placed] = []
    missing: list[str] = []
    for provider in names:
        absence = runtime.absence(provider)
        group = Group(provider, ways, threads, chunk, judge)
        formed = _formed(loaded, shapes, provider, sizes, absence)
        rows_of = {name: feeds[origin] for name, (origin, _) in formed.items()}
        group.load({name: model for name, (_, model) in formed.items()}, rows_of)
        if absence is not None:
            missing.append(absence)
        else:
            group.add_libraries(estimators, next(iter(feeds.values())))
            if provider != "cpu" if placement is None else placement:
                places += group.placements()
        for size in sizes:
            rows += group.timings(size, repeats, seconds)
    if len(missing) == len(names):
        raise ProviderError(" ".join(missing))
    environment = {
        **machine.machine(),
        "date": machine.today(),
        "versions": machine.versions(_PACKAGES),
        "available": runtime.available_providers(),
        "threads": threads,
        "chunk": chunk,
        "repeats": repeats,
        "seconds": seconds,
        "seed": seed if data is None else None,
        "models": {
            name: {"bytes": len(model.content), "sha256": model.fingerprint}
            for name, model in loaded.items()
        },
    }
    return BenchReport(tuple(rows), environment, tuple(places))


def _checked_sizes(sizes: Sequence[int] | int) -> list[int]:
    given = list(sizes) if isinstance(sizes, Iterable) else [sizes]
    if not given:
        raise ArgumentError("There is no batch size; give at least one, such as 1000.")
    for size in given:
        check_whole(batch_sizes=size)
    return list(dict.fromkeys(map(int, given)))


def _checked(what: str, given: Sequence[str] | str, known: Iterable[str]) -> list[str]:
    names = [given] if isinstance(given, str) else list(dict.fromkeys(given))
    if not names:
        raise ArgumentError(f"There is no {what}; give at least one of {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise ArgumentError(f"{what.capitalize()} '{name}' is none of {', '.join(known)}.")
    return names


def _load(models: Any, data: Any) -> tuple[dict[str, Model], dict[str, Any]]:
    """The models by name, in their order, and those of them that are estimators."""
    if isinstance(models, Mapping):
        given = list(models.values())
        loaded = {str(name): load(one, data) for name, one in models.items()}
    else:
        file = isinstance(models, str | bytes | os.PathLike | onnx.ModelProto | Model)
        # A scikit-learn Pipeline has a length and entries, but is one model.
        if file or is_estimator(models):
            models = [models]
        elif not isinstance(models, Iterable):
            raise ArgumentError(f"Models come as a list or a mapping, not {type(models).__name__}.")
        given = list(models)
        listed = [load(one, data) for one in given]
        loaded = dict(zip(_names(listed), listed, strict=True))
    if not loaded:
        raise ArgumentError("There is no model to time; give at least one.")
    estimators = {
        name: one
        for name, one in zip(loaded, given, strict=True)
        if is_estimator(one) and not isinstance(one, Model)
    }
    return loaded, estimators


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
        if inputs not in made and data is None:
            made[inputs] = sampling.sample(model.proto, rows, seed)
        elif inputs not in made:
            made[inputs] = tables.load(data, inputs, same_rows=False).feed
            tables.common_rows(made[inputs], "the data", runtime.fixed_sizes(inputs))
        feeds[name] = made[inputs]
    return feeds


def _formed(
    models: Mapping[str, Model],
    forms: Sequence[str],
    provider: str,
    sizes: Sequence[int],
    absence: str | None,
) -> dict[str, tuple[str, Model | str]]:
    """The models in the forms asked for: name -> the model's own name, and it or why there is none.

    Trees take the form for the largest batch size; where that needs too much memory, for the next.
    """
    from onnxtune.conversion import convert

    found: dict[str, tuple[str, Model | str]] = {}
    target: Literal["cpu", "cuda"] = "cuda" if provider in ("cuda", "tensorrt") else "cpu"
    for name, model in models.items():
        for form in forms:
            shown = name if form == "original" else f"{name}, {form}"
            made: Model | str = absence or (model if form == "original" else "")
            for size in () if form == "original" or absence else sorted(sizes, reverse=True):
                try:
                    kind: Literal["hard", "soft"] = "hard" if form == "hard" else "soft"
                    made = load(convert(model, kind, batch_size=size, provider=target))
                    break
                except UnsupportedError as error:
                    made = str(error)
            found[shown] = (name, made)
    return found
