"""The knobs of a training: rates, freezing, clipping, precision, patience, and how it ends."""

from __future__ import annotations

import logging
import math
import signal
import threading
from typing import Any

import numpy as np
import pytest
import torch
from pipelines import data_of, exported

from onnxtune import training_loop
from onnxtune.errors import ArgumentError
from onnxtune.result import TuneResult
from onnxtune.settings import Epoch
from onnxtune.tuning import tune


def tuned(name: str = "logistic", **options: Any) -> TuneResult:
    train, valid, _ = data_of(name)
    given = {"valid": valid, "epochs": 2, "threads": 1} | options
    return tune(exported(name), *train, **given)


# Same seed, same bits


@pytest.mark.parametrize("name", ["logistic of three", "boosting of three"])
def test_two_runs_with_one_seed(name: str) -> None:
    first, second = (tuned(name, noise=0.1, lr=0.03, epochs=3) for _ in range(2))
    assert [r.to_dict() | {"seconds": 0} for r in first.history] == [
        r.to_dict() | {"seconds": 0} for r in second.history
    ]
    assert first.report["candidates"] == second.report["candidates"]
    assert first.tensors.keys() == second.tensors.keys()
    for key, value in first.tensors.items():
        assert value.tobytes() == second.tensors[key].tobytes()
    assert first.model().SerializeToString() == second.model().SerializeToString()


def test_another_seed_orders_rows_otherwise() -> None:
    first, second = (tuned(seed=seed).history[0].train for seed in (0, 1))
    assert first != second


# Steps


class Steps:
    """What every optimizer did: its rates, and the norms of the gradients that it got."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rates: list[list[float]] = []
        self.norms: list[float] = []
        self.given: dict[str, float] = {}
        step, kept, steps = torch.optim.Adam.step, training_loop._State.set_rates, self

        def watched(optimizer: Any, *rest: Any) -> Any:
            deltas = [p for group in optimizer.param_groups for p in group["params"]]
            square = sum(float(p.grad.square().sum()) for p in deltas if p.grad is not None)
            steps.norms.append(math.sqrt(square))
            return step(optimizer, *rest)

        def set_rates(state: Any, epoch: int) -> None:
            kept(state, epoch)
            steps.rates.append([group["lr"] for group in state.optimizer.param_groups])
            steps.given = dict(state.settings.rates)

        monkeypatch.setattr(torch.optim.Adam, "step", watched)
        monkeypatch.setattr(training_loop._State, "set_rates", set_rates)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


def test_rates_by_glob(steps: Steps) -> None:
    tuned(lr={"*": 0.01, "*/coefficients": 0.5}, epochs=1)
    assert steps.given == {
        "Scaler/offset": 0.01,
        "Scaler/scale": 0.01,
        "LinearClassifier/coefficients": 0.5,
        "LinearClassifier/intercepts": 0.01,
    }


def test_other_tensors_keep_the_default_rates(steps: Steps) -> None:
    tuned("boosting of three", lr={"*/leaf_values": 0.5}, epochs=1, routing="soft")
    by_group = {name.split("/")[1]: rate for name, rate in steps.given.items()}
    assert by_group["leaf_values"] == 0.5
    assert by_group["thresholds"] == 0.01


def test_other_tensors_keep_the_speed_of_their_training(steps: Steps) -> None:
    name, options = "boosting of three", {"epochs": 1, "routing": "straight-through"}
    tuned(name, lr={"*/leaf_values": 0.5}, **options)
    by_group = {name.split("/")[1]: rate for name, rate in steps.given.items()}
    assert by_group["leaf_values"] == 0.5 and by_group["thresholds"] == 0.02
    # No mapping at all.
    tuned(name, lr={}, **options)
    by_group = {name.split("/")[1]: rate for name, rate in steps.given.items()}
    assert by_group["leaf_values"] == 0.006 and by_group["thresholds"] == 0.02


@pytest.mark.parametrize(
    ("lr", "bold"), [(None, True), ({}, True), ({"*/scale": 0.5}, True), ({"*": 0.5}, False)]
)
def test_one_step_size_a_tensor_unless_all_rates_are_given(
    lr: Any, bold: bool, steps: Steps
) -> None:
    trainings = {record.training for record in tuned(lr=lr, epochs=1).history}
    assert ("trained boldly" in trainings) == bold
    if lr and bold:
        assert steps.given["Scaler/scale"] == 0.5
        assert steps.given["LinearClassifier/coefficients"] == 0.02


def test_a_rate_for_tensors_that_stay_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    tuned(lr={"Scaler/*": 0.5}, freeze="Scaler/*", epochs=1)
    assert "lr: 'Scaler/*' matches no tensor that is trained" in caplog.text


def test_rates_fall_along_a_cosine(steps: Steps) -> None:
    tuned(lr=1.0, epochs=5, patience=9)
    rates = [each[0] for each in steps.rates]
    assert rates == pytest.approx(
        [0.02 + 0.98 * (1 + math.cos(math.pi * k / 5)) / 2 for k in range(5)]
    )


@pytest.mark.parametrize("lr", [0, -1, "fast", float("nan"), {"*": 0}, {"*": "fast"}])
def test_wrong_rates_are_named(lr: Any) -> None:
    with pytest.raises(ArgumentError, match="lr"):
        tuned(lr=lr)


def test_a_rate_for_no_tensor_is_named() -> None:
    with pytest.raises(ArgumentError, match="'trees/\\*'"):
        tuned(lr={"trees/*": 0.1})


def test_frozen_tensors_are_not_trained(steps: Steps) -> None:
    result = tuned(freeze=["Scaler/*", "*/intercepts"], lr=0.1, epochs=1)
    assert set(steps.given) == {"LinearClassifier/coefficients"}
    assert list(result.report["tensors"]) == ["LinearClassifier/coefficients"]


def test_gradients_are_cut_to_the_norm(steps: Steps) -> None:
    tuned(lr=0.01, epochs=1)
    free = steps.norms.copy()
    steps.norms.clear()
    clip = float(np.median(free))
    tuned(lr=0.01, epochs=1, clip=clip)
    assert max(free) > clip * 1.01
    assert max(steps.norms) <= clip * 1.0001
    assert steps.norms[0] == pytest.approx(min(free[0], clip), rel=1e-4)


@pytest.mark.parametrize("clip", [0, -1, "tight", float("inf")])
def test_wrong_norms_are_named(clip: Any) -> None:
    with pytest.raises(ArgumentError, match="clip must be a positive number"):
        tuned(clip=clip)


@pytest.mark.parametrize(
    ("name", "routing"),
    [
        ("logistic", "auto"),
        ("logistic of three", "auto"),
        ("poisson", "auto"),
        ("ridge", "auto"),
        # Behind a PCA, whose product is one of halves.
        ("forest", "auto"),
        ("forest", "straight-through"),
        ("regression boosting", "straight-through"),
    ],
)
def test_half_precision_comes_close(name: str, routing: Any) -> None:
    full, half = (
        tuned(name, precision=p, epochs=2, routing=routing) for p in ("float32", "bfloat16")
    )
    assert half.tensors.keys() == full.tensors.keys()
    assert {value.dtype for value in half.tensors.values()} <= {np.dtype("f4"), np.dtype("f8")}
    for one, other in zip(full.history, half.history, strict=True):
        assert other.valid == pytest.approx(one.valid, rel=0.05)
        assert other.train == pytest.approx(one.train, rel=0.05)


def test_half_precision_is_really_used(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[bool] = set()
    kept = training_loop.row_losses

    def watched(*given: Any) -> Any:
        seen.add(torch.is_autocast_enabled("cpu"))
        return kept(*given)

    monkeypatch.setattr(training_loop, "row_losses", watched)
    tuned(precision="bfloat16", epochs=1)
    assert seen == {True}


@pytest.mark.parametrize("name", ["epochs", "patience", "batch_size"])
@pytest.mark.parametrize("wrong", [0, -3, 2.5, "few", None])
def test_wrong_counts_are_named(name: str, wrong: Any) -> None:
    if (name, wrong) == ("batch_size", None):
        return
    with pytest.raises(ArgumentError, match=f"{name} must be a whole number of at least 1, not"):
        tuned(**{name: wrong})


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(ArgumentError, match="precision 'float16' is none of float32, bfloat16"):
        tuned(precision="float16")


# How it ends


def test_patience_ends_a_training() -> None:
    # Steps so large that no epoch is better than the first.
    result = tuned("boosting of three", routing="leaves", lr=30.0, epochs=30, patience=3)
    losses = [record.valid for record in result.history]
    assert len(losses) == 3 + 1 + int(np.argmin(losses))
    assert len(losses) < 30


def test_on_epoch_gets_every_record() -> None:
    seen: list[Epoch] = []
    result = tuned("logistic of three", on_epoch=seen.append)
    assert tuple(seen) == result.history
    assert [(r.training, r.fold, r.epoch) for r in seen] == [
        ("trained", 1, 1), ("trained", 1, 2), ("trained boldly", 1, 1), ("trained boldly", 1, 2),
    ]  # fmt: skip
    assert not result.report["interrupted"]


def test_on_epoch_gets_the_records_of_all_folds() -> None:
    seen: list[Epoch] = []
    result = tuned(on_epoch=seen.append, valid=0.2, lr=0.01, epochs=1)
    assert [record.fold for record in seen] == [1, 2, 3, 4, 5]
    assert result.history == (seen[0],)


@pytest.mark.parametrize("truth", [True, 1, "enough"])
def test_a_true_value_ends_all_trainings_and_is_judged(truth: Any) -> None:
    seen: list[Epoch] = []

    def ends(record: Epoch) -> Any:
        seen.append(record)
        return truth

    result = tuned("boosting", epochs=20, on_epoch=ends, lr=0.05)
    assert len(seen) == 1 == len(result.history)
    names = [one["name"] for one in result.report["candidates"]]
    assert "leaves" in names
    assert not {"soft", "straight-through"} & set(names)
    assert not result.report["interrupted"]


def test_a_stop_in_a_later_fold_counts_the_folds_that_are_done() -> None:
    result = tuned(valid=0.2, lr=0.01, on_epoch=lambda record: record.fold == 4)
    rows = len(data_of("logistic")[0][0])
    assert result.report["folds"] == 3
    assert 0.55 * rows < result.report["validation_rows"] < 0.65 * rows
    assert result.report["candidates"][0]["before"] > 0
    assert "one of 3 folds" in result.text()


def test_a_stop_at_the_end_of_a_fold_counts_it() -> None:
    options: Any = {"valid": 0.2, "lr": 0.01, "epochs": 2}
    result = tuned(**options, on_epoch=lambda record: record.fold == 4 and record.epoch == 2)
    assert result.report["folds"] == 4
    cut = tuned(**options, on_epoch=lambda record: record.fold == 4 and record.epoch == 1)
    assert cut.report["folds"] == 3
    # Of two trainings the first one's end is not the fold's.
    del options["lr"]
    result = tuned(**options, on_epoch=lambda record: record.fold == 4 and record.epoch == 2)
    assert result.report["folds"] == 3


def test_a_stop_in_the_first_fold_leaves_one(tmp_path: Any) -> None:
    result = tuned(valid=0.2, lr=0.05, on_epoch=lambda record: True)
    assert result.report["folds"] == 1
    assert result.report["validation_rows"] < 60
    result.plot(tmp_path / "it.png")


def test_an_error_in_on_epoch_is_the_callers() -> None:
    def fails(record: Epoch) -> None:
        raise RuntimeError("mine")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="mine"):
        tuned(on_epoch=fails)
    assert signal.getsignal(signal.SIGINT) is before


def test_on_epoch_must_be_callable() -> None:
    with pytest.raises(ArgumentError, match="on_epoch must be a callable, not 'print'"):
        tuned(on_epoch="print")


def test_a_loss_that_is_no_number_keeps_the_best(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def rows(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        found = (output[:, 0] - target[:, 0]).square()
        calls += found.requires_grad
        return found * (math.nan if found.requires_grad and calls > 12 else 1.0)

    with caplog.at_level(logging.WARNING):
        result = tuned("ridge", loss=rows, epochs=9, lr=0.03)
    (message,) = [r.getMessage() for r in caplog.records if "the loss became" in r.getMessage()]
    assert message.startswith("trained: the loss became nan in epoch 2; what was best before")
    assert [record.epoch for record in result.history] == [1]
    assert all(np.isfinite(value).all() for value in result.tensors.values())
    verdict = result.verdicts["hard"]
    assert math.isfinite(verdict.after)
    assert result.accepted


# Ctrl-C


def interrupting(at: int) -> Any:
    seen: list[Epoch] = []

    def interrupt(record: Epoch) -> None:
        seen.append(record)
        if len(seen) == at:
            signal.raise_signal(signal.SIGINT)

    return interrupt


def test_an_interrupt_returns_the_best_so_far(
    caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with caplog.at_level(logging.WARNING):
        result = tuned("boosting", epochs=50, patience=50, lr=0.05, on_epoch=interrupting(2))
    assert signal.getsignal(signal.SIGINT) is before
    assert result.report["interrupted"]
    assert len(result.history) == 2
    assert result.tensors
    assert "once more to stop at once" in caplog.text
    result.save(tmp_path / "it.onnx")
    result.plot(tmp_path / "it.png")


def test_an_interrupt_before_the_first_epoch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    kept = training_loop._pass

    def interrupted(*given: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return kept(*given)

    monkeypatch.setattr(training_loop, "_pass", interrupted)
    result = tuned("boosting of three")
    assert result.report["interrupted"]
    assert result.history == ()
    assert "Interrupted: what was best by then is judged." in result.text().splitlines()
    result.plot(tmp_path / "it.png")
    result.save(tmp_path / "it.onnx")


def test_a_second_interrupt_stops_at_once() -> None:
    def twice(record: Epoch) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tuned(on_epoch=twice)
    assert signal.getsignal(signal.SIGINT) is before


def test_who_ignores_interrupts_goes_on_ignoring_them() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = tuned(on_epoch=interrupting(1), lr=0.01)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(result.history) == 2
    assert not result.report["interrupted"]


def test_a_thread_that_is_not_the_main_one() -> None:
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(tuned(on_epoch=lambda record: record.epoch == 2, epochs=4))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (result,) = found
    assert isinstance(result, TuneResult), result
    assert len(result.history) == 2
