"""Callables for `on_epoch` that write records where people look at them."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from onnxtune.errors import MissingDependencyError
from onnxtune.settings import Epoch


def _losses(record: Epoch) -> dict[str, float]:
    found = {"train": record.train, "valid": record.valid, "seconds": record.seconds}
    return found if record.valid_soft is None else found | {"valid_soft": record.valid_soft}


def _series(record: Epoch) -> str:
    """What tells the trainings of a run apart."""
    return f"fold {record.fold}, {record.training}"


class TensorBoardWriter:
    """Writes the losses of each epoch for TensorBoard, a run for every training.

    `tune(..., on_epoch=TensorBoardWriter("runs"))`; then `tensorboard --logdir runs`.

    Args:
        folder: where the files go.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Write below this folder."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingDependencyError(
                "TensorBoardWriter needs tensorboard: pip install 'onnxtune[tensorboard]'."
            ) from None
        self._make: Any = SummaryWriter
        self._folder = os.fspath(folder)
        self._writers: dict[str, Any] = {}

    def __call__(self, record: Epoch) -> None:
        """Write an epoch."""
        series = _series(record)
        if series not in self._writers:
            path = os.path.join(self._folder, series.replace(" ", "-").replace(",", ""))
            self._writers[series] = self._make(path)
        writer = self._writers[series]
        for name, value in _losses(record).items():
            writer.add_scalar(name, value, record.epoch)
        writer.flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


class MLflowWriter:
    """Logs the losses of each epoch to the active MLflow run, or to one that it starts.

    `tune(..., on_epoch=MLflowWriter())`.

    Raises:
        MissingDependencyError: MLflow is not installed.
    """

    def __init__(self) -> None:
        """Log to the active run."""
        try:
            self._mlflow: Any = import_module("mlflow")
        except ImportError:
            raise MissingDependencyError(
                "MLflowWriter needs mlflow: pip install 'onnxtune[mlflow]'."
            ) from None

    def __call__(self, record: Epoch) -> None:
        """Log an epoch."""
        series = _series(record)
        # MLflow allows no commas in names of metrics, and "/" makes groups of them.
        named = {
            f"{series.replace(', ', '/')}/{key}": value for key, value in _losses(record).items()
        }
        self._mlflow.log_metrics(named, step=record.epoch)
