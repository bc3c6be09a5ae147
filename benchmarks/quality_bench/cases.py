"""What a pipeline of the benchmark consists of, and how its rows are split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline

from quality_bench.tasks import Array, Task, is_classes


@dataclass(frozen=True)
class Split:
    """Rows to train on, to decide on, and to report on; X is an array or a DataFrame."""

    X_train: Any
    y_train: Array
    X_valid: Any
    y_valid: Array
    X_test: Any
    y_test: Array


@dataclass(frozen=True)
class Case:
    """A pipeline and its data; every part depends on the seed."""

    name: str
    task: Task
    data: Callable[[int], tuple[Any, Array]]
    steps: Callable[[], Sequence[Any]]
    estimator: Callable[[int], Any]

    def split(self, seed: int) -> Split:
        """A quarter of the rows to test on, and a quarter of the rest to validate on."""
        X, y = self.data(seed)
        if isinstance(X, np.ndarray):
            X = X.astype(np.float32)
        X_rest, X_test, y_rest, y_test = self._halves(X, y, seed)
        X_train, X_valid, y_train, y_valid = self._halves(X_rest, y_rest, seed + 100)
        return Split(X_train, y_train, X_valid, y_valid, X_test, y_test)

    def pipeline(self, seed: int) -> Pipeline:
        """The pipeline, to be fitted."""
        return make_pipeline(*self.steps(), self.estimator(seed))

    def _halves(self, X: Any, y: Array, seed: int) -> Any:
        groups = y if is_classes(self.task) else None
        return train_test_split(X, y, test_size=0.25, random_state=seed, stratify=groups)


def lightgbm_classifier(**settings: Any) -> Any:
    """A silent LightGBM classifier on one thread."""
    return lightgbm.LGBMClassifier(verbose=-1, n_jobs=1, **settings)


def lightgbm_regressor(**settings: Any) -> Any:
    """A silent LightGBM regressor on one thread."""
    return lightgbm.LGBMRegressor(verbose=-1, n_jobs=1, **settings)
