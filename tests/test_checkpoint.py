"""A run that is killed and resumed comes to the numbers of one that was not, bit for bit."""

from __future__ import annotations

import functools
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from pipelines import data_of, exported
from safetensors import safe_open

import onnxtune
from onnxtune import checkpoint as checkpoints
from onnxtune.checkpoint import described
from onnxtune.errors import ArgumentError
from onnxtune.result import TuneResult
from onnxtune.settings import Epoch
from onnxtune.tuning import tune

needs_kill = pytest.mark.skipif(not hasattr(os, "fork"), reason="killing needs fork")

# Name -> pipeline, whether five folds take turns, options.
RUNS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "leaves": ("boosting", False, {"routing": "leaves", "epochs": 4}),
    "soft": ("boosting of three", False, {"routing": "soft", "epochs": 4, "clip": 1.0}),
    "steps": ("boosting of three", False, {"routing": "straight-through", "epochs": 3,
                                           "precision": "bfloat16"}),
    "both optimizers": ("logistic", False, {"epochs": 3}),
    "folds": ("logistic of three", True, {"epochs": 2, "noise": 0.1, "sampling": "over"}),
}  # fmt: skip

Killed = Callable[[str, list[dict[str, Any]]], list[int]]


def _job(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    pipeline, folds, options = RUNS[name]
    train, valid, _ = data_of(pipeline)
    model, data = folder / "model.onnx", folder / "data.npz"
    if not model.exists():
        model.write_bytes(exported(pipeline).SerializeToString())
        rows = {"X": train[0], "y": train[1]}
        np.savez(data, **rows | ({} if folds else {"valid_X": valid[0], "valid_y": valid[1]}))
    options = options | more.pop("options", {}) | {"threads": 1, "device": "cpu"}
    result = str(folder / f"{more.pop('title')}.result")
    return {"model": str(model), "data": str(data), "options": options, "result": result} | more


def _done(jobs: list[dict[str, Any]]) -> list[int]:
    """The exit status of each job."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("killed_runs.py"))],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ran.returncode == 0, ran.stderr
    statuses: list[int] = json.loads(ran.stdout.splitlines()[-1])
    assert 1 not in statuses, ran.stderr
    return statuses


def _assert_same(folder: Path, first: str, second: str) -> None:
    one, other = (
        pickle.loads((folder / f"{title}.result").read_bytes()) for title in (first, second)
    )
    for key in ("tensors", "soft"):
        assert one[key].keys() == other[key].keys()
        for name, value in one[key].items():
            assert value.tobytes() == other[key][name].tobytes(), (first, second, key, name)
    for key in ("history", "candidates", "threads"):
        assert repr(one[key]) == repr(other[key]), (first, second, key)


def _kills(folder: Path, name: str, kills: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs: the run, and the run killed each of these times and then left in peace."""
    where = {"checkpoint": str(folder / "kept"), "resume": True}
    jobs = [_job(folder, name, title="whole")]
    jobs += [
        _job(folder, name, title=f"killed {k}", kill=kill, options=where)
        for k, kill in enumerate(kills)
    ]
    return [*jobs, _job(folder, name, title="resumed", options=where)]


# The write of run.json is the first one of every start.
FEW = {
    "soft": [{"at": "half", "number": 3}],
    "both optimizers": [{"at": "after", "number": 5}, {"at": "half", "number": 2}],
    "folds": [{"at": "epoch", "number": 7}, {"at": "before", "number": 5}],
}  # fmt: skip


@needs_kill
def test_killed_and_resumed_comes_to_the_same_bits(tmp_path: Path) -> None:
    jobs: list[dict[str, Any]] = []
    for name, kills in FEW.items():
        (tmp_path / name).mkdir()
        jobs += _kills(tmp_path / name, name, kills)
    statuses = _done(jobs)
    assert statuses == [code for kills in FEW.values() for code in (0, *[-9] * len(kills), 0)]
    for name in FEW:
        _assert_same(tmp_path / name, "whole", "resumed")
        found = pickle.loads((tmp_path / name / "whole.result").read_bytes())
        assert found["tensors"]
        kept = tmp_path / name / "kept"
        assert not list(kept.glob(".onnxtune-*"))
        assert {path.suffix for path in kept.iterdir()} == {".json", ".safetensors"}


SLOW = ("steps", "folds")


def _marked(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.exhaustive)


@needs_kill
@pytest.mark.parametrize("name", [_marked(name) for name in RUNS])
def test_killed_twenty_times(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    kills: list[dict[str, Any]] = [
        {"at": at, "number": rng.randint(1, 4)} if at != "time"
        else {"at": at, "number": rng.uniform(0.1, 1.0)}
        for at in rng.choices(["half", "before", "after", "epoch", "time"], k=20)
    ]  # fmt: skip
    statuses = _done(_kills(tmp_path, name, kills))
    assert set(statuses) <= {0, -9}
    assert -9 in statuses
    _assert_same(tmp_path, "whole", "resumed")


# What a folder says of itself


def tuned(folder: Path | None, name: str = "logistic of three", **options: Any) -> TuneResult:
    train, valid, _ = data_of(name)
    given: dict[str, Any] = {"valid": valid, "epochs": 2, "threads": 1} | options
    if folder is not None:
        given["checkpoint"] = folder
    return tune(given.pop("model", exported(name)), *given.pop("data", train), **given)


def same(first: TuneResult, second: TuneResult) -> bool:
    records = [
        [record.to_dict() | {"seconds": 0} for record in result.history]
        for result in (first, second)
    ]
    tensors = [
        {name: value.tobytes() for name, value in result.tensors.items()}
        for result in (first, second)
    ]
    return records[0] == records[1] and tensors[0] == tensors[1]


def test_a_finished_run_is_resumed_without_training(tmp_path: Path) -> None:
    first = tuned(tmp_path, epochs=3)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    seen: list[Epoch] = []
    second = tuned(tmp_path, epochs=3, resume=True, on_epoch=seen.append)
    assert same(first, second)
    assert first.tensors
    assert [record.seconds for record in first.history] == [r.seconds for r in second.history]
    assert not seen
    assert files == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}


def test_what_is_kept_is_readable_and_no_pickle(tmp_path: Path) -> None:
    tuned(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "run.json", "fold-1-trained.safetensors", "fold-1-trained-boldly.safetensors",
    }  # fmt: skip
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["arguments"]["epochs"] == 2
    assert run["versions"] == {"onnxtune": onnxtune.__version__, "torch": torch.__version__}
    with safe_open(tmp_path / "fold-1-trained.safetensors", framework="np") as file:
        assert "delta/LinearClassifier/coefficients" in file.keys()  # noqa: SIM118
        facts = json.loads(file.metadata()["facts"])
    assert (facts["epoch"], facts["done"], facts["stopped"]) == (2, True, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 9}, r"other arguments \(epochs=2, now 9\)"),
        ({"lr": {"*/coefficients": 0.1}}, r"other arguments \(lr=None, now \{'\*/coef"),
        (
            {"order": "given", "clip": 2.0},
            r"order='shuffle', now 'given', clip=None, now 2",
        ),
        ({"model": "logistic"}, "another model"),
        ({"data": "fewer"}, "other data"),
        ({"data": "weighted"}, "other data"),
    ],
)
def test_another_run_is_refused_by_name(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tuned(tmp_path)
    (X, y), valid, _ = data_of("logistic of three")
    if "model" in change:
        other = exported("logistic of three")
        held = type(other)()
        held.CopyFrom(other)
        held.doc_string = "another"
        change = {"model": held}
    elif change.get("data") == "fewer":
        change = {"data": (X[1:], y[1:])}
    elif change.get("data") == "weighted":
        change = {"sample_weight": np.arange(len(X)), "valid": valid}
    with pytest.raises(ArgumentError, match=message):
        tuned(tmp_path, resume=True, **change)


def test_several_outputs_are_told_by_their_weights(tmp_path: Path) -> None:
    from test_joint_outputs import TWO_HEADS, data

    model, rows = onnx.parser.parse_model(TWO_HEADS), data()

    def joint(weight: float, **options: Any) -> TuneResult:
        return tune(model, *rows, output=["size", "shares"], valid=data(seed=1), epochs=1,
                    output_weight={"shares": weight}, threads=1, **options)  # fmt: skip

    first = joint(2.0, checkpoint=tmp_path)
    assert first.tensors
    assert same(first, joint(2.0, checkpoint=tmp_path, resume=True))
    with pytest.raises(ArgumentError, match=r"output_weight=\{'shares': 2.0\}, now \{'shares': 3"):
        joint(3.0, checkpoint=tmp_path, resume=True)


def test_other_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned(tmp_path)
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.raises(ArgumentError, match=r"other versions of the packages \(torch='2.*'1.0'"):
        tuned(tmp_path, resume=True)


def test_a_folder_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    tuned(tmp_path)
    with pytest.raises(ArgumentError, match="holds a run; resume it"):
        tuned(tmp_path)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(ArgumentError, match=r"holds files but no run \(such as thesis.txt\)"):
            tuned(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "3", "null"])
def test_a_broken_record_of_the_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ArgumentError, match=r"checkpoint '.*cannot be used"):
        tuned(tmp_path, resume=True)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("")
    with pytest.raises(ArgumentError, match=r"checkpoint '.*cannot be used"):
        tuned(tmp_path / "it")


@pytest.mark.parametrize("content", [b"", b"nonsense", "cut", "of another"])
def test_a_broken_state_is_named(content: bytes | str, tmp_path: Path) -> None:
    tuned(tmp_path)
    path = tmp_path / "fold-1-trained.safetensors"
    if content == "cut":
        content = path.read_bytes()[:-7]
    if content == "of another":
        from safetensors.numpy import save

        content = save({"x": np.zeros(2)}, {"facts": "{}"})
    path.write_bytes(content)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"fold-1-trained\.safetensors: is no state of this"):
        tuned(tmp_path, resume=True)
    path.unlink()
    assert same(tuned(tmp_path, resume=True), tuned(None))


def test_resume_needs_a_folder() -> None:
    with pytest.raises(ArgumentError, match="resume needs the checkpoint folder"):
        tuned(None, resume=True)


def test_resume_of_nothing_begins(tmp_path: Path) -> None:
    first = tuned(tmp_path / "new" / "folder", resume=True)
    assert first.history
    assert (tmp_path / "new" / "folder" / "run.json").exists()


def test_a_run_ended_by_on_epoch_ends_there_again(tmp_path: Path) -> None:
    first = tuned(tmp_path, epochs=5, on_epoch=lambda record: record.epoch == 2)
    assert len(first.history) == 2
    assert same(first, tuned(tmp_path, epochs=5, resume=True))


def test_an_interrupt_in_the_last_epoch_does_not_stop_the_resumed_run(tmp_path: Path) -> None:
    """Ctrl-C is of the process and not of the run: a resumed one goes on with what is left."""
    import signal

    def interrupt(record: Epoch) -> None:
        if record.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    first = tuned(tmp_path, on_epoch=interrupt)
    assert first.report["interrupted"]
    assert {record.training for record in first.history} == {"trained"}
    second = tuned(tmp_path, resume=True)
    assert not second.report["interrupted"]
    assert same(second, tuned(None))


def test_a_resumed_run_keeps_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(tmp_path, threads=2)
    monkeypatch.setattr("onnxtune.trial.quickest", lambda step, steps: 1)
    assert tuned(tmp_path, threads="auto", resume=True).report["threads"] == 2
    assert tuned(None, threads="auto").report["threads"] == 1


def _curriculum(epoch: int, numbers: Any, rng: Any) -> Any:
    return numbers


def test_arguments_are_described_alike_in_every_process() -> None:
    assert described(_curriculum) == "test_checkpoint._curriculum"
    assert described(functools.partial(_curriculum, 1)).startswith("functools.partial")
    assert described(np.int64(3)) == 3
    assert described(np.float32(0.5)) == 0.5
    assert described({"b", "a"}) == ["a", "b"]
    assert described(Path("x")) == "x"
    assert described({1: [2.5, None]}) == {"1": [2.5, None]}
    long = described(np.arange(1000))
    assert long == described(list(range(1000)))
    assert long != described(np.arange(1, 1001))


@pytest.mark.parametrize("freeze", [{"Scaler/*"}, ("Scaler/*",), "Scaler/*", iter(["Scaler/*"])])
def test_frozen_tensors_are_told_by_their_globs(freeze: Any, tmp_path: Path) -> None:
    tuned(tmp_path, freeze=["Scaler/*"], epochs=1)
    assert "Scaler/scale" not in tuned(tmp_path, freeze=freeze, epochs=1, resume=True).tensors


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any, content: bytes) -> None:
        raise ArgumentError(f"{path}: cannot be written (no space).")

    monkeypatch.setattr(checkpoints, "write", refuse)
    with pytest.raises(ArgumentError, match=r"run\.json: cannot be written"):
        tuned(tmp_path)
