"""One pipeline with one seed: tuned at every size, and against its peers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.tree import DecisionTreeRegressor

import onnxtune
from onnxtune.errors import UnsupportedError
from quality_bench.apart import APART
from quality_bench.cases import Case, Split
from quality_bench.original import Original, Seconds, Stopwatch, fit, predictions
from quality_bench.pipelines import PIPELINES
from quality_bench.tasks import mean_loss


@dataclass(frozen=True)
class Plan:
    """What is measured of every pipeline.

    `extra` is handed to `onnxtune.tune`; `tables` is the folder of the real tables.
    """

    sizes: tuple[float, ...] = (1,)
    extra: dict[str, Any] = field(default_factory=dict)
    peers: bool = False
    null: bool = False
    tables: Path | None = None


def find(name: str, plan: Plan) -> Case:
    """A pipeline by its name."""
    known = PIPELINES | APART
    if name in known:
        return known[name]
    assert plan.tables is not None
    from quality_bench.tables import cases

    return cases(plan.tables)[name]


def run(name: str, seed: int, plan: Plan) -> Iterator[dict[str, Any]]:
    """A record for every size, the first with the peers; one with the reason where it failed."""
    head = {"name": name, "seed": seed}
    try:
        original = fit(find(name, plan), seed)
        if plan.null:
            from quality_bench.null import drawn

            original = drawn(original, seed)
    except UnsupportedError as error:
        yield head | {"refused": one_line(error)}
        return
    except Exception as error:  # one pipeline must not end the others
        yield head | {"error": _reason(error)}
        return
    for size in plan.sizes:
        try:
            yield head | {"size": size, **tuned(original, size, plan.extra)}
        except Exception as error:
            yield head | {"size": size, "error": _reason(error)}
    if plan.peers:
        from quality_bench.peers import ratios

        yield head | {"peers": ratios(original, seed, plan.extra)}


def tuned(original: Original, size: float, extra: dict[str, Any]) -> dict[str, Any]:
    """Tune, and score the native form on the test rows."""
    split, task = original.split, original.case.task
    result, seconds = tune(original, max_size=size, **extra)
    found = predictions(result.model("native"), split.X_test, task)
    loss = mean_loss(task, found, split.y_test)
    return {
        "loss": loss,
        "original_loss": original.loss,
        "scaled_loss": original.scaled_loss,
        "factor": original.factor,
        "ratio": loss / original.loss,
        "scaled_ratio": loss / original.scaled_loss,
        "accepted": result.hard is not None,
        "taken": result.report["taken"],
        "trees": result.report["size"],
        "differing": original.differing,
        "tune_seconds": seconds.wall,
        "fit_seconds": original.fit_seconds.wall,
        "tune_cpu_seconds": seconds.cpu,
        "fit_cpu_seconds": original.fit_seconds.cpu,
        **rows(split),
    }


def tune(original: Original, **arguments: Any) -> tuple[Any, Seconds]:
    """The outcome of `onnxtune.tune` on the rows of the split, and its seconds."""
    split = original.split
    watch = Stopwatch()
    result = onnxtune.tune(
        original.proto,
        split.X_train,
        split.y_train,
        valid=(split.X_valid, split.y_valid),
        **{"seed": 0, **arguments},
    )
    return result, watch.seconds()


def warm_up() -> None:
    """Tune a stump: what a process loads and compiles once is not counted."""
    X = np.linspace(0, 1, 64, dtype=np.float32)[:, None]
    y = np.sin(6 * X[:, 0])
    stump = DecisionTreeRegressor(max_depth=1).fit(X, y)
    onnxtune.tune(stump, X, y, epochs=1)


def rows(split: Split) -> dict[str, int]:
    """The numbers of rows."""
    return {
        "train_rows": len(split.y_train),
        "valid_rows": len(split.y_valid),
        "test_rows": len(split.y_test),
    }


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split())


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
