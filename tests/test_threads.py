"""The number of threads: by trial, as asked for, and as before afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pipelines import data_of, exported
from sklearn.neighbors import KNeighborsClassifier

from onnxtune import threads
from onnxtune.errors import ArgumentError
from onnxtune.result import TuneResult
from onnxtune.settings import Epoch
from onnxtune.threads import quickest, torch_threads
from onnxtune.tuning import tune


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float], int], list[int]]:
    """A machine with this many cores on which a step takes so many seconds by threads."""

    def of(seconds: dict[int, float], cores: int) -> list[int]:
        now, tried, count = 0.0, [], cores

        def step_time() -> float:
            return now

        def set_count(number: int) -> None:
            nonlocal count
            count = number

        def step() -> None:
            nonlocal now
            tried.append(count)
            now += seconds[count]

        monkeypatch.setattr(threads.time, "perf_counter", step_time)
        monkeypatch.setattr(threads.os, "cpu_count", lambda: 64)
        monkeypatch.setattr(torch, "get_num_threads", lambda: count)
        monkeypatch.setattr(torch, "set_num_threads", set_count)
        tried.append(quickest(step, 1000))
        assert count == cores
        return tried

    return of


def test_as_many_as_a_step_is_quickest_with(machine: Any) -> None:
    assert machine({1: 8.0, 2: 4.0, 4: 2.5, 8: 3.0}, 8)[-1] == 4
    assert machine({1: 8.0, 2: 4.0, 4: 2.0, 8: 1.0}, 8)[-1] == 8


def test_more_threads_must_be_clearly_quicker(machine: Any) -> None:
    assert machine({1: 1.0, 2: 0.85, 4: 0.9}, 4)[-1] == 1
    assert machine({1: 1.0, 2: 1.5, 4: 0.5}, 4)[-1] == 4


def test_a_short_run_takes_one(machine: Any) -> None:
    tried = machine({1: 0.001}, 8)
    assert set(tried) == {1}


def test_no_more_than_torch_would_take(machine: Any) -> None:
    """As where OMP_NUM_THREADS says how many cores are one's own."""
    assert machine({1: 8.0}, 1)[-1] == 1
    assert max(machine({1: 8.0, 2: 4.0}, 3)) == 2


def test_the_number_is_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    during = 0
    with contextlib.suppress(RuntimeError), torch_threads(before + 1):
        during = torch.get_num_threads()
        raise RuntimeError
    assert during == before + 1
    assert torch.get_num_threads() == before


def tuned(**options: Any) -> TuneResult:
    train, valid, _ = data_of("logistic of three")
    return tune(exported("logistic of three"), *train, valid=valid, epochs=1, lr=0.01, **options)


def test_the_report_says_how_many() -> None:
    seen: list[int] = []

    def look(record: Epoch) -> None:
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    assert tuned(threads=2, on_epoch=look).report["threads"] == 2
    assert tuned(on_epoch=look).report["threads"] == 1  # so short a run
    assert seen == [2, 1]
    assert torch.get_num_threads() == before


def test_a_trial_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxtune.trial.quickest", lambda step, steps: (step(), 3)[1])
    assert tuned().report["threads"] == 3


def test_a_trial_leaves_no_trace() -> None:
    asked, auto = tuned(threads=1), tuned()
    assert asked.history[0].train == auto.history[0].train
    assert all(p.grad is None for p in auto.module.parameters())


def test_a_trial_where_thresholds_alone_are_trained() -> None:
    train, valid, _ = data_of("boosting of three")
    result = tune(exported("boosting of three"), *train, valid=valid, epochs=1,
                  freeze=["*/leaf_values", "*/base_values"])  # fmt: skip
    assert result.report["threads"] == 1


def test_a_trial_where_steps_alone_have_gradients() -> None:
    """Votes of nearest neighbours have gradients through their shares, and none through places."""
    (X, y), valid, _ = data_of("logistic")
    neighbours = KNeighborsClassifier(3).fit(X[::2], y[::2])
    assert tune(neighbours, X[1::2], y[1::2], valid=valid, epochs=1).report["threads"] == 1


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many", None])
def test_wrong_numbers_are_named(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="threads must be a whole number of at least 1"):
        tuned(threads=wrong)
