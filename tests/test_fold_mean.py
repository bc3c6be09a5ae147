"""The mean of the folds' tensors: what is handed out where all rows take turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from courts import court_for
from pipelines import data_of, exported

import onnxtune
from onnxtune import turns
from onnxtune.fold_mean import FoldMean
from onnxtune.judging import Court
from onnxtune.result import Candidate
from onnxtune.scaling import with_logits


def court_and_candidate(name: str) -> tuple[Court, Candidate]:
    (X, y), valid, _ = data_of(name)
    problem, court = court_for(exported(name), X, y, valid)
    own = {key: held.value for key, held in problem.original.learned.items()}
    tuned = {key: value + np.float32(0.5) for key, value in own.items()}
    return court, court.judge("trained", "hard", 1.0, problem.prepared, tuned)


def moved(candidate: Candidate, step: float, name: str = "trained") -> Candidate:
    tensors = {key: value + np.float32(step) for key, value in candidate.tensors.items()}
    return replace(candidate, name=name, tensors=tensors)


def test_the_mean_of_three_folds() -> None:
    court, first = court_and_candidate("ridge")
    mean = FoldMean()
    for step in (0.0, 1.0, 2.0):
        mean.add(court, [moved(first, step)])
    found = mean.judged(court, first)
    for key, value in first.tensors.items():
        np.testing.assert_allclose(found.tensors[key], value + 1, rtol=1e-6)
        assert found.tensors[key].dtype == value.dtype
    assert found.verdict is first.verdict and found.losses is first.losses


def test_a_fold_that_changed_nothing_counts_with_its_own_numbers() -> None:
    court, first = court_and_candidate("ridge")
    mean = FoldMean()
    mean.add(court, [first])
    mean.add(court, [replace(first, tensors={})])
    found = mean.judged(court, first)
    for key, value in first.tensors.items():
        np.testing.assert_allclose(found.tensors[key], value - 0.25, rtol=1e-6, atol=1e-6)


def test_without_a_mean_the_first_fold_stays() -> None:
    court, first = court_and_candidate("ridge")
    mean = FoldMean()
    mean.add(court, [first, moved(first, 0.0, "seldom")])
    assert mean.judged(court, first) is first  # a single fold
    shorter = {key: value[..., :1] for key, value in first.tensors.items()}
    mean.add(court, [replace(first, tensors=shorter)])
    assert mean.judged(court, first) is first
    seldom = moved(first, 0.0, "seldom")
    assert mean.judged(court, seldom) is seldom


def test_another_link_has_no_mean_with_the_first() -> None:
    """One fold's forest moved to logits, the other's not."""
    court, first = court_and_candidate("forest of three")
    holder = next(name for name in first.tensors if name.endswith("/leaf_values"))
    logits = with_logits(first.prepared, {holder}, 4.0)
    assert logits is not None
    mean = FoldMean()
    mean.add(court, [first])
    mean.add(court, [replace(first, prepared=logits)])
    assert mean.judged(court, first) is first


def test_tune_hands_out_the_mean_of_its_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    class Watched(FoldMean):
        def add(self, court: Any, candidates: Any) -> None:
            found = list(candidates)
            seen.append({c.name: c.tensors for c in found})
            super().add(court, found)

    monkeypatch.setattr(turns, "FoldMean", Watched)
    (X, y), _, _ = data_of("ridge")
    X, y = X[:200], np.asarray(y[:200]) + 3
    result = onnxtune.tune(exported("ridge"), X, y, epochs=3)
    assert result.hard is not None and len(seen) == result.report["folds"] == 5
    taken = result.report["taken"]["hard"]
    for key, value in result.tensors.items():
        expected = np.mean([fold[taken][key] for fold in seen], axis=0, dtype=np.float64)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
