"""Records of epochs where people look at them: TensorBoard and MLflow."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
from pipelines import data_of, exported

from onnxtune.errors import MissingDependencyError
from onnxtune.settings import Epoch
from onnxtune.tuning import tune
from onnxtune.writers import MLflowWriter, TensorBoardWriter

RECORDS = (
    Epoch("soft", 1, 0.5, 0.6, 0.55, 1.0, "soft", 1),
    Epoch("soft", 2, 0.4, 0.5, 0.45, 1.5, "soft", 1),
    Epoch("hard", 1, 0.7, 0.8, None, 0.5, "trained boldly", 2),
)


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorBoard itself
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        writer = TensorBoardWriter(tmp_path / "runs")
        for record in RECORDS:
            writer(record)
        writer.close()
        assert {path.name for path in (tmp_path / "runs").iterdir()} == {
            "fold-1-soft", "fold-2-trained-boldly",
        }  # fmt: skip
        read = EventAccumulator(str(tmp_path / "runs" / "fold-1-soft"))
        read.Reload()
        assert set(read.Tags()["scalars"]) == {"train", "valid", "valid_soft", "seconds"}
        found = [(event.step, event.value) for event in read.Scalars("valid")]
        assert found == [(1, pytest.approx(0.6)), (2, pytest.approx(0.5))]
        other = EventAccumulator(str(tmp_path / "runs" / "fold-2-trained-boldly"))
        other.Reload()
        assert set(other.Tags()["scalars"]) == {"train", "valid", "seconds"}


def test_tensorboard_follows_a_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train, valid, _ = data_of("logistic of three")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = TensorBoardWriter(tmp_path)
        result = tune(exported("logistic of three"), *train, valid=valid, epochs=2, on_epoch=writer)
        writer.close()
    assert len(result.history) == 4
    assert {path.name for path in tmp_path.iterdir()} == {
        "fold-1-trained", "fold-1-trained-boldly",
    }  # fmt: skip


def test_mlflow_gets_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[dict[str, float], int]] = []
    stub: Any = types.ModuleType("mlflow")
    stub.log_metrics = lambda metrics, step: logged.append((metrics, step))
    monkeypatch.setitem(sys.modules, "mlflow", stub)
    writer = MLflowWriter()
    assert [writer(record) for record in RECORDS] == [None] * 3
    assert logged[1] == (
        {
            "fold 1/soft/train": 0.4,
            "fold 1/soft/valid": 0.5,
            "fold 1/soft/seconds": 1.5,
            "fold 1/soft/valid_soft": 0.45,
        },
        2,
    )
    assert set(logged[2][0]) == {
        "fold 2/trained boldly/train",
        "fold 2/trained boldly/valid",
        "fold 2/trained boldly/seconds",
    }


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("torch.utils.tensorboard", lambda: TensorBoardWriter("runs"), "tensorboard"),
        ("mlflow", MLflowWriter, "mlflow"),
    ],
)
def test_a_missing_package_names_the_extra(
    module: str, make: Any, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'onnxtune\[{extra}\]'"):
        make()
