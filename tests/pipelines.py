"""Small fitted pipelines and their ONNX models, made once for all tests."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris, make_friedman1
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

Rows = tuple[Any, np.ndarray]


@cache
def splits(name: str) -> tuple[Rows, Rows, Rows]:
    """Rows to train on, to validate on, and to test on."""
    X, y = {
        "cancer": lambda: load_breast_cancer(return_X_y=True),
        "iris": lambda: load_iris(return_X_y=True),
        "friedman": lambda: make_friedman1(1500, noise=1, random_state=0),
        "counts": _counts,
    }[name]()
    X = X.astype(np.float32)
    labels = y if name in ("cancer", "iris") else None
    a, test, ya, y_test = train_test_split(X, y, test_size=0.3, random_state=0, stratify=labels)
    inner = ya if labels is not None else None
    train, valid, y_train, y_valid = train_test_split(
        a, ya, test_size=0.3, random_state=0, stratify=inner
    )
    return (train, y_train), (valid, y_valid), (test, y_test)


def _counts() -> Rows:
    X, y = make_friedman1(1500, noise=0, random_state=1)
    return X, np.random.default_rng(0).poisson(np.exp(y / 12)).astype(float)


PIPELINES = {
    "forest": ("cancer", lambda: make_pipeline(
        StandardScaler(), PCA(6), RandomForestClassifier(20, max_depth=4, random_state=0))),
    "forest of three": ("iris", lambda: RandomForestClassifier(
        10, max_depth=3, random_state=0)),
    "boosting": ("cancer", lambda: make_pipeline(
        StandardScaler(), GradientBoostingClassifier(n_estimators=15, random_state=0))),
    "boosting of three": ("iris", lambda: GradientBoostingClassifier(
        n_estimators=5, random_state=0)),
    "regression forest": ("friedman", lambda: RandomForestRegressor(
        10, max_depth=6, random_state=0)),
    "regression boosting": ("friedman", lambda: make_pipeline(
        StandardScaler(), GradientBoostingRegressor(n_estimators=30, random_state=0))),
    "logistic": ("cancer", lambda: make_pipeline(StandardScaler(), LogisticRegression(C=1e-3))),
    "logistic of three": ("iris", lambda: make_pipeline(
        StandardScaler(), LogisticRegression(C=0.05))),
    "ridge": ("friedman", lambda: make_pipeline(StandardScaler(), Ridge(500.0))),
    "poisson": ("counts", lambda: make_pipeline(
        StandardScaler(), PoissonRegressor(alpha=10.0))),
}  # fmt: skip


@cache
def exported(name: str, zipmap: bool = False) -> onnx.ModelProto:
    """A fitted pipeline as ONNX."""
    data, make = PIPELINES[name]
    (X, y), _, _ = splits(data)
    pipeline = make().fit(X, y)
    options = {"zipmap": zipmap} if hasattr(pipeline, "predict_proba") else None
    return to_onnx(pipeline, X[:1], options=options)


def data_of(name: str) -> tuple[Rows, Rows, Rows]:
    """The rows of a pipeline."""
    return splits(PIPELINES[name][0])


@cache
def mixed() -> tuple[onnx.ModelProto, Any, np.ndarray]:
    """String and numeric columns into boosting: model, table, target."""
    import pandas as pd

    generator = np.random.default_rng(0)
    rows = 600
    table = pd.DataFrame(
        {
            "colour": generator.choice(["red", "green", "blue"], rows),
            "shape": generator.choice(["round", "square"], rows),
            "size": generator.normal(size=rows).astype(np.float32),
            "weight": generator.normal(size=rows).astype(np.float32),
        }
    )
    y = (
        np.sin(2 * table["size"])
        + 0.5 * table["weight"] * (table["colour"] == "red")
        + 0.3 * (table["shape"] == "round")
        + generator.normal(size=rows) * 0.2
    ).to_numpy()
    columns = ColumnTransformer(
        [
            (
                "words",
                OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                ["colour", "shape"],
            ),
            ("numbers", StandardScaler(), ["size", "weight"]),
        ]
    )
    pipeline = make_pipeline(columns, GradientBoostingRegressor(n_estimators=20, random_state=0))
    pipeline.fit(table[:300], y[:300])
    return to_onnx(pipeline, table[:1]), table, y
