"""The thirteen pipelines on which the recipe is measured."""

from __future__ import annotations

import numpy as np
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from quality_bench.cases import Case, lightgbm_classifier, lightgbm_regressor
from quality_bench.tasks import Array


def cancer(seed: int) -> tuple[Array, Array]:
    """Breast cancer: 569 rows, 2 classes."""
    X, y = datasets.load_breast_cancer(return_X_y=True)
    return X, y


def digits(seed: int) -> tuple[Array, Array]:
    """Digits of 8 x 8 pixels: 1,797 rows, 10 classes."""
    X, y = datasets.load_digits(return_X_y=True)
    return X, y


def diabetes(seed: int) -> tuple[Array, Array]:
    """Progress of diabetes: 442 rows."""
    X, y = datasets.load_diabetes(return_X_y=True)
    return X, y


def friedman(seed: int) -> tuple[Array, Array]:
    """Friedman's first function with noise: 2,500 rows."""
    X, y = datasets.make_friedman1(2500, noise=1, random_state=seed)
    return X, y


def hastie(seed: int) -> tuple[Array, Array]:
    """Whether ten normal numbers lie outside a ball: 4,000 rows."""
    X, y = datasets.make_hastie_10_2(4000, random_state=seed)
    return X, (y > 0).astype(int)


def rotated(seed: int) -> tuple[Array, Array]:
    """Two classes in clusters; columns are rotated and of different sizes: 3,000 rows."""
    X, y = datasets.make_classification(
        3000, 20, n_informative=8, n_redundant=4, n_clusters_per_class=3, class_sep=1.0,
        flip_y=0.02, random_state=seed,
    )  # fmt: skip
    rng = np.random.RandomState(seed)
    rotation = np.linalg.qr(rng.randn(20, 20))[0]
    return X @ rotation * np.exp(0.5 * rng.randn(20)), y


def four_classes(seed: int) -> tuple[Array, Array]:
    """Four classes of two clusters each: 4,000 rows."""
    X, y = datasets.make_classification(
        4000, 30, n_informative=10, n_classes=4, n_clusters_per_class=2, class_sep=1.2,
        random_state=seed,
    )  # fmt: skip
    return X, y


def counts(seed: int) -> tuple[Array, Array]:
    """Counts at a rate that depends on six numbers and a category: 2,300 rows."""
    rng = np.random.RandomState(seed)
    X = rng.rand(2300, 8)
    X[:, 6] = rng.randint(0, 5, len(X))
    X[:, 7] = rng.randint(0, 3, len(X))
    of_category = np.array([0, 0.4, -0.3, 0.2, 0.6])[X[:, 6].astype(int)]
    waves = 1.2 * np.sin(np.pi * X[:, 0] * X[:, 1])
    valley = 4 * (X[:, 2] - 0.5) ** 2
    rate = np.exp(-0.3 + waves + valley + 0.8 * X[:, 3] - 0.5 * X[:, 4] + of_category)
    return X, rng.poisson(rate).astype(float)


def _scaler() -> list[StandardScaler]:
    return [StandardScaler()]


_CASES = [
    Case("bc_pca_rf", "forest", cancer, lambda: [StandardScaler(), PCA(10)],
         lambda seed: RandomForestClassifier(100, max_depth=6, random_state=seed, n_jobs=1)),
    Case("bc_gb", "classes", cancer, _scaler,
         lambda seed: GradientBoostingClassifier(random_state=seed)),
    Case("digits_pca_rf", "forest", digits, lambda: [StandardScaler(), PCA(20)],
         lambda seed: RandomForestClassifier(50, max_depth=7, random_state=seed, n_jobs=1)),
    Case("digits_dt", "forest", digits, lambda: [StandardScaler(), PCA(20)],
         lambda seed: DecisionTreeClassifier(max_depth=8, min_samples_leaf=5, random_state=seed)),
    Case("diabetes_gb", "numbers", diabetes, _scaler,
         lambda seed: GradientBoostingRegressor(max_depth=2, random_state=seed)),
    Case("friedman_lgb", "numbers", friedman, _scaler,
         lambda seed: lightgbm_regressor(n_estimators=100, num_leaves=15)),
    Case("friedman_rf", "numbers", friedman, _scaler,
         lambda seed: RandomForestRegressor(50, max_depth=8, random_state=seed, n_jobs=1)),
    Case("friedman_dt", "numbers", friedman, _scaler,
         lambda seed: DecisionTreeRegressor(max_depth=8, min_samples_leaf=5, random_state=seed)),
    Case("hastie_gb", "classes", hastie, _scaler,
         lambda seed: GradientBoostingClassifier(random_state=seed)),
    Case("rot_pca_lgb", "classes", rotated, lambda: [StandardScaler(), PCA(12)],
         lambda seed: lightgbm_classifier(n_estimators=100, num_leaves=15)),
    Case("rot_pca_rf", "forest", rotated, lambda: [StandardScaler(), PCA(12)],
         lambda seed: RandomForestClassifier(50, max_depth=7, random_state=seed, n_jobs=1)),
    Case("mc4_lgb", "classes", four_classes, lambda: [StandardScaler(), PCA(20)],
         lambda seed: lightgbm_classifier(n_estimators=40, num_leaves=15)),
    Case("pois_lgb", "rates", counts, _scaler,
         lambda seed: lightgbm_regressor(n_estimators=60, num_leaves=15, learning_rate=0.05,
                                         objective="poisson")),
]  # fmt: skip

PIPELINES = {case.name: case for case in _CASES}
