"""What may be taken: gains beyond chance, of one model or of folds together."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from courts import court_for, losing
from pipelines import data_of, exported
from sklearn.datasets import make_friedman1

from onnxtune.judging import Court, best, pooled
from onnxtune.result import Candidate, TuneResult
from onnxtune.runtime import run
from onnxtune.tuning import tune


@cache
def some_court() -> Court:
    (X, y), valid, _ = data_of("ridge")
    return court_for(exported("ridge"), X, y, valid)[1]


def court_of(losses: Any, seed: int = 0) -> Court:
    """A court whose original has these losses."""
    settings: Any = SimpleNamespace(seed=seed)
    before = np.asarray(losses, float)
    return replace(some_court(), original=before, whole=before, settings=settings)


def candidates_of(court: Court, losses: Any, size: float = 1.0) -> list[Candidate]:
    return [losing(court, each, f"{number}", size=size) for number, each in enumerate(losses)]


# The gate.


@pytest.mark.parametrize("rows", [30, 400])
@pytest.mark.parametrize(("needed", "most"), [(1.64, 0.08), (1.0, 0.2)])
def test_noise_is_seldom_taken(rows: int, needed: float, most: float) -> None:
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(400):
        before = rng.exponential(size=rows)
        court = replace(court_of(before), needed_z=needed)
        after = before + rng.normal(size=rows) / 2
        accepted += best(candidates_of(court, [after]), "hard") is not None
    assert accepted < most * 400


def test_a_gain_is_taken() -> None:
    rng = np.random.default_rng(0)
    for seed in range(50):
        before = rng.exponential(size=300)
        court = court_of(before, seed)
        others = before + rng.normal(size=(8, 300)) / 2
        better = before - 0.2 + rng.normal(size=300) / 2
        taken = best(candidates_of(court, [*others[:4], better, *others[4:]]), "hard")
        assert taken is not None and taken.name == "4"


@pytest.mark.parametrize("gain", [0.0, -0.3])
def test_what_is_no_gain_is_never_taken(gain: float) -> None:
    before = np.random.default_rng(0).exponential(size=50)
    court = court_of(before)
    assert best(candidates_of(court, [before - gain, before]), "hard") is None
    assert best([], "hard") is None


def test_a_gain_on_few_rows_alone_is_not_taken() -> None:
    """Its mean is above 0, but not by much over its spread."""
    before = np.ones(200)
    after = before.copy()
    after[:2] = -9
    court = court_of(before)
    (found,) = candidates_of(court, [after])
    assert found.verdict.gain == pytest.approx(0.1)
    assert found.verdict.z == pytest.approx(1.42, abs=0.01)
    assert best([found], "hard") is None
    (found,) = candidates_of(replace(court, needed_z=1.0), [after])
    assert best([found], "hard") is found


def test_a_smaller_model_is_not_held_to_a_gain() -> None:
    before = np.random.default_rng(0).exponential(size=100) + 1
    court = replace(court_of(before), allowed_loss=0.02)
    step = 0.02 * before.mean()
    near, far = candidates_of(court, [before + 0.95 * step, before + 1.05 * step], size=0.5)
    assert best([near, far], "hard") is near
    assert best([far], "hard") is None
    # Another one must be as good in every row alike, or better by more: chance must not help it.
    noise = np.random.default_rng(1).normal(size=100)
    noise -= noise.mean()
    (unsure,) = candidates_of(court, [before * 1.01 + noise], size=0.5)
    assert unsure.verdict.limit is not None and unsure.verdict.after < unsure.verdict.limit
    assert best([unsure], "hard") is None


def test_losses_below_zero_have_a_limit_above_them() -> None:
    court = replace(court_of(np.full(50, -1.0)), allowed_loss=0.02)
    near, far = candidates_of(court, [np.full(50, -0.99), np.full(50, -0.97)], size=0.5)
    assert near.verdict.limit == pytest.approx(-0.98)
    assert near.verdict.accepted and not far.verdict.accepted


def test_a_smaller_model_is_held_against_all_trees_scaled() -> None:
    before = np.random.default_rng(0).exponential(size=100) + 1
    court = replace(court_of(before), allowed_loss=0.02, whole=before * 0.9)
    whole = losing(court, before * 0.9, "all trees")
    near, far = candidates_of(court, [before * 0.914, before * 0.919], size=0.5)
    assert best([whole, near, far], "hard") is near
    assert best([whole, far], "hard") is whole


def test_forms_are_judged_apart() -> None:
    before = np.random.default_rng(0).exponential(size=100)
    court = court_of(before)
    hard, soft = losing(court, before * 0.9), losing(court, before * 0.5, form="soft")
    assert best([hard, soft], "hard") is hard and best([hard, soft], "soft") is soft
    assert best([hard], "soft") is None


@pytest.mark.parametrize(("rows", "needed"), [(499, 1.64), (500, 1.0)])
def test_of_few_rows_more_is_asked(rows: int, needed: float) -> None:
    X, y = make_friedman1(700, noise=1, random_state=0)
    X = X.astype(np.float32)
    result = tune(exported("ridge"), X, y, valid=(X[:rows], y[:rows]), epochs=1)
    report = result.report
    assert {v["needed_z"] for v in report["verdicts"].values()} == {needed}
    for candidate in report["candidates"]:
        assert candidate["accepted"] == (candidate["gain"] > 0 and candidate["z"] > needed)
    assert set(report["verdicts"]) == {"hard"}


# Folds.


def test_folds_are_judged_as_one() -> None:
    rng = np.random.default_rng(0)
    courts = [court_of(rng.exponential(size=rows)) for rows in (20, 21, 22)]
    found = [
        [losing(court, court.original - gain, name) for name in names]
        for court, gain, names in zip(
            courts, (0.1, 0.2, 0.3), (["a", "b", "c"], ["b", "a"], ["a", "c", "b"]), strict=True
        )
    ]
    others = [{c.name: c.losses for c in fold} for fold in found[1:]]
    whole, together = pooled(courts, found[0], others)
    assert [c.name for c in together] == ["a", "b"]  # "c" was not found in all
    np.testing.assert_array_equal(
        whole.original, np.concatenate([court.original for court in courts])
    )
    wanted = np.repeat([0.1, 0.2, 0.3], [20, 21, 22])
    for candidate, first in zip(together, found[0], strict=False):
        np.testing.assert_allclose(whole.original - candidate.losses, wanted)
        assert candidate.verdict.gain == pytest.approx(wanted.mean())
        assert candidate.verdict == whole.verdict(candidate.losses, 1.0)
        # The model is that of the first fold.
        assert candidate.tensors is first.tensors and candidate.prepared is first.prepared
    alone = pooled(courts[:1], found[0], [])[1]
    assert [c.losses.tolist() for c in alone] == [c.losses.tolist() for c in found[0]]


def test_a_bolder_one_must_beat_the_milder_one() -> None:
    rng = np.random.default_rng(0)
    before = rng.exponential(size=300)
    court = court_of(before)
    milder = losing(court, before - 0.2 + rng.normal(size=300) / 10, "trained")
    near = replace(losing(court, milder.losses - rng.normal(size=300) / 10, "n"), milder="trained")
    far = replace(losing(court, milder.losses - 0.1, "f"), milder="trained")
    _, found = pooled([court], [milder, near, far], [])
    by_name = {c.name: c for c in found}
    assert [by_name[name].verdict.accepted for name in ("trained", "n", "f")] == [True, False, True]
    _, (alone,) = pooled([court], [near], [])
    assert alone.verdict.milder_z is None and alone.verdict.accepted


FAST: dict[str, Any] = {"epochs": 2, "routing": "leaves", "lr": 0.03}


@pytest.mark.parametrize("name", ["ridge", "boosting of three", "regression forest"])
def test_few_rows_take_turns(name: str) -> None:
    parts = data_of(name)
    X, y = (np.concatenate([part[at] for part in parts]) for at in (0, 1))
    order = np.random.default_rng(0).permutation(len(X))[:200]
    X, y = X[order], y[order]
    options = {k: v for k, v in FAST.items() if name != "ridge" or k != "routing"}
    result = tune(exported(name), X, y, valid=0.2, **options)
    report, rows = result.report, len(X)
    assert report["folds"] == 5
    assert report["validation_rows"] == rows
    assert report["rows"] == rows - -(-rows // 5)
    # All of them are what the original is judged on.
    output = run(exported(name), {"X": X})
    if name == "boosting of three":
        expected = -np.log(output["probabilities"][np.arange(rows), y]).mean()
    else:
        expected = np.square(output["variable"][:, 0] - y).mean()
    for candidate in report["candidates"]:
        assert candidate["before"] == pytest.approx(expected, rel=1e-4)
    again = tune(exported(name), X, y, valid=0.2, **options)
    for own, other in zip(report["candidates"], again.report["candidates"], strict=True):
        assert own == other
    assert again.model().SerializeToString() == result.model().SerializeToString()
    other = tune(exported(name), X, y, valid=0.2, seed=1, **options)
    assert [c["after"] for c in other.report["candidates"]] != [
        c["after"] for c in report["candidates"]
    ]


def test_when_rows_take_turns() -> None:
    X, y = make_friedman1(1001, noise=1, random_state=0)
    X, half = X.astype(np.float32), np.arange(1001) % 2 == 0

    def folds(rows: int, valid: Any) -> tuple[int, int]:
        report = tune(exported("ridge"), X[:rows], y[:rows], valid=valid, epochs=1).report
        return report["folds"], report["validation_rows"]

    assert folds(1000, 0.3) == folds(1000, np.float32(0.3)) == (5, 1000)
    assert folds(1001, 0.3) == (1, 300)
    # Groups of a column take turns, too.
    table = pd.DataFrame(X).assign(y=y, team=np.arange(1001) // 100)
    for rows, expected in ((1000, (5, 1000)), (1001, (1, 300))):
        report = tune(exported("ridge"), table[:rows], "y", valid="team", epochs=1).report
        assert report["folds"] == expected[0]
        assert report["validation_rows"] >= 200
        assert (report["validation_rows"] == rows) == (expected[0] == 5)
    # Whoever says which rows gets those.
    assert folds(500, "last") == (1, 100)
    assert folds(500, half[:500]) == (1, 250)
    assert folds(500, np.arange(40)) == (1, 40)
    assert folds(500, (X[500:560], y[500:560])) == (1, 60)


# Labels that the model itself has drawn: there is nothing to gain.


def nothing_to_gain(name: str, seed: int, rows: int) -> TuneResult:
    rng = np.random.default_rng(seed)
    X = np.concatenate([part[0] for part in data_of(name)])
    X = X[rng.integers(len(X), size=rows)]
    model = exported(name)
    found = [np.asarray(v) for v in run(model, {"X": X}).values()]
    value = next(v for v in found if v.dtype.kind == "f")
    if value.shape[1] > 1:
        y = (rng.random((rows, 1)) > value.astype(float).cumsum(axis=1)[:, :-1]).sum(axis=1)
    elif name == "poisson":
        y = rng.poisson(value[:, 0])
    else:
        y = value[:, 0] + rng.normal(size=rows)
    return tune(model, X, y, epochs=2, seed=seed)


@pytest.mark.parametrize("name", ["logistic of three", "boosting of three", "poisson"])
def test_where_there_is_nothing_to_gain_the_bytes_stay(name: str) -> None:
    taken = 0
    for seed in range(3):
        result = nothing_to_gain(name, seed, 300)
        assert result.report["folds"] == 5
        if result.hard is None:
            assert result.model().SerializeToString() == exported(name).SerializeToString()
        taken += result.accepted
    # By chance one in twenty.
    assert taken <= 1
